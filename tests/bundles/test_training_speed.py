"""What makes a training faster gives the same training: memory layout, and precision where float32 is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from .conftest import Phantoms, make_workflow, training_overrides

STEPS = 10


def losses(bundle: Path, phantoms: Phantoms, folder: Path, **overrides: Any) -> list[float]:
    """The losses of the first steps of a training without validation.

    The steps are small, since Adam makes a whole step of a gradient that is nothing but rounding.
    """
    values = {
        **training_overrides(bundle, phantoms, folder),
        "has_validation": False,
        "train#trainer#epoch_length": STEPS,
        "learning_rate": 1e-5,
        "batch_size": 1,
        **overrides,
    }
    workflow = make_workflow(bundle, "train", workflow_type="train", **values)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    found: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.append(loss_of(engine)))
    trainer.run()
    return found


def loss_of(engine: Engine) -> float:
    return float(engine.state.output[0]["loss"])


def test_channels_last_gives_the_losses_of_the_default_layout(bundle: Path, phantoms: Phantoms, tmp_path: Path):
    fast = losses(bundle, phantoms, tmp_path / "fast", channels_last=True)
    plain = losses(bundle, phantoms, tmp_path / "plain", channels_last=False)
    assert len(fast) == STEPS
    assert fast == pytest.approx(plain, rel=1e-4)


def test_a_training_in_bfloat16_computes_a_finite_loss_near_that_of_float32(
    bundle: Path, phantoms: Phantoms, tmp_path: Path
):
    """The first loss alone: the later ones are those of other weights."""
    values = {"train#trainer#epoch_length": 2}
    lower = losses(bundle, phantoms, tmp_path / "lower", amp=True, **values)
    full = losses(bundle, phantoms, tmp_path / "full", amp=False, **values)
    assert lower[0] == pytest.approx(full[0], rel=0.05)
    assert lower[0] != full[0] or "rescrnet" in bundle.name
    assert all(torch.isfinite(torch.tensor(lower)))
