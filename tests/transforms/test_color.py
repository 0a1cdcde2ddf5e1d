"""RandHSVJitterd: agreement with scikit-image, randomness, and what it leaves alone."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.color import hsv2rgb, rgb2hsv

from medseg_monai.transforms import RandHSVJitterd


@pytest.fixture
def image() -> torch.Tensor:
    """[3, 12, 20] in 0 to 255, with grey, black, white and saturated pixels."""
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (3, 12, 20))).float()
    pixels[:, 0], pixels[:, 1, :5], pixels[:, 1, 5:9], pixels[1:, 2] = 77, 0, 255, 0
    return pixels


def reference(image: torch.Tensor, shifts: np.ndarray) -> np.ndarray:
    """Do the same with scikit-image, whose three units all run from 0 to 1."""
    hsv = rgb2hsv(np.moveaxis(image.double().numpy(), 0, -1) / 255)
    hue = (hsv[..., 0] + shifts[0] / 180) % 1
    saturation = np.clip(hsv[..., 1] + shifts[1] / 255, 0, 1)
    value = np.clip(hsv[..., 2] + shifts[2] / 255, 0, 1)
    return np.moveaxis(hsv2rgb(np.stack([hue, saturation, value], axis=-1)), -1, 0) * 255


@pytest.mark.parametrize("seed", range(4))
def test_the_result_equals_that_of_scikit_image(image: torch.Tensor, seed: int) -> None:
    jitter = RandHSVJitterd("image", prob=1, hue=90, saturation=80, value=60).set_random_state(seed)
    result = jitter({"image": image})["image"]
    np.testing.assert_allclose(result.numpy(), reference(image, jitter.shifts), atol=1e-2)
    assert float(result.min()) >= 0
    assert float(result.max()) <= 255


def test_a_third_of_the_hue_circle_turns_red_into_green() -> None:
    red = torch.tensor([200.0, 0, 0])[:, None, None].expand(3, 2, 3)
    jitter = RandHSVJitterd("image", prob=1)
    jitter.randomize = lambda data=None: None  # type: ignore[method-assign]
    jitter._do_transform, jitter.shifts = True, np.asarray((60.0, 0, 0))
    torch.testing.assert_close(
        torch.as_tensor(jitter({"image": red})["image"]),
        torch.tensor([0, 200.0, 0])[:, None, None].expand(3, 2, 3),
    )


def test_shifts_are_drawn_from_the_whole_range_of_each_limit() -> None:
    jitter = RandHSVJitterd("image", prob=1).set_random_state(0)
    drawn = []
    for _ in range(400):
        jitter.randomize()
        drawn.append(jitter.shifts)
    limits = np.asarray((30, 5, 15))
    assert (np.abs(drawn) <= limits).all()
    assert (np.max(drawn, axis=0) > 0.97 * limits).all()
    assert (np.min(drawn, axis=0) < -0.97 * limits).all()


def test_all_keys_get_the_same_shift_and_other_keys_none(image: torch.Tensor) -> None:
    result = RandHSVJitterd(["a", "b"], prob=1).set_random_state(1)({"a": image, "b": image.clone(), "c": image})
    assert torch.equal(result["a"], result["b"])
    assert not torch.equal(result["a"], image)
    assert result["c"] is image


def test_the_input_and_its_metadata_are_kept(image: torch.Tensor) -> None:
    tracked = MetaTensor(image.clone(), meta={"filename_or_obj": "eye.png"})
    result = RandHSVJitterd("image", prob=1).set_random_state(1)({"image": tracked})["image"]
    assert isinstance(result, MetaTensor)
    assert result.meta["filename_or_obj"] == "eye.png"
    assert result.dtype == torch.float32
    assert torch.equal(torch.as_tensor(tracked), image)


def test_the_same_seed_gives_the_same_images(image: torch.Tensor) -> None:
    first, second = (RandHSVJitterd("image", prob=0.5).set_random_state(7) for _ in range(2))
    changed = set()
    for _ in range(20):
        a, b = first({"image": image})["image"], second({"image": image})["image"]
        assert torch.equal(a, b)
        changed.add(not torch.equal(torch.as_tensor(a), image))
    assert changed == {True, False}


def test_probability_0_changes_nothing(image: torch.Tensor) -> None:
    result = RandHSVJitterd("image", prob=0)({"image": image})["image"]
    assert torch.equal(torch.as_tensor(result), image)


def test_wrong_channels_and_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="'image' has 1 channels"):
        RandHSVJitterd("image")({"image": torch.zeros(1, 4, 6)})
    with pytest.raises(ValueError, match="hue=-1"):
        RandHSVJitterd("image", hue=-1)
