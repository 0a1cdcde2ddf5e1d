"""A folder of cases that is predicted again: what is kept, and what is not."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import Predictor, find_bundle, predict_cases
from medseg_monai.cli import main
from medseg_monai.data import find_radiographs
from medseg_monai.networks.nets import ResCRNet
from medseg_monai.networks.weights import write_model

BUNDLE = "lung_cxr_rescrnet"
NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of random weights."""
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    settings: dict[str, Any] = {"filters": 4, "num_blocks": 1}
    torch.manual_seed(0)
    write_model(path, ResCRNet(2, 1, 2, **settings).state_dict(), {**settings, "image_size": [48, 64]})
    return path


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor(BUNDLE, checkpoint=weights, overrides={"fast": False})


def picture(path: Path, seed: int) -> None:
    """Noise of 50 rows and 77 columns."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 77)).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for seed, name in enumerate(NAMES):
        picture(tmp_path / "images" / name, seed)
    return tmp_path


@pytest.fixture
def again(folder: Path, predictor: Predictor) -> Callable[..., set[str]]:
    """Predict the folder with ``skip_existing``, and name the masks that were written anew."""

    def predict(by: Predictor = predictor, images: str = "images") -> set[str]:
        masks = folder / "masks"
        before = {path.name: path.stat().st_ino for path in masks.glob("*.png")}
        kept = [os.open(path, os.O_RDONLY) for path in masks.glob("*.png")]  # no new file gets the number of an old one
        report = predict_cases(by, find_radiographs(folder / images), masks, skip_existing=True)
        for number in kept:
            os.close(number)
        assert {Path(case.input).name for case in report.cases} == {path.name for path in (folder / images).iterdir()}
        return {path.name for path in masks.glob("*.png") if path.stat().st_ino != before.get(path.name)}

    return predict


def test_what_has_not_changed_is_kept(again):
    assert again() == set(NAMES)
    assert again() == set()


def test_a_replaced_image_is_predicted_again(again, folder):
    again()
    image = folder / "images" / "b.png"
    times = image.stat().st_atime_ns, image.stat().st_mtime_ns
    picture(image, seed=17)
    os.utime(image, ns=times)
    assert again() == {"b.png"}
    assert again() == set()


@pytest.mark.parametrize("length", [0, 50, -1])
def test_a_mask_that_was_cut_off_is_predicted_again(again, folder, length):
    again()
    mask = folder / "masks" / "b.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:length])
    assert again() == {"b.png"}
    assert mask.read_bytes() == whole


def test_a_mask_that_somebody_has_drawn_over_is_predicted_again(again, folder):
    """Its file is whole; the report would say of it what is not so."""
    again()
    picture(folder / "masks" / "b.png", seed=3)
    assert again() == {"b.png"}


def test_all_masks_of_a_folder_have_one_threshold(again, folder, weights):
    """The config of a copied bundle is edited between the runs; its name and version stay."""
    again()
    copy = shutil.copytree(find_bundle(BUNDLE), folder / BUNDLE, ignore=shutil.ignore_patterns("models"))
    config = copy / "configs" / "inference.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content))
    same = Predictor(copy, checkpoint=weights, overrides={"fast": False})
    assert again(same) == set()
    config.write_text(json.dumps({**content, "threshold": 0.9}))
    other = Predictor(copy, checkpoint=weights, overrides={"fast": False})
    assert again(other) == set(NAMES)
    by_option = Predictor(copy, checkpoint=weights, overrides={"fast": False, "threshold": 0.5})
    assert again(by_option) == set(NAMES)


def test_a_case_that_could_not_be_read_is_told_by_its_reader_and_tried_again(again, folder):
    (folder / "images" / "b.png").unlink()
    (folder / "images" / "b.png").write_bytes(b"no picture")
    assert again() == {"a.png", "c.png"}
    (failed,) = [case for case in cases(folder) if case["status"] == "failed"]
    assert "b.png: truncated or not an image" in failed["error"]
    picture(folder / "images" / "b.png", seed=1)
    assert again() == {"b.png"}


def test_an_image_that_vanished_is_a_failed_case_of_which_its_reader_says_why(predictor, folder):
    items = find_radiographs(folder / "images")
    (folder / "images" / "b.png").unlink()
    report = predict_cases(predictor, items, folder / "masks")
    assert [case.status for case in report.cases] == ["ok", "failed", "ok"]
    assert "b.png" in report.failed[0].error
    assert "no such file" in report.failed[0].error.lower()


def test_a_name_that_is_not_utf_8_is_a_case_like_any_other(again, folder, weights):
    """As old archives and Windows shares leave them: the name is bytes, and one of them is Latin-1."""
    name = os.fsdecode(b"Universit\xe4t.png")
    picture(folder / "images" / name, seed=5)
    arguments = [BUNDLE, folder / "images", "-o", folder / "masks", "--checkpoint", weights, "--set", "fast=false"]
    for options in ([], ["--skip-existing"], ["--skip-existing", "--json"]):
        told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # strict, as standard output is
        with redirect_stdout(told):
            assert main(["predict", *map(str, arguments), *options]) == 0
        told.flush()
    answer = json.loads(told.buffer.getvalue())
    assert again() == set()
    assert b"Universit\xe4t.png" in os.listdir(os.fsencode(folder / "masks"))
    inputs = [str(folder / "images" / one) for one in sorted([*NAMES, name])]
    assert sorted(case["input"] for case in cases(folder)) == inputs
    assert answer["cases"] == cases(folder)
    with (folder / "masks" / "report.csv").open(encoding="utf-8", newline="") as stream:
        assert f"{folder}/images/Universit\\udce4t.png" in [row["input"] for row in csv.DictReader(stream)]


def test_a_failed_case_whose_name_is_not_utf_8_is_named(folder, weights):
    (folder / "images" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no picture")
    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    arguments = [BUNDLE, folder / "images", "-o", folder / "masks", "--checkpoint", weights, "--set", "fast=false"]
    with redirect_stdout(told):
        assert main(["predict", *map(str, arguments)]) == 1
    told.flush()
    assert b"caf\\udce9.png: truncated or not an image" in told.buffer.getvalue()


def cases(folder: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / "masks" / "report.json").read_text())["cases"]
    return content
