import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from medseg_monai.networks.fast import winograd
from medseg_monai.networks.fast.winograd import SliceConvolution


def layer_and_weights(
    channels: int, features: int, *, relu: bool
) -> tuple[SliceConvolution, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight, bias = torch.randn(features, channels, 3, 3, 3) / channels, torch.randn(features)
    return SliceConvolution(weight, bias, relu=relu), weight, bias


def conv3d(slices: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv3d(slices.transpose(0, 1)[None], weight, bias)[0].transpose(0, 1)


# 3 slices: no block of four; 6: one; 13: two and three slices over; 4 channels are too few for the transform
@pytest.mark.parametrize("depth", [3, 6, 13])
@pytest.mark.parametrize(("channels", "features"), [(4, 6), (24, 8), (48, 5)])
def test_it_is_a_valid_convolution(depth, channels, features):
    layer, weight, bias = layer_and_weights(channels, features, relu=False)
    slices = torch.randn(depth, channels, 9, 14)
    expected = conv3d(slices, weight, bias)
    actual = layer(slices.contiguous(memory_format=torch.channels_last))
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_relu_follows_where_it_is_asked_for():
    layer, weight, bias = layer_and_weights(20, 8, relu=True)
    slices = torch.randn(8, 20, 7, 6)
    expected = conv3d(slices, weight, bias)
    assert expected.min() < 0
    torch.testing.assert_close(layer(slices), expected.relu(), rtol=1e-4, atol=1e-5)


def test_bands_of_a_slice_join_without_a_seam(monkeypatch):
    layer, weight, bias = layer_and_weights(20, 8, relu=False)
    slices = torch.randn(6, 20, 13, 10)
    monkeypatch.setattr(winograd, "_BAND", 16)  # two rows of eight voxels for each thread
    torch.testing.assert_close(layer(slices), conv3d(slices, weight, bias), rtol=1e-4, atol=1e-5)


def test_the_transform_takes_fewer_multiplications():
    layer, _, _ = layer_and_weights(32, 32, relu=False)
    slices = torch.randn(6, 32, 12, 12)
    with FlopCounterMode(display=False) as counter:
        layer(slices)
    assert counter.get_total_flops() * 2 == 2 * 4 * 10 * 10 * 32 * 32 * 27


def test_another_precision_than_single_is_convolved_directly():
    layer, weight, bias = layer_and_weights(20, 8, relu=False)
    slices = torch.randn(6, 20, 7, 6)
    actual = layer.to(torch.float64)(slices.double())
    torch.testing.assert_close(actual, conv3d(slices.double(), weight.double(), bias.double()))
