"""A label of several structures does not pass for one of one structure."""

import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.transforms import CheckBinaryd


def mask(*values: float) -> MetaTensor:
    return MetaTensor(torch.tensor(values).reshape(1, 1, -1), meta={"filename_or_obj": "segmentation-7.nii"})


@pytest.mark.parametrize("values", [(0, 1, 1), (0, 0, 0), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_a_mask_of_0_and_1_passes_unchanged(values, dtype):
    item = {"label": mask(*values).to(dtype), "patient": "7"}
    assert CheckBinaryd("label")(item) == item


@pytest.mark.parametrize(("values", "named"), [((0, 1, 2), "2"), ((0, 0.5, 1), "0.5"), ((255, 0, 0), "255")])
def test_another_value_is_refused_with_its_file(values, named):
    with pytest.raises(ValueError, match=rf"segmentation-7\.nii: value {named}, expected 0 and 1"):
        CheckBinaryd("label")({"label": mask(*values)})


def test_a_missing_mask_is_passed_over_if_allowed():
    assert CheckBinaryd("label", allow_missing_keys=True)({"image": mask(3)}) == {"image": mask(3)}
    with pytest.raises(KeyError):
        CheckBinaryd("label")({"image": mask(3)})
