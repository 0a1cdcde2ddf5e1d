"""OCT scans in every form that clinics have them in."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImage, LoadImaged
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, generate_uid

from medseg_monai.data import OCTReader
from medseg_monai.data.limits import TooLargeError
from medseg_monai.data.readers.oct import OCT_SUFFIXES, scans_in
from tests.data.oct_files import (
    EMPTY,
    bscans,
    fda_chunk,
    float_of_16_bits,
    heyex_image,
    reflectivity,
    sequence,
    write_e2e,
    write_fda,
    write_img,
    write_opt,
    write_vol,
    write_xml,
)

VENDOR = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "retinal_layer_oct" / "vendor_vol"

GREY = bscans()
DEEP = np.random.default_rng(0).integers(1, 255, (3, 1024, 20)).astype(np.uint8)

#: a file of each format that holds the grey values
WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "vol": lambda folder, grey: write_vol(folder / "a.vol", reflectivity(grey)),
    "xml": lambda folder, grey: write_xml(folder / "a.xml", {5: grey}),
    "e2e": lambda folder, grey: write_e2e(folder / "a.e2e", {7: reflectivity(grey)}),
    "fda": lambda folder, grey: write_fda(folder / "a.fda", grey),
    "img": write_img,
    "dcm": lambda folder, grey: write_opt(folder / "a.dcm", grey),
}


def grey_of(kind: str) -> np.ndarray:
    return DEEP if kind == "img" else GREY


def read(path: Path, **options: float) -> tuple[np.ndarray, dict]:
    return OCTReader(**options).get_data([path])


def um(path: Path) -> list[float]:
    """Micrometres between rows, columns and B-scans, and the eye."""
    meta = read(path)[1]
    return [meta[key] for key in ("axial_um", "lateral_um", "bscan_spacing_um")]


# --- values, order and place -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_a_volume_has_its_bscans_in_order_and_each_upright(kind, tmp_path):
    grey = grey_of(kind)
    values, meta = read(WRITERS[kind](tmp_path, grey))
    assert values.dtype == np.float32
    assert values.shape == (1, *grey.shape)
    np.testing.assert_allclose(values[0], grey, atol=0.05)  # the pixels of .e2e have 10 bits
    assert tuple(meta["spatial_shape"]) == grey.shape


@pytest.mark.parametrize("kind", WRITERS)
def test_a_single_bscan_is_a_2d_image(kind, tmp_path):
    grey = grey_of(kind)[1:2]
    values, meta = read(WRITERS[kind](tmp_path, grey))
    np.testing.assert_allclose(values, grey, atol=0.05)
    assert tuple(meta["spatial_shape"]) == grey.shape[1:]
    assert "affine" not in meta
    assert math.isnan(meta["bscan_spacing_um"])


@pytest.mark.parametrize("kind", WRITERS)
def test_three_channels_are_equal(kind, tmp_path):
    path = WRITERS[kind](tmp_path, grey_of(kind))
    values, _ = read(path, channels=3)
    assert values.shape == (3, *grey_of(kind).shape)
    assert (values == values[:1]).all()


@pytest.mark.parametrize("kind", WRITERS)
def test_monai_loads_a_volume_with_its_metadata(kind, tmp_path):
    path = WRITERS[kind](tmp_path, grey_of(kind))
    image = LoadImaged(keys="image", reader=OCTReader(), ensure_channel_first=True)({"image": path})["image"]
    assert tuple(image.shape) == (1, *grey_of(kind).shape)
    assert image.affine.shape == (4, 4)
    assert image.meta["filename_or_obj"] == str(path)


def test_a_picture_is_read_by_the_rules_of_pictures_with_unknown_spacings(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    values, meta = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, GREY[:1])
    assert all(math.isnan(meta[key]) for key in ("axial_um", "lateral_um", "bscan_spacing_um"))
    assert (meta["laterality"], meta["format"], meta["dicom_files"]) == ("", "PNG", "")


def test_scans_of_all_formats_have_the_same_metadata_so_that_they_can_be_batched(tmp_path):
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    files = [write(tmp_path, grey_of(kind)[:1]) for kind, write in WRITERS.items()]
    keys = {tuple(sorted(map(str, read(path)[1]))) for path in [tmp_path / "a.png", *files]}
    assert len(keys) == 1


def test_nothing_in_the_metadata_is_about_the_patient(tmp_path):
    for kind, write in WRITERS.items():
        text = repr(read(write(tmp_path, grey_of(kind)))[1]).replace(str(tmp_path), "")
        assert not any(word in text for word in ("Doe", "J\u00f6rg", "John", "Phantom", "P1'", "716.0"))


# --- spacing and side ------------------------------------------------------------------------------------------------


def test_each_format_gives_the_spacings_that_it_states_and_the_eye(tmp_path):
    found = {kind: um(write(tmp_path, grey_of(kind))) for kind, write in WRITERS.items()}
    nan = pytest.approx(math.nan, nan_ok=True)
    assert found["vol"] == pytest.approx([3.87, 11.8, 125.0])
    assert found["xml"] == pytest.approx([3.87, 11.8, 250.0])
    assert found["e2e"] == [pytest.approx(3.87), nan, nan]  # places are in degrees
    assert found["fda"] == pytest.approx([2.6, 6000 / 14, 4500 / 3])
    assert found["img"] == [nan, nan, nan]
    assert found["dcm"] == pytest.approx([3.87, 11.8, 250.0])
    eyes = {kind: read(write(tmp_path, grey_of(kind)))[1]["laterality"] for kind, write in WRITERS.items()}
    assert eyes == {"vol": "R", "xml": "L", "e2e": "R", "fda": "L", "img": "L", "dcm": "R"}


def test_the_affine_has_the_spacings_in_mm_and_shows_bscans_upright_in_the_axial_plane(tmp_path):
    affine = read(WRITERS["vol"](tmp_path, GREY))[1]["affine"]
    b, row, column = np.linalg.inv(affine)[:3, :3] @ np.asarray([-11.8e-3 * 5, -3.87e-3 * 2, 0.125])
    assert (b, row, column) == pytest.approx((1, 2, 5))  # left, posterior and superior by as many voxels


def test_without_one_of_the_spacings_the_affine_counts_pixels(tmp_path):
    affine = read(WRITERS["e2e"](tmp_path, GREY))[1]["affine"]
    np.testing.assert_array_equal(np.abs(affine[:3, :3]).sum(axis=0), [1, 1, 1])


@pytest.mark.parametrize(("pattern", "known"), [(3, True), (4, True), (0, True), (5, False), (2, False)])
def test_only_parallel_bscans_have_a_distance(pattern, known, tmp_path):
    path = write_vol(tmp_path / "a.vol", reflectivity(GREY), pattern=pattern)
    assert math.isfinite(um(path)[2]) == known


def test_a_star_of_topcon_has_no_distance_between_its_bscans(tmp_path):
    assert math.isnan(um(write_fda(tmp_path / "a.fda", GREY, kind=3))[2])


def test_the_older_parameters_of_topcon_are_read_too(tmp_path):
    assert um(write_fda(tmp_path / "a.fda", GREY, older=True)) == pytest.approx([2.6, 6000 / 14, 4500 / 3])


def test_a_spacing_that_no_scan_can_have_is_refused(tmp_path):
    path = write_vol(tmp_path / "a.vol", reflectivity(GREY), axial_mm=3.87)
    with pytest.raises(ValueError, match=r"a\.vol: a spacing of 3870 um, expected 0\.1 to 1000;"):
        read(path)


def test_bscans_at_uneven_places_have_no_distance(tmp_path):
    path = write_xml(tmp_path / "a.xml", {5: GREY})
    path.write_text(path.read_text(encoding="utf-8").replace("<Y>5.5</Y>", "<Y>5.1</Y>"), encoding="utf-8")
    assert math.isnan(um(path)[2])


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"distance_mm": None}, [3.87, 11.8, math.nan]),
        ({"PerFrameFunctionalGroupsSequence": None}, [3.87, 11.8, math.nan]),
        (
            {"SharedFunctionalGroupsSequence": None, "PixelSpacing": [0.004, 0.01], "distance_mm": None},
            [4.0, 10.0, math.nan],
        ),
        (
            {
                "SharedFunctionalGroupsSequence": sequence(
                    PixelMeasuresSequence=sequence(PixelSpacing=[0.005, 0.02], SpacingBetweenSlices=0.06)
                )
            },
            [5.0, 20.0, 60.0],
        ),
    ],
)
def test_dicom_gives_the_spacings_of_its_functional_groups_or_else_of_the_image(tags, expected, tmp_path):
    assert um(write_opt(tmp_path / "a.dcm", GREY, **tags)) == pytest.approx(expected, nan_ok=True)


def test_frames_of_dicom_with_spacings_that_differ_have_none(tmp_path):
    frames = [
        sequence(PixelMeasuresSequence=sequence(PixelSpacing=[0.004, spacing]))[0] for spacing in (0.01, 0.01, 0.02)
    ]
    path = write_opt(
        tmp_path / "a.dcm", GREY, SharedFunctionalGroupsSequence=None, PerFrameFunctionalGroupsSequence=frames
    )
    assert np.isnan(um(path)).all()


# --- Heidelberg's grey values ----------------------------------------------------------------------------------------


def test_pixels_outside_the_scan_are_black(tmp_path):
    values = reflectivity(GREY)
    values[1, :, -2:] = EMPTY
    shown, _ = read(write_vol(tmp_path / "a.vol", values))
    assert (shown[0, 1, :, -2:] == 0).all()
    np.testing.assert_allclose(shown[0, 1, :, :-2], GREY[1, :, :-2], atol=1e-3)
    values[values == EMPTY] = 2  # the largest number of 16 bits
    shown, _ = read(write_e2e(tmp_path / "a.e2e", {7: np.minimum(values, 2 - 2**-10)}))
    assert (shown[0, 1, :, -2:] == 0).all()


def test_what_is_brighter_than_white_is_white(tmp_path):
    values = reflectivity(GREY)
    values[0, 0, 0] = 1.5
    for path in (write_vol(tmp_path / "a.vol", values), write_e2e(tmp_path / "a.e2e", {7: values})):
        assert read(path)[0][0, 0, 0, 0] == 255


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1e30])
def test_values_that_are_no_reflectivity_are_refused(value, tmp_path):
    values = reflectivity(GREY)
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"a\.vol: values that are no reflectivity from 0 to 1; export the scan again"):
        read(write_vol(tmp_path / "a.vol", values))


def test_a_brighter_pixel_of_e2e_is_shown_brighter(tmp_path):
    """The mantissa's bits are in the usual order, which other readers have reversed."""
    numbers = np.arange(0xF000, 0xF400)  # one exponent, all mantissas
    ramp = np.ldexp(1 + numbers % 1024 / 1024, numbers // 1024 - 63).astype(np.float32).reshape(1, 32, 32)
    assert (float_of_16_bits(ramp).ravel() == numbers).all()
    shown, _ = read(write_e2e(tmp_path / "a.e2e", {7: ramp}))
    assert (np.diff(shown.ravel()) > 0).all()


# --- several scans in a file -----------------------------------------------------------------------------------------


@pytest.fixture(params=["e2e", "xml"])
def two_scans(request, tmp_path) -> Path:
    """A file with the scans 4 and 9, of which 9 is a single B-scan."""
    if request.param == "e2e":
        return write_e2e(tmp_path / "eyes.e2e", {9: reflectivity(GREY[2:]), 4: reflectivity(GREY)})
    return write_xml(tmp_path / "eyes.xml", {9: GREY[2:], 4: GREY})


def test_one_of_several_scans_is_read_by_its_number(two_scans):
    assert sorted(scans_in(two_scans)) == [4, 9]
    np.testing.assert_allclose(read(two_scans / "4")[0][0], GREY, atol=0.05)
    np.testing.assert_allclose(read(two_scans / "9")[0], GREY[2:], atol=0.05)
    assert OCTReader().verify_suffix(two_scans / "9")


def test_several_scans_without_a_number_are_refused_with_the_numbers(two_scans):
    with pytest.raises(ValueError, match=r"eyes\.\w+: 2 OCT scans, choose one: eyes\.\w+/NUMBER with [49], [49]\.$"):
        read(two_scans)


def test_a_number_that_is_not_there_is_refused(two_scans):
    with pytest.raises(FileNotFoundError, match=r"eyes\.\w+: no OCT scan 5; it has [49], [49]\.$"):
        read(two_scans / "5")


def test_bscans_of_e2e_are_in_the_order_of_their_numbers_whatever_that_of_the_file(tmp_path):
    shown, _ = read(write_e2e(tmp_path / "a.e2e", {7: reflectivity(GREY)}, order=(2, 0, 1)))
    np.testing.assert_allclose(shown[0], GREY, atol=0.05)


def test_a_file_without_a_scan_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.e2e: no OCT scan in this file"):
        read(write_e2e(tmp_path / "a.e2e", {}))
    with pytest.raises(ValueError, match=r"a\.xml: no OCT scan in this file"):
        read(write_xml(tmp_path / "a.xml", {}))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("left", [0.0, 0.001, 0.5, 0.95])
def test_a_truncated_file_is_refused_in_one_line_that_names_it(kind, left, tmp_path):
    path = WRITERS[kind](tmp_path, grey_of(kind))
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(ValueError, match=rf"^{path}: [^\n]+$".replace("(", r"\(")):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("vol", "not a raw export of Heidelberg"),
        ("e2e", "not an E2E file of Heidelberg"),
        ("fda", "not a scan of Topcon"),
        ("xml", "truncated or damaged XML"),
        ("img", "its name does not say the size of a cube"),
    ],
)
def test_a_file_of_another_kind_is_refused(suffix, message, tmp_path):
    assert suffix in OCT_SUFFIXES
    (tmp_path / f"a.{suffix}").write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match=rf"a\.{suffix}: {message}"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_vol(folder / "a.vol", reflectivity(GREY), columns=2**31, rows=2**31),
        lambda folder: write_vol(folder / "a.vol", reflectivity(GREY), bscans=2**31),
        lambda folder: with_bytes(write_fda(folder / "a.fda", GREY), b"@IMG_JPEG", 13, 2**31, 2**31),
        lambda folder: with_places(write_e2e(folder / "a.e2e", {7: reflectivity(GREY)}), 2**31, 2**31),
        lambda folder: replaced(write_xml(folder / "a.xml", {5: GREY}), "<Width>14</Width>", "<Width>1e0</Width>"),
        lambda folder: replaced(write_xml(folder / "a.xml", {5: GREY}), "<Width>14", "<Width>2000000000"),
        lambda folder: write_opt(folder / "a.dcm", GREY, NumberOfFrames=2**31 - 1),
    ],
)
def test_a_header_that_declares_too_much_is_refused_before_anything_is_allocated(write, tmp_path):
    with pytest.raises(ValueError, match=r"takes \d+ MiB, more than max_image_mib=|missing or damaged"):
        read(write(tmp_path), max_image_mib=64)


