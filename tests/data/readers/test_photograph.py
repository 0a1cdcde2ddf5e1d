"""PhotographReader: ophthalmic photography in DICOM has the colours of the same photograph as a picture."""

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from medseg_monai.data import PhotographReader, RasterReader
from tests.data.photograph_files import scenery, write_photograph
from tests.data.radiograph_files import asymmetric, write_radiograph


def read(path, **options):
    reader = PhotographReader(**options)
    return reader.get_data(reader.read(path))[0]


# JPEG loses some, and YBR rounds
@pytest.mark.parametrize(
    ("form", "loss"), [("YBR_FULL_422", 6), ("YBR_RCT", 0), ("YBR_FULL", 3), ("RGB", 0), ("planes", 0)]
)
def test_every_form_of_colour_becomes_its_red_green_and_blue(tmp_path, form, loss):
    image = read(write_photograph(tmp_path / "eye.dcm", scenery(31, 46), form=form))
    assert (image.dtype, image.shape) == (np.float32, (3, 31, 46))
    np.testing.assert_allclose(image, np.moveaxis(scenery(31, 46), -1, 0), atol=loss)


def test_bgr_reverses_the_channels_of_dicom_too(tmp_path):
    path = write_photograph(tmp_path / "eye.dcm", scenery(31, 46), form="RGB")
    np.testing.assert_array_equal(read(path, channel_order="BGR"), read(path)[::-1])


def test_a_picture_is_read_as_the_raster_reader_does(tmp_path):
    Image.fromarray(scenery(5, 7)).save(tmp_path / "eye.png")
    raster = RasterReader(channels=3)
    np.testing.assert_array_equal(read(tmp_path / "eye.png"), raster.get_data(raster.read(tmp_path / "eye.png"))[0])


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (12, np.uint16)])
def test_grey_is_three_channels_and_keeps_the_range_of_its_depth(tmp_path, bits, kind):
    half = asymmetric(5, 7, highest=2**bits // 2).astype(kind)
    path = write_radiograph(tmp_path / "eye.dcm", half, modality="OP", BitsStored=bits)
    np.testing.assert_allclose(read(path), np.stack([half * (255 / (2**bits - 1))] * 3), rtol=1e-5)


def test_the_metadata_names_shape_and_source_so_that_a_mask_can_be_written_back(tmp_path):
    path = write_photograph(tmp_path / "eye.dcm", scenery(31, 46))
    meta = LoadImaged("image", reader=PhotographReader())({"image": path})["image"].meta
    assert meta["spatial_shape"].tolist() == [31, 46]
    assert (meta["exif_orientation"], meta["mode"], meta["dicom_files"]) == (1, "YBR_FULL_422", str(path))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CR"}, "modality CR, expected OP; give a photograph"),
        ({"NumberOfFrames": 2}, "2 frames; save the frame to segment as a file of its own"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            r"colour \(PALETTE COLOR\), expected MONOCHROME1 or .* or RGB",
        ),
        ({"SamplesPerPixel": 1}, r"colour \(RGB\)"),
        ({"BitsStored": 12, "BitsAllocated": 16, "HighBit": 11}, "12 bits per pixel, expected 8 for each colour"),
        ({"PixelData": b"\0\0"}, "the pixels cannot be decoded"),
    ],
)
def test_what_is_no_single_photograph_is_refused_in_one_line(tmp_path, tags, message):
    path = write_photograph(tmp_path / "eye.dcm", scenery(31, 46), form="RGB", **tags)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
