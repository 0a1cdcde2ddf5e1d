"""The two Inception blocks that CE-Net's authors compare with dense atrous convolution."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional

__all__ = ["InceptionBlock", "InceptionResNetBlock"]


class InceptionBlock(nn.Module):
    """Inception block: a 1x1, a 3x3 and a 5x5 convolution and a max pooling, added up.

    Let ``c1``, ``c3``, ``c5`` be convolutions of these sizes that keep the number of channels. The output is
    ``relu(c1 x) + relu(c3 c1 x) + relu(c5 c1 x) + pool x``, with a 3x3 max pooling of stride 1. This is the authors'
    code, which shares ``c1`` between the branches, and adds where an Inception block concatenates.

    Args:
        channels: number of channels of the input and of the output.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import InceptionBlock
        >>> InceptionBlock(channels=4)(torch.zeros(1, 4, 6, 8)).shape
        torch.Size([1, 4, 6, 8])

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Table VI ("Backbone + Inception"); Guzaiwang/CE-Net, networks/cenet.py.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1x1, self.conv_3x3, self.conv_5x5 = (_conv(channels, channels, size) for size in (1, 3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the four branches.

        Args:
            x: features of shape ``[B, channels, H, W]``.

        Returns:
            features of the same shape.
        """
        reduced = self.conv_1x1(x)
        pooled = functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.relu(reduced) + torch.relu(self.conv_3x3(reduced)) + torch.relu(self.conv_5x5(reduced)) + pooled


class InceptionResNetBlock(nn.Module):
    """Inception-ResNet block: two branches, concatenated, reduced and added to their input.

    Let ``c1`` be a 1x1 and ``c3`` a 3x3 convolution that keep the number of channels, and ``m`` a 1x1 convolution that
    halves it. The output is ``x + relu(c1 relu(m [relu(c1 x), relu(c3 c1 x)]))``; as in the authors' code, the first
    convolution and the last are the same ``c1``.

    Args:
        channels: number of channels of the input and of the output.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import InceptionResNetBlock
        >>> InceptionResNetBlock(channels=4)(torch.zeros(1, 4, 6, 8)).shape
        torch.Size([1, 4, 6, 8])

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Table VI ("Backbone + Inception-ResNet"); Guzaiwang/CE-Net,
    networks/cenet.py.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1x1, self.conv_3x3 = (_conv(channels, channels, size) for size in (1, 3))
        self.merge = _conv(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what the two branches give to ``x``.

        Args:
            x: features of shape ``[B, channels, H, W]``.

        Returns:
            features of the same shape.
        """
        reduced = self.conv_1x1(x)
        branches = torch.cat([torch.relu(reduced), torch.relu(self.conv_3x3(reduced))], dim=1)
        return x + torch.relu(self.conv_1x1(torch.relu(self.merge(branches))))


def _conv(in_channels: int, out_channels: int, size: int) -> nn.Module:
    conv: nn.Conv2d = Conv[Conv.CONV, 2](in_channels, out_channels, kernel_size=size, padding=size // 2)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
