"""Valid 3x3x3 convolution of stacked slices with half the multiplications: Winograd's F(4, 3) along the slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["BLOCK", "SliceConvolution"]

BLOCK = 4
"""Output slices that one Winograd step computes together."""

_WIDE = 16
"""Number of input channels from which the transforms cost less than they save."""

_BAND = 8192
"""Voxels of a slice that each thread transforms at a time, so that intermediate results stay in the core's cache."""

_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""Maps the three taps along the slices to the six transformed kernels (interpolation points 0, ±1, ±2, infinity)."""


class SliceConvolution(nn.Module):
    """Valid 3x3x3 convolution over slices ``[D, C, H, W]``, for prediction only.

    Slices that follow each other in the batch dimension, channels last in memory, are both a batch for 2D convolutions
    and a volume for 3D ones, without a copy. Four output slices take twelve 2D convolutions, three for each slice;
    after Winograd's transform along the slices they take six and some additions. Convolutions with few input channels
    are computed directly, and so are the slices that remain of a stack whose depth is not a multiple of four.

    Args:
        weight: kernels ``[C_out, C_in, 3, 3, 3]``.
        bias: ``[C_out]``.
        relu: whether ReLU follows.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.fast.winograd import SliceConvolution
        >>> weight, bias = torch.rand(2, 16, 3, 3, 3) - 0.5, torch.zeros(2)
        >>> slices = torch.rand(6, 16, 5, 7)
        >>> out = SliceConvolution(weight, bias, relu=False)(slices)
        >>> out.shape
        torch.Size([4, 2, 3, 5])
        >>> volume = torch.nn.functional.conv3d(slices.transpose(0, 1)[None], weight, bias)
        >>> torch.allclose(out, volume[0].transpose(0, 1), atol=1e-4)
        True

    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, F(4, 3).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    kernels: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        stacked = weight.detach().transpose(1, 2).flatten(1, 2)  # the three taps along the slices as channels
        self.register_buffer("weight", stacked.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach().clone())
        self.is_wide = weight.shape[1] >= _WIDE
        self.register_buffer("kernels", _transform(weight.detach()) if self.is_wide else torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve a stack of slices.

        Args:
            x: ``[D, C_in, H, W]`` with at least 3 voxels in each direction.

        Returns:
            ``[D - 2, C_out, H - 2, W - 2]``, channels last.
        """
        depth = x.shape[0] - 2
        # an accelerator's own library chooses better, and the transform would harm half precision
        blocks = depth // BLOCK if self.is_wide and x.device.type == "cpu" and x.dtype == torch.float32 else 0
        if blocks == 0:
            return self._direct(x)
        shape = (depth, self.bias.shape[0], x.shape[2] - 2, x.shape[3] - 2)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        band = max(1, _BAND * torch.get_num_threads() // shape[3])
        for z in range(0, blocks * BLOCK, BLOCK):
            for y in range(0, shape[2], band):
                self._block(x[z : z + BLOCK + 2, :, y : y + band + 2], out[z : z + BLOCK, :, y : y + band])
        if depth > blocks * BLOCK:
            out[blocks * BLOCK :] = self._direct(x[blocks * BLOCK :])
        return out

    def _direct(self, x: torch.Tensor) -> torch.Tensor:
        stacked = torch.cat([x[:-2], x[1:-1], x[2:]], dim=1)
        out = F.conv2d(stacked, self.weight, self.bias)
        return out.relu_() if self.relu else out

    def _block(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Compute four slices of output from six of input."""
        kernels = self.kernels
        x0, x1, x2, x3, x4, x5 = x.split(1)
        # multiply the transform of x with the transformed kernels, each pair from its even and its odd part
        even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
        m1, m2 = F.conv2d(even + odd, kernels[1]), F.conv2d(even.sub_(odd), kernels[2])
        even, odd = x4 - x2, x3 - x1
        m3 = F.conv2d(torch.add(even, odd, alpha=2), kernels[3])
        m4 = F.conv2d(even.sub_(odd, alpha=2), kernels[4])
        m0 = F.conv2d(torch.sub(x0, x2, alpha=1.25).mul_(4).add_(x4), kernels[0])
        m5 = F.conv2d(torch.sub(x1, x3, alpha=1.25).mul_(4).add_(x5), kernels[5])
        # transform back; the bias enters through the two sums that all four slices contain
        out0, out1, out2, out3 = out.split(1)
        sum12, difference12 = m1 + m2, m1.sub_(m2).add_(self.bias[:, None, None])
        sum34, difference34 = m3 + m4, m3.sub_(m4)
        sum12.add_(self.bias[:, None, None])
        torch.add(m0.add_(sum12), sum34, out=out0)
        torch.add(difference12, difference34, alpha=2, out=out1)
        torch.add(sum12, sum34, alpha=4, out=out2)
        torch.add(m5.add_(difference12), difference34, alpha=8, out=out3)
        if self.relu:
            out.relu_()


def _transform(weight: torch.Tensor) -> torch.Tensor:
    """Compute the six kernels ``[6, C_out, C_in, 3, 3]`` of F(4, 3) in double precision, each channels last."""
    factors = torch.tensor(_TRANSFORM, dtype=torch.float64, device=weight.device)
    kernels = torch.einsum("kz,oizyx->koyxi", factors, weight.double()).to(weight.dtype).contiguous()
    return kernels.permute(0, 1, 4, 2, 3)
