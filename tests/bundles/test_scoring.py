"""An evaluation scores the mask that a prediction writes, whatever the options of both."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.transforms import Compose, Transform

from medseg_monai.bundle import Predictor, find_bundle, flat_keys, list_bundles, merged_config
from medseg_monai.cli import main
from medseg_monai.data import write_datalist
from medseg_monai.metrics import DICE_CONVENTION

from .conftest import make_workflow, run_workflow
from .formats import is_of_layers
from .scenes import BLOBS, FORMS, Shown, show

#: options of a prediction, none of them at its default where a scene shows the difference
OPTIONS: dict[str, Any] = {
    "threshold": 0.2,
    "keep_largest": 1,
    "restore": "probabilities",
    "reassign_fragments": False,
    "views": "flips",
    "lung_only": False,
    "window": 132,
    "amp": True,
    "fast": False,
}
#: keys of a prediction that change nothing in a mask but how it is written, or that say which images it reads
NO_OPTIONS = {"dataset_dir", "series", "dicom_seg", "upright", "infection_dir", "stack", "probabilities"}


def options_of(name: str) -> dict[str, Any]:
    known = flat_keys(merged_config(name, ["inference"]))
    return {key: value for key, value in OPTIONS.items() if key in known}


def settings(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("name", list_bundles())
def test_an_evaluation_has_every_option_of_a_prediction(name: str):
    evaluation, prediction = (
        flat_keys(merged_config(name, configs)) for configs in (["train", "evaluate"], ["inference"])
    )
    assert set(prediction) - NO_OPTIONS <= set(evaluation)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
@pytest.mark.parametrize("name", list_bundles())
def test_an_evaluation_postprocesses_and_infers_as_a_prediction_does(
    name: str, options: dict[str, Any], tmp_path: Path
):
    shown = show(name, next(form for bundle, form in FORMS if bundle == name), tmp_path)
    chosen = {**shown.keys, **{key: options[key] for key in options_of(name) if key in options}}
    predictor = Predictor(name, checkpoint=shown.model, overrides=chosen)
    workflow = make_workflow(
        find_bundle(name), "train", "evaluate", workflow_type="train", checkpoint=str(shown.model), **chosen
    )
    workflow.parser.parse(reset=True)
    postprocessing: Compose = workflow.parser.get_parsed_content("validate#postprocessing")
    inferer = workflow.parser.get_parsed_content("validate#inferer")
    assert [facts(step) for step in postprocessing.transforms] == [
        facts(step) for step in predictor.postprocessing.transforms
    ]
    assert type(inferer) is type(predictor.inferer)
    assert plain(inferer) == plain(predictor.inferer)


def facts(step: Transform) -> dict[str, Any]:
    """What a step of a postprocessing does with the prediction, whatever it does with other images beside it."""
    index = step.keys.index("pred")
    own = {
        key: value[index] if isinstance(value, tuple) and len(value) == len(step.keys) else value
        for key, value in vars(step).items()
        if key not in ("keys", "transform")
    }
    return {"class": type(step), **{key: plain(value) for key, value in own.items()}}


def plain(value: Any) -> Any:
    """A value that can be compared: of our own and MONAI's objects, what they hold."""
    if type(value).__module__.startswith(("monai", "medseg_monai")):
        return {key: plain(entry) for key, entry in vars(value).items()}
    return [plain(entry) for entry in value] if isinstance(value, (tuple, list)) else repr(value)


#: of each bundle one image, or volume, and slices where it reads them; of layers, test_retinal_layer.py has the tables
SCENES = [pair for pair in FORMS if pair[1] in ("PNG", "NIfTI PIR", "PNG slice") and not is_of_layers(pair[0])]


@pytest.mark.parametrize(("name", "form"), SCENES, ids=map("-".join, SCENES))
def test_the_table_of_an_evaluation_has_the_dice_of_the_masks_that_a_prediction_wrote(
    name: str, form: str, tmp_path: Path
):
    shown = show(name, form, tmp_path, BLOBS)
    options = settings(options_of(name))
    masks = tmp_path / "masks"
    assert main(["predict", name, str(shown.scene.image), "-o", str(masks), *shown.options, *options]) == 0
    label = np.roll(shown.scene.labels, 3, axis=0)
    fields = ["fov"] if "fov" in merged_config(name, ["train", "evaluate"]).get("masks", []) else []
    fov = np.ones_like(label)
    fov[: label.shape[0] // 2] = not fields
    item = {"image": shown.scene.image, "label": shown.scene.write_label(tmp_path / "label", label)}
    item.update({field: shown.scene.write_label(tmp_path / field, fov) for field in fields})
    mask = shown.scene.read(shown.scene.masks(masks)[0])
    expected = [dice(mask[fov > 0] == one, label[fov > 0] == one) for one in range(1, label.max() + 1)]
    found = evaluate(shown, item, tmp_path / "with options", options)
    assert found == pytest.approx([np.mean(expected), *(expected if len(expected) > 1 else [])])
    assert found != pytest.approx(evaluate(shown, item, tmp_path / "plain", []), abs=5e-4)


@pytest.mark.parametrize(("name", "form"), SCENES, ids=map("-".join, SCENES))
def test_a_validation_counts_an_absent_structure_as_the_table_does(name: str, form: str, tmp_path: Path):
    shown = show(name, form, tmp_path)
    labels = [shown.scene.labels, np.zeros_like(shown.scene.labels)]
    files = [shown.scene.write_label(tmp_path / f"label{number}", label) for number, label in enumerate(labels)]
    items = [{"image": str(shown.scene.image), "label": str(file)} for file in files]
    write_datalist({"training": [], "validation": [], "test": items}, tmp_path / "datalist.json")
    keys = {**shown.keys, "dataset_dir": str(tmp_path), "output_dir": str(tmp_path), "checkpoint": str(shown.model)}
    workflow = make_workflow(shown.bundle, "train", "evaluate", workflow_type="train", **keys)
    run_workflow(workflow)
    metrics = workflow.parser.get_parsed_content("validate#evaluator").state.metrics
    assert metrics["val_dice"] == pytest.approx(metrics["test_dice"])
    assert 0.45 < metrics["test_dice"] < 0.55


def test_the_readme_says_what_an_absent_structure_counts(bundle: Path):
    readme = " ".join((bundle / "docs" / "README.md").read_text(encoding="utf-8").split())
    assert DICE_CONVENTION in readme


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    return float(2 * (mask & label).sum() / (mask.sum() + label.sum()))


def evaluate(shown: Shown, item: Mapping[str, Path], folder: Path, options: list[str]) -> list[float]:
    """The columns of the table for one case: Dice, and of several labels the Dice of each."""
    folder.mkdir()
    case = {key: str(path) for key, path in item.items()}
    write_datalist({"training": [], "validation": [], "test": [case]}, folder / "datalist.json")
    command = ["evaluate", shown.bundle.name, "--dataset-dir", str(folder), "-o", str(folder / "run")]
    assert main([*command, "--set", 'metrics=["dice"]', *shown.options, *options]) == 0
    with (folder / "run" / "evaluation" / "cases.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    return [float(value) for key, value in row.items() if key != "case"]
