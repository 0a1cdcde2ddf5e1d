"""The grid of a lobe network: isotropic, of a fixed size in plane, and left again without a trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.data.utils import affine_to_spacing
from monai.transforms import Compose, Invertd

from medseg_monai.transforms import PadToMultipled, ResizeInPlaned


def affine(spacing: tuple[float, float, float], *, tilt: float = 0.3) -> torch.Tensor:
    """An oblique affine: turned about two axes, with an origin far from 0."""
    c, s = math.cos(tilt), math.sin(tilt)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    result = np.eye(4)
    result[:3, :3] = about_z @ about_x @ np.diag(spacing)
    result[:3, 3] = (-180.5, 40.25, 912.0)
    return torch.from_numpy(result)


def blocks(shape: tuple[int, int, int]) -> torch.Tensor:
    """Labels 0 to 5 in boxes that differ along all axes."""
    z, y, x = torch.meshgrid(*(torch.arange(side) for side in shape), indexing="ij")
    return ((z // 3 + 2 * (y // 4) + 3 * (x // 5)) % 6).float()[None]


def scan(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> dict[str, MetaTensor]:
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
    return {
        key: MetaTensor(values, affine=affine(spacing)) for key, values in (("image", image), ("label", blocks(shape)))
    }


def outer_corner(image: MetaTensor, corner: tuple[int, int, int]) -> torch.Tensor:
    """A corner of the field of view in world coordinates: the outer one of the corner voxel."""
    voxel = [share * side - 0.5 for share, side in zip(corner, image.shape[1:], strict=True)]
    return image.affine @ torch.tensor([*voxel, 1.0], dtype=image.affine.dtype)


RESIZE = ResizeInPlaned(["image", "label"], 32, mode=["trilinear", "nearest"])


@pytest.mark.parametrize(
    ("shape", "spacing", "slices"),
    [
        ((10, 64, 64), (5.0, 0.75, 0.75), 33),  # 50 mm at 1.5 mm: 33.3
        ((100, 64, 64), (0.6, 0.75, 0.75), 40),
        ((1, 64, 64), (5.0, 0.75, 0.75), 3),
        ((1, 64, 64), (0.5, 0.75, 0.75), 1),  # a third of a voxel
        ((12, 20, 50), (2.0, 1.0, 1.2), 19),  # the field of view is 20 x 60 mm: 1.25 mm on average
    ],
)
def test_the_slices_follow_the_spacing_in_plane(shape, spacing, slices):
    result = RESIZE(scan(shape, spacing))
    assert result["image"].shape == result["label"].shape == (1, slices, 32, 32)


def test_the_voxels_become_isotropic_within_the_rounding_of_the_slices():
    result = RESIZE(scan((23, 48, 48), (4.0, 0.9, 0.9)))["image"]
    between, rows, columns = affine_to_spacing(result.affine).tolist()
    assert rows == pytest.approx(0.9 * 48 / 32)
    assert columns == pytest.approx(rows)
    assert abs(between / rows - 1) <= 0.5 / result.shape[1]


def test_the_field_of_view_and_the_directions_stay():
    before = scan((23, 48, 40), (4.0, 0.9, 0.8))["image"]
    after = RESIZE({"image": before, "label": before})["image"]
    for corner in ((0, 0, 0), (1, 1, 0), (1, 1, 1)):
        assert torch.allclose(outer_corner(before, corner), outer_corner(after, corner), atol=1e-6)


def test_a_linear_image_keeps_its_values_at_their_places_in_the_patient():
    """An image that is a linear function of world coordinates is the same function after resizing, but at its rim."""
    plain = scan((24, 48, 40), (2.0, 0.9, 0.8))["image"]
    direction = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)

    def function(image: MetaTensor) -> torch.Tensor:
        voxels = torch.stack(torch.meshgrid(*(torch.arange(side) for side in image.shape[1:]), indexing="ij"))
        world = (
            torch.einsum("ij,j...->i...", image.affine[:3, :3], voxels.double()) + image.affine[:3, 3, None, None, None]
        )
        return torch.einsum("i,i...->...", direction, world)

    image = MetaTensor(function(plain)[None].float(), affine=plain.affine)
    result = RESIZE({"image": image, "label": plain})["image"]
    inside = (0, *(slice(2, -2),) * 3)
    assert torch.allclose(result.as_tensor()[inside].double(), function(result)[inside[1:]], atol=1e-3)


def test_linear_interpolation_to_half_the_size_is_the_mean_of_the_voxels():
    image = scan((16, 64, 64), (1.0, 1.0, 1.0))
    result = RESIZE(image)["image"].as_tensor()
    assert torch.allclose(result, torch.nn.functional.avg_pool3d(image["image"].as_tensor(), 2), atol=1e-6)


def test_anti_aliasing_smooths_the_keys_that_it_is_asked_for():
    data = scan((64, 128, 128), (1.0, 1.0, 1.0))
    plain = RESIZE(data)
    smooth = ResizeInPlaned(["image", "label"], 32, mode=["trilinear", "nearest"], anti_aliasing=[True, False])(data)
    assert smooth["image"][0, 4:-4, 4:-4, 4:-4].std() < 0.6 * plain["image"][0, 4:-4, 4:-4, 4:-4].std()
    assert torch.equal(smooth["label"].as_tensor(), plain["label"].as_tensor())


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((7, 20, 20), (3.0, 0.8, 0.8)), ((13, 24, 17), (1.2, 0.8, 0.9)), ((1, 30, 30), (5.0, 0.7, 0.7))],
)
def test_labels_that_were_made_larger_come_back_exactly_through_invertd(shape, spacing):
    case = scan(shape, spacing)
    resized = RESIZE(case)
    assert all(new >= old for new, old in zip(resized["label"].shape, case["label"].shape, strict=True))
    resized["pred"] = MetaTensor(resized["label"].as_tensor(), meta=resized["image"].meta)
    back = Invertd("pred", transform=RESIZE, orig_keys="image", nearest_interp=True)(resized)["pred"]
    assert torch.equal(back.as_tensor(), case["label"].as_tensor())
    assert torch.allclose(back.affine, case["image"].affine, atol=1e-9)


def test_a_mask_that_was_made_smaller_comes_back_in_its_place():
    case = scan((30, 96, 80), (2.5, 0.7, 0.7))
    box = torch.zeros(1, 30, 96, 80)
    box[:, 8:19, 21:60, 13:64] = 1
    resized = RESIZE({**case, "label": MetaTensor(box, affine=case["label"].affine)})
    resized["pred"] = MetaTensor(resized["label"].as_tensor(), meta=resized["image"].meta)
    back = Invertd("pred", transform=RESIZE, orig_keys="image")(resized)["pred"]
    assert back.shape == box.shape
    middles = [torch.nonzero(mask.as_tensor()[0]).double().mean(dim=0) for mask in (back, MetaTensor(box))]
    assert (middles[0] - middles[1]).abs().max() < 0.75
    assert set(back.unique().tolist()) == {0.0, 1.0}


def test_nearest_takes_the_voxel_whose_centre_is_nearest_in_both_directions():
    """On an axis of 12 to 32 voxels, whose centres nowhere meet half-way."""
    case = scan((12, 12, 12), (1.0, 1.0, 1.0))
    ramp = torch.arange(12.0).expand(1, 12, 12, 12)
    resized = RESIZE({**case, "label": MetaTensor(ramp.clone(), affine=case["label"].affine)})["label"]
    centres = (torch.arange(32) + 0.5) * 12 / 32 - 0.5
    assert torch.equal(resized.as_tensor()[0, 0, 0], centres.round())
    fine = MetaTensor(torch.arange(32.0).expand(1, 32, 32, 32).clone(), meta=resized.meta)
    fine.applied_operations = resized.applied_operations
    back = Invertd("label", transform=RESIZE)({"image": case["image"], "label": fine})["label"]
    # centres of the 12 lie 0.5 + 1.33 i; ties are decided for either neighbour
    assert ((back.as_tensor()[0, 0, 0] - ((torch.arange(12) + 0.5) * 32 / 12 - 0.5)).abs() <= 0.5).all()


def test_probabilities_are_interpolated_linearly_on_the_way_back():
    case = scan((12, 24, 20), (2.0, 0.8, 0.9))
    resized = RESIZE(case)
    resized["pred"] = MetaTensor(resized["image"].as_tensor().repeat(2, 1, 1, 1), meta=resized["image"].meta)
    back = Invertd("pred", transform=RESIZE, orig_keys="image", nearest_interp=False)(resized)["pred"]
    assert back.shape == (2, 12, 24, 20)
    expected = torch.nn.functional.interpolate(resized["image"].as_tensor()[None], size=(12, 24, 20), mode="trilinear")
    assert torch.allclose(back.as_tensor()[:1], expected[0])


def test_it_runs_in_a_loader_and_behind_padding():
    chain = Compose([RESIZE, PadToMultipled(["image", "label"], 16)])
    case = scan((7, 20, 20), (3.0, 0.8, 0.8))
    (batch,) = DataLoader(Dataset([case], chain), batch_size=1, num_workers=1)
    assert batch["image"].shape == (1, 1, 48, 32, 32)
    batch["pred"] = MetaTensor(batch["label"].as_tensor(), meta=batch["image"].meta)
    (item,) = decollate_batch(batch)
    back = Invertd("pred", transform=chain, orig_keys="image")(item)["pred"]
    assert torch.equal(back.as_tensor(), case["label"].as_tensor())
    assert torch.allclose(back.affine, case["image"].affine, atol=1e-9)


def test_images_that_do_not_belong_together_and_wrong_options_are_refused():
    case = scan((5, 8, 9), (2.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"'label' is \(5, 9, 8\), but 'image' is \(5, 8, 9\)"):
        RESIZE({**case, "label": MetaTensor(torch.zeros(1, 5, 9, 8))})
    with pytest.raises(ValueError, match=r"'image' has shape \(1, 8, 9\); give one image \[C, D, H, W\]"):
        RESIZE({**case, "image": MetaTensor(torch.zeros(1, 8, 9))})
    with pytest.raises(TypeError, match="'label' has no affine"):
        RESIZE({**case, "label": torch.zeros(1, 5, 8, 9)})
    with pytest.raises(KeyError, match="label"):
        RESIZE({"image": case["image"]})
    with pytest.raises(ValueError, match="in_plane_size must be positive, got 0"):
        ResizeInPlaned("image", 0)
    with pytest.raises(ValueError, match=r"k must be positive, got \(16, 0, 16\)"):
        PadToMultipled("image", (16, 0, 16))


def test_a_voxel_size_that_makes_a_scan_far_longer_than_wide_is_refused():
    item = scan((6, 8, 10), (400.0, 0.7, 0.9))
    with pytest.raises(ValueError, match=r"image: 328\.8 times as long as wide, expected at most 32"):
        ResizeInPlaned("image", 256)(item)


def test_missing_keys_are_left_out_where_that_is_allowed():
    resize = ResizeInPlaned(["image", "label"], 16, mode=["trilinear", "nearest"], allow_missing_keys=True)
    case = scan((5, 8, 9), (2.0, 1.0, 1.0))
    assert resize({"label": case["label"]})["label"].shape == (1, 19, 16, 16)
    assert resize({"other": 1}) == {"other": 1}


@pytest.mark.parametrize(("k", "shape"), [(16, (16, 32, 48)), ((2, 8, 16), (4, 32, 48))])
def test_zeros_stand_in_front_only(k, shape):
    case = scan((3, 32, 35), (2.0, 1.0, 1.0))
    padded = PadToMultipled("image", k)(case)["image"]
    z, y, x = shape[0] - 3, 0, 13
    assert padded.shape == (1, *shape)
    assert torch.equal(padded.as_tensor()[:, z:, y:, x:], case["image"].as_tensor())
    assert padded.as_tensor()[:, :z].abs().sum() == padded.as_tensor()[..., :x].abs().sum() == 0
    voxel = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    shifted = torch.tensor([float(z), y, x, 1], dtype=torch.float64)
    assert torch.allclose(padded.affine @ shifted, case["image"].affine @ voxel)


def test_the_inverse_cuts_the_padding_off():
    case = scan((3, 32, 35), (2.0, 1.0, 1.0))
    pad = PadToMultipled(["image", "label"])
    back = pad.inverse(pad(case))
    for key, image in case.items():
        assert torch.equal(back[key].as_tensor(), image.as_tensor())
        assert torch.allclose(back[key].affine, image.affine)
