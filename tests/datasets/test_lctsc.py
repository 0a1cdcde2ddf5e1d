from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from tifffile import imread

from medseg_monai.datasets import DATASETS, read_lctsc

SHAPE = (5, 7, 9)  # up, to the back, to the left
NAMES = ("a", "b", "c", "d", "e")


def scan():
    """Every voxel has a value of its own."""
    return np.arange(-160, 155, dtype=np.int16).reshape(SHAPE) * 3


def lungs():
    """1 right, 2 left, and none in the lowest slice; no turn or mirror leaves it as it is."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:, 1:3, 1:4] = 1
    mask[2:, 3:6, 5:7] = 2
    return mask


def write(path, values, axes):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[0, 0, -2.0, 90], [0, -2.0, 0, 80], [3.0, 0, 0, -60], [0, 0, 0, 1]])
    volume = nib.Nifti1Image(values, affine)
    volume.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes))).to_filename(path)


@pytest.fixture
def published(tmp_path):
    for name, axes in zip(NAMES, ("LPS", "RAS", "SPL", "PIR", "ARI"), strict=True):
        write(tmp_path / "lctsc" / "images" / f"{name}.nii.gz", scan(), axes)
        write(tmp_path / "lctsc" / "masks_lungs" / f"{name}.nii.gz", lungs(), "LPS" if name != "a" else "RSA")
    return tmp_path / "lctsc"


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_slices_lie_as_a_radiologist_sees_them_whatever_the_order_of_the_axes(published, tmp_path, read_mask):
    found = DATASETS["lctsc"](published, derived=tmp_path / "derived", validation_fraction=0.2, seed=0)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [15, 5, 5]
    items = every(found)
    assert items[0] == {
        "image": str(tmp_path / "derived" / "lctsc" / "image" / "a_Z_0001.tif"),
        "label": str(tmp_path / "derived" / "lctsc" / "label" / "a_Z_0001.png"),
        "patient": "a",
        "source": "lctsc",
    }
    for number, item in enumerate(items):
        image = imread(item["image"])
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image, scan()[number % 5])
        np.testing.assert_array_equal(read_mask(item["label"]), lungs()[number % 5] > 0)
    assert not read_mask(items[0]["label"]).any()


def test_values_between_whole_numbers_are_kept(published, tmp_path):
    for name in NAMES:
        write(published / "images" / f"{name}.nii.gz", scan().astype(np.float32) + np.float32(0.25), "LPS")
    image = imread(every(read_lctsc(published, derived=tmp_path / "derived"))[3]["image"])
    np.testing.assert_array_equal(image, scan()[3] + 0.25)


def test_volumes_stay_where_they_are_with_both_lungs_as_one_label(published, tmp_path):
    found = DATASETS["lctsc_volumes"](published, derived=tmp_path / "derived", validation_fraction=0.2, seed=0)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [3, 1, 1]
    for item in every(found):
        image, label = (nib.load(item[key]) for key in ("image", "label"))
        np.testing.assert_allclose(label.affine, image.affine)
        turn = ornt_transform(io_orientation(label.affine), axcodes2ornt("SPL"))
        np.testing.assert_array_equal(label.as_reoriented(turn).get_fdata(), lungs() > 0)


def test_both_lists_have_one_split(published, tmp_path):
    of_slices, of_volumes = (DATASETS[name](published, derived=tmp_path) for name in ("lctsc", "lctsc_volumes"))
    for section in of_slices:
        assert {item["patient"] for item in of_slices[section]} == {item["patient"] for item in of_volumes[section]}


def test_doubtful_files_are_named_in_one_error(published, tmp_path):
    masks = published / "masks_lungs"
    (masks / "a.nii.gz").unlink()
    write(masks / "b.nii.gz", lungs()[:-1], "LPS")
    write(masks / "c.nii.gz", np.zeros(SHAPE, np.uint8), "LPS")
    moved = nib.load(masks / "d.nii.gz")
    affine = moved.affine.copy()
    affine[0, 3] += 2
    nib.Nifti1Image(np.asarray(moved.dataobj), affine).to_filename(masks / "d.nii.gz")
    (published / "images" / "e.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ValueError, match="5 missing or doubtful files in lctsc") as caught:
        read_lctsc(published, derived=tmp_path)
    message = str(caught.value)
    assert "images/a.nii.gz: image without mask" in message
    assert "masks_lungs/b.nii.gz: is 4x7x9 voxels, its scan 5x7x9 (axes S, P, L)" in message
    assert "masks_lungs/c.nii.gz: label is empty" in message
    assert "masks_lungs/d.nii.gz: lies beside its scan" in message
    assert "e.nii.gz" in message
    assert "\n" not in message


def test_the_real_scans_give_417_slices_of_five_patients_with_the_liver_on_the_left_of_the_picture(
    real_data, tmp_path, read_mask
):
    items = every(read_lctsc(real_data("chest_ct/lctsc"), derived=tmp_path))
    assert (len(items), len({item["patient"] for item in items})) == (417, 5)
    first = [item for item in items if item["patient"] == "LCTSC-Test-S1-101"]
    areas = [read_mask(item["label"]).sum() for item in first]
    assert max(areas) > 10 * max(areas[0], 1)
    # the right lung is the larger one, and the patient's right is on the left of the picture
    largest = read_mask(first[int(np.argmax(areas))]["label"])
    columns = np.flatnonzero(largest.any(axis=0))
    middle = (columns[0] + columns[-1]) // 2
    assert largest[:, :middle].sum() > largest[:, middle:].sum()
    assert all(one["image"] < other["image"] for one, other in pairwise(first))
