import re
import shutil
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from PIL import Image

from medseg_monai.data.readers.volume import VolumeReader
from medseg_monai.datasets import DATASETS, read_chaos
from tests.data.dicom_files import write_series

SHAPE = (9, 7, 6)
LAST = SHAPE[2] - 1
ORGAN_NAMES = ("liver", "spleen", "kidney")
CODES = {"liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252}


def draw_organs():
    """Return grey values of the organs; no flip, transposition or other order of slices leaves them as they are."""
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[1:4, 1:5, 1:4] = CODES["liver"]
    values[1, 1, 0] = CODES["liver"]
    values[4:6, 1, 2:5] = CODES["right kidney"]
    values[7, 2:4, 1:3] = CODES["left kidney"]
    values[6:8, 5, 3:5] = CODES["spleen"]
    return values


ORGANS = draw_organs()
LIVER, SPLEEN = (np.isin(ORGANS, CODES[name]) for name in ("liver", "spleen"))
KIDNEYS = np.isin(ORGANS, [CODES["right kidney"], CODES["left kidney"]])


def scan():
    """Return a CT in which the liver has tissue around it and air above."""
    values = np.full(SHAPE, -1000)
    values[0:5, 0:6, 0:4] = 60
    return values


def save_mask(path, values):
    """Write one slice ``[X, Y]`` as a viewer shows it: rows are Y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(values.T)).save(path)
    return path


def write_ct(case, *, images="DICOM_anon", masks="Ground", bits=False, down=True):
    """Write CT as set 3 has it: the names of the slices lead down, against the volume's third axis."""
    rank = (lambda z: LAST - z) if down else (lambda z: z)
    series = write_series(case / images, volume=scan(), name=lambda z: f"i{rank(z):04d},0000b.dcm")
    for z in range(SHAPE[2]):
        slice_ = LIVER[:, :, z] if bits else LIVER[:, :, z] * np.uint8(255)
        save_mask(case / masks / f"liver_GT_{rank(z):03d}.png", slice_)
    return series


def write_mr(case):
    """Write the three sequences; the masks of T1 have the names of the slices in phase, those of T2 scrambled ones."""
    t1, t2 = case / "T1DUAL", case / "T2SPIR"
    names = {
        t1 / "DICOM_anon" / "InPhase": lambda z: f"IMG-0004-{2 * z + 2:05d}",
        t1 / "DICOM_anon" / "OutPhase": lambda z: f"IMG-0004-{2 * (LAST - z) + 1:05d}",
        t2 / "DICOM_anon": lambda z: f"IMG-0002-{(z * 5) % 6 + 1:05d}",
    }
    for folder, name in names.items():
        write_series(folder, shape=SHAPE, modality="MR", name=lambda z, name=name: f"{name(z)}.dcm")
    for z in range(SHAPE[2]):
        save_mask(t1 / "Ground" / f"{names[t1 / 'DICOM_anon' / 'InPhase'](z)}.png", ORGANS[:, :, z])
        save_mask(t2 / "Ground" / f"{names[t2 / 'DICOM_anon'](z)}.png", ORGANS[::-1, :, z])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return the folder as published, to be read only."""
    root = tmp_path_factory.mktemp("chaos") / "CHAOS_Train_Sets" / "Train_Sets"
    for patient in (1, 2, 5, 10, 14, 21):
        write_ct(root / "CT" / str(patient))
    for patient in (1, 2, 3, 5, 10, 13):
        write_mr(root / "MR" / str(patient))
    (root / "CT" / ".hidden").mkdir()
    return root


@pytest.fixture
def published(original, tmp_path):
    """Return a copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "Train_Sets"))


@pytest.fixture
def case(tmp_path):
    """Return the folder of one CT case."""
    write_ct(tmp_path / "7")
    return tmp_path / "7"


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def read_label(item):
    return np.asarray(nib.load(item["label"]).dataobj)


def test_ct_is_split_five_to_one_by_patient(original, tmp_path):
    found = read_chaos(original, derived=tmp_path / "derived", validation_fraction=0.2)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [4, 1, 1]
    item = every(found)[0]
    assert item == {
        "image": str(original / "CT" / "1" / "DICOM_anon"),
        "label": str(tmp_path / "derived" / "chaos_ct" / "label" / "1_ct.nii.gz"),
        "patient": "ct_1",
        "source": "chaos_ct",
    }
    np.testing.assert_array_equal(read_label(item), LIVER)
    for folder in (original.parent, original.parent.parent):
        assert read_chaos(folder, derived=tmp_path / "derived", validation_fraction=0.2) == found


