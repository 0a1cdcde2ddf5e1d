"""CTSliceReader: Hounsfield units by the type of a file's numbers, 8-bit pictures by their window, doubt refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import ExifTags, Image
from tifffile import imwrite

from medseg_monai.data import CTSliceReader
from medseg_monai.data.limits import TooLargeError
from medseg_monai.errors import explain, is_users_mistake


@pytest.fixture
def slice_in_hu() -> np.ndarray:
    """Asymmetric and not square: 5 rows, 7 columns, from air to bone."""
    values = np.random.default_rng(0).integers(-1024, 1500, (5, 7))
    values[0, 0] = -1024
    return values


def load(path: Path, **window: float) -> MetaTensor:
    return LoadImage(reader=CTSliceReader(**window), ensure_channel_first=True)(path)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
        load(path)
    assert is_users_mistake(refused.value)
    line = explain(refused.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["int16", "int32", "int64", "float32", "float64"])
def test_numbers_with_a_sign_are_hounsfield_units_whatever_the_window(
    kind: str, compression: str | None, slice_in_hu: np.ndarray, tmp_path: Path
):
    imwrite(tmp_path / "a.tif", slice_in_hu.astype(kind), photometric="minisblack", compression=compression)
    image = load(tmp_path / "a.tif", hu_min=-160, hu_max=240)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), slice_in_hu[None])
    assert image.meta["spatial_shape"].tolist() == [5, 7]


@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_a_slice_is_upright(kind: str, slice_in_hu: np.ndarray, tmp_path: Path):
    turned = slice_in_hu.T[::-1]  # shown turned right, so stored turned left
    imwrite(tmp_path / "a.tif", turned.astype(kind), photometric="minisblack", extratags=[(274, 3, 1, 6, True)])
    image = load(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.numpy(), slice_in_hu[None])
    assert image.meta["exif_orientation"] == 6


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_an_8_bit_picture_is_a_window(mode: str, ending: str, tmp_path: Path):
    picture = Image.fromarray(np.asarray([[0, 51, 255]], dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / f"a.{ending}")
    values = load(tmp_path / f"a.{ending}", hu_min=-1000, hu_max=400)
    np.testing.assert_allclose(values.numpy(), [[[-1000, -720, 400]]], atol=1e-3)


def test_a_picture_keeps_its_orientation(tmp_path: Path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.asarray([[0, 51, 255]], dtype=np.uint8)).save(tmp_path / "a.png", exif=turned)
    assert load(tmp_path / "a.png").shape == (1, 3, 1)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_without_a_sign_are_refused(ending: str, slice_in_hu: np.ndarray, tmp_path: Path):
    Image.fromarray((slice_in_hu + 1024).astype(np.uint16)).save(tmp_path / f"a.{ending}")
    assert "16-bit values 0 to" in refusal(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("kind", ["int16", "int32", "uint32", "float32", "float64"])
def test_hounsfield_units_with_an_offset_are_refused(kind: str, slice_in_hu: np.ndarray, tmp_path: Path):
    imwrite(tmp_path / "a.tif", (slice_in_hu + 1024).astype(kind), photometric="minisblack")
    assert "are not Hounsfield units of air and tissue" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_a_picture_in_floats_is_refused(low: float, high: float, tmp_path: Path):
    imwrite(tmp_path / "a.tif", np.linspace(low, high, 35, dtype=np.float32).reshape(5, 7), photometric="minisblack")
    expected = f"values from {low} to {high} are not Hounsfield units of air and tissue; "
    assert refusal(tmp_path / "a.tif").startswith(expected)


def test_8_bits_with_a_sign_are_refused(tmp_path: Path):
    imwrite(tmp_path / "a.tif", np.asarray([[-100, 100]], dtype=np.int8), photometric="minisblack")
    assert "8-bit values with a sign" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_values_that_are_not_finite_are_refused(kind: str, slice_in_hu: np.ndarray, tmp_path: Path):
    values = slice_in_hu.astype(kind)
    values[2, 3] = np.nan
    imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert "1 pixels are not finite numbers" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_damaged_files_and_several_pages_are_refused_as_any_picture(kind: str, slice_in_hu: np.ndarray, tmp_path: Path):
    imwrite(tmp_path / "pages.tif", np.stack([slice_in_hu, slice_in_hu]).astype("int16"), photometric="minisblack")
    assert "2 pages or frames" in refusal(tmp_path / "pages.tif")
    imwrite(tmp_path / "whole.tif", slice_in_hu.astype(kind), photometric="minisblack")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:-40])
    assert "truncated or not an image" in refusal(tmp_path / "cut.tif")


def test_a_file_that_declares_too_much_is_refused_before_it_is_read(slice_in_hu: np.ndarray, tmp_path: Path):
    for kind in ("int16", "float64"):
        imwrite(tmp_path / "a.tif", slice_in_hu.astype(kind), photometric="minisblack")
        with pytest.raises(TooLargeError, match=r"more than max_image_mib=0\.0001"):
            LoadImage(reader=CTSliceReader(max_image_mib=1e-4))(tmp_path / "a.tif")
