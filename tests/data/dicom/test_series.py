"""DICOM series: found whatever their files are called, read in Hounsfield units, refused with all that is wrong."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.data import ITKReader, PydicomReader
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    SegmentationStorage,
)

from medseg_monai.data.dicom import DicomSeries, check_geometry, find_faults, find_series, list_series, read_series
from tests.data.dicom_files import Edit, tags, write_series

LIDC = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "chest_ct" / "lidc_idri_1011" / "images"


def one_series(folder: Path, **options: object) -> DicomSeries:
    write_series(folder, **options)
    (series,) = find_series(folder)
    return series


def the_fault(folder: Path, **options: object) -> str:
    """The only fault of a series, which check_geometry refuses in one line that names folder, UID and fault."""
    series = one_series(folder, **options)
    (fault,) = find_faults(series)
    with pytest.raises(ValueError, match="DICOM series") as error:
        check_geometry(series)
    assert str(error.value) == f"{series.folder}: DICOM series {series.uid}: {fault}."
    assert "\n" not in fault
    return fault


def compressed(syntax: str) -> Edit:
    def edit(z: int, dataset: FileDataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False)

    return edit


def test_an_oblique_anisotropic_series_is_read_voxel_for_voxel_in_hounsfield_units(tmp_path):
    written = write_series(tmp_path)
    (series,) = find_series(tmp_path)
    volume, affine = read_series(series)
    assert volume.dtype == np.float32
    assert volume.shape == (7, 5, 6)
    np.testing.assert_array_equal(volume, written.volume)
    np.testing.assert_allclose(affine, written.affine, atol=1e-9)


def test_a_series_has_the_values_and_the_affine_of_monais_itk_reader(tmp_path):
    series = one_series(tmp_path, direction=np.diag((1.0, -1.0, -1.0)))
    volume, affine = read_series(series)
    reader = ITKReader()
    expected, meta = reader.get_data(reader.read(tmp_path))
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-6)


def test_a_real_scan_equals_what_both_readers_of_monai_make_of_it():
    if not LIDC.is_dir():
        pytest.skip(f"no scan at {LIDC}; set MEDSEG_DATA.")
    (series,) = find_series(LIDC)
    volume, affine = read_series(series)
    assert volume.shape == (512, 512, 133)
    assert "'CHEST' (CT), 133 slices, 0.8594 x 0.8594 x 2.5 mm" in series.describe()
    reader = ITKReader()
    expected, meta = reader.get_data(reader.read(LIDC))
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_allclose(affine, meta["affine"], atol=1e-6)
    # PydicomReader goes by the instance numbers, which run from head to foot
    reader = PydicomReader()
    expected, meta = reader.get_data(reader.read(LIDC))
    np.testing.assert_array_equal(volume, expected[..., ::-1])
    np.testing.assert_allclose(affine @ (0, 0, 132, 1), meta["affine"][:, 3], atol=1e-6)


def test_a_geometry_names_its_files_in_the_order_of_the_slices(tmp_path):
    written = write_series(tmp_path)
    geometry = check_geometry(find_series(tmp_path)[0])
    assert geometry.files == written.files != tuple(sorted(written.files))
    assert geometry.shape == (7, 5, 6)
    assert geometry.spacing == pytest.approx((0.7, 0.9, 2.5))
    np.testing.assert_array_equal(read_series(geometry)[0], written.volume)


def test_files_are_found_by_series_in_any_subfolder_and_under_any_name(tmp_path):
    first = write_series(tmp_path, uid="1.2.3", name=lambda z: f"disc{z % 2}/part.{z % 3}/{'IM' + str(z)}")
    second = write_series(tmp_path, uid="1.2.4", shape=(4, 5, 3), name=lambda z: f"disc1/part.0/x{z}.txt")
    found = find_series(tmp_path)
    assert [series.uid for series in found] == ["1.2.3", "1.2.4"]
    for series, written in zip(found, (first, second), strict=True):
        assert series.files == tuple(sorted(written.files))
        np.testing.assert_array_equal(read_series(series)[0], written.volume)
    assert found[0].folder == tmp_path


def without_preamble(path: Path, *, meta: bool = True) -> None:
    """Cut the first 132 bytes of a file, and the file meta information unless ``meta``."""
    content = path.read_bytes()
    first = b"\x08\x00\x08\x00" if b"\x08\x00\x08\x00" in content else b"\x08\x00\x16\x00"
    path.write_bytes(content[132 if meta else content.index(first) :])


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_slices_without_preamble_are_read_as_part_of_their_series(tmp_path, suffix, implicit, meta):
    written = write_series(tmp_path, name=lambda z: f"IM{z}{suffix}")
    for path in written.files[-2:]:
        dataset = dcmread(path)
        if implicit:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            head = {"file_meta": dataset.file_meta, "preamble": bytes(128), "is_implicit_VR": True}
            FileDataset(str(path), dataset, **head).save_as(path)
        without_preamble(path, meta=meta)
    (series,) = find_series(tmp_path)
    assert len(series.slices) == 6
    np.testing.assert_array_equal(read_series(series)[0], written.volume)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00",
        b"\x08\x00\xff\xffCS\x02\x00AB",  # no element that DICOM knows
        b"\x08\x00\x05\x00\x0b\x00\x00\x00ISO_IR 100",  # an odd length
        b"\x08\x00\x05\x00\x00\x01\x00\x00ISO_IR 100",  # a length beyond the end
        b"\x10\x00\x10\x00PN\x02\x00AB",  # no group that a file begins with
        b"text that anybody wrote down beside the scan",
    ],
)
def test_a_file_that_does_not_begin_as_dicom_does_is_no_slice(tmp_path, content):
    write_series(tmp_path, name=lambda z: f"IM{z}")
    (tmp_path / "notes").write_bytes(content)
    (series,) = find_series(tmp_path)
    assert len(series.files) == 6
    assert series.damaged == ()


def test_what_is_not_dicom_hidden_or_an_index_is_left_out(tmp_path):
    written = write_series(tmp_path / "scan")
    copy = written.files[0].read_bytes()
    for name in (".hidden.dcm", "._0000.dcm", "DICOMDIR", ".trash/0000.dcm"):
        (tmp_path / "scan" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "scan" / name).write_bytes(copy)
    (tmp_path / "scan" / "notes.txt").write_text("a text among the slices")
    (tmp_path / "empty.txt").touch()
    (series,) = find_series(tmp_path)
    assert series.files == tuple(sorted(written.files))
    assert find_faults(series) == []


def test_reports_and_segmentations_beside_a_scan_are_no_series(tmp_path):
    def report(z: int, dataset: FileDataset) -> None:
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = BasicTextSRStorage
        del dataset.Rows, dataset.Columns, dataset.PixelData

    def segmentation(z: int, dataset: FileDataset) -> None:
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SegmentationStorage

    write_series(tmp_path, uid="1.2.3")
    write_series(tmp_path / "report", modality="SR", edit=report)
    write_series(tmp_path / "seg", modality="SEG", edit=segmentation)
    assert [series.uid for series in find_series(tmp_path)] == ["1.2.3"]


def test_a_folder_without_dicom_has_no_series_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing else")
    assert find_series(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        find_series(tmp_path / "gone")


def test_a_series_is_described_by_uid_description_modality_slices_and_spacing(tmp_path):
    series = one_series(tmp_path, uid="1.2.3", description="LUNG  1.25", skip=(2,))
    assert series.describe() == "1.2.3 'LUNG 1.25' (CT), 5 slices, 0.7 x 0.9 x 2.5 mm"
    listed = list_series([series, series])
    assert listed.count(series.describe() + ", unusable: 1 missing slice") == 2
    assert listed.startswith("(1) ")
    assert "; (2) " in listed


@pytest.mark.parametrize(
    ("skip", "text"),
    [
        ((2,), "1 missing slice between 0005.dcm (*) and 0015.dcm (*), 2.5 mm apart elsewhere"),
        ((1, 2, 3, 6), "4 missing slices between 0000.dcm (*) and 0003.dcm (*), between 0008.dcm (*) and 0001.dcm (*)"),
    ],
)
def test_missing_slices_are_counted_and_placed(tmp_path, skip, text):
    fault = the_fault(tmp_path, shape=(7, 5, 9), skip=skip)
    position = 0
    for part in text.split("*"):
        assert part in fault[position:]
        position = fault.index(part, position) + len(part)
    assert fault.endswith("export the whole series again")


def test_the_positions_named_are_millimetres_along_the_normal(tmp_path):
    fault = the_fault(tmp_path, direction=np.eye(3), skip=(2,))
    assert "between 0005.dcm (42.50 mm) and 0015.dcm (47.50 mm)" in fault


def test_one_slice_missing_of_four_is_seen(tmp_path):
    assert the_fault(tmp_path, shape=(7, 5, 4), skip=(1,)).startswith("1 missing slice between 0000.dcm")


def test_duplicate_positions_are_refused_with_two_files(tmp_path):
    write_series(tmp_path, uid="1.2.3")
    fault = the_fault(tmp_path, uid="1.2.3", shape=(7, 5, 2), name=lambda z: f"again{z}.dcm")
    assert fault.startswith("2 duplicate positions (0000.dcm and again0.dcm)")


def test_all_slices_at_one_place_are_duplicates_and_nothing_else(tmp_path):
    assert the_fault(tmp_path, spacing=(0.7, 0.9, 0.0)).startswith("5 duplicate positions")


def test_uneven_distances_are_refused_with_the_place(tmp_path):
    fault = the_fault(tmp_path, direction=np.eye(3), edit=tags(3, ImagePositionPatient=[-110.5, -90.25, 48.5]))
    assert fault.startswith(
        "uneven slice distances (3.5 mm between 0010.dcm (45.00 mm) and 0015.dcm (48.50 mm), 2.5 mm"
    )


def test_a_slice_distance_that_changes_little_but_steadily_is_uneven(tmp_path):
    def edit(z: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [0, 0, f"{2.5 * z + 0.15 * max(z - 10, 0):.2f}"]

    fault = the_fault(tmp_path, shape=(3, 4, 20), direction=np.eye(3), name=lambda z: f"{z}.dcm", edit=edit)
    assert fault.startswith("uneven slice distances")


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular(tmp_path):
    def edit(z: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [0, 0, f"{-10 + 1.25 * z:.1f}"]

    series = one_series(tmp_path, shape=(3, 4, 17), direction=np.eye(3), edit=edit)
    assert check_geometry(series).spacing[2] == pytest.approx(1.25)


@pytest.mark.parametrize("degrees", [15.0, -0.3])
def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path, degrees):
    tilt = 2.5 * np.tan(np.radians(degrees))
    fault = the_fault(tmp_path, shape=(7, 5, 50), tilt=tilt, name=lambda z: f"{z}.dcm")
    assert fault.startswith(f"gantry tilt of {abs(degrees):.3g} degrees")
    assert "dcm2niix" in fault


def test_a_drift_below_half_a_pixel_is_no_tilt(tmp_path):
    assert find_faults(one_series(tmp_path, tilt=0.06)) == []


def test_slices_shifted_sideways_are_no_tilt(tmp_path):
    def edit(z: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [4.0 if z > 2 else 0.0, 0, 2.5 * z]

    fault = the_fault(tmp_path, direction=np.eye(3), edit=edit)
    assert fault.startswith("slices shifted sideways by up to 4 mm")


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (tags(4, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "mixed orientations: 0003.dcm (1, 0, 0, 0, 0, -1), the"),
        (
            tags(1, 4, PixelSpacing=[0.9, 0.8]),
            "mixed pixel spacings: 0003.dcm and 1 other (0.8, 0.9), the other 4 (0.7",
        ),
        (tags(4, Rows=4), "mixed sizes: 0003.dcm (7, 4), the other 5 (7, 5)"),
        (tags(4, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, Rows=1), "colour image (RGB)"),
        (tags(4, PhotometricInterpretation="PALETTE COLOR"), "0003.dcm: colour image (PALETTE COLOR)"),
        (tags(Modality="MR"), "modality MR, expected CT; choose a series of CT"),
        (tags(3, 4, RescaleSlope=None), "0003.dcm and 1 other: no RescaleSlope and RescaleIntercept"),
        (tags(4, RescaleIntercept=None), "0003.dcm: no RescaleSlope and RescaleIntercept, so no Hounsfield units"),
        (tags(RescaleType="ED"), "0000.dcm and 5 others: values of type ED"),
        (tags(4, NumberOfFrames=3), "0003.dcm: multi-frame; convert it"),
        (tags(4, SharedFunctionalGroupsSequence=[]), "0003.dcm: multi-frame; convert it"),
        (tags(4, ImagePositionPatient=None), "0003.dcm: no usable ImagePositionPatient"),
        (tags(4, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "0003.dcm: no usable ImageOrientationPatient"),
        (tags(4, PixelSpacing=[0, 0.7]), "0003.dcm: no usable PixelSpacing"),
        (tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only localisers; choose the series of the scan"),
        (tags(4, PixelData=b"\0" * 40), "0003.dcm: truncated; copy it again"),
    ],
)
def test_a_series_that_is_no_grid_of_hounsfield_units_is_refused(tmp_path, edit, text):
    write_series(tmp_path, edit=edit)
    (series,) = find_series(tmp_path)
    with pytest.raises(ValueError, match="DICOM series") as error:
        check_geometry(series)
    assert text in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: DICOM series {series.uid}: ")
    assert "\n" not in str(error.value)


def test_a_single_slice_is_refused(tmp_path):
    assert the_fault(tmp_path, shape=(7, 5, 1)).startswith("a single slice")


def test_all_faults_are_named_together(tmp_path):
    series = one_series(tmp_path, shape=(7, 5, 9), modality="PT", skip=(2,), edit=tags(4, PixelSpacing=[0.9, 0.8]))
    (tmp_path / "0099.dcm").touch()
    faults = find_faults(find_series(tmp_path)[0])
    assert [fault.split()[0] for fault in faults] == ["empty,", "modality", "mixed", "1"]
    assert len(find_faults(series)) == 3


def test_another_modality_is_read_when_it_is_asked_for_and_needs_no_rescale_tags(tmp_path):
    edit = tags(RescaleSlope=None, RescaleIntercept=None, SliceThickness=2)
    written = write_series(tmp_path, modality="MR", edit=edit)
    (series,) = find_series(tmp_path)
    volume, affine = read_series(series, modality="MR")
    np.testing.assert_array_equal(volume[..., 0::2], written.volume[..., 0::2] + 1024)
    np.testing.assert_array_equal(volume[..., 1::2], (written.volume[..., 1::2] + 1000) / 2)
    np.testing.assert_allclose(affine, written.affine, atol=1e-9)


@pytest.mark.parametrize(
    ("which", "text"),
    [((2,), "0010.dcm: with rescale tags, unlike"), ((0, 1, 2, 3, 4), "0008.dcm: without rescale tags, unlike")],
)
def test_rescale_tags_in_some_slices_only_are_refused_in_every_modality(tmp_path, which, text):
    def edit(z: int, dataset: FileDataset) -> None:
        if z not in which:
            del dataset.RescaleSlope, dataset.RescaleIntercept

    write_series(tmp_path, modality="MR", edit=edit)
    (fault,) = find_faults(find_series(tmp_path)[0], modality="MR")
    assert fault == f"{text} the other slices; export the series again"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_values_that_nothing_can_follow_from_are_refused_in_every_modality(tmp_path, modality):
    write_series(tmp_path / "flat", modality=modality, edit=tags(3, RescaleSlope=0))
    write_series(tmp_path / "shifted", modality=modality, edit=tags(BitsStored=12, HighBit=15))
    faults = {name: find_faults(find_series(tmp_path / name)[0], modality=modality) for name in ("flat", "shifted")}
    assert faults["flat"] == ["0015.dcm: RescaleSlope 0, so all values are equal; export the series again"]
    (shifted,) = faults["shifted"]
    assert "and 5 others: HighBit contradicts BitsStored, so the values are uncertain" in shifted


def test_slices_that_share_an_instance_number_of_the_world_are_read_by_their_positions_with_a_warning(tmp_path, caplog):
    written = write_series(tmp_path, edit=tags(1, 4, SOPInstanceUID="1.2.3"))
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        np.testing.assert_array_equal(read_series(find_series(tmp_path)[0])[0], written.volume)
    assert "0003.dcm and 0005.dcm have one SOPInstanceUID; the series may be incomplete." in caplog.text


def test_a_localiser_among_regular_slices_is_left_out_with_a_warning(tmp_path, caplog):
    localiser = tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    written = write_series(tmp_path, uid="1.2.3")
    write_series(tmp_path, uid="1.2.3", shape=(9, 8, 1), edit=localiser, name=lambda z: "scout.dcm")
    (series,) = find_series(tmp_path)
    assert len(series.files) == 7
    assert series.spacing == pytest.approx((0.7, 0.9, 2.5))
    with caplog.at_level(logging.WARNING, logger="medseg_monai"):
        geometry = check_geometry(series)
    assert geometry.files == written.files
    assert caplog.messages == [f"{tmp_path}: DICOM series 1.2.3: localiser left out: scout.dcm."]
    np.testing.assert_array_equal(read_series(geometry)[0], written.volume)


def test_a_localiser_among_slices_that_are_not_regular_is_one_fault_more(tmp_path):
    write_series(tmp_path, uid="1.2.3", shape=(9, 8, 1), edit=tags(ImageType=["LOCALIZER"]), name=lambda z: "scout.dcm")
    faults = find_faults(one_series(tmp_path, uid="1.2.3", skip=(3,)))
    assert faults[0].startswith("1 missing slice")
    assert faults[1] == "localiser among the slices (scout.dcm); remove it"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("0000.dcm", lambda whole: b""),
        ("0000.dcm", lambda whole: whole[:100]),
        ("0000.dcm", lambda whole: whole[:200]),
        ("0000.dcm", lambda whole: whole[:420]),
        ("IM7", lambda whole: b""),
        ("notes.dcm", lambda whole: b"a text that calls itself DICOM"),
    ],
)
def test_a_damaged_file_beside_the_slices_is_not_passed_over(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    written = write_series(tmp_path)  # 0000.dcm is the first slice: the others would be a regular series without it
    (tmp_path / name).write_bytes(damage(written.files[0].read_bytes()))
    (series,) = find_series(tmp_path)
    with pytest.raises(ValueError, match=f"empty, damaged or not DICOM beside the slices: {name}; copy it again"):
        check_geometry(series)


def test_a_damaged_file_far_from_any_series_is_refused_by_itself(tmp_path):
    write_series(tmp_path / "scan")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.dcm").touch()
    with pytest.raises(ValueError, match=r"other/1\.dcm: empty, damaged or not DICOM"):
        find_series(tmp_path)


def test_a_series_is_found_beside_one_whose_every_header_is_damaged_when_it_is_chosen(tmp_path):
    write_series(tmp_path / "good", uid="1.2.3")
    write_series(tmp_path / "bad", uid="1.2.4", edit=lambda z, dataset: delattr(dataset, "Rows"))
    assert [series.uid for series in find_series(tmp_path, ["1.2.3"])] == ["1.2.3"]
    assert find_series(tmp_path, ["1.2.4"]) == []
    with pytest.raises(ValueError, match=r"bad/0000\.dcm: empty, damaged .*; or choose with --series: 1\.2\.3\."):
        find_series(tmp_path)


def test_damaged_files_beside_the_chosen_series_still_count(tmp_path):
    written = write_series(tmp_path, uid="1.2.3")
    written.files[3].write_bytes(written.files[3].read_bytes()[:420])
    (series,) = find_series(tmp_path, ["1.2.3"])
    assert series.damaged == (written.files[3],)


def test_wherever_the_last_slice_is_cut_off_it_is_named_and_never_left_out(tmp_path):
    """Its loss makes no gap: the others would be a regular series."""
    written = write_series(tmp_path)
    last = written.files[-1]
    whole = last.read_bytes()
    for length in range(0, len(whole), 7):
        last.write_bytes(whole[:length])
        faults = find_faults(find_series(tmp_path)[0])
        assert any(last.name in fault for fault in faults), (length, faults)


@pytest.mark.parametrize("cut", [1, 60])
def test_a_file_cut_off_in_its_pixels_is_found_without_decoding_it(tmp_path, cut):
    written = write_series(tmp_path)
    whole = written.files[3].read_bytes()
    written.files[3].write_bytes(whole[:-cut])
    faults = find_faults(find_series(tmp_path)[0])
    assert faults == ["0015.dcm: truncated; copy it again"]


def test_run_length_and_deflated_files_are_read(tmp_path):
    def deflate(z: int, dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    for name, edit in (("rle", compressed(RLELossless)), ("deflated", deflate)):
        written = write_series(tmp_path / name, edit=edit)
        (series,) = find_series(tmp_path / name)
        np.testing.assert_array_equal(read_series(series)[0], written.volume)


def test_compressed_pixels_that_cannot_be_decoded_name_the_file(tmp_path):
    def spoil(z: int, dataset: FileDataset) -> None:
        compressed(RLELossless)(z, dataset)
        if z == 3:
            dataset.PixelData = encapsulate([b"\1\0\0\0" + b"\0" * 60])

    series = one_series(tmp_path, edit=spoil)
    with pytest.raises(ValueError, match=r"0015\.dcm: the pixels cannot be decoded; copy the file again") as error:
        read_series(series)
    assert "\n" not in str(error.value)


def test_a_missing_decoder_is_named_before_anything_is_decoded(tmp_path, monkeypatch):
    def pretend(z: int, dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = encapsulate([b"\xff\xd8 not decoded \xff\xd9"])
        dataset["PixelData"].VR = "OB"

    needed = {JPEGLosslessSV1: "gdcm or pylibjpeg"}
    monkeypatch.setattr("medseg_monai.data.dicom.files.missing_decoder", needed.get)
    fault = the_fault(tmp_path, edit=pretend)
    remedy = "install that or decompress the series"
    assert fault == f"0000.dcm and 5 others: compressed, needs gdcm or pylibjpeg; {remedy}"


def test_the_memory_of_a_series_is_one_float_copy_and_a_few_slices(tmp_path):
    shape = (160, 128, 60)
    series = one_series(tmp_path, volume=np.zeros(shape), name=lambda z: f"{z}.dcm")
    geometry = check_geometry(series)
    read_series(geometry)  # what pydicom keeps for itself
    tracemalloc.start()
    volume, _ = read_series(geometry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.nbytes < peak < 1.2 * volume.nbytes
