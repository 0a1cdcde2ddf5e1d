"""VolumeReader: every format of a 3D scan becomes the same volume with the same affine; doubtful files are refused."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader, decollate_batch, list_data_collate
from monai.transforms import Compose, LoadImage, LoadImaged, Orientationd

from medseg_monai.data import VolumeReader
from medseg_monai.data.readers import nifti_header
from medseg_monai.data.readers.volume import dicom_files
from medseg_monai.errors import explain
from tests.data.dicom_files import OBLIQUE, SPACING, tags, write_series

DATA = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "chest_ct"
NRRD = (
    "NRRD0004\ntype: {type}\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 5 6\n"
    "space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    "space origin: (1,2,3)\n\n"
)
STRAIGHT = "(0.7,0,0) (0,0.9,0) (0,0,2.5)"


@pytest.fixture
def scan() -> np.ndarray:
    """Asymmetric and not cubic, ``[X, Y, Z]``."""
    return np.random.default_rng(0).integers(-1000, 1000, (7, 5, 6)).astype(np.int16)


@pytest.fixture
def affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.diag((-1, -1, 1)) @ OBLIQUE * SPACING
    affine[:3, 3] = (110.5, 90.25, 40.0)
    return affine


def load(path: Path, **options: object) -> MetaTensor:
    return LoadImage(reader=VolumeReader(**options), ensure_channel_first=True)(path)


def our_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Without what MONAI says of decoders that are not installed."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("medseg_monai")]


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_itk(path: Path, array: np.ndarray, affine: np.ndarray, *, compression: bool = False) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    lps = np.diag((-1, -1, 1, 1)) @ affine
    image.SetSpacing(np.linalg.norm(lps[:3, :3], axis=0))
    image.SetDirection(itk.matrix_from_array(lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)))
    image.SetOrigin(lps[:3, 3])
    itk.imwrite(image, str(path), compression=compression)
    return path


def save_nrrd(path: Path, array: np.ndarray, *, kind: str = "short", directions: str = STRAIGHT) -> Path:
    path.write_bytes(NRRD.format(type=kind, directions=directions).encode() + array.T.tobytes())
    return path


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "NII.GZ", "mha", "mhd", "nrrd", "nhdr"])
def test_every_format_gives_the_same_oblique_volume_and_affine(tmp_path, scan, affine, suffix):
    save = save_nifti if "nii" in suffix.lower() else save_itk
    volume = load(save(tmp_path / f"scan.{suffix}", scan, affine))
    assert volume.dtype == torch.float32
    np.testing.assert_array_equal(volume.numpy(), scan[None])
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    np.testing.assert_allclose(volume.meta["original_affine"], affine, atol=1e-4)
    assert volume.meta["spatial_shape"].tolist() == [7, 5, 6]
    assert volume.meta["space"] == "RAS"
    assert volume.meta["filename_or_obj"] == str(tmp_path / f"scan.{suffix}")


def test_a_folder_gives_its_series_with_the_source_files_in_the_order_of_the_slices(tmp_path):
    written = write_series(tmp_path / "case")
    volume = load(tmp_path / "case")
    np.testing.assert_array_equal(volume.numpy()[0], written.volume)
    np.testing.assert_allclose(volume.affine, written.affine, atol=1e-9)
    np.testing.assert_allclose(volume.meta["original_affine"], written.affine, atol=1e-9)
    np.testing.assert_allclose(volume.meta["spacing"], SPACING)
    assert volume.meta["spatial_shape"].tolist() == [7, 5, 6]
    assert volume.meta["space"] == "RAS"
    assert volume.meta["series_uid"] == written.uid
    assert volume.meta["filename_or_obj"] == str(tmp_path / "case")
    assert dicom_files(volume.meta) == list(written.files)


def test_the_source_files_survive_a_batch_of_series_of_different_length(tmp_path):
    written = [write_series(tmp_path / f"case{n}", shape=(7, 5, n)) for n in (4, 6)]
    items = [{"image": load(tmp_path / f"case{n}")[..., :3]} for n in (4, 6)]
    batch = decollate_batch(list_data_collate(items))
    assert [dicom_files(item["image"].meta) for item in batch] == [list(one.files) for one in written]
    assert [item["image"].meta["series_uid"] for item in batch] == [one.uid for one in written]


def test_the_source_files_survive_the_way_of_one_case_through_a_bundle(tmp_path):
    written = write_series(tmp_path / "case")
    item = LoadImaged("image", reader=VolumeReader(), ensure_channel_first=True)({"image": tmp_path / "case"})
    (case,) = decollate_batch(list_data_collate([Orientationd("image", axcodes="SPL", labels=None)(item)]))
    assert case["image"].shape == (1, 6, 5, 7)
    assert dicom_files(case["image"].meta) == list(written.files)


def test_a_volume_that_was_no_dicom_series_has_no_source_files(tmp_path, scan, affine):
    assert dicom_files(load(save_nifti(tmp_path / "a.nii", scan, affine)).meta) == []


def test_one_of_several_series_is_named_by_path_or_by_parameter(tmp_path):
    written = {uid: write_series(tmp_path, uid=uid, name=lambda z, uid=uid: f"{uid}-{z}") for uid in ("1.2.3", "1.2.4")}
    for uid, one in written.items():
        assert dicom_files(load(tmp_path / uid).meta) == list(one.files)
        assert dicom_files(load(tmp_path, series=uid).meta) == list(one.files)


def test_a_folder_that_has_the_name_of_one_of_its_series_stands_for_that(tmp_path):
    written = write_series(tmp_path / "1.2.3", uid="1.2.3")
    write_series(tmp_path / "1.2.3" / "other", uid="1.2.4")
    assert dicom_files(load(tmp_path / "1.2.3").meta) == list(written.files)


def test_several_series_are_refused_with_a_list_that_tells_them_apart(tmp_path):
    write_series(tmp_path / "a", uid="1.2.3", description="LUNG")
    write_series(tmp_path / "b", uid="1.2.4", description="BONE", skip=(2,))
    with pytest.raises(ValueError, match="2 DICOM series, choose one") as error:
        load(tmp_path)
    for text in ("1.2.3 'LUNG' (CT), 6 slices", "1.2.4 'BONE' (CT), 5 slices", "unusable: 1 missing slice"):
        assert text in str(error.value)


def test_a_series_that_is_not_in_the_folder_is_refused_with_those_that_are(tmp_path):
    write_series(tmp_path, uid="1.2.3")
    with pytest.raises(FileNotFoundError, match=r"no DICOM series 1\.2\.9; it has 1\.2\.3"):
        load(tmp_path / "1.2.9")
    with pytest.raises(FileNotFoundError, match=r"no DICOM series 1\.2\.9; it has 1\.2\.3"):
        load(tmp_path, series="1.2.9")


def test_a_series_that_is_no_grid_reaches_the_user_as_one_line(tmp_path):
    write_series(tmp_path, skip=(2,))
    with pytest.raises(RuntimeError, match="applying transform") as error:
        Compose([LoadImaged("image", reader=VolumeReader())])({"image": tmp_path})
    assert explain(error.value).startswith(f"{tmp_path}: DICOM series ")
    assert "1 missing slice" in explain(error.value)


def test_another_modality_is_read_only_when_it_is_asked_for(tmp_path):
    written = write_series(tmp_path, modality="MR")
    np.testing.assert_array_equal(load(tmp_path, modality="MR").numpy()[0], written.volume)
    with pytest.raises(ValueError, match="modality MR, expected CT"):
        load(tmp_path)


def test_rescale_tags_that_are_missing_are_refused_for_ct(tmp_path):
    write_series(tmp_path, edit=tags(2, RescaleSlope=None))
    with pytest.raises(ValueError, match="no RescaleSlope"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["nii.gz", "mha", "nrrd"])
def test_values_and_affine_are_those_of_monais_readers(tmp_path, scan, affine, suffix):
    reader, save = (NibabelReader(), save_nifti) if suffix == "nii.gz" else (ITKReader(), save_itk)
    path = save(tmp_path / f"a.{suffix}", scan, affine)
    expected, meta = reader.get_data(reader.read(path))
    volume = load(path)
    np.testing.assert_array_equal(volume.numpy()[0], expected)
    np.testing.assert_array_equal(volume.affine, meta["affine"])


def test_a_real_scan_in_nrrd_equals_what_monais_reader_makes_of_it():
    path = DATA / "cip_ct64" / "images" / "ct-64.nrrd"
    if not path.is_file():
        pytest.skip(f"no scan at {path}; set MEDSEG_DATA.")
    reader = ITKReader()
    expected, meta = reader.get_data(reader.read(path))
    volume = load(path)
    np.testing.assert_array_equal(volume.numpy()[0], expected)
    np.testing.assert_array_equal(volume.affine, meta["affine"])
    assert volume.shape == (1, 64, 64, 79)


@pytest.mark.parametrize(("kind", "dtype"), [("int8", "i1"), ("uint8", "u1"), ("longlong", "i8"), ("double", "f8")])
def test_itk_files_of_every_number_type_are_read(tmp_path, scan, kind, dtype):
    labels = (scan % 100).astype(dtype)
    np.testing.assert_array_equal(load(save_nrrd(tmp_path / "a.nrrd", labels, kind=kind)).numpy()[0], labels)


@pytest.mark.parametrize("suffix", ["nii.gz", "mha"])
def test_a_fourth_axis_of_one_volume_is_dropped(tmp_path, scan, affine, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "mha":
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(scan.T[None])), str(path))
    else:
        save_nifti(path, scan[..., None], affine)
    volume = load(path)
    np.testing.assert_array_equal(volume.numpy(), scan[None])
    assert volume.meta["spatial_shape"].tolist() == [7, 5, 6]


def test_a_nifti_file_without_orientation_is_read_by_convention_with_a_warning(tmp_path, scan, caplog):
    image = nib.Nifti1Image(scan, None)
    image.header.set_zooms(SPACING)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        volume = load(tmp_path / "a.nii")
    assert our_messages(caplog) == [
        f"{tmp_path / 'a.nii'}: neither qform nor sform, so left and right follow convention; check them."
    ]
    np.testing.assert_allclose(np.diag(volume.affine)[:3], (-0.7, 0.9, 2.5), rtol=1e-6)


def test_a_qform_alone_is_an_orientation(tmp_path, scan, affine, caplog):
    image = nib.Nifti1Image(scan, None)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        np.testing.assert_allclose(load(tmp_path / "a.nii").affine, affine, atol=1e-4)
    assert our_messages(caplog) == []


FACTORS = {"mm": 1.0, "micron": 1000.0, "meter": 0.001, "unknown": 1.0}


@pytest.mark.parametrize("unit", FACTORS)
@pytest.mark.parametrize("form", ["sform", "qform", "neither"])
def test_units_of_a_nifti_header_are_converted_to_mm(tmp_path, scan, affine, unit, form, caplog, monkeypatch):
    monkeypatch.setattr(nifti_header, "_TOLD", set())
    image = nib.Nifti1Image(scan, None)
    image.header.set_xyzt_units(unit, "sec")
    in_unit = affine.copy()
    in_unit[:3] *= FACTORS[unit]
    if form != "neither":
        getattr(image, f"set_{form}")(in_unit, 1)
    image.header.set_zooms(np.multiply(SPACING, FACTORS[unit]))
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.INFO, logger="medseg_monai"):
        volume = load(tmp_path / "a.nii")
        load(save_nifti(tmp_path / "b.nii", scan, affine))  # also without a unit, which is told once
    for key in ("affine", "original_affine"):
        spacing = np.linalg.norm(np.asarray(volume.meta[key])[:3, :3], axis=0)
        np.testing.assert_allclose(spacing, SPACING, rtol=1e-5)
    if form != "neither":
        np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
    said = [message for message in our_messages(caplog) if "neither" not in message]
    first = "a.nii" if unit == "unknown" else "b.nii"
    none = "no unit of length (xyzt_units), so its voxel size and place are taken as mm, as in all such files."
    converted = [f"{tmp_path / 'a.nii'}: voxel size and place in {unit}, converted to mm."]
    assert said == [*(converted if unit in ("micron", "meter") else []), f"{tmp_path / first}: {none}"]


@pytest.mark.parametrize(("qcode", "scode", "follows"), [(1, 2, "s"), (1, 0, "q"), (0, 1, "s"), (2, 1, "s")])
def test_where_the_forms_disagree_the_sform_counts_and_one_warning_names_the_file(
    tmp_path, scan, affine, qcode, scode, follows, caplog
):
    moved = affine.copy()
    moved[2, 3] += 25
    image = nib.Nifti1Image(scan, None)
    image.set_qform(moved, qcode)
    image.set_sform(affine, scode)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        volume = load(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, affine if follows == "s" else moved, atol=1e-3)
    warned = [message for message in our_messages(caplog) if "qform and sform" in message]
    both = f"{tmp_path / 'a.nii'}: qform and sform place the volume up to 25 apart; it is read by the sform, "
    assert warned == ([f"{both}which other programs may not follow."] if qcode and scode else [])


def test_forms_that_differ_by_rounding_alone_are_no_reason_to_warn(tmp_path, scan, affine, caplog):
    image = nib.Nifti1Image(scan, affine)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        load(tmp_path / "a.nii")
    assert our_messages(caplog) == []


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-anterior-superior", (-1, 1, 1)), ("right-anterior-superior", (1, 1, 1)), ("LPS", (-1, -1, 1))],
)
def test_every_space_in_the_patient_that_nrrd_knows_is_placed_right(tmp_path, scan, space, signs):
    """ITK before 5.4.7 turns left-anterior-superior by 180 degrees."""
    path = save_nrrd(tmp_path / "a.nrrd", scan)
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    expected = np.diag((*np.multiply(signs, SPACING), 1.0))
    expected[:3, 3] = np.multiply(signs, (1, 2, 3))
    np.testing.assert_allclose(load(path).affine, expected, atol=1e-6)


def without(path: Path, *lines: bytes) -> Path:
    """Remove the lines of a header that begin so."""
    kept = [line for line in path.read_bytes().split(b"\n") if not line.startswith(lines)]
    path.write_bytes(b"\n".join(kept))
    return path


def test_a_nrrd_or_metaimage_without_voxel_size_is_refused(tmp_path, scan, affine):
    nrrd = without(save_nrrd(tmp_path / "a.nrrd", scan), b"space", b"kinds")
    mha = without(save_itk(tmp_path / "a.mha", scan, affine), b"ElementSpacing", b"TransformMatrix", b"Offset")
    for path in (nrrd, mha):
        with pytest.raises(ValueError, match="the header states no voxel size") as error:
            load(path)
        assert str(error.value).startswith(f"{path}: ")


def test_a_nrrd_or_metaimage_without_directions_is_read_by_convention_with_a_warning(tmp_path, scan, affine, caplog):
    nrrd = without(save_nrrd(tmp_path / "a.nrrd", scan), b"space", b"kinds")
    nrrd.write_bytes(nrrd.read_bytes().replace(b"endian", b"spacings: 0.7 0.9 2.5\nendian", 1))
    mha = without(save_itk(tmp_path / "a.mha", scan, np.diag((-0.7, -0.9, 2.5, 1.0))), b"TransformMatrix")
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        for path in (nrrd, mha):
            np.testing.assert_allclose(np.diag(load(path).affine)[:3], (-0.7, -0.9, 2.5), atol=1e-6)
    said = "the header states no directions, so left and right follow convention; check them."
    assert our_messages(caplog) == [f"{nrrd}: {said}", f"{mha}: {said}"]


@pytest.mark.parametrize("suffix", ["nii.gz", "mha"])
def test_a_single_slice_is_read_only_when_it_is_asked_for(tmp_path, scan, affine, suffix):
    save = save_itk if suffix == "mha" else save_nifti
    path = save(tmp_path / f"a.{suffix}", scan[..., :1], affine)
    with pytest.raises(ValueError, match="7 x 5 x 1 voxels are not a volume"):
        load(path)
    np.testing.assert_array_equal(load(path, one_slice=True).numpy()[0], scan[..., :1])


def sform_nifti(change: Callable[[np.ndarray], None]) -> Callable[[Path, np.ndarray], Path]:
    def save(folder: Path, scan: np.ndarray) -> Path:
        sform = np.diag((*SPACING, 1.0))
        change(sform)
        image = nib.Nifti1Image(scan, None)
        image.set_sform(sform, 1)
        nib.save(image, folder / "a.nii")
        return folder / "a.nii"

    return save


def shear(sform: np.ndarray) -> None:
    sform[0, 1] = 0.3


def flatten(sform: np.ndarray) -> None:
    sform[:3, 1] = 0


def repeat(sform: np.ndarray) -> None:
    sform[:3, 1] = sform[:3, 0]


def not_a_number(sform: np.ndarray) -> None:
    sform[0, 3] = np.nan


def contradict(folder: Path, scan: np.ndarray) -> Path:
    image = nib.Nifti1Image(scan, np.diag((*SPACING, 1.0)))
    image.set_qform(np.diag((*SPACING, 1.0)), 1)
    image.set_sform(np.diag((1.4, 1.8, 5.0, 1.0)), 1)
    nib.save(image, folder / "a.nii")
    return folder / "a.nii"


def colour_mha(folder: Path, scan: np.ndarray) -> Path:
    itk.imwrite(itk.image_from_array(np.zeros((6, 5, 7, 3), np.uint8), is_vector=True), str(folder / "a.mha"))
    return folder / "a.mha"


def several_mha(folder: Path, scan: np.ndarray) -> Path:
    itk.imwrite(itk.image_from_array(np.zeros((2, 6, 5, 7), np.int16)), str(folder / "a.mha"))
    return folder / "a.mha"


def colour_nifti(folder: Path, scan: np.ndarray) -> Path:
    return save_nifti(folder / "a.nii", np.zeros((7, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))


def with_nan(folder: Path, scan: np.ndarray) -> Path:
    values = scan.astype(np.float32)
    values[0, 0, :2] = (np.nan, np.inf)
    return save_nifti(folder / "a.nii", values, np.eye(4))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (sform_nifti(shear), "axes 18.4 degrees off a right angle; resample it to a straight grid first"),
        (sform_nifti(flatten), "singular affine; restore the geometry"),
        (sform_nifti(repeat), "singular affine; restore the geometry"),
        (sform_nifti(not_a_number), "singular affine; restore the geometry"),
        (contradict, "sform and voxel size (pixdim) contradict each other"),
        (with_nan, "2 voxels are not finite numbers"),
        (colour_nifti, "3 values per voxel (colour or vectors)"),
        (colour_mha, "3 values per voxel (colour or vectors)"),
        (several_mha, "7 x 5 x 6 x 2 voxels are several volumes"),
        (lambda f, s: save_nifti(f / "a.nii", np.stack([s, s], -1), np.eye(4)), "7 x 5 x 6 x 2 voxels are several"),
        (lambda f, s: save_nifti(f / "a.nii", s[..., 0], np.eye(4)), "7 x 5 voxels are not a volume"),
        (lambda f, s: save_nifti(f / "a.nii", s[..., :1], np.eye(4)), "7 x 5 x 1 voxels are not a volume"),
        (lambda f, s: save_nifti(f / "a.nii", s.astype(np.complex64), np.eye(4)), "values of type complex64"),
        (
            lambda f, s: save_nrrd(f / "a.nrrd", s, directions="(0.7,0,0) (0.3,0.9,0) (0,0,2.5)"),
            "axes 18.4 degrees off a right angle",
        ),
        (lambda f, s: save_nrrd(f / "a.nrrd", s, directions="(1,0,0) (1,0,0) (0,0,1)"), "singular affine"),
    ],
)
def test_what_is_not_one_straight_volume_of_numbers_is_refused(tmp_path, scan, make, text):
    path = make(tmp_path, scan)
    with pytest.raises(ValueError, match=r"a\.(nii|mha|nrrd): ") as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "nrrd"])
@pytest.mark.parametrize("left", [0, 1, 100, -30])
def test_a_file_that_is_cut_off_is_named_in_one_line(tmp_path, scan, affine, suffix, left):
    save = save_nifti if suffix.startswith("nii") else save_itk
    path = save(tmp_path / f"a.{suffix}", scan, affine)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="truncated, damaged or incomplete; copy it again") as error:
        load(path)
    assert str(error.value) == f"{path}: truncated, damaged or incomplete; copy it again."


META = "NDims = 3\nDimSize = 7 5 6\nElementSpacing = 0.7 0.9 2.5\nElementType = MET_SHORT\n{}\n"
DETACHED = NRRD.rstrip("\n").format(type="short", directions=STRAIGHT) + "\n{}\n"


@pytest.fixture
def elsewhere(tmp_path, scan) -> Path:
    """Voxels in a folder that is not the one of the header."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.raw").write_bytes(scan.T.tobytes())
    (tmp_path / "given").mkdir()
    return tmp_path / "secret" / "a.raw"


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("mhd", META.format("ElementDataFile = {}")),
        ("mha", META.format("ElementDataFile = {}")),
        ("mhd", META.format("ElementDataFile : {}")),
        ("mhd", META.format("Comment = \rElementDataFile = LOCAL\nElementDataFile = {}")),
        ("mhd", META.format("elementdatafile = LOCAL\nElementDataFile = {}")),
        ("mhd", META.format("ElementDataFile = LIST 3\n{}")),
        ("nhdr", DETACHED.format("data file: {}")),
        ("nrrd", DETACHED.format("datafile: {}")),
        ("nhdr", DETACHED.format("DATA FILE: {}")),
        ("nhdr", DETACHED.format("data file:=a.raw\ndata file: {}")),
        ("nhdr", DETACHED.format("content: a\rdata file: {}")),
        ("nhdr", DETACHED.format("data file: LIST 3\n{}")),
        ("nhdr", DETACHED.format("# " + "a" * 2**20 + "\ndata file: {}")),
    ],
)
def test_a_header_chooses_no_file_outside_its_folder(tmp_path, elsewhere, suffix, text):
    header = tmp_path / "given" / f"scan.{suffix}"
    for name in (str(elsewhere), "../secret/a.raw"):
        header.write_text(text.format(name), newline="")
        with pytest.raises(ValueError, match=r"must lie beside it|damaged") as told:
            VolumeReader().get_data([header])
        assert "\n" not in str(told.value)


