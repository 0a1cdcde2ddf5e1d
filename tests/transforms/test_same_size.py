import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.transforms import CheckSameSized


def image(height: int, width: int, name: str) -> MetaTensor:
    return MetaTensor(torch.zeros(1, height, width), meta={"filename_or_obj": name})


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
