import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.data.readers.exif import EXIF_ORIENTATION
from medseg_monai.transforms import CheckSameSized, same_size


def image(height: int, width: int, name: str, **meta: object) -> MetaTensor:
    return MetaTensor(torch.zeros(1, height, width), meta={"filename_or_obj": name, **meta})


def test_an_item_of_one_size_passes_unchanged():
    item = {"image": image(20, 31, "a.png"), "label": image(20, 31, "b.png"), "patient": "7"}
    assert CheckSameSized(["image", "label"])(item) == item


def test_a_mask_of_another_size_is_refused_by_name():
    item = {"image": image(20, 31, "a.png"), "label": image(31, 20, "b.png")}
    with pytest.raises(ValueError, match=r"b\.png.*\(31, 20\).*a\.png.*\(20, 31\)"):
        CheckSameSized(["image", "label"])(item)


def test_a_missing_mask_is_passed_over_if_allowed():
    item = {"image": image(20, 31, "a.png")}
    assert CheckSameSized(["image", "fov"], allow_missing_keys=True)(item) == item
    with pytest.raises(KeyError):
        CheckSameSized(["image", "fov"])(item)


@pytest.mark.parametrize("size", [(20, 31), (31, 31)])
def test_a_mask_without_the_orientation_of_its_image_is_refused_by_name(size: tuple[int, int]):
    item = {"image": image(*size, "a.jpg", exif_orientation=6), "label": image(*size, "b.png", exif_orientation=1)}
    with pytest.raises(ValueError, match=r"^b\.png: EXIF orientation 1, but its image a\.jpg has 6; save both upright"):
        CheckSameSized(["image", "label"])(item)


def test_a_mask_with_the_orientation_of_its_image_passes():
    item = {name: image(20, 31, f"{name}.png", exif_orientation=8) for name in ("image", "label")}
    assert CheckSameSized(["image", "label"])(item) == item


def test_a_mask_of_a_format_that_knows_no_orientation_is_upright():
    item = {"image": image(20, 31, "a.dcm", exif_orientation=1), "label": image(20, 31, "b.nii")}
    assert CheckSameSized(["image", "label"])(item) == item


def test_the_orientation_has_the_key_that_the_readers_write():
    assert same_size._ORIENTATION == EXIF_ORIENTATION
