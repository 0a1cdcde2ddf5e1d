import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, LoadImaged, Orientationd
from PIL import Image

from medseg_monai.data.dicom import find_faults, find_series
from medseg_monai.data.readers.volume import VolumeReader
from medseg_monai.datasets import read_chaos, read_lits
from medseg_monai.phantoms import (
    CONTRASTS,
    ORGANS,
    draw_abdomen,
    phantom_writer,
    write_abdomen_phantoms,
    write_chaos_layout,
    write_lits_layout,
)
from medseg_monai.phantoms.abdomen_dataset import TUMOUR_CYCLE

SIZE = (9, 36, 46)
SEED = 4
COUNTS = {"training": 3, "validation": 1, "test": 1}
PATIENTS = 3


def items_of(datalist):
    """All items of a data list with absolute paths, in the order of their numbers."""
    sections = json.loads(datalist.read_text())
    items = [item for section in ("training", "validation", "test") for item in sections[section]]
    return [{k: str(datalist.parent / v) if k in ("image", "label") else v for k, v in item.items()} for item in items]


def every(found):
    """All items of a reader, in the order of their patients' numbers."""
    items = [item for section in found.values() for item in section]
    return sorted(items, key=lambda item: int(item["patient"].replace("-", "_").rpartition("_")[2]))


def load(item, modality="CT"):
    """Image and label in the axes of :func:`draw_abdomen`, read as a bundle reads them."""
    keys = ["image", "label"]
    steps = [
        LoadImaged(keys, reader=VolumeReader(modality), ensure_channel_first=True),
        Orientationd(keys, axcodes="SPL", labels=None),
    ]
    loaded = Compose(steps)(item)
    np.testing.assert_allclose(loaded["label"].affine, loaded["image"].affine, atol=1e-3)
    return loaded


def redraw(loaded, number, *, contrast="ct", tumours=0):
    spacing = tuple(np.round(loaded["label"].pixdim.tolist(), 4))
    return draw_abdomen(size=SIZE, spacing=spacing, seed=(SEED, number), contrast=contrast, tumours=tumours)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", params=[("ct", "liver"), ("mr", "kidney")], ids=["ct", "mr"])
def written(request, tmp_path_factory):
    modality, organ = request.param
    order = {"counts": COUNTS, "size": SIZE, "seed": SEED, "modality": modality, "organ": organ}
    return organ, items_of(write_abdomen_phantoms(tmp_path_factory.mktemp("phantoms") / "new" / "folder", **order))


@pytest.fixture(scope="module")
def lits(tmp_path_factory):
    return write_lits_layout(tmp_path_factory.mktemp("lits"), patients=PATIENTS, size=SIZE, seed=SEED)


@pytest.fixture(scope="module", params=["ct", "mr"])
def chaos(request, tmp_path_factory):
    order = {"patients": PATIENTS, "size": SIZE, "seed": SEED, "modality": request.param}
    return request.param, write_chaos_layout(tmp_path_factory.mktemp("chaos"), **order)


def test_what_is_read_back_is_what_was_drawn_with_one_organ_as_1(written):
    organ, items = written
    for number, item in enumerate(items, start=1):
        loaded = load(item)
        contrast = item["source"].removeprefix("phantom_")
        drawn = redraw(loaded, number, contrast=contrast, tumours=TUMOUR_CYCLE[number - 1])
        np.testing.assert_array_equal(loaded["image"][0], drawn.image)
        np.testing.assert_array_equal(loaded["label"][0], drawn.label == ORGANS[organ])
        assert loaded["label"].any()
        assert nib.load(item["label"]).get_data_dtype() == np.uint8


def test_the_contrasts_of_mri_take_turns_within_each_section(written):
    organ, items = written
    sources = ["ct"] * 5 if organ == "liver" else ["t1_in", "t1_out", "t2", "t1_in", "t1_in"]
    assert [item["source"] for item in items] == [f"phantom_{name}" for name in sources]
    assert [item["patient"] for item in items] == [f"phantom_{number:04d}" for number in range(1, 6)]


def test_grids_are_anisotropic_oblique_and_stored_in_different_axis_orders(written):
    _, items = written
    affines = [nib.load(item["image"]).affine for item in items]
    assert len({nib.aff2axcodes(affine) for affine in affines}) == 4
    for item, affine in zip(items, affines, strict=True):
        np.testing.assert_array_equal(nib.load(item["label"]).affine, affine)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        assert np.ptp(spacing) > 0.3
        assert 0.5 < np.rad2deg(np.arccos(np.abs(affine[:3, :3] / spacing).max(axis=0))).max() < 20
    assert len({tuple(np.round(affine[:3, 3], 1)) for affine in affines}) == len(affines)


