import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medseg_monai.data import VolumeReader
from medseg_monai.datasets import DATASETS, LABEL_MAPS, read_lobes
from medseg_monai.phantoms import write_thorax_phantoms

SHAPE = (9, 7, 6)
# LPS file order, oblique about z, 2 x 1.5 x 4 mm
TURN = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ TURN @ np.diag([2.0, 1.5, 4.0])
AFFINE[:3, 3] = (30.0, -20.0, 100.0)

ALL_TEST = {"validation_fraction": 0.0, "test_fraction": 1.0}


def lobes():
    """Return a label in the paper's order that no flip or transposition leaves as it is."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value in range(1, 6):
        label[value, 1 : 1 + value, 2:5] = value
    return label


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(values, affine), path)
    else:
        image = itk.image_from_array(np.ascontiguousarray(values.T))
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing)
        image.SetOrigin(lps[:3, 3])
        image.SetDirection(lps[:3, :3] / spacing)
        itk.imwrite(image, str(path))
    return path


@pytest.fixture
def make(tmp_path):
    """Return a function that writes scans and labels, by default in the paper's order."""

    def write(names=("a", "b", "c", "d", "e"), *, label_map="paper", ending=".nii.gz", suffix=""):
        root = tmp_path / "scans"
        to_file = {paper: value for value, paper in reversed(LABEL_MAPS[label_map].items())}
        label = np.vectorize(to_file.__getitem__)(lobes()).astype(np.int16)
        for name in names:
            save(root / "images" / f"{name}{ending}", np.full(SHAPE, -800, dtype=np.int16))
            save(root / "labels" / f"{name}{suffix}{ending}", label)
        return root

    return write


