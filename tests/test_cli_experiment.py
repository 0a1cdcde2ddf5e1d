"""``medseg experiment`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_monai.cli import main

QUICK = ["image_size=[24,32]", "filters=4", "num_blocks=1", "max_epochs=1", "batch_size=2"]
PREFIX = {"montgomery": "MCUCXR", "shenzhen": "CHNCXR"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six images of each data set, dark lungs on grey with a little noise."""
    generator = np.random.default_rng(0)
    folders = {}
    for name, prefix in PREFIX.items():
        folders[name] = tmp_path_factory.mktemp(name)
        for part in ("images", "masks"):
            (folders[name] / part).mkdir()
        for number in range(1, 7):
            mask = np.zeros((48, 64), np.uint8)
            mask[8 + number : 40, 6:26] = mask[10:38, 36 : 56 + number % 3] = 255
            image = np.where(mask, 60, 180) + generator.integers(0, 20, mask.shape)
            Image.fromarray(image.astype(np.uint8)).save(folders[name] / "images" / f"{prefix}_{number:04d}_0.png")
            Image.fromarray(mask).save(folders[name] / "masks" / f"{prefix}_{number:04d}_0.png")
    return folders


def experiment(sets: dict[str, Path], output: Path, *options: str) -> int:
    data = [argument for name, folder in sets.items() for argument in ("--data", f"{name}={folder}")]
    keys = [argument for key in QUICK for argument in ("--set", key)]
    return main(
        ["experiment", "cross-manufacturer", "--bundle", "lung_cxr_rescrnet", "-o", str(output), *data, *keys, *options]
    )


def test_a_pair_is_trained_and_tested_and_answered_as_json_and_as_a_page(sets, tmp_path, capsys):
    assert experiment(sets, tmp_path / "runs", "--train", "shenzhen", "--test", "montgomery", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(run["train"], run["test"]) for run in answer["runs"]] == [("shenzhen", "montgomery")]
    assert answer["runs"][0]["counts"] == {"training": 5, "validation": 1, "test": 6}
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| shenzhen | montgomery | 5 | 1 | 6 | 1 |" in table
    assert "0.9227" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "shenzhen"], "Give --train and --test together"),
        (["--data", "shenzhen=elsewhere"], "--data shenzhen: given twice"),
        (["--data", "padchest=folder"], "padchest=folder: write NAME=FOLDER"),
        (["--set", "max_epoch=2"], "did you mean max_epochs"),
        (["--set", "seed=2"], "seed: set by the experiment itself"),
    ],
)
def test_a_wrong_word_is_told_in_one_line_before_anything_is_written(sets, tmp_path, capsys, options, message):
    assert experiment(sets, tmp_path / "runs", *options) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "runs").exists()