def test_the_liver_lies_to_the_right_and_the_spleen_to_the_left_in_the_world(tmp_path):
    def centres(organ):
        order = {"counts": {"training": 4}, "size": SIZE, "seed": SEED, "organ": organ}
        for item in items_of(write_abdomen_phantoms(tmp_path / organ, **order)):
            label = nib.load(item["label"])
            yield (label.affine @ [*np.argwhere(np.asarray(label.dataobj)).mean(axis=0), 1])[:3]

    for liver, spleen, kidneys in zip(*map(centres, ORGANS), strict=True):
        assert liver[0] > kidneys[0] + 30 > spleen[0] + 60, "RAS: the patient's right is positive"
        assert liver[1] > kidneys[1], "the kidneys lie behind"
        assert liver[2] > kidneys[2] + 20, "and below"


def test_the_organ_does_not_change_the_images(tmp_path):
    order = {"counts": {"test": 2}, "size": SIZE, "seed": 1, "modality": "mr"}
    items = [items_of(write_abdomen_phantoms(tmp_path / organ, organ=organ, **order)) for organ in ORGANS]
    for same in zip(*items, strict=True):
        assert len({Path(item["image"]).read_bytes() for item in same}) == 1
        assert np.sum([nib.load(item["label"]).dataobj for item in same], axis=0).max() == 1


def test_bundles_of_both_modalities_find_their_phantoms_by_name(tmp_path):
    for bundle, source in (("liver_ct_anunet", "phantom_ct"), ("abdomen_mri_anunet", "phantom_t1_in")):
        datalist = phantom_writer(bundle)(tmp_path / bundle, counts={"training": 1}, size=(12, 64, 80), seed=0)
        (item,) = items_of(datalist)
        assert item["source"] == source
        assert nib.load(item["label"]).get_fdata().sum() > 1000


def test_lits_is_read_back_voxel_for_voxel_with_and_without_tumours(lits, tmp_path):
    separate = every(read_lits(lits, derived=tmp_path, tumour="separate", validation_fraction=0))
    merged = every(read_lits(lits, derived=tmp_path, source="merged", validation_fraction=0))
    assert [item["patient"] for item in separate] == [f"volume-{number}" for number in range(PATIENTS)]
    for number, (item, whole) in enumerate(zip(separate, merged, strict=True)):
        loaded = load(item)
        drawn = redraw(loaded, number, tumours=TUMOUR_CYCLE[(number - 1) % len(TUMOUR_CYCLE)])
        np.testing.assert_array_equal(loaded["image"][0], drawn.image)
        np.testing.assert_array_equal(loaded["label"][0], (drawn.label == ORGANS["liver"]) + drawn.tumour)
        np.testing.assert_array_equal(load(whole)["label"][0], drawn.label == ORGANS["liver"])
    tumours = [np.any(nib.load(item["label"]).dataobj == np.uint8(2)) for item in separate]
    assert any(tumours)
    assert not all(tumours)


def test_lits_has_its_volumes_in_two_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg_monai.phantoms.abdomen_dataset._FIRST_BATCH", 2)
    root = write_lits_layout(tmp_path, patients=3, size=(8, 32, 32), seed=0)
    assert len(list((root / "Training Batch 1").iterdir())) == 4
    assert {path.name for path in (root / "Training Batch 2").iterdir()} == {"volume-2.nii", "segmentation-2.nii"}


def test_chaos_is_read_back_voxel_for_voxel_in_every_sequence_and_organ(chaos, tmp_path):
    modality, root = chaos
    organs, contrasts = (["liver"], CONTRASTS[:1]) if modality == "ct" else (list(ORGANS), CONTRASTS[1:])
    for contrast in contrasts:
        found = {
            organ: every(read_chaos(root, derived=tmp_path, modality=contrast, organ=organ, validation_fraction=0))
            for organ in organs
        }
        assert [item["patient"] for item in found["liver"]] == [f"{modality}_{n}" for n in range(1, PATIENTS + 1)]
        for number, item in enumerate(found["liver"], start=1):
            loaded = load(item, modality.upper())
            drawn = redraw(loaded, number, contrast=contrast)
            np.testing.assert_array_equal(loaded["image"][0], drawn.image)
            np.testing.assert_array_equal(loaded["label"][0], drawn.label == ORGANS["liver"])
            for organ in organs[1:]:  # on the same grid as the liver
                stored = np.asarray(nib.load(found[organ][number - 1]["label"]).dataobj)
                np.testing.assert_array_equal(stored.transpose(2, 1, 0), drawn.label == ORGANS[organ])


