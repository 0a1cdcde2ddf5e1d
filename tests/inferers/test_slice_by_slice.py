"""A volume slice by slice: the same as each slice by itself, whatever the inferer of slices."""

from __future__ import annotations

import pytest
import torch

from medseg_monai.inferers import FlipTTAInferer, SliceBySliceInferer


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randn(1, 1, 5, 6, 10, generator=torch.Generator().manual_seed(2))


def lopsided(x: torch.Tensor) -> torch.Tensor:
    """A network of images of three channels that commutes with no flip and no transposition."""
    assert x.shape[1] == 3
    rows = torch.arange(x.shape[2], dtype=x.dtype).view(-1, 1)
    return torch.roll(x[:, :1], (1, 2), dims=(2, 3)) * rows + x[:, 1:2] - 2 * x[:, 2:]


@pytest.mark.parametrize("sw_batch_size", [1, 2, 8])
@pytest.mark.parametrize("views", ["dihedral", "flips"])
def test_each_slice_has_the_mean_of_its_own_views(views: str, sw_batch_size: int, volume: torch.Tensor):
    average = FlipTTAInferer(views=views, activation="sigmoid")
    found = SliceBySliceInferer((6, 10), average, sw_batch_size=sw_batch_size, channels=3)(volume, lopsided)
    for number, expected in enumerate(volume.unbind(2)):
        torch.testing.assert_close(found[:, :, number], average(expected.expand(-1, 3, -1, -1), lopsided))


def test_without_an_inferer_of_slices_each_is_given_to_the_network(volume: torch.Tensor):
    found = SliceBySliceInferer((6, 10), channels=3)(volume, lopsided)
    for number, shown in enumerate(volume.unbind(2)):
        torch.testing.assert_close(found[:, :, number], lopsided(shown.expand(-1, 3, -1, -1)))


def test_channels_are_left_as_they_are_if_no_number_is_given(volume: torch.Tensor):
    three = torch.cat([volume, 2 * volume, -volume], dim=1)
    found = SliceBySliceInferer((6, 10))(three, lopsided)
    torch.testing.assert_close(found[:, :, 3], lopsided(three[:, :, 3]))


def test_another_axis_can_count_the_slices(volume: torch.Tensor):
    found = SliceBySliceInferer((5, 6), spatial_dim=2, channels=3)(volume, lopsided)
    torch.testing.assert_close(found[..., 7], lopsided(volume[..., 7].expand(-1, 3, -1, -1)))


def test_further_arguments_reach_the_network(volume: torch.Tensor):
    infer = SliceBySliceInferer((6, 10), FlipTTAInferer(), sw_batch_size=2)
    found = infer(volume, lambda x, factor, *, shift: x * factor + shift, 3.0, shift=1.0)
    torch.testing.assert_close(found, volume * 3 + 1)


def test_a_single_image_is_predicted_as_a_slice_is(volume: torch.Tensor):
    infer = SliceBySliceInferer((6, 10), FlipTTAInferer(views="flips"), channels=3)
    torch.testing.assert_close(infer(volume[:, :, 1], lopsided), infer(volume, lopsided)[:, :, 1])
