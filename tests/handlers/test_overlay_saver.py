"""Overlays of the first validation cases, every few epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from medseg_monai.handlers import OverlaySaver
from medseg_monai.visualize import PREDICTION_COLOR

HEIGHT, WIDTH = 8, 13


def case(index: int) -> dict[str, torch.Tensor]:
    """A black image, the prediction off centre."""
    image = torch.zeros(3, HEIGHT, WIDTH)
    pred = torch.zeros(1, HEIGHT, WIDTH)
    pred[0, 1:3, 6:11] = 1
    return {
        "image": MetaTensor(image, meta={"filename_or_obj": f"/data/eye{index}.tif"}),
        "pred": MetaTensor(pred),
        "label": torch.zeros(1, HEIGHT, WIDTH),
    }


def validate(saver: OverlaySaver, *, epochs: int, batch_size: int, cases: int = 6) -> None:
    """Run validations as MONAI's ``ValidationHandler`` does: each a run of its own that is told the epoch."""
    batches = [[case(i) for i in range(start, min(start + batch_size, cases))] for start in range(0, cases, batch_size)]
    engine = Engine(lambda _, batch: batch)
    saver.attach(engine)
    for epoch in range(1, epochs + 1):
        engine.state.epoch = epoch - 1
        engine.state.max_epochs = epoch
        engine.state.iteration = 0
        engine.run(batches)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_first_cases_are_drawn_at_the_interval_however_they_are_batched(batch_size, tmp_path):
    validate(OverlaySaver(tmp_path, cases=3, interval=2), epochs=5, batch_size=batch_size)
    assert names(tmp_path) == [f"eye{i}_epoch{epoch:04d}.png" for i in range(3) for epoch in (2, 4)]


def test_fewer_cases_than_asked_for_are_all_drawn(tmp_path):
    validate(OverlaySaver(tmp_path, cases=4, interval=1), epochs=1, batch_size=1, cases=2)
    assert names(tmp_path) == ["eye0_epoch0001.png", "eye1_epoch0001.png"]


def test_before_the_interval_nothing_is_drawn(tmp_path):
    validate(OverlaySaver(tmp_path / "overlays", cases=4, interval=3), epochs=2, batch_size=2)
    assert not (tmp_path / "overlays").exists()


def test_the_outline_lies_where_the_prediction_is_at_the_size_of_the_masks(tmp_path):
    validate(OverlaySaver(tmp_path, cases=1, interval=1), epochs=1, batch_size=1)
    drawn = np.asarray(Image.open(tmp_path / "eye0_epoch0001.png"))
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[1:3, 6:11] = True
    np.testing.assert_array_equal((drawn == PREDICTION_COLOR).all(axis=2), expected)
