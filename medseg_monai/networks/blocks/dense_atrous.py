"""The dense atrous convolution (DAC) block of CE-Net."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn

__all__ = ["DenseAtrousConvBlock"]


class DenseAtrousConvBlock(nn.Module):
    """Dense atrous convolution block: four cascades of dilated convolutions, added to their input.

    Let ``d1``, ``d3``, ``d5`` be the 3x3 convolutions of dilation 1, 3 and 5 and ``c`` the 1x1 convolution. The output
    is ``x + relu(d1 x) + relu(c d3 x) + relu(c d3 d1 x) + relu(c d5 d3 d1 x)``.

    The paper's text puts a 1x1 convolution into each branch and reads as if every branch had weights of its own. The
    published figures come from the authors' code, which shares ``d1``, ``d3``, ``d5`` and ``c`` between the branches
    and has no 1x1 convolution in the first branch and no activation between stacked convolutions. This block does the
    same.

    Args:
        channels: number of channels of the input and of the output.
        atrous: ``False`` sets every dilation to 1, the ablation "DAC w/o atrous" of the paper's Table VI.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import DenseAtrousConvBlock
        >>> block = DenseAtrousConvBlock(channels=4)
        >>> block(torch.zeros(1, 4, 6, 8)).shape
        torch.Size([1, 4, 6, 8])

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section II-B.2 and Fig. 3.
    """

    def __init__(self, channels: int, *, atrous: bool = True) -> None:
        super().__init__()
        conv_type = Conv[Conv.CONV, 2]
        dilations = (1, 3, 5) if atrous else (1, 1, 1)
        self.conv_d1, self.conv_d3, self.conv_d5 = (
            conv_type(channels, channels, kernel_size=3, dilation=dilation, padding=dilation) for dilation in dilations
        )
        self.conv_1x1 = conv_type(channels, channels, kernel_size=1)
        for conv in (self.conv_d1, self.conv_d3, self.conv_d5, self.conv_1x1):
            nn.init.zeros_(conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the four branches to ``x``.

        Args:
            x: features of shape ``[B, channels, H, W]``.

        Returns:
            features of the same shape.
        """
        first = self.conv_d1(x)
        second = self.conv_d3(x)
        third = self.conv_d3(first)
        fourth = self.conv_d5(third)
        out = x + torch.relu(first)
        for branch in (second, third, fourth):
            out = out + torch.relu(self.conv_1x1(branch))
        return out
