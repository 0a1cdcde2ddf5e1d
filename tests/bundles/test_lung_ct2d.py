"""The lungs in slices and in scans: one window, one network, and the same mask whichever way a slice comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tifffile import imwrite

from medseg_monai.apps.label.lib.served import ServedBundle
from medseg_monai.bundle import Predictor, find_bundle
from medseg_monai.cli import main
from medseg_monai.data import LUNGS, VolumeReader, write_datalist
from medseg_monai.phantoms import draw_thorax, write_lung_slice_phantoms
from tests.data.dicom_files import find_segment, write_series

from .conftest import make_workflow, run_workflow

BUNDLE = "lung_ct2d_cenet"
SIZE = [192, 224]
SHAPE = (6, 30, 44)  # up, to the back, to the left


class DarkIsLung(torch.nn.Module):
    """What is darker than -500 HU in the window -1000..400 is lung."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3
        assert torch.equal(x[:, 0], x[:, 2])
        return -50 * (x[:, :1] + 1.6 - 500 / 1400 * 3.2) + self.bias


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save({"model": DarkIsLung().state_dict(), "settings": {"image_size": SIZE}}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def options(model: Path) -> list[str]:
    target = f"network_def#_target_={DarkIsLung.__module__}.DarkIsLung"
    return ["--checkpoint", str(model), "--allow-expressions", "--set", target]


def hounsfield() -> np.ndarray:
    """Two lungs of unlike size in soft tissue behind fat, in the lowest slice none."""
    values = np.full(SHAPE, 40, np.int16)
    values[:, :2] = -100
    values[1:, 4:25, 5:18] = -800
    values[2:, 8:20, 26:36] = -700
    return values


def write_scan(path: Path, values: np.ndarray, axes: str = "LPS") -> Path:
    affine = np.array([[0, 0, -2.0, 90], [0, -1.5, 0, 80], [3.0, 0, 0, -60], [0, 0, 0, 1]])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    nib.Nifti1Image(values, affine).as_reoriented(turn).to_filename(path)
    return path


def preprocessed(item: Path, **keys: Any) -> torch.Tensor:
    workflow = make_workflow(find_bundle(BUNDLE), "inference", workflow_type="infer", image_size=SIZE, **keys)
    workflow.parser.parse(reset=True)
    return workflow.parser.get_parsed_content("preprocessing")({"image": str(item)})["image"]


def test_the_network_sees_the_same_slice_from_a_scan_from_tiff_and_from_a_picture(tmp_path: Path):
    scan = write_scan(tmp_path / "scan.nii.gz", hounsfield(), "RAS")
    imwrite(tmp_path / "slice.tif", hounsfield()[3], photometric="minisblack")
    window = np.clip((hounsfield()[3] + 1000) / 1400 * 255, 0, 255).round().astype(np.uint8)
    Image.fromarray(window).save(tmp_path / "picture.png")
    of_scan = preprocessed(scan, slices=False)
    assert of_scan.shape == (1, SHAPE[0], *SIZE)
    for name, tolerance in (("slice.tif", 1e-5), ("picture.png", 0.01)):
        of_slice = preprocessed(tmp_path / name)
        assert of_slice.shape == (1, 1, *SIZE)
        np.testing.assert_allclose(of_slice[0, 0].numpy(), of_scan[0, 3].numpy(), atol=tolerance)


def test_the_window_is_that_of_the_weights_and_black_and_white_are_minus_and_plus_1_6(tmp_path: Path):
    imwrite(tmp_path / "a.tif", np.full((8, 8), -300, np.int16) + np.eye(8, dtype=np.int16) * 3000, photometric=None)
    model = tmp_path / "model.pt"
    torch.save({"model": {}, "settings": {"hu_min": -500.0, "hu_max": 500.0}}, model)
    found = preprocessed(tmp_path / "a.tif", checkpoint=str(model))
    assert float(found.min()) == pytest.approx(200 / 1000 * 3.2 - 1.6, abs=1e-4)
    assert float(found.max()) == pytest.approx(1.6)


def test_a_slice_by_itself_has_the_mask_that_it_has_in_its_scan(options: list[str], tmp_path: Path):
    scan = write_scan(tmp_path / "scan.nii.gz", hounsfield(), "SPL")
    (tmp_path / "slices").mkdir()
    for number, values in enumerate(hounsfield()):
        imwrite(tmp_path / "slices" / f"{number}.tif", values, photometric="minisblack")
    assert main(["predict", BUNDLE, str(scan), "-o", str(tmp_path / "a"), "--set", "slices=false", *options]) == 0
    assert main(["predict", BUNDLE, str(tmp_path / "slices"), "-o", str(tmp_path / "b"), *options]) == 0
    mask = np.asarray(nib.load(tmp_path / "a" / "scan.nii.gz").dataobj)
    for number in range(SHAPE[0]):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b" / f"{number}.png")) > 0, mask[number] > 0)
    assert not mask[0].any()
    np.testing.assert_array_equal(mask[3] > 0, hounsfield()[3] < -500)


def test_a_dicom_series_gets_a_label_volume_and_a_seg_of_the_lungs(options: list[str], tmp_path: Path):
    values = hounsfield().transpose(2, 1, 0)  # x, y, z
    written = write_series(tmp_path / "exam", volume=values)
    out = tmp_path / "out"
    assert main(["predict", BUNDLE, str(tmp_path / "exam"), "-o", str(out), "--set", "slices=false", *options]) == 0
    assert sorted(path.name for path in out.glob("exam.*")) == ["exam.nii.gz", "exam.seg.dcm"]
    mask, meta = VolumeReader().get_data([out / "exam.nii.gz"])
    np.testing.assert_allclose(meta["affine"], written.affine, atol=1e-3)
    np.testing.assert_array_equal(mask, values < -500)
    assert len(find_segment(out / "exam.seg.dcm", 1)) == (values < -500).sum()


def test_a_scan_without_the_key_for_scans_is_refused_in_one_line(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    scan = write_scan(tmp_path / "scan.nii.gz", hounsfield())
    assert main(["predict", BUNDLE, str(scan), "-o", str(tmp_path / "out"), *options]) == 2
    assert f"{scan}: a scan, not a picture of one slice; set slices=false." in capfd.readouterr().err


def test_a_slice_of_doubtful_units_fails_and_the_others_are_predicted(options: list[str], tmp_path: Path):
    (tmp_path / "slices").mkdir()
    imwrite(tmp_path / "slices" / "a.tif", hounsfield()[3], photometric="minisblack")
    imwrite(tmp_path / "slices" / "b.tif", (hounsfield()[3] + 1024).astype(np.uint16), photometric="minisblack")
    assert main(["predict", BUNDLE, str(tmp_path / "slices"), "-o", str(tmp_path / "out"), *options]) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    states = {Path(case["input"]).name: case for case in report["cases"]}
    assert states["a.tif"]["status"] == "ok"
    assert "may be Hounsfield units or a picture" in states["b.tif"]["error"]


def test_an_evaluation_has_overlap_error_sensitivity_and_accuracy_of_each_slice(options: list[str], tmp_path: Path):
    items = []
    for number, values in enumerate(hounsfield()):
        imwrite(tmp_path / f"{number}.tif", values, photometric="minisblack")
        label = values < -750 if number == 3 else values < -500  # in one slice the smaller lung is not in the label
        Image.fromarray(label).save(tmp_path / f"{number}.png")
        items.append({"image": str(tmp_path / f"{number}.tif"), "label": str(tmp_path / f"{number}.png")})
    write_datalist({"training": [], "validation": [], "test": items}, tmp_path / "datalist.json")
    assert main(["evaluate", BUNDLE, "--dataset-dir", str(tmp_path), "-o", str(tmp_path / "run"), *options]) == 0
    result = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())["per_case"]
    error = 120 / (120 + 21 * 13)
    expected = np.array([0, 0, error, 0, 0])  # the slice without lung has no overlap
    assert result["overlap_error"]["undefined"] == 1
    assert result["overlap_error"]["mean"] == pytest.approx(expected.mean())
    assert result["overlap_error"]["std"] == pytest.approx(expected.std())
    assert result["accuracy"]["min"] == pytest.approx(1 - 120 / (30 * 44))
    assert result["sensitivity"]["mean"] == 1


def volume_list(folder: Path) -> None:
    """A scan of a thorax with both lungs as one label, in every section."""
    sections: dict[str, list[dict[str, str]]] = {}
    for number, section in enumerate(("training", "validation", "test")):
        phantom = draw_thorax(size=(32, 32, 40), seed=number)
        scan = write_scan(folder / f"{section}.nii.gz", phantom.image, "RAS")
        label = write_scan(folder / f"{section}_label.nii.gz", (phantom.label > 0).astype(np.uint8), "LPS")
        sections[section] = [{"image": str(scan), "label": str(label), "patient": section}]
    write_datalist(sections, folder / "datalist.json")


def test_scans_are_trained_and_evaluated_slice_by_slice(model: Path, tmp_path: Path):
    volume_list(tmp_path)
    values = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run"), "slices": False, "image_size": SIZE}
    tiny = {"max_epochs": 1, "overlay_interval": 1, "batch_size": 1, "slices_per_volume": 2}
    workflow = make_workflow(find_bundle(BUNDLE), "train", workflow_type="train", **values, **tiny)
    run_workflow(workflow)
    drawn = workflow.parser.get_parsed_content("train#dataset")[0]
    assert [(list(one["image"].shape), list(one["label"].shape)) for one in drawn] == [([3, *SIZE], [1, *SIZE])] * 2
    network = {"network_def#_target_": f"{DarkIsLung.__module__}.DarkIsLung", "checkpoint": str(model)}
    run_workflow(make_workflow(find_bundle(BUNDLE), "train", "evaluate", workflow_type="train", **values, **network))
    result = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert result["cases"] == 1
    assert result["per_case"]["sensitivity"]["mean"] > 0.8


def test_the_image_of_a_training_slice_has_three_equal_channels(tmp_path: Path):
    write_lung_slice_phantoms(tmp_path, counts={"training": 1}, size=(48, 64), seed=0)
    keys = {"dataset_dir": str(tmp_path), "image_size": SIZE, "brightness_range": 60}
    workflow = make_workflow(find_bundle(BUNDLE), "train", workflow_type="train", **keys)
    workflow.parser.parse(reset=True)
    dataset = workflow.parser.get_parsed_content("train#dataset")
    for index in range(8):
        image = dataset[index]["image"]
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])
        assert -1.6001 < float(image.min()) < 0 < float(image.max()) < 1.6001


