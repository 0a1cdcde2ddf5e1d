"""EarlyStop: a training ends after the right validation, and stays ended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from medseg_monai.handlers import CHECKPOINT_NAME, EarlyStop

from .toy import Metric, make_toy


def last_epoch(output_dir: Path, values: list[float], **kwargs: Any) -> int:
    """Train with a patience of 3, and validations that give ``values``; return the number of the last epoch."""
    toy = make_toy(output_dir, **{"max_epochs": len(values), "patience": 3, **kwargs})
    Metric(toy, values)
    toy.trainer.run()
    return toy.trainer.state.epoch


def test_it_ends_with_the_third_validation_in_a_row_that_is_not_better(tmp_path):
    assert last_epoch(tmp_path, [0.2, 0.1, 0.5, 0.4, 0.5, 0.3, 0.9]) == 6


def test_a_rise_however_small_starts_the_count_anew(tmp_path):
    assert last_epoch(tmp_path, [0.2, 0.1, 0.1, 0.2 + 1e-6, 0.1, 0.1, 0.1]) == 7


def test_an_undefined_metric_is_no_better_one(tmp_path):
    nan = math.nan
    assert last_epoch(tmp_path / "a", [0.2, nan, nan, nan, 0.9]) == 4
    assert last_epoch(tmp_path / "b", [nan, 0.1, 0.1, 0.1, 0.1, 0.9]) == 5


def test_only_epochs_that_were_validated_count(tmp_path):
    values = [0.9, 0.5, 0.9, 0.4, 0.9, 0.4, 0.9, 0.4, 0.9, 0.4]
    assert last_epoch(tmp_path, values, val_interval=2) == 8


def test_a_training_that_was_ended_is_not_taken_up_again_unless_the_patience_grows(tmp_path):
    values = [0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert last_epoch(tmp_path, values) == 4
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    assert last_epoch(tmp_path, values, resume=True) == 4
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before
    assert last_epoch(tmp_path, values, resume=True, patience=5) == 6


def test_no_patience_at_all_is_refused(tmp_path):
    toy = make_toy(tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="patience must be positive, got 0"):
        EarlyStop(toy.validator, 0)