def test_chaos_has_series_of_its_modality_and_masks_in_the_published_grey_values(chaos):
    modality, root = chaos
    for case in (root / modality.upper()).iterdir():
        folders = [path for path in case.rglob("*") if path.is_dir() and next(path.glob("*.dcm"), None)]
        assert len(folders) == (1 if modality == "ct" else 3)
        uids = set()
        for folder in folders:
            (series,) = find_series(folder)
            assert find_faults(series, modality=modality.upper()) == []
            header = pydicom.dcmread(series.files[0])
            assert (header.Rows, header.Columns, header.PatientID) == (*SIZE[1:], f"{modality}_{case.name}")
            assert ("RescaleIntercept" in header) == (modality == "ct")
            uids.add(series.uid)
        assert len(uids) == len(folders)
        for ground in case.rglob("Ground"):
            masks = [np.asarray(Image.open(path)) for path in sorted(ground.glob("*.png"))]
            assert len(masks) == SIZE[0]
            assert set(np.unique(masks)) == ({0, 255} if modality == "ct" else {0, 63, 126, 189, 252})
            if modality == "mr":  # a mask is seen as radiologists see it: the patient's right on the left
                columns = [np.nonzero(np.stack(masks) == grey)[2].mean() for grey in (63, 126, 189, 252)]
                assert max(columns[:2]) < SIZE[2] / 2 < min(columns[2:])


def test_the_names_of_ct_slices_lead_up_in_one_patient_and_down_in_the_next(tmp_path):
    root = write_chaos_layout(tmp_path, patients=2, size=(8, 32, 32), seed=0)
    heights = []
    for number in (1, 2):
        files = sorted((root / "CT" / str(number) / "DICOM_anon").iterdir())
        heights.append([pydicom.dcmread(path).ImagePositionPatient[2] for path in files])
    assert heights[0] == sorted(heights[0])
    assert heights[1] == sorted(heights[1], reverse=True)


def test_the_phases_of_t1_share_a_grid_and_t2_has_its_own(tmp_path):
    root = write_chaos_layout(tmp_path, patients=1, size=(8, 32, 40), seed=0, modality="mr")
    folders = ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/DICOM_anon/OutPhase", "T2SPIR/DICOM_anon")
    reader = VolumeReader("MR")
    in_phase, out, t2 = (reader.get_data(reader.read(root / "MR" / "1" / folder)) for folder in folders)
    np.testing.assert_array_equal(in_phase[1]["affine"], out[1]["affine"])
    assert np.abs(in_phase[1]["affine"] - t2[1]["affine"]).max() > 0.01
    assert not np.array_equal(in_phase[0], out[0])


def test_a_folder_that_is_written_again_with_fewer_slices_keeps_none_of_the_old(tmp_path):
    for depth in (10, 8):
        root = write_chaos_layout(tmp_path, patients=1, size=(depth, 32, 32), seed=0)
    assert {len(list(folder.iterdir())) for folder in (root / "CT" / "1").iterdir()} == {8}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_abdomen_phantoms(folder, counts={"test": 2}, size=(8, 32, 32), seed=3, modality="mr"),
        lambda folder: write_lits_layout(folder, patients=2, size=(8, 32, 32), seed=3),
        lambda folder: write_chaos_layout(folder, patients=1, size=(8, 32, 32), seed=3),
        lambda folder: write_chaos_layout(folder, patients=1, size=(8, 32, 32), seed=3, modality="mr"),
    ],
    ids=["datalist", "lits", "chaos_ct", "chaos_mr"],
)
def test_the_same_seed_writes_the_same_files(tmp_path, write):
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modality": "pet"}, "modality='pet' is not drawn: choose from ct, mr"),
        ({"organ": "heart"}, "organ='heart' is not drawn: choose from liver, spleen, kidney"),
        ({"counts": {"train": 1}}, "unknown sections train: choose from training, validation, test"),
        ({"counts": {"training": 0}}, "no phantom"),
        ({"size": (64, 64)}, "not a 3D size"),
        ({"size": (6, 64, 64)}, "at least 8 x 32 x 32"),
        ({"oblique": 60.0}, "oblique=60.0"),
    ],
)
def test_a_mistaken_order_is_refused_in_one_line_before_anything_is_written(tmp_path, wrong, message):
    order = {"counts": {"training": 1}, "size": (8, 32, 32), "seed": 0, **wrong}
    with pytest.raises(ValueError, match=message) as caught:
        write_abdomen_phantoms(tmp_path / "out", **order)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", [write_lits_layout, write_chaos_layout])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients=0 asks for no phantom"),
        ({"size": (64, 64)}, "not a 3D size"),
        ({"size": (8, 32, 30)}, "at least 8 x 32 x 32"),
    ],
)
def test_a_mistaken_layout_is_refused_before_anything_is_written(tmp_path, write, wrong, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", **{"patients": 1, "size": (8, 32, 32), "seed": 0, **wrong})
    assert not (tmp_path / "out").exists()


def test_chaos_of_an_unknown_modality_is_refused(tmp_path):
    with pytest.raises(ValueError, match="modality='t2' is not drawn: choose from ct, mr"):
        write_chaos_layout(tmp_path / "out", patients=1, size=(8, 32, 32), seed=0, modality="t2")
