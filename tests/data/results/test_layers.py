"""Layers as files, and the values in them by hand."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import ExifTags, Image

from medseg_monai.data import (
    BoundaryTableWriter,
    LabelReader,
    LayerOverlayWriter,
    LayerWriter,
    RasterReader,
    SaveResultsd,
    ThicknessWriter,
)
from medseg_monai.layers import labels_of_boundaries
from medseg_monai.visualize import layer_colours

ROWS, COLUMNS, SCANS = 30, 7, 3
NAMES = ["ILM", "NFL-GCL", "BM"]
#: of three B-scans, rows of the boundaries in each column
BOUNDARIES = np.stack([[5 + np.arange(7), 9 + np.arange(7), 20 + np.arange(7) + scan] for scan in range(SCANS)])


def scan(labels: np.ndarray, **meta: object) -> dict:
    shape = labels.shape
    image = MetaTensor(torch.zeros(1, *shape), meta={"filename_or_obj": "eye.vol", "spatial_shape": shape, **meta})
    return {"image": image, "pred": image * 0 + torch.from_numpy(labels.astype(np.float32))}


def save(item: dict, folder: Path, writer) -> list[Path]:
    return SaveResultsd("pred", folder, writers=[writer]).save(item)


@pytest.fixture
def bscan() -> np.ndarray:
    return labels_of_boundaries(BOUNDARIES[0], ROWS)


@pytest.fixture
def volume() -> np.ndarray:
    return labels_of_boundaries(BOUNDARIES, ROWS)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as table:
        return list(csv.DictReader(table))


def test_the_label_of_a_bscan_is_a_picture_whose_pixels_are_classes_and_whose_palette_shows_them(bscan, tmp_path):
    (path,) = save(scan(bscan), tmp_path, LayerWriter(classes=4))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), bscan)
        shown = np.asarray(picture.convert("RGB"))
    assert tuple(shown[25, 0]) == layer_colours(4)[3]
    assert len({tuple(colour) for colour in shown.reshape(-1, 3)}) == 4


def test_a_label_has_the_matrix_and_the_tag_of_a_turned_picture(bscan, tmp_path):
    (path,) = save(scan(bscan, exif_orientation=6), tmp_path, LayerWriter(classes=4))
    with Image.open(path) as picture:
        assert picture.size == (ROWS, COLUMNS)
        assert picture.getexif()[ExifTags.Base.Orientation] == 6
    np.testing.assert_array_equal(LabelReader().get_data([path])[0][0], bscan)


def test_the_label_of_a_volume_is_nifti_in_its_grid(volume, tmp_path):
    affine = np.diag([0.2, 0.004, 0.01, 1.0])
    item = scan(volume, original_affine=affine, affine=affine)
    item["pred"].affine = torch.from_numpy(affine)
    (path,) = save(item, tmp_path, LayerWriter(classes=4))
    file = nib.load(path)
    assert path.name == "eye.nii.gz"
    np.testing.assert_array_equal(np.asarray(file.dataobj), volume)
    np.testing.assert_allclose(file.affine, affine, atol=1e-6)


def test_the_table_of_a_bscan_has_a_line_for_each_column(bscan, tmp_path):
    (path,) = save(scan(bscan), tmp_path, BoundaryTableWriter(4, NAMES))
    rows = rows_of(path)
    assert path.name == "eye_boundaries.csv"
    assert len(rows) == COLUMNS
    assert rows[2] == {"column": "2", "ILM": "7", "NFL-GCL": "11", "BM": "22"}


def test_the_table_of_a_volume_says_which_bscan(volume, tmp_path):
    rows = rows_of(save(scan(volume), tmp_path, BoundaryTableWriter(4, NAMES))[0])
    assert len(rows) == SCANS * COLUMNS
    assert rows[COLUMNS + 1] == {"bscan": "1", "column": "1", "ILM": "6", "NFL-GCL": "10", "BM": "22"}


def test_the_thickness_maps_have_the_distances_of_the_boundaries_in_micrometres(volume, tmp_path):
    paths = save(scan(volume, axial_um=2.5), tmp_path, ThicknessWriter(4, NAMES))
    folder = tmp_path / "thickness" / "eye"
    stems = ["00_ILM_to_BM", "01_ILM_to_NFL-GCL", "02_NFL-GCL_to_BM"]
    assert paths == [folder / f"{stem}{suffix}" for stem in stems for suffix in (".csv", ".png")]
    expected = {stems[0]: 15, stems[1]: 4, stems[2]: 11}  # pixels in the first B-scan; BM is a pixel lower in each next
    for stem, pixels in expected.items():
        for number, row in enumerate(rows_of(folder / f"{stem}.csv")):
            more = 0 if stem == stems[1] else number
            assert row.pop("um") == str(number)
            assert [float(value) for value in row.values()] == [2.5 * (pixels + more)] * COLUMNS
    with Image.open(folder / "00_ILM_to_BM.png") as picture:
        assert len(picture.getcolors(2**20)) > 10


@pytest.mark.parametrize(("meta", "given", "unit", "value"), [({}, None, "pixels", 4), ({}, 3.0, "um", 12)])
def test_a_spacing_that_nobody_states_leaves_pixels(meta, given, unit, value, volume, tmp_path):
    save(scan(volume, axial_um=float("nan")), tmp_path, ThicknessWriter(4, NAMES, axial_um=given))
    row = rows_of(tmp_path / "thickness" / "eye" / "01_ILM_to_NFL-GCL.csv")[0]
    assert float(row["3"]) == value
    assert unit in row


def test_a_single_bscan_has_no_map(bscan, tmp_path):
    assert save(scan(bscan), tmp_path, ThicknessWriter(4, NAMES)) == []


def test_lines_lie_on_the_first_pixel_below_each_boundary(bscan, tmp_path):
    Image.fromarray(np.full((ROWS, COLUMNS), 90, np.uint8)).save(tmp_path / "eye.png")
    item = scan(bscan, filename_or_obj=str(tmp_path / "eye.png"))
    (path,) = save(item, tmp_path / "out", LayerOverlayWriter(4, RasterReader()))
    drawn = np.asarray(Image.open(path))
    assert path == tmp_path / "out" / "overlays" / "eye.png"
    for number, rows in enumerate(BOUNDARIES[0]):
        for column, row in enumerate(rows):
            assert tuple(drawn[row, column]) == layer_colours(4)[number + 1]
    assert tuple(drawn[0, 0]) == (0, 0, 0)  # nothing is drawn elsewhere
