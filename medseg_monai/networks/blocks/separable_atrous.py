"""Residual blocks of separable atrous convolutions (Res-CR-Net), with a fast and exact algorithm for the latter."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_weight

__all__ = ["PointwiseConv2d", "ResidualAtrousBlock", "SeparableAtrousConv2d", "he_normal_", "keras_batch_norm"]

SLOPE = 0.1
"""Slope of every leaky ReLU in Res-CR-Net."""

# kernel size and dilation of the three branches (Section 1.3)
_BRANCHES = ((3, 1), (5, 3), (7, 5))
# oneDNN computes the weight gradient of depthwise kernels fast only up to this number of columns
_STRIP = 3
# numbers in a tile: 4 MiB, so that it is still in the cache when the next step reads it
_TILE = 2**20


def he_normal_(weight: torch.Tensor, fan_in: int) -> None:
    """Fill ``weight`` in place like Keras' ``he_normal``: a normal distribution cut off at two standard deviations.

    Args:
        weight: tensor of any shape.
        fan_in: number of inputs of one output, as Keras counts them; the standard deviation after the cut is
            ``sqrt(2 / fan_in)``.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.separable_atrous import he_normal_
        >>> weight = torch.empty(100_000)
        >>> he_normal_(weight, fan_in=8)
        >>> round(weight.std().item(), 2), bool(weight.abs().max() < 1.2)
        (0.5, True)
    """
    std = math.sqrt(2.0 / fan_in) / 0.87962566103423978  # what the cut leaves of a standard deviation of 1
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def keras_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Build a batch normalisation with Keras' defaults: epsilon 1e-3 and momentum 0.99, which PyTorch calls 0.01.

    Args:
        channels: channels of the input.

    Example:
        >>> from medseg_monai.networks.blocks.separable_atrous import keras_batch_norm
        >>> norm = keras_batch_norm(4)
        >>> norm.eps, norm.momentum
        (0.001, 0.01)
    """
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _take(tile: torch.Tensor, x: torch.Tensor, offset: int, first: int) -> None:
    """Copy every ``d``-th row of ``x`` from ``offset`` on into ``tile``; every ``d``-th column is an image of its own.

    ``tile`` is ``[N, d, rows, columns, C]``, zero except for an earlier copy; ``x`` is ``[N, H, W, C]``. An image
    starts at the column ``first`` of the tile. Where ``d`` does not divide the size of ``x``, the rows and columns that
    an image lacks are zero.
    """
    dilation = tile.shape[1]
    if x.shape[1] % dilation != 0 or x.shape[2] % dilation != 0:
        tile.zero_()
    for j in range(dilation):
        part = x[:, offset::dilation, j::dilation]
        tile[:, j, : part.shape[1], first : first + part.shape[2]] = part


def _put(tile: torch.Tensor, x: torch.Tensor, offset: int, first: int) -> None:
    """Copy a tile back to the place that :func:`_take` copied it from."""
    dilation = tile.shape[1]
    for j in range(dilation):
        part = x[:, offset::dilation, j::dilation]
        part.copy_(tile[:, j, : part.shape[1], first : first + part.shape[2]])


