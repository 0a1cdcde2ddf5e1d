"""Table VI's Inception blocks, term by term, and how many parameters CE-Net has with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg_monai.networks.blocks import InceptionBlock, InceptionResNetBlock
from medseg_monai.networks.nets import CENet


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 5, 7)


def with_biases(block: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in block.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return block


def convolve(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A convolution with zeros around the image, written out by its kernel."""
    size = layer.weight.shape[-1]
    columns = functional.unfold(x, size, padding=size // 2)
    y = layer.weight.flatten(1) @ columns + layer.bias[:, None]
    return y.unflatten(2, x.shape[2:])


def largest_of_nine(x: torch.Tensor) -> torch.Tensor:
    around = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    height, width = x.shape[2:]
    shifted = [around[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted).amax(0)


def test_the_inception_block_adds_three_convolutions_and_a_maximum(x):
    block = with_biases(InceptionBlock(3))
    first = convolve(block.conv_1x1, x)
    branches = first, convolve(block.conv_3x3, first), convolve(block.conv_5x5, first)
    expected = sum(branch.clamp(min=0) for branch in branches) + largest_of_nine(x)
    torch.testing.assert_close(block(x), expected)


def test_the_inception_resnet_block_adds_two_merged_branches_to_its_input(x):
    block = with_biases(InceptionResNetBlock(3))
    first = convolve(block.conv_1x1, x)
    branches = torch.cat([first, convolve(block.conv_3x3, first)], dim=1).clamp(min=0)
    merged = convolve(block.merge, branches).clamp(min=0)
    torch.testing.assert_close(block(x), x + convolve(block.conv_1x1, merged).clamp(min=0))


@pytest.mark.parametrize(("context", "parameters"), [("inception", 30_833_473), ("inception_resnet", 24_804_161)])
def test_the_backbone_with_it_has_as_many_parameters_as_with_the_authors_block(context, parameters):
    with torch.device("meta"):
        network = CENet(context=context, multi_kernel_pooling=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
