import gzip
import logging

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medseg_monai.data.readers.volume import VolumeReader
from medseg_monai.datasets import DATASETS, read_lits

SHAPE = (12, 10, 9)
# first axis to the left, oblique about z, 0.8 x 0.9 x 2.5 mm
TURN = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.diag([-1.0, 1.0, 1.0]) @ TURN @ np.diag([0.8, 0.9, 2.5])
AFFINE[:3, 3] = (30.0, -20.0, 100.0)
NUMBERS = range(12)


def labels():
    """Return liver 1 and tumour 2 that no flip or transposition leaves as it is."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[1:5, 2:8, 1:4] = 1
    values[2:4, 3:5, 2] = 2
    return values


def hounsfield(*, body=None):
    """Return tissue around the liver, so that any mirrored liver is in air."""
    values = np.full(SHAPE, -1000, dtype=np.int16)
    values[0:6, 1:8, 0:5] = 60
    if body is not None:
        values[body] = 60
    return values


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def published(tmp_path):
    """Return the folder of both batches, the second compressed, with a scan of the test set."""
    root = tmp_path / "LiTS"
    for number in NUMBERS:
        batch, ending = ("Training Batch 1", ".nii") if number < 7 else ("Training Batch 2", ".nii.gz")
        save(root / batch / f"volume-{number}{ending}", hounsfield())
        save(root / batch / f"segmentation-{number}{ending}", labels())
    save(root / "Test" / "test-volume-0.nii", hounsfield())
    (root / "Training Batch 1" / "._volume-0.nii").write_bytes(b"from a Mac")
    return root


def segmentation(root, number=0):
    return root / "Training Batch 1" / f"segmentation-{number}.nii"


def every(found):
    items = [item for section in found.values() for item in section]
    return sorted(items, key=lambda item: int(item["patient"].rpartition("-")[2]))


def read_labels(item):
    return np.asarray(nib.load(item["label"]).dataobj)


def test_both_batches_are_split_five_to_one_and_validation_comes_out_of_training(published, tmp_path):
    found = read_lits(published, derived=tmp_path / "derived", validation_fraction=0.2)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [8, 2, 2]
    assert [item["patient"] for item in every(found)] == [f"volume-{number}" for number in NUMBERS]
    without = read_lits(published, derived=tmp_path / "derived", validation_fraction=0.0)
    assert [len(without[name]) for name in ("training", "validation", "test")] == [10, 0, 2]
    assert without["test"] == found["test"]


def test_the_tumour_is_liver_on_the_volumes_grid_in_8_bits(published, tmp_path):
    item = every(read_lits(published, derived=tmp_path / "derived"))[7]
    assert item == {
        "image": str(published / "Training Batch 2" / "volume-7.nii.gz"),
        "label": str(tmp_path / "derived" / "lits" / "label" / "7.nii.gz"),
        "patient": "volume-7",
        "source": "lits",
    }
    np.testing.assert_array_equal(read_labels(item), labels() > 0)
    assert nib.load(item["label"]).get_data_dtype() == np.uint8
    load = LoadImage(reader=VolumeReader())
    np.testing.assert_array_equal(load(item["label"]).affine, load(item["image"]).affine)


def test_the_tumour_is_background_by_option_and_by_name_as_the_papers_sentence_says(published, tmp_path):
    item = every(DATASETS["lits_liver_only"](published, derived=tmp_path, validation_fraction=0.0, seed=0))[0]
    assert item["source"] == "lits_liver_only"
    np.testing.assert_array_equal(read_labels(item), labels() == 1)
    assert (labels() == 2).any()


def test_a_liver_that_is_all_tumour_is_refused_where_tumours_are_background(published, tmp_path):
    save(segmentation(published, 3), 2 * (labels() > 0).astype(np.uint8))
    assert len(every(read_lits(published, derived=tmp_path))) == len(NUMBERS)
    with pytest.raises(ValueError, match=r"segmentation-3\.nii.*has tumour only"):
        read_lits(published, derived=tmp_path, tumour="background")


def test_the_tumour_is_kept_apart_by_option_and_by_name(published, tmp_path):
    item = every(DATASETS["lits_tumour"](published, derived=tmp_path, validation_fraction=0.0, seed=0))[0]
    assert item["source"] == "lits_tumour"
    np.testing.assert_array_equal(read_labels(item), labels())
    assert read_labels(every(DATASETS["lits"](published, derived=tmp_path))[0]).max() == 1
    with pytest.raises(ValueError, match="tumour='keep' is unknown: choose from merge, background, separate"):
        read_lits(published, derived=tmp_path, tumour="keep")


def test_volumes_and_segmentations_may_lie_in_other_folders(published, tmp_path):
    for path in published.rglob("segmentation-*"):
        (published / "segmentations").mkdir(exist_ok=True)
        path.rename(published / "segmentations" / path.name)
    assert len(every(read_lits(published, derived=tmp_path))) == len(NUMBERS)


def test_axes_stored_in_another_order_are_turned_to_the_volumes(published, tmp_path, caplog):
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt("SRA"))
    turned = nib.Nifti1Image(labels(), AFFINE).as_reoriented(turn)
    assert turned.shape != SHAPE
    nib.save(turned, segmentation(published))
    item = every(read_lits(published, derived=tmp_path))[0]
    np.testing.assert_array_equal(read_labels(item), labels() > 0)
    assert not caplog.records


@pytest.mark.parametrize(
    "wrong",
    [np.diag([-1.0, 1, 1, 1]) @ AFFINE, AFFINE @ np.diag([-1.0, -1, 1, 1]), np.diag([0.8, 0.9, 2.5, 1]), np.eye(4)],
    ids=["first axis reversed", "two axes reversed", "position lost", "nothing but voxels"],
)
def test_a_header_that_contradicts_the_volume_is_repaired_by_what_lies_on_tissue(published, tmp_path, caplog, wrong):
    save(segmentation(published), labels(), wrong)
    with caplog.at_level(logging.WARNING):
        item = every(read_lits(published, derived=tmp_path))[0]
    np.testing.assert_array_equal(read_labels(item), labels() > 0)
    np.testing.assert_allclose(nib.load(item["label"]).affine, AFFINE, atol=1e-5)
    (record,) = caplog.records
    assert "segmentation-0.nii" in record.message
    assert "volume-0.nii; read voxel by voxel" in record.message


def test_a_mirrored_segmentation_is_turned_where_only_its_position_is_wrong(published, tmp_path, caplog):
    moved = AFFINE @ np.diag([-1.0, 1, 1, 1])  # the voxels are reversed too, as the directions say
    save(segmentation(published), labels()[::-1], moved)
    item = every(read_lits(published, derived=tmp_path))[0]
    np.testing.assert_array_equal(read_labels(item), labels() > 0)
    assert "read by the directions of its axes" in caplog.text


def test_a_contradiction_that_tissue_does_not_settle_is_refused(published, tmp_path):
    save(published / "Training Batch 1" / "volume-0.nii", hounsfield(body=np.s_[:, 1:8, 0:5]))
    save(segmentation(published), labels(), AFFINE @ np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"segmentation-0\.nii: its header does not fit volume-0\.nii, and the liver"):
        read_lits(published, derived=tmp_path)


def test_a_segmentation_of_another_scan_is_refused(published, tmp_path):
    save(segmentation(published), labels()[:, :, ::-1])
    with pytest.raises(ValueError, match=r"segmentation-0\.nii: 100% of the liver lies in air"):
        read_lits(published, derived=tmp_path)


def test_everything_missing_or_doubtful_is_named_in_one_error(published, tmp_path):
    batch = published / "Training Batch 1"
    segmentation(published, 0).unlink()
    (batch / "volume-1.nii").unlink()
    save(segmentation(published, 2), labels() * np.uint8(2))
    save(segmentation(published, 3), np.zeros(SHAPE, dtype=np.uint8))
    save(segmentation(published, 4), labels()[:, :-1])
    segmentation(published, 5).write_bytes(segmentation(published, 5).read_bytes()[:800])
    save(published / "again" / "volume-6.nii.gz", hounsfield())
    save(segmentation(published, 6), labels() * 0.5)
    damaged = published / "Training Batch 2" / "volume-7.nii.gz"
    damaged.write_bytes(gzip.compress(b"not a volume"))
    with pytest.raises(ValueError, match="9 missing or doubtful files in lits") as caught:
        read_lits(published, derived=tmp_path / "derived")
    text = str(caught.value)
    for problem in (
        "Training Batch 1/volume-0.nii: image without segmentation",
        "Training Batch 1/segmentation-1.nii: segmentation without image",
        "Training Batch 1/segmentation-2.nii: has values 4, expected 0, 1, 2",
        "Training Batch 1/segmentation-3.nii: label is empty",
        "Training Batch 1/segmentation-4.nii: is 12x9x9 voxels, its volume 12x10x9",
        "Training Batch 1/segmentation-5.nii: segmentation-5.nii is truncated or damaged",
        "Training Batch 1/segmentation-6.nii: has values 0.5, expected 0, 1, 2",
        "second volume 6 beside Training Batch 1/volume-6.nii",
        "Training Batch 2/segmentation-7.nii.gz: volume-7.nii.gz is truncated or damaged",
    ):
        assert problem in text, problem
    assert "\n" not in text


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such folder; name the folder of lits as published"):
        read_lits(tmp_path / "gone", derived=tmp_path)
    (tmp_path / "holiday").mkdir()
    with pytest.raises(ValueError, match=r"holiday: 1 missing or doubtful files in lits: .*no volume-N\.nii below"):
        read_lits(tmp_path / "holiday", derived=tmp_path)