def test_a_predictor_in_python_takes_both_by_the_key(model: Path, tmp_path: Path):
    keys = {"network_def#_target_": f"{DarkIsLung.__module__}.DarkIsLung"}
    scan = write_scan(tmp_path / "scan.nii.gz", hounsfield())
    imwrite(tmp_path / "a.tif", hounsfield()[3], photometric="minisblack")
    of_scans = Predictor(BUNDLE, checkpoint=model, overrides={**keys, "slices": False})
    of_slices = Predictor(BUNDLE, checkpoint=model, overrides=keys)
    assert of_scans({"image": str(scan)}).mask.shape == (1, *reversed(SHAPE))
    assert of_slices({"image": str(tmp_path / "a.tif")}).mask.shape == (1, *SHAPE[1:])


def test_the_server_shows_the_lungs_and_a_copy_whose_key_is_changed_serves_scans(tmp_path: Path):
    served = ServedBundle.read(BUNDLE)
    assert (served.labels, served.dimension, served.segments) == ({"lungs": 1}, 2, ())
    copy = tmp_path / "lung_ct_scans"
    copy.mkdir()
    (copy / "configs").mkdir()
    for path in (find_bundle(BUNDLE) / "configs").iterdir():
        text = path.read_text(encoding="utf-8").replace(BUNDLE, copy.name).replace('"slices": true', '"slices": false')
        (copy / "configs" / path.name).write_text(text, encoding="utf-8")
    of_scans = ServedBundle.read(str(copy))
    assert (of_scans.labels, of_scans.dimension, of_scans.segments) == ({"lungs": 1}, 3, LUNGS)
    assert of_scans.modalities == ("CT",)