def _tile_shape(x: torch.Tensor, dilation: int, beside: int, numbers: int = _TILE) -> list[int]:
    """Compute the shape of the tiles of ``x`` ``[B, H, W, C]``, with ``beside`` columns of zeros beside each image."""
    rows, columns = -(-x.shape[1] // dilation), -(-x.shape[2] // dilation) + beside
    images = max(1, min(x.shape[0], numbers // max(1, dilation * rows * columns * x.shape[3])))
    return [images, dilation, rows, columns, x.shape[3]]


def _depthwise(tile: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the undilated depthwise convolution of every image of a tile."""
    images = tile.flatten(0, 1).permute(0, 3, 1, 2)
    images = F.conv2d(images, weight, padding=weight.shape[2] // 2, groups=images.shape[1])
    return images.permute(0, 2, 3, 1).contiguous().view(tile.shape)


def _tiled_separable_conv(
    x: torch.Tensor, depthwise: torch.Tensor, pointwise: torch.Tensor, bias: torch.Tensor, dilation: int
) -> torch.Tensor:
    """Compute the separable convolution, dilated by ``dilation``, as undilated convolutions of tiles."""
    x, pointwise = x.permute(0, 2, 3, 1), pointwise.flatten(1)
    out = x.new_empty([x.shape[0], x.shape[1], x.shape[2], pointwise.shape[0]])
    shape = _tile_shape(x, dilation, 0)
    memory = x.new_zeros(shape)
    for start in range(0, x.shape[0], shape[0]):
        part, out_part = x[start : start + shape[0]], out[start : start + shape[0]]
        tile = memory[: part.shape[0]]
        for offset in range(dilation):
            _take(tile, part, offset, 0)
            _put(F.linear(_depthwise(tile, depthwise), pointwise, bias), out_part, offset, 0)
    return out.permute(0, 3, 1, 2)


class _TiledSeparableConv(torch.autograd.Function):
    """:func:`_tiled_separable_conv` with a backward pass of fast parts, for which it keeps only its input.

    In the backward pass each image of a tile has ``kernel // 2`` columns of zeros beside it, one of them in front. An
    image shifted by some columns is then the same memory read from another place, without a copy, and a row that is
    read beyond its end continues with zeros. The gradient of the depthwise kernel is computed from such shifts, in
    strips of three columns.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        depthwise: torch.Tensor,
        pointwise: torch.Tensor,
        bias: torch.Tensor,
        dilation: int,
    ) -> torch.Tensor:
        ctx.dilation = dilation
        ctx.save_for_backward(x, depthwise, pointwise)
        return _tiled_separable_conv(x, depthwise, pointwise, bias, dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, depthwise, pointwise = ctx.saved_tensors
        x, grad = x.permute(0, 2, 3, 1), grad_outputs[0].permute(0, 2, 3, 1)
        flipped, mix = depthwise.flip(2, 3), pointwise.flatten(1)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_depthwise, grad_mix = torch.zeros_like(depthwise), torch.zeros_like(mix)

        half = depthwise.shape[2] // 2
        first, beside = (1, half) if half > 1 else (0, 0)
        shape = _tile_shape(x, ctx.dilation, beside)
        margin = half * x.shape[3]
        step = shape[0]
        for start in range(0, x.shape[0], step):
            part, grad_part = x[start : start + step], grad[start : start + step]
            shape[0] = part.shape[0]
            memory = x.new_zeros(math.prod(shape) + 2 * margin)
            tile = memory[margin : memory.numel() - margin].view(shape)
            grad_tile = grad.new_zeros(*shape[:-1], grad.shape[3])
            for offset in range(ctx.dilation):
                _take(tile, part, offset, first)
                _take(grad_tile, grad_part, offset, first)
                flat = grad_tile.flatten(0, 3)
                grad_mix.addmm_(flat.t(), _depthwise(tile, depthwise).flatten(0, 3))
                grad_middle = (flat @ mix).view(shape)
                grad_depthwise += _depthwise_weight_gradient(memory, grad_middle.flatten(0, 1), depthwise.shape)
                if grad_x is not None:
                    # oneDNN computes a convolution with the flipped kernel faster than its own "backward data"
                    _put(_depthwise(grad_middle, flipped), grad_x[start : start + step], offset, first)
        return (
            None if grad_x is None else grad_x.permute(0, 3, 1, 2),
            grad_depthwise,
            grad_mix.view_as(pointwise),
            grad.sum((0, 1, 2)),
            None,
        )


def _depthwise_weight_gradient(memory: torch.Tensor, grad: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Compute the gradient of a depthwise kernel of ``shape``, strip by strip.

    ``grad`` is ``[N, rows, columns, C]``; ``memory`` holds images of the same shape, with a margin of half a kernel
    before the first and after the last.
    """
    channels, _, size, _ = shape
    half = size // 2
    grad_images = grad.permute(0, 3, 1, 2)
    strips = []
    for start in range(0, size, _STRIP):
        columns = 1 if start == size - 1 else _STRIP  # where two columns are left, three are computed
        offset = (start + columns // 2) * channels
        shifted = memory[offset : offset + grad.numel()].view(grad.shape).permute(0, 3, 1, 2)
        strip = conv2d_weight(
            shifted, (channels, 1, size, columns), grad_images, padding=(half, columns // 2), groups=channels
        )
        strips.append(strip[..., : size - start])
    return torch.cat(strips, dim=3)


def _is_recorded() -> bool:
    """Whether the operations are recorded (traced, exported or compiled) and not just run.

    A recorded loop over tiles would hold for one size only, and has thousands of operations.
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return False
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore[attr-defined]


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution; on the CPU it is one matrix product over the pixels, and its output is channels last.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.separable_atrous import PointwiseConv2d
        >>> PointwiseConv2d(in_channels=3, out_channels=2)(torch.zeros(1, 3, 6, 8)).shape
        torch.Size([1, 2, 6, 8])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def reset_parameters(self) -> None:
        """Draw the kernel from Keras' ``he_normal`` and set the bias to zero."""
        he_normal_(self.weight, self.in_channels)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the channels: ``[B, in_channels, H, W]`` to ``[B, out_channels, H, W]``."""
        if x.is_cuda or _is_recorded():
            return self._conv_forward(x, self.weight, self.bias)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class SeparableAtrousConv2d(nn.Module):
    """Dilated depthwise convolution without bias, directly followed by a pointwise one with bias; the size is kept.

    On the CPU a convolution of dilation ``d`` is computed, channels last, as undilated convolutions of images that hold
    every ``d``-th row and column. The sums are the same, since a dilated kernel never mixes those images. (oneDNN has
    no fast backward pass for dilated depthwise convolutions, and no fast forward pass either for large kernels.) The
    work is done in tiles that fit the cache, and the backward pass recomputes the values between the two convolutions
    instead of keeping them. ``benchmarks/README.md`` lists the measured gain. On CUDA, without dilation, and when
    traced, exported or compiled the block is two plain convolutions. Under autocast on the CPU it computes in its
    weights' precision.

    Kernels start from Keras' ``he_normal``, which counts the size of a depthwise kernel times *all* channels as its
    ``fan_in``; biases start from zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the depthwise kernel; must be odd.
        dilation: dilation of the depthwise kernel.

    Raises:
        ValueError: ``kernel_size`` is even.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import SeparableAtrousConv2d
        >>> conv = SeparableAtrousConv2d(in_channels=3, out_channels=4, kernel_size=5, dilation=3)
        >>> conv(torch.zeros(1, 3, 10, 7)).shape
        torch.Size([1, 4, 10, 7])
        >>> x = torch.rand(1, 3, 10, 7)
        >>> torch.allclose(conv(x), conv.pointwise(conv.depthwise(x)), atol=1e-5)
        True

    Source: Abdallah et al., Res-CR-Net, Section 1.3 and Fig. 1; ``SeparableConv2D`` in the authors' Keras.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"SeparableAtrousConv2d takes odd kernel sizes, got {kernel_size}.")
        self.dilation = dilation
        self.depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        self.pointwise = PointwiseConv2d(in_channels, out_channels)
        he_normal_(self.depthwise.weight, in_channels * kernel_size**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve: ``[B, in_channels, H, W]`` of any size to ``[B, out_channels, H, W]``."""
        if self.dilation == 1 or x.is_cuda or _is_recorded():
            return self.pointwise(self.depthwise(x))
        depthwise, pointwise, bias = self.depthwise.weight, self.pointwise.weight, self.pointwise.bias
        assert bias is not None
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            # under autocast too it computes in the weights' precision: oneDNN's bfloat16 gradient of a 7x7 depthwise
            # kernel of dilation 5 crashes the process (PyTorch 2.13, channels last, 16 channels)
            with torch.autocast("cpu", enabled=False):
                return _TiledSeparableConv.apply(x.to(depthwise.dtype), depthwise, pointwise, bias, self.dilation)
        if torch.is_grad_enabled():  # TorchScript's autograd cannot follow a tile that is filled repeatedly
            return self.pointwise(self.depthwise(x))
        return _tiled_separable_conv(x, depthwise, pointwise, bias, self.dilation)


class _Branch(nn.Module):
    """One branch: separable convolution, batch normalisation, leaky ReLU, separable convolution."""

    def __init__(self, in_channels: int, filters: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = SeparableAtrousConv2d(in_channels, filters, kernel_size, dilation)
        self.norm = keras_batch_norm(filters)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        self.conv2 = SeparableAtrousConv2d(filters, filters, kernel_size, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.activation(self.norm(self.conv1(x))))


class ResidualAtrousBlock(nn.Module):
    """STEM or CONV RES block of Res-CR-Net: three branches of separable atrous convolutions beside a 1x1 shortcut.

    The branches have kernels of 3, 5 and 7 and dilations of 1, 3 and 5; each consists of a separable convolution, batch
    normalisation, leaky ReLU of slope 0.1 and a second separable convolution. They are concatenated (or added up), and
    the shortcut, a 1x1 convolution with batch normalisation, is added. No activation follows the sum.

    In a CONV RES block batch normalisation and leaky ReLU come before the branches, and the shortcut takes the input as
    it is (as in the authors' code; Fig. 1 marks them with a star). A STEM block does not have these two layers.

    Args:
        in_channels: channels of the input.
        filters: channels of each branch.
        stem: whether this is the STEM block.
        merge: ``"concat"`` gives the output ``3 * filters`` channels; ``"add"`` sums the branches, so that it has
            ``filters`` (an option of the authors' code).

    Raises:
        ValueError: ``merge`` is unknown.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import ResidualAtrousBlock
        >>> block = ResidualAtrousBlock(in_channels=3, filters=4)
        >>> block.out_channels
        12
        >>> block(torch.zeros(2, 3, 10, 7)).shape
        torch.Size([2, 12, 10, 7])

    Source: Abdallah et al., Res-CR-Net, Section 1.3 and Fig. 1.
    """

    def __init__(self, in_channels: int, filters: int, *, stem: bool = False, merge: str = "concat") -> None:
        super().__init__()
        if merge not in ("concat", "add"):
            raise ValueError(f'merge must be "concat" or "add", got {merge!r}.')
        self.concat = merge == "concat"
        self.out_channels = len(_BRANCHES) * filters if self.concat else filters
        self.before = nn.Identity() if stem else nn.Sequential(keras_batch_norm(in_channels), nn.LeakyReLU(SLOPE, True))
        self.branches = nn.ModuleList(_Branch(in_channels, filters, size, dilation) for size, dilation in _BRANCHES)
        self.shortcut = PointwiseConv2d(in_channels, self.out_channels)
        self.shortcut_norm = keras_batch_norm(self.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the block.

        Args:
            x: features of shape ``[B, in_channels, H, W]`` of any size.

        Returns:
            features of shape ``[B, out_channels, H, W]``.
        """
        active = self.before(x)
        out = self.shortcut_norm(self.shortcut(x))
        parts = [branch(active) for branch in self.branches]
        if self.concat:
            out += torch.cat(parts, dim=1)
        else:
            for part in parts:
                out += part
        return out