@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("bits", [True, False])
def test_ct_masks_follow_the_names_of_the_slices_to_their_positions(tmp_path, bits, down):
    series = write_ct(tmp_path / "7", bits=bits, down=down)
    (item,) = read_chaos(tmp_path / "7", derived=tmp_path / "derived")["test"]
    np.testing.assert_array_equal(read_label(item), LIVER)
    label, image = nib.load(item["label"]), LoadImage(reader=VolumeReader())(item["image"])
    assert label.get_data_dtype() == np.uint8
    assert tuple(image.shape) == label.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    np.testing.assert_allclose(label.affine, series.affine, atol=1e-5)


@pytest.mark.parametrize("modality", ["t1_in", "t1_out", "t2"])
@pytest.mark.parametrize(("organ", "mask"), [("liver", LIVER), ("kidney", KIDNEYS), ("spleen", SPLEEN)])
def test_each_organ_of_each_sequence_is_a_name_on_the_command_line(original, tmp_path, modality, organ, mask):
    name = f"chaos_{modality}_{organ}"
    found = DATASETS[name](original, derived=tmp_path / "derived", validation_fraction=0.0, seed=0)
    assert [len(found[section]) for section in ("training", "validation", "test")] == [5, 0, 1]
    items = every(found)
    parts = {"t1_in": "T1DUAL/DICOM_anon/InPhase", "t1_out": "T1DUAL/DICOM_anon/OutPhase", "t2": "T2SPIR/DICOM_anon"}
    assert items[0]["image"] == str(original / "MR" / "1" / parts[modality])
    assert {item["source"] for item in items} == {name}
    for item in items:
        np.testing.assert_array_equal(read_label(item), mask[::-1] if modality == "t2" else mask)
        image = LoadImage(reader=VolumeReader("MR"))(item["image"])
        np.testing.assert_allclose(nib.load(item["label"]).affine, image.affine, atol=1e-5)


