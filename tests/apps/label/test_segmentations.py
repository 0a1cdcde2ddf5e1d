"""Annotators' labels as DICOM SEG and back: without MONAI Label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from medseg_monai.apps.label.lib.segmentations import (
    DicomGrid,
    name_values,
    read_label,
    read_seg,
    write_label,
    write_seg,
)
from medseg_monai.apps.label.lib.served import ServedBundle
from tests.data.dicom_files import WrittenSeries, write_series
from tests.data.radiograph_files import asymmetric, write_radiograph

from .conftest import CXR, LOBES

SHAPE = (7, 5, 6)


@pytest.fixture
def series(tmp_path: Path) -> WrittenSeries:
    return write_series(tmp_path / "series", shape=SHAPE)


@pytest.fixture
def grid(series: WrittenSeries) -> DicomGrid:
    return DicomGrid.read(series.files[0].parent)


def some_labels(*values: int) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for index, value in enumerate(values):
        labels[1 + index, 2:4, index : index + 3] = value
    return labels


@pytest.mark.parametrize(
    ("info", "present", "names"),
    [
        ({"label_info": [{"name": "b", "idx": 2}, {"name": "a", "idx": 1}]}, [2], {1: "a", 2: "b"}),
        ({"label_info": [{"name": "a"}, {"name": "b"}]}, [2], {1: "a", 2: "b"}),
        ({"label_info": [{"name": "b"}]}, [2], {2: "b"}),  # as MONAI Label has it: only those that occur
        ({"label_info": [{"name": "b"}, {"name": "d"}]}, [2, 4], {2: "b", 4: "d"}),
        ({"label_info": [{"name": "b"}]}, [], {1: "b"}),
        ({"params": {"label_names": {"a": 1, "b": 2}}}, [1], {1: "a", 2: "b"}),
        ({"label_names": {"a": 1}}, [1], {1: "a"}),
        ({}, [1], {1: "usual"}),
    ],
)
def test_a_value_has_the_name_that_the_client_means(info: dict[str, Any], present: list[int], names: dict[int, str]):
    assert name_values(info, present, {"usual": 1}) == names


@pytest.mark.parametrize("info", [{}, {"label_info": [{"name": "a"}]}, {"label_info": [{"name": "a", "idx": 1}]}])
def test_a_value_without_a_name_is_refused(info: dict[str, Any]):
    with pytest.raises(ValueError, match="3 has no name; send params with label_info"):
        name_values(info, [1, 3])


def test_a_label_is_the_same_after_dicom_seg_and_names_decide_its_numbers(grid: DicomGrid, tmp_path: Path):
    path = tmp_path / "label.dcm"
    names = {1: "right middle lobe", 2: "my own", 3: "Left Upper Lobe"}
    bundles = [ServedBundle.read(CXR), ServedBundle.read(LOBES)]
    write_seg(path, some_labels(1, 2, 3), grid, names, bundles=bundles, creator="Doe^Jane")
    labels, found = read_seg(path, grid)
    np.testing.assert_array_equal(labels, some_labels(5, 6, 1))
    assert found[6] == "my own"
    assert [found[number] for number in range(1, 6)] == list(ServedBundle.read(LOBES).labels)
    dataset = dcmread(path)
    assert {one.SegmentAlgorithmType for one in dataset.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert dataset.ContentCreatorName == "Doe^Jane"
    assert dataset.SegmentSequence[4].SegmentedPropertyTypeCodeSequence[0].CodeValue == "72481006"
    assert dataset.SegmentSequence[5].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"


def test_a_label_of_a_radiograph_is_the_same_after_dicom_seg(tmp_path: Path):
    grid = DicomGrid.read(write_radiograph(tmp_path / "dx.dcm", asymmetric(9, 13)))
    labels = np.zeros((9, 13), dtype=np.uint8)
    labels[2:5, 7:12] = 1
    write_seg(tmp_path / "label.dcm", labels, grid, {1: "lungs"}, bundles=[ServedBundle.read(CXR)])
    back, names = read_seg(tmp_path / "label.dcm", grid)
    np.testing.assert_array_equal(back, labels)
    assert names == {1: "lungs"}


def test_a_dicom_seg_of_another_series_is_refused(grid: DicomGrid, tmp_path: Path):
    other = DicomGrid.read(write_series(tmp_path / "other", shape=SHAPE).files[0].parent)
    write_seg(tmp_path / "label.dcm", some_labels(1), other, {1: "a"}, bundles=[])
    with pytest.raises(ValueError, match="it is of another image"):
        read_seg(tmp_path / "label.dcm", grid)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd", "bin"])
def test_a_label_is_read_in_the_grid_of_its_series(grid: DicomGrid, tmp_path: Path, ending: str):
    path = tmp_path / f"label.{ending}"
    labels = some_labels(1, 3)
    if ending == "bin":
        path.write_bytes(labels.tobytes(order="F"))
    else:
        write_label(tmp_path / "label.nii.gz", labels, grid)
    if ending == "nrrd":
        import itk

        itk.imwrite(itk.imread(str(tmp_path / "label.nii.gz")), str(path))
    np.testing.assert_array_equal(read_label(path, grid), labels)


def test_axes_in_another_order_and_direction_are_turned_back(grid: DicomGrid, tmp_path: Path):
    image = nib.Nifti1Image(some_labels(1, 2), grid.affine)
    image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])).to_filename(tmp_path / "label.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", grid), some_labels(1, 2))


def test_a_label_that_lies_elsewhere_is_refused(grid: DicomGrid, tmp_path: Path):
    assert grid.affine is not None
    shifted = grid.affine.copy()
    shifted[2, 3] += 0.5
    nib.Nifti1Image(some_labels(1), shifted).to_filename(tmp_path / "shifted.nii")
    with pytest.raises(ValueError, match="not in the grid of its image"):
        read_label(tmp_path / "shifted.nii", grid)
    nib.Nifti1Image(some_labels(1)[:-1], grid.affine).to_filename(tmp_path / "smaller.nii")
    with pytest.raises(ValueError, match="not in the grid of its image"):
        read_label(tmp_path / "smaller.nii", grid)
    (tmp_path / "label.bin").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="100 bytes, but the image has 7 x 5 x 6 pixels"):
        read_label(tmp_path / "label.bin", grid)


def test_fractions_are_no_labels(grid: DicomGrid, tmp_path: Path):
    nib.Nifti1Image(some_labels(1) * np.float32(0.5), grid.affine).to_filename(tmp_path / "label.nii")
    with pytest.raises(ValueError, match="not labels; save whole numbers"):
        read_label(tmp_path / "label.nii", grid)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
@pytest.mark.parametrize("axes", [2, 3])
def test_a_mask_of_a_radiograph_that_a_viewer_of_volumes_saved_lies_as_the_image_does(
    tmp_path: Path, ending: str, axes: int
):
    import itk

    grid = DicomGrid.read(write_radiograph(tmp_path / "dx.dcm", asymmetric(9, 13)))
    mask = np.zeros((9, 13), dtype=np.uint8)
    mask[2:5, 7:12] = 1
    itk.imwrite(itk.image_from_array(mask if axes == 2 else mask[None]), str(tmp_path / f"mask.{ending}"))
    np.testing.assert_array_equal(read_label(tmp_path / f"mask.{ending}", grid), mask)


def test_a_white_mask_of_a_radiograph_has_label_one(tmp_path: Path):
    grid = DicomGrid.read(write_radiograph(tmp_path / "dx.dcm", asymmetric(9, 13)))
    mask = np.zeros((9, 13), dtype=np.uint8)
    mask[2:5, 7:12] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png", grid), mask // 255)
    Image.fromarray(mask.T).save(tmp_path / "turned.png")
    with pytest.raises(ValueError, match="13 x 9 pixels, but the image has 9 x 13"):
        read_label(tmp_path / "turned.png", grid)
