"""The inception block with dilation of DEFU-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import nn

__all__ = ["DilatedInceptionBlock"]


def _conv_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, dilation: tuple[int, int] = (1, 1)
) -> Convolution:
    """Build a convolution that keeps the size, followed by ReLU."""
    act = ("relu", {"inplace": True})
    return Convolution(
        2, in_channels, out_channels, kernel_size=kernel_size, dilation=dilation, adn_ordering="A", act=act
    )


def _strided_conv_relu(in_channels: int, out_channels: int) -> Convolution:
    """Build a 3x3 convolution of stride 2 without padding, followed by ReLU."""
    act = ("relu", {"inplace": True})
    return Convolution(2, in_channels, out_channels, strides=2, kernel_size=3, padding=0, adn_ordering="A", act=act)


def _pad_for_stride_2(x: torch.Tensor) -> torch.Tensor:
    """Pad with zeros as Keras' ``padding="same"`` does for a 3x3 kernel of stride 2.

    An even size is padded by one at its end, an odd size by one at both ends. A trace keeps the choice that it made.
    """
    return F.pad(x, [int(x.shape[3]) % 2, 1, int(x.shape[2]) % 2, 1])


def _average_of_stride_2(x: torch.Tensor) -> torch.Tensor:
    """Average over 3x3 with stride 2 and the same padding, which does not count in the average.

    With ``ceil_mode`` the last window of an even size extends beyond the end by the one pixel that Keras pads there.
    """
    before = [int(x.shape[2]) % 2, int(x.shape[3]) % 2]
    return F.avg_pool2d(x, 3, stride=2, padding=before, ceil_mode=True, count_include_pad=False)


class DilatedInceptionBlock(nn.Module):
    """Dilated inception block: four branches that halve the size, each with a quarter of the output's channels.

    Every convolution has a bias and is followed by ReLU; there is no normalisation. In the order of their
    concatenation, the branches are

    - a: 1x1 of stride 2;
    - b: 1x1, 3x3 of stride 2;
    - c: 3x3 average of stride 2, 3x3 of dilation 1 in height and 2 in width;
    - d: 1x1, 3x3 of dilation 3 in height and 1 in width, 3x3 of stride 2.

    At stride 2 the block pads as the authors' Keras does: an even size is padded by one at the bottom and at the right
    only, and the average leaves the padding out. Padding at both ends, as PyTorch does it, would give other results.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; must be a multiple of 4.

    Raises:
        ValueError: ``out_channels`` is not a multiple of 4.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import DilatedInceptionBlock
        >>> block = DilatedInceptionBlock(in_channels=2, out_channels=8)
        >>> block(torch.zeros(1, 2, 6, 9)).shape  # half the size, rounded up
        torch.Size([1, 8, 3, 5])

    Source: Zhang et al., "DEFU-Net", 2020, Section II-C and Fig. 4; uceclz0/DEFU-Net, defu_net.py.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels % 4 != 0:
            raise ValueError(
                f"The four branches share the output's channels equally: {out_channels} is not a multiple of 4."
            )
        width = out_channels // 4
        self.branch_a = _conv_relu(in_channels, width, 1)
        self.branch_b1 = _conv_relu(in_channels, width, 1)
        self.branch_b2 = _strided_conv_relu(width, width)
        self.branch_c = _conv_relu(in_channels, width, 3, dilation=(1, 2))
        self.branch_d1 = _conv_relu(in_channels, width, 1)
        self.branch_d2 = _conv_relu(width, width, 3, dilation=(3, 1))
        self.branch_d3 = _strided_conv_relu(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features at half the size, rounded up.

        Args:
            x: features of shape ``[B, in_channels, H, W]``.

        Returns:
            features of shape ``[B, out_channels, ceil(H / 2), ceil(W / 2)]``.
        """
        # the same as stride 2, whose gradient oneDNN writes beyond its end for 2 to 15 channels last (torch 2.13)
        a = self.branch_a(x[:, :, ::2, ::2])
        b = self.branch_b2(_pad_for_stride_2(self.branch_b1(x)))
        c = self.branch_c(_average_of_stride_2(x))
        d = self.branch_d3(_pad_for_stride_2(self.branch_d2(self.branch_d1(x))))
        return torch.cat([a, b, c, d], dim=1)
