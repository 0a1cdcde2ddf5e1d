"""DilateMaskd: a square round every pixel, and nothing else."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import maximum_filter

from medseg_monai.transforms import DilateMaskd


@pytest.fixture
def mask() -> torch.Tensor:
    """Two channels of 21 x 34 pixels with few pixels set, some of them at the edges."""
    return torch.from_numpy(np.random.default_rng(4).random((2, 21, 34)) < np.array([0.01, 0.03])[:, None, None])


@pytest.mark.parametrize("filter_size", [1, 3, 7])
def test_it_is_the_maximum_over_a_square_of_each_channel(mask, filter_size):
    result = DilateMaskd("label", filter_size)({"label": mask.float()})["label"]
    expected = maximum_filter(mask.numpy(), (1, filter_size, filter_size), mode="constant")
    np.testing.assert_array_equal(result.numpy(), expected)


def test_a_volume_is_dilated_with_a_cube():
    volume = torch.zeros(1, 5, 6, 7)
    volume[0, 2, 3, 4] = 1
    result = DilateMaskd("label", 3)({"label": volume})["label"]
    assert result.nonzero().min(dim=0).values.tolist() == [0, 1, 2, 3]
    assert result.sum() == 27


def test_metadata_type_and_other_keys_are_kept(mask):
    label = MetaTensor(mask.to(torch.uint8), meta={"filename_or_obj": "lungs.png"})
    item = {"label": label, "image": mask}
    result = DilateMaskd("label", 5)(item)
    assert result["label"].dtype == torch.uint8
    assert result["label"].meta["filename_or_obj"] == "lungs.png"
    assert result["image"] is mask
    assert torch.equal(item["label"].as_tensor(), mask.to(torch.uint8))


def test_a_missing_mask_is_passed_over_if_allowed(mask):
    assert DilateMaskd("label", allow_missing_keys=True)({"image": mask}) == {"image": mask}
    with pytest.raises(KeyError):
        DilateMaskd("label")({"image": mask})


@pytest.mark.parametrize("filter_size", [0, 4, -1])
def test_a_side_that_is_not_odd_and_positive_is_refused(filter_size):
    with pytest.raises(ValueError, match=f"filter_size must be odd and positive, got {filter_size}"):
        DilateMaskd("label", filter_size)