def test_labels_in_the_papers_order_are_taken_as_they_are_and_split_by_patient(make, tmp_path):
    root = make()
    found = read_lobes(root, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [3, 1, 1]
    items = sorted((item for section in found.values() for item in section), key=lambda item: item["patient"])
    assert [item["patient"] for item in items] == ["a", "b", "c", "d", "e"]
    assert items[0] == {
        "image": str(root / "images" / "a.nii.gz"),
        "label": str(root / "labels" / "a.nii.gz"),
        "patient": "a",
        "source": "lobes",
    }
    assert not (tmp_path / "derived").exists()
    assert read_lobes(root, derived=tmp_path / "derived", seed=0) == found


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("label_map", ["lola11", "luna16", "copdgene"])
def test_other_maps_are_written_in_the_papers_order_on_the_same_grid(make, tmp_path, label_map, ending):
    root = make(["a"], label_map=label_map, ending=ending)
    item = read_lobes(root, derived=tmp_path / "derived", label_map=label_map, **ALL_TEST)["test"][0]
    assert item["label"] == str(tmp_path / "derived" / "lobes" / "label" / "a.nii.gz")
    written, published = nib.load(item["label"]), LoadImage()(root / "labels" / f"a{ending}")
    np.testing.assert_array_equal(np.asarray(written.dataobj), lobes())
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(written.affine, published.affine, atol=1e-5)


def test_every_known_map_leads_to_all_five_lobes_and_keeps_left_and_right_apart():
    for name, table in LABEL_MAPS.items():
        assert table[0] == 0, name
        assert set(table.values()) == {0, 1, 2, 3, 4, 5}, name
        assert len([lobe for lobe in table.values() if lobe]) == 5, name
    assert {value: LABEL_MAPS["lola11"][value] for value in (10, 11, 20, 21, 22)} == {10: 1, 11: 2, 20: 3, 21: 5, 22: 4}
    for name in ("luna16", "copdgene"):
        assert {value: LABEL_MAPS[name][value] for value in (4, 5, 6, 7, 8)} == {4: 3, 5: 5, 6: 4, 7: 1, 8: 2}


@pytest.mark.parametrize("label_map", ["paper", "lola11", "luna16", "copdgene"])
def test_each_map_has_a_name_on_the_command_line(make, tmp_path, label_map):
    name = "lobes" if label_map == "paper" else f"lobes_{label_map}"
    suffix = "_LobeSegmentation" if label_map == "luna16" else ""
    root = make(label_map=label_map, suffix=suffix)
    found = DATASETS[name](root, derived=tmp_path / "derived", validation_fraction=0.2, seed=3)
    assert [len(found[section]) for section in ("training", "validation", "test")] == [3, 1, 1]
    item = found["test"][0]
    assert item["source"] == name
    np.testing.assert_array_equal(np.asarray(nib.load(item["label"]).dataobj), lobes())


def test_a_table_of_ones_own_is_a_label_map(make, tmp_path):
    root = make(["a"])
    swapped = {0: 0, 1: 3, 2: 4, 3: 1, 4: 2, 5: 5}
    item = read_lobes(root, derived=tmp_path / "derived", label_map=swapped, **ALL_TEST)["test"][0]
    expected = np.vectorize(swapped.__getitem__)(lobes())
    np.testing.assert_array_equal(np.asarray(nib.load(item["label"]).dataobj), expected)


def test_a_label_stored_in_another_axis_order_has_the_same_grid(make, tmp_path):
    root = make(["a"])
    path = root / "labels" / "a.nii.gz"
    label = nib.load(path)
    turn = ornt_transform(io_orientation(label.affine), axcodes2ornt("SRA"))
    turned = nib.Nifti1Image(np.asarray(label.dataobj), label.affine).as_reoriented(turn)
    assert turned.shape != label.shape
    nib.save(turned, path)
    assert read_lobes(root, derived=tmp_path, **ALL_TEST)["test"][0]["label"] == str(path)


def test_dicom_series_are_scans(tmp_path):
    order = {"counts": {"test": 2}, "size": (32, 34, 36), "seed": 2}
    write_thorax_phantoms(tmp_path / "phantoms", image_format="dicom", **order)
    found = read_lobes(tmp_path / "phantoms", derived=tmp_path / "derived", **ALL_TEST)["test"]
    assert [item["patient"] for item in found] == ["phantom_0001", "phantom_0002"]
    assert found[0]["image"] == str(tmp_path / "phantoms" / "images" / "phantom_0001")
    second = tmp_path / "phantoms" / "images" / "phantom_0002"
    for file in second.iterdir():
        shutil.copy(file, second.with_name("phantom_0001") / f"other_{file.name}")
    with pytest.raises(ValueError, match=r"labels/phantom_0001\.nii\.gz.*2 DICOM series, choose one"):
        read_lobes(tmp_path / "phantoms", derived=tmp_path / "derived", **ALL_TEST)


def test_missing_partners_other_grids_and_other_values_are_all_named_in_one_error(make, tmp_path):
    root = make(["a", "b", "c", "d", "e", "f"])
    (root / "labels" / "a.nii.gz").unlink()
    (root / "images" / "b.nii.gz").unlink()
    save(root / "labels" / "c.nii.gz", lobes()[:, :-1])
    moved = AFFINE.copy()
    moved[2, 3] += 4
    save(root / "labels" / "d.nii.gz", lobes(), moved)
    wrong = lobes()
    wrong[0, 0, :2] = 6, 9
    save(root / "labels" / "e.nii.gz", wrong)
    save(root / "labels" / "f.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(ValueError, match="6 missing or doubtful files in lobes") as caught:
        read_lobes(root, derived=tmp_path / "derived")
    text = str(caught.value)
    for problem in (
        "images/a.nii.gz: image without label",
        "labels/b.nii.gz: label without image",
        "labels/c.nii.gz: is 9x6x6 voxels, its image 9x7x6",
        "labels/d.nii.gz: lies up to 4 mm beside its image",
        "labels/e.nii.gz: has values 6, 9 outside the label map (0, 1, 2, 3, 4, 5)",
        "labels/f.nii.gz: label is empty",
    ):
        assert problem in text
    assert "\n" not in text


def test_a_mirrored_label_of_the_same_shape_is_refused(make, tmp_path):
    root = make(["a"])
    mirrored = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
    save(root / "labels" / "a.nii.gz", lobes(), mirrored)
    with pytest.raises(ValueError, match=r"labels/a\.nii\.gz: lies up to .* mm beside its image"):
        read_lobes(root, derived=tmp_path / "derived")


def test_a_label_between_two_values_is_refused(make, tmp_path):
    root = make(["a"])
    save(root / "labels" / "a.nii.gz", (lobes() * 0.5).astype(np.float32))
    with pytest.raises(ValueError, match=r"labels/a\.nii\.gz: has values 0\.5, 1\.5, 2\.5 outside"):
        read_lobes(root, derived=tmp_path / "derived")


def test_a_label_of_another_map_is_refused_and_not_guessed(make, tmp_path):
    root = make(["a"], label_map="copdgene")
    with pytest.raises(ValueError, match="has values 6, 7, 8 outside the label map"):
        read_lobes(root, derived=tmp_path / "derived")


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_damaged_file_is_named(make, tmp_path, folder):
    root = make(["a"])
    (root / folder / "a.nii.gz").write_bytes(b"not a volume")
    damaged = rf"{folder}/a\.nii\.gz: truncated, damaged or incomplete; copy it again"
    with pytest.raises(ValueError, match=damaged) as caught:
        read_lobes(root, derived=tmp_path / "derived")
    assert "\n" not in str(caught.value)


def sheared(path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.5 * AFFINE[1, 1]
    save(path, np.zeros(SHAPE, dtype=np.int16), affine)


def not_finite(path: Path) -> None:
    save(path, np.full(SHAPE, np.nan, dtype=np.float32))


def several(path: Path) -> None:
    save(path, np.zeros((*SHAPE, 2), dtype=np.int16))


@pytest.mark.parametrize("spoil", [sheared, not_finite, several])
def test_a_scan_that_training_and_evaluation_would_refuse_is_refused_with_the_same_words(make, tmp_path, spoil):
    root = make(["a"])
    path = root / "images" / "a.nii.gz"
    spoil(path)
    reader = VolumeReader()
    with pytest.raises(ValueError, match=r"a\.nii\.gz: ") as of_reader:
        reader.get_data(reader.read(path))
    with pytest.raises(ValueError, match="1 missing or doubtful") as caught:
        read_lobes(root, derived=tmp_path / "derived")
    assert str(of_reader.value).removesuffix(".") in str(caught.value)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int8", "uint16"])
def test_a_label_of_any_integer_type_is_read(make, tmp_path, dtype):
    root = make(["a"], label_map="copdgene")
    label = np.asarray(nib.load(root / "labels" / "a.nii.gz").dataobj).astype(dtype)
    nib.save(nib.Nifti1Image(label, AFFINE, dtype=dtype), root / "labels" / "a.nii.gz")
    found = read_lobes(root, derived=tmp_path / "derived", label_map="copdgene", **ALL_TEST)["test"]
    np.testing.assert_array_equal(np.asarray(nib.load(found[0]["label"]).dataobj), lobes())


def test_a_label_that_is_made_repeats_both_forms_and_the_units_of_the_published_one(make, tmp_path):
    root = make(["a"], label_map="copdgene")
    for folder in ("images", "labels"):
        image = nib.load(root / folder / "a.nii.gz")
        microns = image.affine.copy()
        microns[:3] *= 1000
        turned = nib.Nifti1Image(np.asarray(image.dataobj), microns)
        turned.set_qform(microns, 1)
        turned.set_sform(microns, 2)
        turned.header.set_xyzt_units("micron")
        nib.save(turned, root / folder / "a.nii.gz")
    found = read_lobes(root, derived=tmp_path / "derived", label_map="copdgene", **ALL_TEST)["test"]
    made, published = (nib.load(path).header for path in (found[0]["label"], root / "labels" / "a.nii.gz"))
    assert made.get_xyzt_units()[0] == "micron"
    assert (made["qform_code"], made["sform_code"]) == (1, 2)
    np.testing.assert_array_equal(made.get_sform(), published.get_sform())


def test_two_files_of_one_case_are_refused(make, tmp_path):
    root = make(["a"])
    save(root / "images" / "a.mha", np.zeros(SHAPE, dtype=np.int16))
    with pytest.raises(ValueError, match=r"images/a\.nii\.gz: second file of a beside a\.mha"):
        read_lobes(root, derived=tmp_path / "derived")


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_a_folder_without_scans_or_labels_is_refused(make, tmp_path, missing):
    root = make(["a"])
    shutil.rmtree(root / missing)
    with pytest.raises(FileNotFoundError, match=f"not a folder of lobes as published, it has none of: {missing}"):
        read_lobes(root, derived=tmp_path / "derived")


@pytest.mark.parametrize(
    ("label_map", "message"),
    [("totalsegmentator", "'totalsegmentator' is unknown: choose from paper, lola11"), ({1: 7}, r"leads to \[7\]")],
)
def test_an_unknown_label_map_is_refused(make, tmp_path, label_map, message):
    with pytest.raises(ValueError, match=message):
        read_lobes(make(["a"]), derived=tmp_path, label_map=label_map)