def test_a_header_may_name_the_file_beside_it_by_a_dot(elsewhere, scan):
    elsewhere.with_name("scan.nhdr").write_text(DETACHED.format("data file: ./a.raw"))
    np.testing.assert_array_equal(VolumeReader().get_data([elsewhere.with_name("scan.nhdr")])[0], scan)


@pytest.mark.parametrize("suffix", ["mhd", "nhdr"])
def test_a_header_without_its_data_file_is_refused(tmp_path, scan, affine, suffix):
    path = save_itk(tmp_path / f"a.{suffix}", scan, affine)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ValueError, match="truncated, damaged or incomplete"):
        load(path)


@pytest.mark.parametrize("name", ["gone.nii", "gone.txt", "gone/1.2.3", "gone"])
def test_a_path_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file or folder"):
        load(tmp_path / name)


def test_a_folder_without_a_series_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no DICOM series below"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"1\.2\.3: no DICOM series below"):
        load(tmp_path / "1.2.3")


def test_a_file_of_another_suffix_is_refused_and_a_dicom_file_asks_for_its_folder(tmp_path):
    written = write_series(tmp_path)
    with pytest.raises(ValueError, match=r"not a volume by its name .*; for a DICOM series, give the folder"):
        load(written.files[0])


def test_several_files_for_one_key_are_refused(tmp_path, scan, affine):
    path = save_nifti(tmp_path / "a.nii", scan, affine)
    with pytest.raises(ValueError, match="one volume per key, got 2"):
        load([path, path])