def test_the_three_sequences_of_a_patient_stay_together(original, tmp_path):
    found = DATASETS["chaos_mr_spleen"](original, derived=tmp_path, validation_fraction=0.2, seed=3)
    assert [len(found[section]) for section in ("training", "validation", "test")] == [12, 3, 3]
    assert len({item["label"] for item in every(found)}) == 18
    patients = {section: {item["patient"] for item in items} for section, items in found.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 6
    single = DATASETS["chaos_t2_liver"](original, derived=tmp_path, validation_fraction=0.2, seed=3)
    assert {section: {item["patient"] for item in items} for section, items in single.items()} == patients


@pytest.mark.parametrize("edge", [55, 70])
def test_the_published_ranges_of_grey_values_are_accepted(published, tmp_path, edge):
    for patient in (published / "MR").iterdir():
        for path in (patient / "T2SPIR" / "Ground").iterdir():
            values = np.asarray(Image.open(path)).T
            save_mask(path, np.where(values == CODES["liver"], edge, values).astype(np.uint8))
    item = every(read_chaos(published, derived=tmp_path, modality="t2"))[0]
    np.testing.assert_array_equal(read_label(item), LIVER[::-1])


@pytest.mark.parametrize("value", [1, 54, 80, 160, 201, 239])
def test_other_grey_values_are_refused(published, tmp_path, value):
    path = published / "MR" / "3" / "T2SPIR" / "Ground" / "IMG-0002-00004.png"
    values = np.asarray(Image.open(path)).T.copy()
    values[0, 0] = value
    save_mask(path, values)
    expected = rf"MR/3/T2SPIR/Ground: IMG-0002-00004\.png has grey values {value}, which stand for no organ"
    with pytest.raises(ValueError, match=expected):
        read_chaos(published, derived=tmp_path, modality="t2")


def test_grey_of_a_kidney_is_refused_in_ct(case, tmp_path):
    save_mask(case / "Ground" / "liver_GT_002.png", ORGANS[:, :, 3])
    with pytest.raises(ValueError, match=r"liver_GT_002\.png has grey values 63, 126, 252"):
        read_chaos(case, derived=tmp_path / "derived")


def test_masks_in_reverse_order_are_refused_in_ct(case, tmp_path):
    paths = sorted((case / "Ground").iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="of the liver lies in air; the masks do not belong to these slices"):
        read_chaos(case, derived=tmp_path / "derived")


def test_a_missing_mask_and_a_missing_slice_are_refused(case, tmp_path):
    (case / "Ground" / "liver_GT_002.png").unlink()
    with pytest.raises(ValueError, match="Ground: 5 masks for 6 slices"):
        read_chaos(case, derived=tmp_path / "derived")
    (case / "DICOM_anon" / "i0005,0000b.dcm").unlink()  # now as many as masks, but not the same
    with pytest.raises(ValueError, match="masks are not numbered in even steps"):
        read_chaos(case, derived=tmp_path / "derived")
    (case / "DICOM_anon" / "i0002,0000b.dcm").unlink()
    with pytest.raises(ValueError, match="missing"):
        read_chaos(case, derived=tmp_path / "derived")


def test_names_that_do_not_follow_the_positions_are_refused(case, tmp_path):
    first, second = (case / "DICOM_anon" / f"i000{number},0000b.dcm" for number in (1, 2))
    first.rename(case / "DICOM_anon" / "swap")
    second.rename(first)
    (case / "DICOM_anon" / "swap").rename(second)
    with pytest.raises(ValueError, match="the names of the slices do not follow their positions"):
        read_chaos(case, derived=tmp_path / "derived")


def test_a_mask_whose_slice_is_missing_is_named(published, tmp_path):
    ground = published / "MR" / "2" / "T2SPIR" / "Ground"
    (ground / "IMG-0002-00006.png").rename(ground / "IMG-0002-00007.png")
    with pytest.raises(ValueError, match="MR/2/T2SPIR/Ground: masks without a slice of the same name: IMG-0002-00007"):
        read_chaos(published, derived=tmp_path, modality="t2")


def test_a_mask_of_another_size_is_refused(case, tmp_path):
    save_mask(case / "Ground" / "liver_GT_002.png", LIVER[:, :, 0].T)
    with pytest.raises(ValueError, match=r"liver_GT_002\.png is 7x9, its slice 9x7"):
        read_chaos(case, derived=tmp_path / "derived")


def test_phases_on_different_grids_share_no_mask(published, tmp_path):
    folder = published / "MR" / "5" / "T1DUAL" / "DICOM_anon" / "OutPhase"
    shutil.rmtree(folder)
    write_series(folder, shape=(*SHAPE[:2], SHAPE[2] - 1), modality="MR")
    with pytest.raises(ValueError, match="MR/5/T1DUAL/Ground: drawn on InPhase, whose grid is not that of OutPhase"):
        read_chaos(published, derived=tmp_path, modality="t1_out")
    assert len(every(read_chaos(published, derived=tmp_path, modality="t1_in"))) == 6


def test_missing_folders_and_bad_series_of_all_patients_are_named_in_one_error(published, tmp_path):
    shutil.rmtree(published / "CT" / "2" / "Ground")
    shutil.copytree(published / "CT" / "1" / "DICOM_anon", published / "CT" / "5" / "DICOM_anon" / "other")
    for path in (published / "CT" / "10" / "Ground").iterdir():
        save_mask(path, np.zeros(SHAPE[:2], dtype=np.uint8))
    broken = published / "CT" / "14" / "Ground" / "liver_GT_003.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match="4 missing or doubtful files in chaos_ct") as caught:
        read_chaos(published, derived=tmp_path / "derived")
    text = str(caught.value)
    assert "CT/2/Ground: no such folder" in text
    assert re.search(r"CT/5/Ground: \S+DICOM_anon: 2 DICOM series, expected one", text)
    assert "CT/10/Ground: no voxel of the organ in any mask" in text
    assert "CT/14/Ground: " in text
    assert "\n" not in text


def test_unknown_options_and_folders_are_refused(original, tmp_path):
    with pytest.raises(ValueError, match="modality='pet' is unknown: choose from ct, t1_in"):
        read_chaos(original, derived=tmp_path, modality="pet")
    with pytest.raises(ValueError, match="organ='heart' is unknown: choose from liver, spleen, kidney"):
        read_chaos(original, derived=tmp_path, modality="t2", organ="heart")
    with pytest.raises(ValueError, match="organ='spleen': CHAOS has only the liver in CT"):
        read_chaos(original, derived=tmp_path, organ="spleen")
    with pytest.raises(FileNotFoundError, match="not a folder of chaos_t2_liver as published, it has none of: MR"):
        read_chaos(original / "CT", derived=tmp_path, modality="t2")


def test_every_sequence_and_organ_is_registered():
    names = {f"chaos_{modality}_{organ}" for modality, organ in product(("t1_in", "t1_out", "t2", "mr"), ORGAN_NAMES)}
    assert names | {"chaos_ct"} == {name for name in DATASETS.names if name.startswith("chaos")}


def test_the_real_ct_set_has_its_liver_on_liver(real_data, tmp_path):
    found = read_chaos(real_data("liver_ct/chaos_ct_set3"), derived=tmp_path)
    assert not found["training"]
    (item,) = found["test"]
    load = LoadImage(reader=VolumeReader())
    image, label = load(item["image"]), load(item["label"])
    assert tuple(image.shape) == tuple(label.shape) == (512, 512, 78)
    np.testing.assert_array_equal(image.affine, label.affine)
    inside = np.asarray(image)[np.asarray(label) > 0]
    # SOURCE.md: 141 +- 34 HU in this order; reversed order gives 36 +- 248
    assert inside.size == 1342595
    assert inside.mean() == pytest.approx(141, abs=0.5)
    assert inside.std() == pytest.approx(34, abs=0.5)
