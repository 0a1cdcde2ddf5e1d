"""The weights that a bundle ships, on real images that none of its trainings has seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_monai.cli import main
from medseg_monai.data import Item
from medseg_monai.datasets import DATASETS
from medseg_monai.experiments import MIXED, cross_manufacturer_datalist
from tests.data.radiograph_files import write_radiograph

BUNDLE = "lung_cxr_rescrnet"
DATA = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "lung_cxr"


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """The test images of the split that the shipped weights are from (models/README.md)."""
    if not DATA.is_dir():
        pytest.skip(f"no radiographs at {DATA}; set MEDSEG_DATA.")
    derived = tmp_path_factory.mktemp("derived")
    data = {}
    for name in ("montgomery", "shenzhen"):
        sections = DATASETS[name](DATA / name, derived=derived, validation_fraction=0.0, seed=0)
        data[name] = [item for section in sections.values() for item in section]
    return cross_manufacturer_datalist(data, (MIXED, MIXED), seed=0)["test"]


def read(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    first, second = mask > 127, label > 127
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_a_folder_of_unseen_radiographs_gets_their_lungs(unseen: list[Item], tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for item in unseen:
        (folder / Path(item["image"]).name).symlink_to(item["image"])
    assert main(["predict", BUNDLE, str(folder), "-o", str(tmp_path / "out")]) == 0
    scores = [dice(read(tmp_path / "out" / Path(item["image"]).name), read(item["label"])) for item in unseen]
    assert np.mean(scores) > 0.93


def test_a_dicom_radiograph_gets_the_mask_of_the_same_image_as_png(unseen: list[Item], tmp_path: Path):
    item = unseen[0]
    pixels = read(item["image"])
    dicom = write_radiograph(tmp_path / "chest.dcm", pixels.astype(np.uint16) * 16, modality="CR")
    assert main(["predict", BUNDLE, item["image"], str(dicom), "-o", str(tmp_path / "out")]) == 0
    mask = read(tmp_path / "out" / "chest.png")
    assert dice(mask, read(item["label"])) > 0.93
    assert dice(mask, read(tmp_path / "out" / Path(item["image"]).name)) > 0.995
    assert (tmp_path / "out" / "chest.seg.dcm").is_file()