def test_the_reader_knows_its_suffixes_folders_and_series(tmp_path):
    reader = VolumeReader()
    assert reader.verify_suffix(["a.nii.gz", "b.NRRD", tmp_path, tmp_path / "1.2.3"])
    assert not reader.verify_suffix("a.png")
    assert not reader.verify_suffix(["a.nii", "a.dcm"])
    assert not reader.verify_suffix(tmp_path / "gone")


def test_the_reader_can_be_sent_to_a_worker(tmp_path):
    reader = pickle.loads(pickle.dumps(VolumeReader(modality="MR", series="1.2.3")))
    assert (reader.modality, reader.series) == ("MR", "1.2.3")


@pytest.mark.parametrize("ending", ["MHA", "Mha", "NRRD", "Nrrd"])
def test_an_ending_in_capitals_is_read_like_one_in_small_letters(ending, tmp_path):
    voxels = np.random.default_rng(0).integers(-9, 9, (4, 5, 6)).astype(np.int16)
    image = itk.image_from_array(voxels)
    image.SetSpacing((1.5, 2.0, 4.0))
    image.SetOrigin((3.0, -7.0, 11.0))
    small, capital = tmp_path / f"small.{ending.lower()}", tmp_path / f"scan.{ending}"
    itk.imwrite(image, str(small))
    capital.write_bytes(small.read_bytes())
    expected, meta = VolumeReader().get_data((small,))
    values, found = VolumeReader().get_data((capital,))
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(values, voxels.transpose())
    np.testing.assert_array_equal(found["affine"], meta["affine"])


@pytest.mark.parametrize("suffix", ["mha", "nrrd", "nii.gz"])
def test_a_name_that_is_not_utf_8_is_read_or_refused_for_its_name(suffix, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.mkdir()
    written = tmp_path / f"ct.{suffix}"
    itk.imwrite(itk.image_from_array(np.arange(60, dtype=np.int16).reshape(5, 4, 3)), str(written))
    written.rename(path / written.name)
    reader = VolumeReader()
    if suffix == "nii.gz":
        assert reader.get_data(reader.read(path / written.name))[0].shape == (3, 4, 5)
    else:
        with pytest.raises(ValueError, match="ITK opens only files whose names are in UTF-8; rename it"):
            reader.get_data(reader.read(path / written.name))
