"""A mask lies where its structure lies, whichever way an image takes through a bundle."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg_monai.cli import main

from .conftest import config_files, make_workflow, run_workflow
from .scenes import ELSEWHERE, FORMS, IN_PLACE, Shown, check_mask, overlap, show, symmetries

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=FORMS, ids="-".join)
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Shown:
    return show(*request.param, tmp_path)


def check_masks(shown: Shown, folder: Path) -> None:
    for mask in shown.scene.masks(folder):
        check_mask(shown.scene, mask)


def test_a_scene_that_is_turned_or_mirrored_lies_elsewhere(shown: Shown):
    labels = shown.scene.labels
    for axis, size in enumerate(labels.shape):  # into a square, as networks see it, where a transposition fits too
        labels = labels.take(np.arange(60) * size // 60, axis=axis)
    assert max(overlap(turn(labels), labels) for turn in symmetries(labels.ndim)) < ELSEWHERE


def test_medseg_predict_puts_the_mask_where_the_scene_is(shown: Shown, tmp_path: Path):
    command = ["predict", shown.bundle.name, str(shown.scene.image), "-o", str(tmp_path / "masks")]
    assert main([*command, *shown.options]) == 0
    check_masks(shown, tmp_path / "masks")


def test_a_run_of_monai_puts_the_mask_where_the_scene_is(shown: Shown, tmp_path: Path):
    values = {"dataset_dir": shown.scene.image, "output_dir": tmp_path / "masks", "checkpoint": shown.model}
    keys = {**{key: str(path) for key, path in values.items()}, **shown.keys}
    run_workflow(make_workflow(shown.bundle, "inference", workflow_type="infer", **keys))
    check_masks(shown, tmp_path / "masks")


def test_the_command_line_of_monai_puts_the_mask_where_the_scene_is(tmp_path: Path):
    shown = show("retinal_vessel_fundus_cenet", "PNG", tmp_path)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", *config_files(shown.bundle, "inference")]
    values = {"dataset_dir": shown.scene.image, "output_dir": tmp_path / "masks", "checkpoint": shown.model}
    command += [part for key, value in {**values, **shown.keys}.items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    check_masks(shown, tmp_path / "masks")


def test_medseg_evaluate_sees_whether_the_label_is_where_the_scene_is(shown: Shown, tmp_path: Path):
    labels = shown.scene.labels
    turned = [turn(labels) for turn in symmetries(labels.ndim)]
    possible = [one for one in turned if one.shape == labels.shape and shown.scene.can_be_labelled(one)]
    in_place, *elsewhere = evaluate(shown, [labels, *possible], tmp_path)
    assert in_place > IN_PLACE
    assert max(elsewhere) < ELSEWHERE


def evaluate(shown: Shown, labels: list[np.ndarray], folder: Path) -> list[float]:
    """Dice coefficients of the scene's mask with labels, as ``medseg evaluate`` has them."""
    files = [shown.scene.write_label(folder / f"label{number}", label) for number, label in enumerate(labels)]
    items = [{"image": str(shown.scene.image), "label": str(file)} for file in files]
    (folder / "datalist.json").write_text(json.dumps({"training": [], "validation": [], "test": items}))
    command = ["evaluate", shown.bundle.name, "--dataset-dir", str(folder), "-o", str(folder / "run")]
    assert main([*command, "--set", 'metrics=["dice"]', *shown.options]) == 0
    with (folder / "run" / "evaluation" / "cases.csv").open(newline="") as table:
        return [float(row["dice"]) for row in csv.DictReader(table)]
