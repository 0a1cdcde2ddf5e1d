"""What is foreground in a mask is found from its file, or the mask is refused with its values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged
from PIL import Image
from scipy import ndimage

from medseg_monai.data import RasterReader
from medseg_monai.transforms import BinarizeMaskd


def structure() -> np.ndarray:
    """Two blobs of unlike size and a vessel of one pixel, none of them in the middle."""
    mask = np.zeros((40, 56), bool)
    mask[5:20, 8:30] = mask[26:37, 40:49] = mask[30, 3:25] = True
    return mask


def palette(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, *colour] + [0] * 762)
    return image


def coloured(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray((mask[..., None] * np.array(colour)).astype(np.uint8))


def read(path: Path) -> torch.Tensor:
    steps = [
        LoadImaged("label", reader=RasterReader(channels=1), ensure_channel_first=True),
        BinarizeMaskd("label", dtype=torch.uint8),
    ]
    return Compose(steps)({"label": str(path)})["label"]


CLEAR = {
    "0 and 255": lambda mask: Image.fromarray((mask * 255).astype(np.uint8)),
    "0 and 1": lambda mask: Image.fromarray(mask.astype(np.uint8)),
    "0 and 128": lambda mask: Image.fromarray((mask * 128).astype(np.uint8)),
    "one bit": lambda mask: Image.fromarray(mask),
    "16 bits, 0 and 1": lambda mask: Image.fromarray(mask.astype(np.uint16)),
    "16 bits, 0 and 255": lambda mask: Image.fromarray((mask * 255).astype(np.uint16)),
    "16 bits, 0 and 65535": lambda mask: Image.fromarray((mask * 65535).astype(np.uint16)),
    "palette of VOC": lambda mask: palette(mask, (128, 0, 0)),
    "palette of CVAT": lambda mask: palette(mask, (250, 50, 83)),
    "red": lambda mask: coloured(mask, (255, 0, 0)),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_mask_of_two_values_gives_its_foreground_however_it_is_stored(kind: str, tmp_path: Path):
    CLEAR[kind](structure()).save(tmp_path / "mask.png")
    found = read(tmp_path / "mask.png")
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found[0].numpy(), structure())


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_the_noise_of_jpeg_is_not_taken_for_structures(quality: int, tmp_path: Path):
    Image.fromarray((structure() * 255).astype(np.uint8)).save(tmp_path / "mask.jpg", quality=quality)
    stored = np.asarray(Image.open(tmp_path / "mask.jpg"))
    np.testing.assert_array_equal(read(tmp_path / "mask.jpg")[0].numpy(), stored > 127)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_smooth_edges_are_cut_in_the_middle(sigma: float, tmp_path: Path):
    smooth = ndimage.gaussian_filter(structure() * 255.0, sigma).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png")[0].numpy(), smooth > 127)


def test_a_palette_need_not_have_pure_black_and_white(tmp_path: Path):
    Image.fromarray(np.where(structure(), 253, 3).astype(np.uint8)).save(tmp_path / "mask.gif")  # as in DRIVE
    np.testing.assert_array_equal(read(tmp_path / "mask.gif")[0].numpy(), structure())


def test_a_mask_of_zeros_is_empty(tmp_path: Path):
    Image.new("L", (56, 40)).save(tmp_path / "mask.png")
    assert not read(tmp_path / "mask.png").any()


def labels(first: int, second: int) -> Image.Image:
    return Image.fromarray((structure() * np.where(np.arange(56) < 35, first, second)).astype(np.uint8))


UNCLEAR = {
    "labels 1 and 2": (labels(1, 2), "0, 1, 2"),
    "label 1, and 255 to ignore": (labels(1, 255), "0, 1, 255"),
    "labels 128 and 255": (labels(128, 255), "0, 128, 255"),
    "labels 100 and 200": (labels(100, 200), "0, 100, 200"),
    "no background": (Image.fromarray((structure() + 1).astype(np.uint8)), "1, 2"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_a_mask_that_leaves_its_foreground_open_is_refused_with_its_values(kind: str, tmp_path: Path):
    image, values = UNCLEAR[kind]
    image.save(tmp_path / "mask.png")
    with pytest.raises(RuntimeError) as caught:
        read(tmp_path / "mask.png")
    assert str(caught.value.__cause__).startswith(f"{tmp_path / 'mask.png'}: values {values} (white is 255)")


@pytest.mark.parametrize("brightest", [90, 250])
def test_a_photograph_is_no_mask(brightest: int, tmp_path: Path):
    noise = np.random.default_rng(0).uniform(0.2, 1, (40, 56))
    Image.fromarray((noise * brightest).astype(np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(RuntimeError) as caught:
        read(tmp_path / "photo.png")
    assert "photo.png: values " in str(caught.value.__cause__)


def test_a_missing_mask_is_passed_over_if_allowed():
    assert BinarizeMaskd("fov", allow_missing_keys=True)({"label": "a.png"}) == {"label": "a.png"}
    with pytest.raises(KeyError):
        BinarizeMaskd("fov")({"label": "a.png"})


def test_the_pages_of_a_stack_are_judged_as_masks():
    stack = torch.zeros(1, 3, 20, 31)
    stack[..., 5:] = 255
    stack[0, 1, 3, 5:] = 128  # an edge
    assert BinarizeMaskd("label")({"label": stack})["label"].sum() == (3 * 20 * 26)
    stack[0, 1, 3:9, 10:20] = 128
    with pytest.raises(ValueError, match="values 0, 128, 255"):
        BinarizeMaskd("label")({"label": stack})
