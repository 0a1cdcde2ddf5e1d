"""The vessel bundle's own choices: patches, and an evaluation inside the field of view or everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine
from PIL import Image

from medseg_monai.bundle import find_bundle
from medseg_monai.errors import explain, is_users_mistake
from medseg_monai.handlers import CaseMetrics

from .conftest import make_workflow

BUNDLE = find_bundle("retinal_vessel_fundus_cenet")
SHAPE = (210, 230)


def evaluation(folder: Path, **overrides: Any) -> tuple[Any, CaseMetrics]:
    """What reads a case, and the handler that counts its pixels."""
    workflow = make_workflow(BUNDLE, "train", "evaluate", workflow_type="train", output_dir=str(folder), **overrides)
    workflow.parser.parse(reset=True)
    handlers = workflow.parser.get_parsed_content("validate#handlers")
    (metrics,) = (handler for handler in handlers if isinstance(handler, CaseMetrics))
    return workflow.parser.get_parsed_content("validate#preprocessing"), metrics


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    """An image whose only vessel outside the field of view is one that nobody finds."""
    label, fov = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    fov[20:180, 30:200] = 255
    label[40:60, 50:150], label[190:195, 10:210] = 255, 255
    for name, values in {"label": label, "fov": fov, "image": np.dstack([fov] * 3)}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    return {name: str(tmp_path / f"{name}.png") for name in ("image", "label", "fov")}


@pytest.mark.parametrize(
    ("overrides", "missed", "pixels"), [({}, 0, 160 * 170), ({"fov": "ignore"}, 5 * 200, 210 * 230)], ids=str
)
def test_the_key_says_whether_pixels_outside_the_field_of_view_count(case, tmp_path, overrides, missed, pixels):
    preprocessing, metrics = evaluation(tmp_path, **overrides)
    item = preprocessing(dict(case))
    found = item["label"].clone()
    found[0, 190:195] = 0
    item |= {"pred": found, "probability": found, "image": item["image"].clone()}
    engine = Engine(lambda _, batch: batch)
    metrics.attach(engine)
    engine.run([[item]])
    values = metrics.summarize()["pooled"]
    assert values["accuracy"] == pytest.approx(1 - missed / pixels)
    assert values["sensitivity"] == pytest.approx(2000 / (2000 + missed))


def test_another_word_is_a_users_mistake_that_names_both(tmp_path):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        evaluation(tmp_path, fov="outside")
    assert is_users_mistake(caught.value)
    assert "inside, ignore" in explain(caught.value)


def test_a_patch_that_is_larger_than_the_image_is_not_turned(case, tmp_path):
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{**case, "patient": "a"}]}))
    sizes = {"image_size": [192, 224], "patch_size": [256, 256]}  # patch_size as in train_from_scratch
    workflow = make_workflow(BUNDLE, "train", workflow_type="train", dataset_dir=str(tmp_path), **sizes)
    workflow.parser.parse(reset=True)
    dataset = workflow.parser.get_parsed_content("train#dataset")
    assert {tuple(dataset[0]["image"].shape) for _ in range(8)} == {(3, 192, 224)}
