"""RadiographReader: the values of a raster image, and of DICOM what a viewer shows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from monai.data import decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, LoadImaged, Resized
from PIL import Image
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
)

from medseg_monai.data import RadiographReader, RasterReader
from medseg_monai.data.readers.volume import dicom_files
from tests.data.photograph_files import compress, frame_of
from tests.data.radiograph_files import asymmetric, table, write_radiograph


def read(path: Path) -> np.ndarray:
    reader = RadiographReader()
    values, _ = reader.get_data(reader.read(path))
    assert values.dtype == np.float32
    assert values.ndim == 3
    return values[0]


def test_a_radiograph_of_331_by_417_comes_upright_with_rows_first(tmp_path):
    pixels = asymmetric(331, 417)
    values = read(write_radiograph(tmp_path / "x.dcm", pixels))
    assert values.shape == (331, 417)
    np.testing.assert_allclose(values, pixels / 4095 * 255, atol=1e-4)


def test_the_same_picture_as_png_and_as_dicom_has_the_same_values(tmp_path):
    pixels = asymmetric(31, 47, highest=255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(write_radiograph(tmp_path / "x.dcm", pixels)), read(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGB", "png"), ("I;16", "png"), ("L", "tif"), ("I;16", "tif"), ("L", "jpg")]
)
def test_raster_images_are_read_as_the_raster_reader_does(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    pixels = asymmetric(31, 47, highest=255)
    image = Image.fromarray(pixels * 257) if mode == "I;16" else Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    image.save(path)
    raster = RasterReader(channels=1)
    expected, meta = raster.get_data(raster.read(path))
    reader = RadiographReader()
    values, found = reader.get_data(reader.read(path))
    np.testing.assert_array_equal(values, expected)
    assert found.keys() == meta.keys() | {"dicom_files"}
    assert all(np.array_equal(found[key], meta[key]) for key in meta)
    assert not dicom_files(found)


def test_the_metadata_names_shape_and_source_so_that_a_mask_can_be_written_back(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(5, 7))
    item = LoadImaged("image", reader=RadiographReader(), ensure_channel_first=True)({"image": path})
    assert item["image"].shape == (1, 5, 7)
    assert tuple(item["image"].meta["spatial_shape"]) == (5, 7)
    assert item["image"].meta["exif_orientation"] == 1
    assert dicom_files(item["image"].meta) == [path]


def test_a_batch_of_png_and_dicom_keeps_each_ones_source(tmp_path):
    Image.fromarray(asymmetric(9, 6, highest=255).astype(np.uint8)).save(tmp_path / "a.png")
    path = write_radiograph(tmp_path / "b.dcm", asymmetric(5, 7))
    load = Compose([LoadImaged("image", reader=RadiographReader()), Resized("image", (8, 8))])
    batch = list_data_collate([load({"image": tmp_path / "a.png"}), load({"image": path})])
    items = decollate_batch(batch)
    assert [dicom_files(item["image"].meta) for item in items] == [[], [path]]
    assert [Invertd("image", load)(item)["image"].shape[1:] for item in items] == [(9, 6), (5, 7)]


def test_a_file_without_suffix_is_told_by_its_content(tmp_path):
    path = write_radiograph(tmp_path / "IM0001", asymmetric(5, 7))
    assert RadiographReader().verify_suffix(path)
    assert read(path).shape == (5, 7)


def test_monochrome1_is_inverted(tmp_path):
    pixels = asymmetric(5, 7)
    values = read(write_radiograph(tmp_path / "x.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(values, 255 - pixels / 4095 * 255, atol=1e-4)


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (10, np.uint16), (12, np.uint16), (16, np.uint16)])
def test_each_depth_without_window_becomes_0_to_255(tmp_path, modality, bits, dtype):
    pixels = asymmetric(5, 7, highest=2**bits - 1).astype(dtype)
    values = read(write_radiograph(tmp_path / "x.dcm", pixels, modality=modality, BitsStored=bits))
    np.testing.assert_allclose(values, pixels / (2.0**bits - 1) * 255, atol=1e-4)


def test_a_window_clips_and_its_ends_are_black_and_white(tmp_path):
    pixels = np.array([[0, 999, 1000], [1500, 2000, 4095]], dtype=np.uint16)
    values = read(write_radiograph(tmp_path / "x.dcm", pixels, WindowCenter=1500.5, WindowWidth=1001))
    np.testing.assert_allclose(values, [[0, 0, 0], [127.5, 255, 255]], atol=1e-4)


def test_of_several_windows_the_first_is_taken(tmp_path):
    pixels = asymmetric(5, 7)
    one = read(write_radiograph(tmp_path / "a.dcm", pixels, WindowCenter=2000, WindowWidth=1000))
    two = read(write_radiograph(tmp_path / "b.dcm", pixels, WindowCenter=[2000, 100], WindowWidth=[1000, 50]))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("function", "expected"), [("LINEAR_EXACT", 0.75), ("SIGMOID", 1 / (1 + np.exp(-1)))])
def test_other_window_functions_are_applied(tmp_path, function, expected):
    pixels = np.array([[0, 2250, 4095]], dtype=np.uint16)
    path = write_radiograph(tmp_path / "x.dcm", pixels, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function)
    np.testing.assert_allclose(read(path)[0, 1] / 255, expected, atol=1e-6)


def test_a_window_counts_in_rescaled_values(tmp_path):
    pixels = asymmetric(5, 7)
    plain = read(write_radiograph(tmp_path / "a.dcm", pixels, WindowCenter=2000.5, WindowWidth=1001))
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 3900.5, "WindowWidth": 2001}
    np.testing.assert_allclose(read(write_radiograph(tmp_path / "b.dcm", pixels, **tags)), plain, atol=0.1)


def test_a_negative_slope_turns_the_picture_as_a_viewer_does(tmp_path):
    pixels = asymmetric(5, 7)
    tags = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    turned = 255 - pixels / 4095 * 255
    np.testing.assert_allclose(read(write_radiograph(tmp_path / "a.dcm", pixels, **tags)), turned, atol=1e-4)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_allclose(read(write_radiograph(tmp_path / "b.dcm", pixels, **tags, **window)), turned, atol=1e-4)


def test_a_modality_lut_is_applied_before_the_window(tmp_path):
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint16)
    tags = {"ModalityLUTSequence": [table([0, 300, 100, 400], depth=16)], "WindowCenter": 200.5, "WindowWidth": 401}
    np.testing.assert_allclose(
        read(write_radiograph(tmp_path / "x.dcm", pixels, **tags))[0] / 255, [0, 0.75, 0.25, 1], atol=1e-6
    )


@pytest.mark.parametrize("depth", [8, 12])
def test_a_voi_lut_of_each_depth_goes_before_a_window(tmp_path, depth):
    pixels = np.array([[0, 999, 2000], [2040, 3000, 4095]], dtype=np.uint16)
    white = 2**depth - 1
    entries = [white * n // 1999 for n in range(2000)]
    path = write_radiograph(
        tmp_path / "x.dcm",
        pixels,
        VOILUTSequence=[table(entries, first=1000, depth=depth), table([0, 0], depth=8)],
        WindowCenter=10,
        WindowWidth=20,
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    expected = [0, 0, entries[1000], entries[1040], white, white]
    np.testing.assert_allclose(read(path).ravel() / 255 * white, expected, atol=1e-3)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_becomes_black_and_does_not_count_as_darkest_or_brightest(tmp_path, syntax, photometric):
    pixels = asymmetric(5, 7) // 4 + 100
    pixels[:, :2], pixels[0, 2] = 4095, 4000
    path = write_radiograph(
        tmp_path / "x.dcm",
        pixels,
        syntax=syntax,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=4000,
    )
    values = read(path)
    inside = np.ones(pixels.shape, dtype=bool)
    inside[:, :2] = inside[0, 2] = False
    assert not values[~inside].any()
    assert (values[inside].min(), values[inside].max()) == (0, 255)
    darkest = pixels[inside].min() if photometric == "MONOCHROME2" else pixels[inside].max()
    np.testing.assert_array_equal(values[inside] == 0, pixels[inside] == darkest)


@pytest.mark.parametrize("representation", [b"SS", b"US"])
def test_negative_padding_is_understood_also_when_its_bits_are_declared_unsigned(tmp_path, representation):
    pixels = asymmetric(5, 7).astype(np.int16) - 1000
    pixels[4] = -2000
    path = write_radiograph(tmp_path / "x.dcm", pixels, BitsStored=16, PixelPaddingValue=-2000)
    tag = bytes.fromhex("28002001")
    path.write_bytes(path.read_bytes().replace(tag + b"SS", tag + representation))
    values = read(path)
    assert not values[4].any()
    np.testing.assert_allclose(values[:4], (pixels[:4] + 1000) / (pixels[:4].max() + 1000) * 255, atol=1e-3)


def test_an_image_for_processing_is_read_with_a_warning(tmp_path, caplog):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(5, 7), PresentationIntentType="FOR PROCESSING")
    with caplog.at_level(logging.WARNING):
        read(path)
    assert f"{path}: FOR PROCESSING" in caplog.text
    caplog.clear()
    read(write_radiograph(tmp_path / "y.dcm", asymmetric(5, 7), PresentationIntentType="FOR PRESENTATION"))
    assert not caplog.text


def test_a_uniform_image_is_black(tmp_path):
    assert not read(write_radiograph(tmp_path / "x.dcm", np.full((5, 7), 800, dtype=np.uint16))).any()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"modality": "CT"}, "modality CT, expected CR or DX"),
        ({"modality": "MG"}, "modality MG"),
        ({"Modality": None}, "modality unknown"),
        ({"NumberOfFrames": 2}, "2 frames; save the frame to segment"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, r"colour \(RGB\), expected MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"colour \(PALETTE COLOR\)"),
        ({"PhotometricInterpretation": None}, r"colour \(unknown\)"),
        ({"HighBit": 15}, "HighBit contradicts BitsStored, so the values are uncertain"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope 0, so all values are equal"),
        ({"BitsStored": 6}, "6 bits per pixel, expected 8 to 16"),
        ({"PixelData": None}, "no pixel data; copy the whole file again"),
        ({"PixelData": b"\0\0"}, r"cannot be decoded \(Explicit VR Little Endian\)"),
        ({"Rows": None}, "cannot be decoded"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "every pixel is padding"),
        ({"WindowCenter": 40, "WindowWidth": 0}, "cannot be applied .*Window Width.*; repair them"),
        ({"VOILUTSequence": [Dataset()]}, "cannot be applied .*LUTDescriptor"),
        ({"WindowCenter": 40, "WindowWidth": 10, "VOILUTFunction": "CUBIC"}, "cannot be applied .*CUBIC"),
    ],
)
def test_what_is_no_grey_radiograph_or_cannot_be_shown_is_refused_in_one_line(tmp_path, tags, message):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(5, 7), **tags)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_pixels_that_no_decoder_understands_are_refused_with_their_syntax_and_no_decoders_log(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("medseg_monai.data.readers.dicom_picture.missing_decoder", lambda *_: "")
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(5, 7))
    compress(path, b"\xff\xd8 no JPEG \xff\xd9", JPEGBaseline8Bit)
    with pytest.raises(ValueError, match=r"cannot be decoded \(JPEG Baseline.*\); .*decompress it first") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert caplog.records == []


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLossless])
def test_lossless_jpeg_has_the_values_of_the_image(tmp_path, syntax):
    pytest.importorskip("gdcm", reason="python-gdcm is not installed")
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(13, 18))
    expected = read(path)
    np.testing.assert_array_equal(read(compress(path, frame_of(syntax), syntax)), expected)


def test_extended_jpeg_of_12_bits_has_the_values_of_the_image_where_its_decoder_is_installed(tmp_path):
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg, whose licence is GPL-3.0, is not installed")
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(13, 18))
    expected = read(path)
    compress(path, frame_of(JPEGExtended12Bit), JPEGExtended12Bit)
    np.testing.assert_allclose(read(path), expected, atol=0.2)


def test_extended_jpeg_of_12_bits_is_refused_with_the_package_that_decodes_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("medseg_monai.data.dicom.versions.find_spec", lambda _: None)
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(13, 18))
    compress(path, frame_of(JPEGExtended12Bit), JPEGExtended12Bit)
    with pytest.raises(ValueError, match=r"needs pylibjpeg and pylibjpeg-libjpeg; install that or decompress") as error:
        read(path)
    assert str(error.value).startswith(f"{path}: compressed (JPEG Extended (Process 2 and 4)), ")
    assert caplog.records == []


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg_monai.data.readers.dicom_picture.missing_decoder", lambda *_: "python-gdcm")
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(13, 18))
    compress(path, frame_of(JPEGLosslessSV1), JPEGLosslessSV1)
    with pytest.raises(
        ValueError, match=r"x\.dcm: compressed \(JPEG Lossless, .*\), needs python-gdcm; install that or"
    ):
        read(path)


@pytest.mark.parametrize(
    ("interpretation", "shape", "doubted"),
    [
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", False),
    ],
)
def test_the_interpretation_decides_what_is_white_and_a_contradicting_shape_is_told(
    tmp_path, caplog, interpretation, shape, doubted
):
    plain = write_radiograph(tmp_path / "plain.dcm", asymmetric(5, 7), PhotometricInterpretation=interpretation)
    path = write_radiograph(
        tmp_path / "x.dcm", asymmetric(5, 7), PhotometricInterpretation=interpretation, PresentationLUTShape=shape
    )
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read(path), read(plain))
    told = f"{path}: PresentationLUTShape {shape} contradicts {interpretation}, by which the image is read; "
    assert [record.message for record in caplog.records] == [f"{told}check that it is not a negative."] * doubted


def test_a_truncated_or_misnamed_file_is_refused(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"x\.dcm: the pixels cannot be decoded"):
        read(path)
    (tmp_path / "y.dcm").write_text("no DICOM")
    with pytest.raises(ValueError, match=r"y\.dcm: named \.dcm, but is not DICOM"):
        read(tmp_path / "y.dcm")
    with pytest.raises(FileNotFoundError, match=r"gone\.dcm"):
        read(tmp_path / "gone.dcm")


@pytest.mark.parametrize("cut", [128 + 4, "meta"])
def test_a_file_without_preamble_is_read_as_the_whole_one_is(tmp_path, cut):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47), syntax=ImplicitVRLittleEndian)
    expected = read(path)
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00") if cut == "meta" else cut
    (tmp_path / "IM0001").write_bytes(content[start:])
    np.testing.assert_array_equal(read(tmp_path / "IM0001"), expected)


def test_monai_tries_no_other_reader_on_what_is_refused(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(5, 7), modality="CT")
    with pytest.raises(RuntimeError, match="applying transform") as error:
        Compose([LoadImaged("image", reader=RadiographReader())])({"image": path})
    assert "modality CT" in str(error.value.__cause__)


def test_several_files_for_one_image_are_refused(tmp_path):
    paths = [write_radiograph(tmp_path / name, asymmetric(5, 7)) for name in ("a.dcm", "b.dcm")]
    reader = RadiographReader()
    with pytest.raises(ValueError, match="one image per key, got 2"):
        reader.get_data(reader.read(paths))


def test_text_of_a_header_cannot_command_the_terminal_that_shows_a_refusal(tmp_path):
    path = write_radiograph(tmp_path / "x.dcm", asymmetric(31, 47), Modality="A\nB\x1b[2J")
    with pytest.raises(ValueError, match=r"x\.dcm: modality A B\?\[2J, expected CR or DX; give a radiograph\.$"):
        read(path)
