"""A data list that cannot be learned from or judged by is refused before a training or an evaluation begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from medseg_monai.bundle import evaluate, find_bundle, train
from medseg_monai.phantoms import phantom_writer, write_chest_xray_phantoms
from tests.bundles.tiny import phantom_size, tiny_training

LUNGS, LIVER, VESSELS = "lung_cxr_rescrnet", "liver_ct_anunet", "retinal_vessel_fundus_cenet"

Change = Callable[[dict[str, Any], Path], None]


@pytest.fixture(scope="module", params=[LUNGS, LIVER])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A bundle, and the data list of its phantoms."""
    return request.param, write(request.param, tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(LUNGS, tmp_path_factory.mktemp("radiographs"))


def write(bundle: str, folder: Path) -> Path:
    counts = {"training": 2, "validation": 1, "test": 1}
    return phantom_writer(bundle)(folder, counts=counts, size=phantom_size(bundle), seed=0)


def changed(datalist: Path, folder: Path, change: Change) -> str:
    """Write a data list that names the files of another, after a change."""
    content = json.loads(datalist.read_text())
    sections = {key: content[key] for key in ("training", "validation", "test")}
    for item in (item for section in sections.values() for item in section):
        item.update({key: str(datalist.parent / item[key]) for key in ("image", "label", "fov") if key in item})
    change(sections, folder)
    path = folder / "datalist.json"
    path.write_text(json.dumps(sections))
    return str(path)


def start(bundle: str, datalist: str, folder: Path) -> None:
    values = {**tiny_training(bundle), "datalist": datalist, "output_dir": str(folder / "run"), "max_epochs": 1}
    train(bundle, overrides=values, track=False)


def judge(datalist: str, folder: Path) -> dict[str, Any]:
    weights = str(find_bundle(LUNGS) / "models" / "model.pt")
    values = {"datalist": datalist, "output_dir": str(folder / "run"), "checkpoint": weights}
    return evaluate(LUNGS, overrides=values)


def empty(item: dict[str, Any], folder: Path) -> None:
    """Replace the label of an item by one of its size without structure."""
    source = Path(item["label"])
    item["label"] = str(folder / source.name)
    if source.suffix == ".png":
        Image.new("L", Image.open(source).size).save(item["label"])
    else:
        volume = nibabel.load(source)
        nibabel.Nifti1Image(np.zeros(volume.shape, np.uint8), volume.affine).to_filename(item["label"])


@pytest.mark.parametrize("section", ["training", "validation"])
def test_a_training_refuses_a_section_whose_labels_are_all_empty(
    written: tuple[str, Path], section: str, tmp_path: Path
):
    bundle, datalist = written

    def change(sections: dict[str, Any], folder: Path) -> None:
        for item in sections[section]:
            empty(item, folder)

    with pytest.raises(ValueError, match=f"all labels of section '{section}' are empty; give masks"):
        start(bundle, changed(datalist, tmp_path, change), tmp_path)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_training_with_one_empty_label_of_two_goes_on(radiographs: Path, tmp_path: Path):
    start(LUNGS, changed(radiographs, tmp_path, lambda lists, folder: empty(lists["training"][0], folder)), tmp_path)
    assert (tmp_path / "run" / "model.pt").is_file()


def test_an_evaluation_refuses_a_section_whose_labels_are_all_empty(radiographs: Path, tmp_path: Path):
    datalist = changed(radiographs, tmp_path, lambda lists, folder: empty(lists["test"][0], folder))
    with pytest.raises(ValueError, match="all labels of section 'test' are empty"):
        judge(datalist, tmp_path)


@pytest.mark.parametrize("section", ["training", "validation"])
def test_a_training_names_the_image_that_has_no_label(radiographs: Path, section: str, tmp_path: Path):
    datalist = changed(radiographs, tmp_path, lambda lists, _: lists[section][-1].pop("label"))
    with pytest.raises(ValueError, match=rf"items without 'label' in section '{section}': .*\.png; add the key"):
        start(LUNGS, datalist, tmp_path)


@pytest.mark.parametrize("label", [5, ["masks/a.png"]])
def test_a_training_names_a_label_that_is_no_path(radiographs: Path, label: object, tmp_path: Path):
    datalist = changed(radiographs, tmp_path, lambda sections, _: sections["training"][1].update(label=label))
    with pytest.raises(ValueError, match=r"labels that are no paths in section 'training': .*; name one"):
        start(LUNGS, datalist, tmp_path)


@pytest.mark.parametrize("key", ["fov", "label_expert1"])
def test_an_evaluation_names_the_column_that_its_bundle_does_not_read(radiographs: Path, key: str, tmp_path: Path):
    datalist = changed(
        radiographs, tmp_path, lambda lists, _: lists["test"][0].update({key: lists["test"][0]["label"]})
    )
    with pytest.raises(ValueError, match=rf"the bundle has no '{key}', which .*\.png names; remove the key"):
        judge(datalist, tmp_path)


def test_a_training_finds_the_same_pixels_in_two_sections_whatever_their_files(radiographs: Path, tmp_path: Path):
    def change(sections: dict[str, Any], folder: Path) -> None:
        Image.open(sections["training"][1]["image"]).save(folder / "other.tif")
        sections["test"][0]["image"] = str(folder / "other.tif")

    with pytest.raises(ValueError, match=r"image in two sections: .*\.png \(training\), .*other\.tif \(test\); keep"):
        start(LUNGS, changed(radiographs, tmp_path, change), tmp_path)


def test_a_training_finds_a_radiograph_that_was_exported_twice(tmp_path: Path):
    counts = {"training": 2, "validation": 1}
    datalist = write_chest_xray_phantoms(tmp_path, counts=counts, size=(150, 181), seed=0, image_format="dicom")
    again = dcmread(tmp_path / "images" / "phantom_0001.dcm")
    again.PatientID = "under another name"
    again.save_as(tmp_path / "images" / "phantom_0003.dcm")
    with pytest.raises(ValueError, match=r"image in two sections: .*0001\.dcm .*, .*0003\.dcm"):
        start(LUNGS, str(datalist), tmp_path)


def test_a_training_finds_the_copy_of_a_volume_in_another_section(tmp_path: Path):
    def change(sections: dict[str, Any], folder: Path) -> None:
        copy = folder / "copy.nii.gz"
        copy.write_bytes(Path(sections["training"][0]["image"]).read_bytes())
        sections["test"][0]["image"] = str(copy)

    datalist = changed(write(LIVER, tmp_path / "phantoms"), tmp_path, change)
    with pytest.raises(ValueError, match=r"image in two sections: .* \(training\), .*copy\.nii\.gz \(test\); keep"):
        start(LIVER, datalist, tmp_path)


def test_a_training_needs_no_files_of_the_test_section(radiographs: Path, tmp_path: Path):
    start(LUNGS, changed(radiographs, tmp_path, lambda lists, _: lists["test"][0].update(image="/gone.png")), tmp_path)
    assert (tmp_path / "run" / "model.pt").is_file()


@pytest.mark.parametrize("without", [0, 1])
def test_a_training_takes_items_with_and_without_a_field_of_view(without: int, tmp_path: Path):
    phantoms = write(VESSELS, tmp_path / "phantoms")
    datalist = changed(phantoms, tmp_path, lambda lists, _: lists["training"][without].pop("fov"))
    start(VESSELS, datalist, tmp_path)
    assert (tmp_path / "run" / "model.pt").is_file()
