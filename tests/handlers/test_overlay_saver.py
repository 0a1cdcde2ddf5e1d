"""Overlays of the first validation cases, every few epochs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, Compose, CopyItemsd
from PIL import Image
from torch import nn

from medseg_monai.handlers import CaseMetrics, OverlaySaver
from medseg_monai.visualize import LABEL_COLOR, PREDICTION_COLOR

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


def scan(number: int) -> dict[str, torch.Tensor]:
    """A black volume stored along left, back, up in an oblique scanner; two lobes, of which the prediction has one."""
    affine = torch.tensor(
        [[-0.69, 0.1, 0.3, 5.0], [-0.1, -0.7, 0.2, 6.0], [0.05, 0.08, 2.4, 7.0], [0, 0, 0, 1]], dtype=torch.float64
    )
    label = torch.zeros(1, 9, 7, 6)
    label[0, 1:4, 4, 1:5] = 1  # in the slice: rows 1 to 4, columns 1 to 3
    label[0, 4:8, 4, 1:5] = 2  # beside it: columns 4 to 7
    label[0, 3:5, 1:3, 2] = 5
    pred = torch.where(label == 2, label, 0)
    name = {"filename_or_obj": f"/data/ct{number}.nii.gz"}
    image = MetaTensor(torch.zeros(1, 9, 7, 6), affine=affine, meta=name)
    return {"image": image, "pred": MetaTensor(pred, affine=affine), "label": MetaTensor(label, affine=affine)}


def test_of_volumes_the_coronal_slice_with_most_of_the_label_is_drawn_upright(tmp_path):
    engine = Engine(lambda _, batch: batch)
    OverlaySaver(tmp_path, cases=2, interval=1).attach(engine)
    engine.run([[scan(1)], [scan(2)], [scan(3)]])
    assert names(tmp_path) == ["ct1_epoch0001.png", "ct2_epoch0001.png"]
    drawn = np.asarray(Image.open(tmp_path / "ct1_epoch0001.png"))
    assert drawn.shape == (6, 9, 3)
    predicted, alone = np.zeros((2, 6, 9), dtype=bool)
    predicted[1:5, 4:8] = True
    predicted[2:4, 5:7] = False
    alone[1:5, 1:4] = True
    alone[2:4, 2] = False
    np.testing.assert_array_equal((drawn == PREDICTION_COLOR).all(axis=2), predicted)
    np.testing.assert_array_equal((drawn == LABEL_COLOR).all(axis=2), alone)


def test_volumes_and_flat_images_are_told_apart(tmp_path):
    engine = Engine(lambda _, batch: batch)
    OverlaySaver(tmp_path, cases=2, interval=1).attach(engine)
    engine.run([[case(7), scan(4)]])
    sizes = {path.name: Image.open(path).size for path in tmp_path.iterdir()}
    assert sizes == {"eye7_epoch0001.png": (WIDTH, HEIGHT), "ct4_epoch0001.png": (9, 6)}


def test_cases_of_one_file_name_are_drawn_under_the_names_that_the_data_list_gave_them(tmp_path):
    """MONAI's evaluator: the name stays in the batch, the images come in the output."""
    data = []
    for index in (2, 1, 3):
        image = MetaTensor(torch.rand(1, HEIGHT, WIDTH), meta={"filename_or_obj": f"/data/s{index}/ct.png"})
        data.append({"image": image, "label": torch.zeros(1, HEIGHT, WIDTH), "name": f"s{index}_ct"})
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=nn.Identity(),
        postprocessing=Compose([CopyItemsd("pred", names="probability"), AsDiscreted("pred", threshold=0.5)]),
        val_handlers=[OverlaySaver(tmp_path / "overlays", interval=1), CaseMetrics(tmp_path, ["dice"])],
    )
    evaluator.state.max_epochs = 1
    evaluator.run()
    assert names(tmp_path / "overlays") == [f"s{index}_ct_epoch0001.png" for index in (1, 2, 3)]
    with (tmp_path / "cases.csv").open(newline="") as table:
        assert [row["case"] for row in csv.DictReader(table)] == ["s2_ct", "s1_ct", "s3_ct"]


def test_of_a_stack_the_page_with_the_most_of_the_label_is_drawn(tmp_path):
    image, label = torch.zeros(1, 3, HEIGHT, WIDTH), torch.zeros(1, 3, HEIGHT, WIDTH)
    image[0, 1] = torch.linspace(0, 255, WIDTH)
    label[0, 0, 2:4, 2:4], label[0, 1, 2:6, 3:9] = 1, 1
    engine = Engine(lambda _, batch: batch)
    OverlaySaver(tmp_path, interval=1, pages=True).attach(engine)
    stack = MetaTensor(image, meta={"filename_or_obj": "stack.tif"})
    engine.run([[{"image": stack, "pred": torch.zeros_like(label), "label": label}]])
    drawn = np.asarray(Image.open(tmp_path / "stack_epoch0001.png").convert("RGB"))
    page = np.asarray(Image.fromarray(image[0, 1].numpy().astype(np.uint8)).resize(drawn.shape[1::-1]))
    assert drawn.shape[0] / drawn.shape[1] == pytest.approx(HEIGHT / WIDTH, rel=0.1)
    assert (np.abs(drawn[0].astype(int).mean(axis=-1) - page[0]) < 30).all()
    assert (drawn == LABEL_COLOR).all(axis=-1).any()
