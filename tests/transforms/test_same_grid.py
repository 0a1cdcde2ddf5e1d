import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg_monai.transforms import MatchGridd

SHAPE = (5, 7, 9)


def oblique() -> np.ndarray:
    """Anisotropic voxels (mm) on a grid turned by 10 degrees about the first axis."""
    turn = np.array([[1, 0, 0], [0, np.cos(0.17), -np.sin(0.17)], [0, np.sin(0.17), np.cos(0.17)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.8, 2.5])
    affine[:3, 3] = (-31, 12, 400)
    return affine


def stored(axes: str, name: str, shift: float = 0.0) -> MetaTensor:
    """A volume of distinct values whose file has its axes in an order of its own."""
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    affine = oblique()
    affine[0, 3] += shift
    wanted = nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    turned = nib.orientations.apply_orientation(values, turn).copy()
    return MetaTensor(torch.from_numpy(turned)[None], affine=torch.from_numpy(affine), meta={"filename_or_obj": name})


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "SPL", "PIR"])
@pytest.mark.parametrize("image_axes", ["RAS", "LPS", "SRA"])
def test_a_mask_of_any_order_of_axes_comes_to_lie_on_its_image_voxel_for_voxel(image_axes, axes):
    item = {"image": stored(image_axes, "scan"), "label": stored(axes, "mask"), "patient": "7"}
    result = MatchGridd(["image", "label"])(item)
    assert torch.equal(result["label"].as_tensor(), item["image"].as_tensor())
    torch.testing.assert_close(result["label"].affine, item["image"].affine)
    assert result["image"] is item["image"]
    assert result["patient"] == "7"


def test_a_mask_of_another_size_is_refused_by_name():
    item = {"image": stored("RAS", "scan.nii"), "label": stored("RAS", "mask.nii")[:, :-1]}
    with pytest.raises(ValueError, match=r"mask\.nii.*\(4, 7, 9\).*scan\.nii.*\(5, 7, 9\)"):
        MatchGridd(["image", "label"])(item)


def test_a_mask_that_lies_elsewhere_is_refused_and_a_rounding_error_is_not():
    near = {"image": stored("RAS", "scan.nii"), "label": stored("LPS", "mask.nii", shift=0.01)}
    assert MatchGridd(["image", "label"])(near)["label"].shape == (1, *SHAPE)
    away = {"image": stored("RAS", "scan.nii"), "label": stored("LPS", "mask.nii", shift=0.5)}
    with pytest.raises(ValueError, match=r"mask\.nii: lies elsewhere .* scan\.nii"):
        MatchGridd(["image", "label"])(away)


def test_a_volume_without_affine_is_refused():
    with pytest.raises(TypeError, match="'label' has no affine"):
        MatchGridd(["image", "label"])({"image": stored("RAS", "scan"), "label": torch.zeros(1, *SHAPE)})


def test_a_missing_mask_is_passed_over_if_allowed():
    item = {"image": stored("RAS", "scan")}
    assert set(MatchGridd(["image", "label"], allow_missing_keys=True)(item)) == {"image"}
    with pytest.raises(KeyError):
        MatchGridd(["image", "label"])(item)
