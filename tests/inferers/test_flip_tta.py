"""Test-time augmentation by flips: which views, what is averaged, and how much is kept."""

from __future__ import annotations

import gc
from itertools import product

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn

from medseg_monai.inferers import FlipTTAInferer


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randn(1, 2, 4, 6, 8, generator=torch.Generator().manual_seed(2))


def pointwise(x: torch.Tensor) -> torch.Tensor:
    """A network that commutes with every flip and transposition."""
    return torch.cat([x.sum(1, keepdim=True) ** 2, x[:, :1] - 0.3], dim=1)


def lopsided(x: torch.Tensor) -> torch.Tensor:
    """A network that commutes with none: it looks one step up and two to the left, weighted by the row."""
    rows = torch.arange(x.shape[2], dtype=x.dtype).view(-1, *[1] * (x.ndim - 3))
    return 2 * torch.roll(x, (1, 2), dims=(2, x.ndim - 1)) * rows - x[:, :1]


def eight_views(x: torch.Tensor, network, activation=torch.Tensor.clone) -> torch.Tensor:
    """The mean of the 8 views, by rotations and one flip, all stored."""
    maps = []
    for quarter_turns, mirrored in product(range(4), (False, True)):
        view = torch.rot90(x.flip(3) if mirrored else x, quarter_turns, dims=(2, 3))
        back = torch.rot90(activation(network(view)), -quarter_turns, dims=(2, 3))
        maps.append(back.flip(3) if mirrored else back)
    return torch.stack(maps).mean(0)


def test_a_network_that_commutes_with_the_views_gives_what_it_gives_plainly(image):
    torch.testing.assert_close(FlipTTAInferer()(image, pointwise), pointwise(image))


def test_the_eight_views_are_those_of_the_square_and_of_the_non_square(image):
    result = FlipTTAInferer()(image, lopsided)
    torch.testing.assert_close(result, eight_views(image, lopsided))
    assert not torch.allclose(result, lopsided(image), atol=1e-2)


def test_each_of_the_eight_views_is_shown_once(image):
    seen = []
    FlipTTAInferer()(image, lambda x: seen.append(x.clone()) or x)
    assert [x.shape[2:] for x in seen] == [(6, 10)] * 4 + [(10, 6)] * 4
    expected = [torch.rot90(image.flip(3) if m else image, k, dims=(2, 3)) for k, m in product(range(4), (False, True))]
    assert all(any(torch.equal(view, x) for x in seen if x.shape == view.shape) for view in expected)


def test_flips_alone_keep_the_shape_of_a_non_square_image(image):
    seen = []
    result = FlipTTAInferer(views="flips")(image, lambda x: seen.append(x.shape) or lopsided(x))
    assert seen == [image.shape] * 4
    axes = [(), (2,), (3,), (2, 3)]
    torch.testing.assert_close(result, torch.stack([lopsided(image.flip(a)).flip(a) for a in axes]).mean(0))


def test_a_volume_has_eight_flips(volume):
    axes = [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]
    result = FlipTTAInferer(views="flips")(volume, lopsided)
    torch.testing.assert_close(result, torch.stack([lopsided(volume.flip(a)).flip(a) for a in axes]).mean(0))


def test_the_diagonal_flip_of_a_volume_is_refused(volume):
    with pytest.raises(ValueError, match="got 3 spatial dimensions: use views='flips'"):
        FlipTTAInferer()(volume, lopsided)


@pytest.mark.parametrize(
    ("activation", "function"), [("sigmoid", torch.sigmoid), ("softmax", lambda x: torch.softmax(x, dim=1))]
)
def test_with_an_activation_it_averages_probabilities_and_not_logits(activation, function, image):
    result = FlipTTAInferer(activation=activation)(image, lopsided)
    torch.testing.assert_close(result, eight_views(image, lopsided, function))
    assert not torch.allclose(result, function(FlipTTAInferer()(image, lopsided)), atol=1e-2)
    assert 0 <= result.min() < result.max() <= 1


def test_it_works_around_a_sliding_window(image):
    windows = SlidingWindowInferer(roi_size=(4, 4), sw_batch_size=3, overlap=0.25, mode="constant")

    def plain(x: torch.Tensor) -> torch.Tensor:
        return windows(x, lopsided)

    torch.testing.assert_close(FlipTTAInferer(windows)(image, lopsided), eight_views(image, plain))


def test_further_arguments_reach_the_network(image):
    result = FlipTTAInferer()(image, lambda x, factor, *, shift: x * factor + shift, 3.0, shift=1.0)
    torch.testing.assert_close(result, image * 3 + 1)


def test_a_network_with_convolutions_takes_both_orientations(image):
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(FlipTTAInferer()(image, net), eight_views(image, net))


def test_the_result_keeps_the_metadata_that_the_plain_inferer_keeps(image):
    affine = torch.diag(torch.tensor([0.5, 2.0, 1.0, 1.0]))
    inputs = MetaTensor(image[:1], affine=affine, meta={"filename_or_obj": "eye.png"})
    result = FlipTTAInferer(activation="sigmoid")(inputs, lopsided)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, lopsided(inputs).affine)
    assert result.meta["filename_or_obj"] == "eye.png"
    assert type(FlipTTAInferer()(image, lopsided)) is torch.Tensor
    torch.testing.assert_close(result.as_tensor(), FlipTTAInferer(activation="sigmoid")(image[:1], lopsided))


def test_the_input_is_left_as_it_was_by_a_network_that_returns_it(image):
    before = image.clone()
    result = FlipTTAInferer()(image, lambda x: x)
    assert torch.equal(image, before)
    assert result.data_ptr() != image.data_ptr()


@pytest.mark.parametrize(
    ("views", "activation", "calls"), [("dihedral", None, 8), ("dihedral", "sigmoid", 8), ("flips", "softmax", 4)]
)
def test_only_the_running_mean_is_alive_when_the_next_view_is_predicted(views, activation, calls, image):
    live_maps: list[int] = []

    def seven_channels(x: torch.Tensor) -> torch.Tensor:
        # maps alone have seven channels, so that every one that anybody still holds is found
        live_maps.append(sum(type(o) is torch.Tensor and o.ndim == 4 and o.shape[1] == 7 for o in gc.get_objects()))
        return x[:, :1].repeat(1, 7, 1, 1)

    gc.freeze()  # leaves what other tests hold out of the search
    try:
        FlipTTAInferer(views=views, activation=activation)(image, seven_channels)
    finally:
        gc.unfreeze()
    assert live_maps == [0] + [1] * (calls - 1)


@pytest.mark.parametrize("output", [{"pred": torch.zeros(2, 1, 6, 10)}, [torch.zeros(2, 1, 6, 10)], torch.zeros(2, 1)])
def test_a_network_that_returns_no_single_map_is_refused(output, image):
    with pytest.raises(ValueError, match="averages one map") as error:
        FlipTTAInferer()(image, lambda x: output)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"views": "rotations"}, {"activation": "relu"}])
def test_an_unknown_option_is_refused_with_the_known_ones(options):
    with pytest.raises(ValueError, match=r"must be .*one of \("):
        FlipTTAInferer(**options)


def test_mirrored_views_are_the_image_and_its_mirror_image_upright():
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x * torch.arange(8.0)  # brighter to the right

    image = torch.rand(1, 1, 6, 8)
    found = FlipTTAInferer(views="mirror")(image, network)
    assert len(seen) == 2
    assert torch.equal(seen[1], image.flip(3))
    torch.testing.assert_close(found, image * 3.5)
