"""The densely connected recurrent convolution (DCRC) block of DEFU-Net."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn

__all__ = ["DenseRecurrentConvBlock"]

_LEAKY_RELU = ("leakyrelu", {"negative_slope": 0.3, "inplace": True})
# the defaults of Keras, whose momentum of 0.99 is PyTorch's 0.01
_BATCH_NORM = ("batch", {"eps": 1e-3, "momentum": 0.01})


def _conv_norm_act(channels: int) -> Convolution:
    return Convolution(2, channels, channels, kernel_size=3, act=_LEAKY_RELU, norm=_BATCH_NORM)


def _pointwise_act(in_channels: int, out_channels: int) -> Convolution:
    return Convolution(2, in_channels, out_channels, kernel_size=1, adn_ordering="A", act=_LEAKY_RELU)


class _RecurrentUnit(nn.Module):
    """Three 3x3 convolutions; the second and the third take the unit's input plus the previous convolution's output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm_act(channels)
        self.conv2 = _conv_norm_act(channels)
        self.conv3 = _conv_norm_act(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = self.conv1(x)
        step = self.conv2(step + x)
        return self.conv3(step + x)


class DenseRecurrentConvBlock(nn.Module):
    """Densely connected recurrent convolution block: two unfolded recurrent units whose outputs are concatenated.

    Let ``k`` be the input brought to ``out_channels`` by a 1x1 convolution without activation (or the input itself if
    it already has that many), ``r1`` and ``r2`` the recurrent units, and ``c1`` to ``c3`` 1x1 convolutions with
    LeakyReLU. The block computes ``l1 = c1 [r1 k, k]`` and ``l2 = c2 [r2 l1, k]`` and returns ``c3 [l2, l1, k]``. A
    unit consists of three 3x3 convolutions, each followed by batch normalisation (eps 1e-3) and LeakyReLU (slope 0.3):
    ``u = v1 x``, ``u = v2 (u + x)``, ``v3 (u + x)``. All convolutions have a bias.

    The paper calls the units recurrent. In the authors' code, which produced the published figures, the unfolded steps
    do not share weights, and neither do they here. The slope and eps are the defaults of their Keras.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import DenseRecurrentConvBlock
        >>> block = DenseRecurrentConvBlock(in_channels=1, out_channels=4)
        >>> block(torch.zeros(2, 1, 6, 8)).shape
        torch.Size([2, 4, 6, 8])

    Source: Zhang et al., "DEFU-Net", 2020, Section II-B, Fig. 2 and Fig. 3; uceclz0/DEFU-Net, defu_net.py.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.project = nn.Identity() if same else Conv[Conv.CONV, 2](in_channels, out_channels, kernel_size=1)
        self.unit1 = _RecurrentUnit(out_channels)
        self.merge1 = _pointwise_act(2 * out_channels, out_channels)
        self.unit2 = _RecurrentUnit(out_channels)
        self.merge2 = _pointwise_act(2 * out_channels, out_channels)
        self.merge = _pointwise_act(3 * out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features.

        Args:
            x: features of shape ``[B, in_channels, H, W]``.

        Returns:
            features of shape ``[B, out_channels, H, W]``.
        """
        skip = self.project(x)
        first = self.merge1(torch.cat([self.unit1(skip), skip], dim=1))
        second = self.merge2(torch.cat([self.unit2(first), skip], dim=1))
        return self.merge(torch.cat([second, first, skip], dim=1))