def with_bytes(path: Path, chunk: bytes, skip: int, *numbers: int) -> Path:
    """Replace numbers of 32 bits behind the name and size of a chunk of Topcon."""
    content = bytearray(path.read_bytes())
    place = content.index(chunk) + len(chunk) + skip
    content[place : place + 4 * len(numbers)] = struct.pack(f"<{len(numbers)}I", *numbers)
    path.write_bytes(content)
    return path


def with_places(path: Path, rows: int, columns: int) -> Path:
    """Replace the size in all entries of places."""
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<3I", 0, *GREY.shape[1:]), struct.pack("<3I", 0, rows, columns)))
    return path


def replaced(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_the_largest_scan_is_what_max_image_mib_says(kind, tmp_path):
    path = WRITERS[kind](tmp_path, grey_of(kind))
    mib = grey_of(kind).size * (12 if kind == "dcm" else 4) / 2**20
    read(path, max_image_mib=1.01 * mib if kind != "xml" else 3 * mib)
    with pytest.raises(TooLargeError, match="max_image_mib"):
        read(path, max_image_mib=0.99 * mib)


def test_a_picture_that_an_xml_export_names_must_be_beside_it_whatever_path_it_states(tmp_path):
    (tmp_path / "export").mkdir()
    path = write_xml(tmp_path / "export" / "a.xml", {5: GREY})
    (tmp_path / "export" / "B5_1.tif").rename(tmp_path / "B5_1.tif")
    replaced(path, "\\export\\B5_1.tif", f"{tmp_path}/B5_1.tif")
    with pytest.raises(FileNotFoundError, match=r"export/B5_1\.tif: no such file"):
        read(path)


@pytest.mark.parametrize("name", ["..", "a\\..", ""])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    path = replaced(write_xml(tmp_path / "a.xml", {5: GREY}), "B5_1.tif", name)
    with pytest.raises(ValueError, match=r"a\.xml: (names no picture|an entry of a B-scan)"):
        read(path)


def test_pictures_of_another_size_than_the_xml_says_are_refused(tmp_path):
    path = write_xml(tmp_path / "a.xml", {5: GREY})
    Image.fromarray(GREY[1].T.copy()).save(tmp_path / "B5_1.tif")
    with pytest.raises(ValueError, match=r"B5_1\.tif: size \(14, 11\) \(rows first\), but a\.xml says \(11, 14\)"):
        read(path)


def test_bscans_of_several_sizes_in_an_xml_export_are_refused(tmp_path):
    path = write_xml(tmp_path / "a.xml", {5: GREY})
    text = path.read_text(encoding="utf-8")
    image = heyex_image(9, "OCT", (5, 4), "NIR5.tif", 5.0)
    path.write_text(text.replace("</Series>", f"{image}</Series>"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.xml: B-scans of several sizes"):
        read(path)


def test_an_xml_file_with_a_document_type_is_refused(tmp_path):
    bomb = '<!DOCTYPE HEDX [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    path = write_xml(tmp_path / "a.xml", {5: GREY})
    path.write_text(bomb + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.xml: truncated or damaged XML"):
        read(path)


def test_other_xml_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<surfaces/>")
    with pytest.raises(ValueError, match=r"a\.xml: not an XML export of Heidelberg"):
        read(tmp_path / "a.xml")


def test_a_chain_of_directories_that_has_no_end_is_refused(tmp_path):
    path = write_e2e(tmp_path / "a.e2e", {7: reflectivity(GREY)})
    content = bytearray(path.read_bytes())
    content[88 + 44 : 88 + 48] = struct.pack("<I", 88)  # the directory before the first is the first
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.e2e: truncated or damaged"):
        read(path)


def test_an_e2e_file_that_lacks_a_bscan_is_refused(tmp_path):
    path = write_e2e(tmp_path / "a.e2e", {7: reflectivity(GREY)}, order=(0, 2))
    with pytest.raises(ValueError, match=r"a\.e2e: truncated or damaged"):
        read(path)


def test_a_bscan_of_topcon_of_another_size_than_the_header_says_is_refused(tmp_path):
    path = with_bytes(write_fda(tmp_path / "a.fda", GREY), b"@IMG_JPEG", 13, 13)
    with pytest.raises(ValueError, match=r"a\.fda: a B-scan that is truncated or damaged"):
        read(path)


def test_a_file_of_topcon_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.fda").write_bytes(b"FOCTFDA" + bytes(8) + fda_chunk(b"@IMG_MOT_COMP_03", bytes(99)) + b"\0")
    with pytest.raises(ValueError, match=r"a\.fda: no pictures of B-scans \(@IMG_JPEG\)"):
        read(tmp_path / "a.fda")


def test_a_cube_with_fewer_bytes_than_its_name_says_is_refused(tmp_path):
    path = write_img(tmp_path, DEEP)
    renamed = path.rename(path.with_name(path.name.replace("20x3", "20x4")))
    with pytest.raises(ValueError, match=r"61440 bytes, but a cube of 20 x 4 has 81920; export the scan again\.$"):
        read(renamed)


def test_dicom_of_another_modality_or_in_colour_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.dcm: modality OP, expected OPT; give a retinal scan"):
        read(write_opt(tmp_path / "a.dcm", GREY, Modality="OP"))
    with pytest.raises(ValueError, match=r"b\.dcm: colour \(RGB\)"):
        read(write_opt(tmp_path / "b.dcm", GREY, PhotometricInterpretation="RGB"))


def test_several_files_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="OCTReader loads one image per key, got 2 files"):
        OCTReader().get_data([tmp_path / "a.vol", tmp_path / "b.vol"])
    with pytest.raises(ValueError, match="a folder, expected one image file"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.vol: no such file"):
        read(tmp_path / "a.vol")


def test_dicom_without_an_ending_is_known_by_its_content(tmp_path):
    values, meta = read(write_opt(tmp_path / "IM0001", GREY))
    np.testing.assert_array_equal(values[0], GREY)
    assert meta["dicom_files"] == str(tmp_path / "IM0001")


def test_compressed_frames_of_dicom_are_read_and_each_is_compared_with_the_header(tmp_path):
    path = compressed(write_opt(tmp_path / "a.dcm", GREY), GREY)
    np.testing.assert_array_equal(read(path)[0][0], GREY)
    wrong = compressed(write_opt(tmp_path / "b.dcm", GREY), [GREY[0], GREY[1], np.zeros((500, 600), np.uint8)])
    with pytest.raises(TooLargeError, match=r"b\.dcm: 500 x 600 pixels are coded, the header says 11 x 14"):
        read(wrong)


def compressed(path: Path, frames: np.ndarray | list[np.ndarray]) -> Path:
    """Replace the pixels by frames in JPEG 2000."""
    codes = []
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        codes.append(stream.getvalue())
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PixelData = encapsulate(codes)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


# --- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lateral_um"), [("line", 11.820577), ("circle", 14.721997)])
def test_real_scans_of_a_spectralis_are_read_with_their_spacing(name, lateral_um, tmp_path):
    source = VENDOR / f"spectralis_{name}.vol.gz"
    if not source.is_file():
        pytest.skip(f"no scan at {source}; set MEDSEG_DATA.")
    path = tmp_path / f"{name}.vol"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    image = LoadImage(reader=OCTReader(), ensure_channel_first=True)(path)
    assert tuple(image.shape) == (1, 496, 768)
    meta = image.meta
    assert (meta["axial_um"], meta["lateral_um"]) == pytest.approx((3.87167, lateral_um))
    assert (meta["laterality"], meta["format"]) == ("R", "HEYEX VOL")
    assert math.isnan(meta["bscan_spacing_um"])
    grey = image.numpy()[0]
    assert grey.min() == 0
    assert grey.max() == 255
    retina = device_lines(path)
    inside = [np.median(grey[top:bottom, column]) for column, (top, bottom) in retina.items()]
    above = [np.median(grey[: top - 5, column]) for column, (top, _) in retina.items()]
    assert np.mean(inside) > 5 * np.mean(above)  # the retina is bright and the vitreous dark


def device_lines(path: Path) -> dict[int, tuple[int, int]]:
    """Rows of the device's own inner and outer limits of the retina, by column."""
    content = path.read_bytes()
    lines = np.frombuffer(content, "<f4", 2 * 768, 2048 + 768 * 768 + 256).reshape(2, 768)
    found = ((column, sorted(lines[:, column])) for column in range(0, 768, 8) if (lines[:, column] < 496).all())
    return {column: (int(top), int(bottom)) for column, (top, bottom) in found if bottom - top > 20 and top > 20}
