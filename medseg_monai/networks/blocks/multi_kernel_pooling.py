"""The residual multi-kernel pooling (RMP) block of CE-Net."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional

__all__ = ["ResidualMultiKernelPooling"]


class ResidualMultiKernelPooling(nn.Module):
    """Residual multi-kernel pooling: four pooled context maps are concatenated in front of the input.

    Max pooling with kernel and stride 2, 3, 5 and 6 gives four maps. A 1x1 convolution, which the four share, reduces
    each to one channel (as in the authors' code; the paper says "a 1x1 convolution after each level"). Bilinear
    interpolation with ``align_corners=False`` brings the maps back to the input's size, and ``[4 maps, x]`` are
    concatenated.

    Args:
        channels: number of channels of the input; the output has ``channels + 4``.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import ResidualMultiKernelPooling
        >>> block = ResidualMultiKernelPooling(channels=5)
        >>> x = torch.rand(1, 5, 6, 8)
        >>> block(x).shape
        torch.Size([1, 9, 6, 8])
        >>> torch.equal(block(x)[:, 4:], x)
        True

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section II-B.3 and Fig. 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, 2](channels, 1, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenate the pooled context with ``x``.

        Args:
            x: features of shape ``[B, channels, H, W]``; ``H`` and ``W`` must be at least 6.

        Returns:
            features of shape ``[B, channels + 4, H, W]``.
        """
        height, width = x.shape[2], x.shape[3]
        maps = []
        for kernel_size in (2, 3, 5, 6):  # TorchScript can unroll a literal tuple
            pooled = self.conv(functional.max_pool2d(x, kernel_size=kernel_size, stride=kernel_size))
            maps.append(functional.interpolate(pooled, size=(height, width), mode="bilinear", align_corners=False))
        return torch.cat(maps + [x], dim=1)  # noqa: RUF005 - TorchScript does not support unpacking
