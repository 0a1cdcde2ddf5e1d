"""Batch norms whose statistics are exact in channels-last memory too."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional

__all__ = ["use_exact_batch_norms"]

#: values of a piece that are squared at once, so that they stay in the processor's cache
_PIECE = 65536


def use_exact_batch_norms(network: nn.Module) -> nn.Module:
    """Let the batch norms of a network compute their statistics exactly in a training with channels-last memory.

    On a CPU torch (2.13) adds up channels-last values one by one in float32. Over the million voxels of a patch the
    normalised values are then wrong by 1e-3, and by 1e-4 over the pixels of a batch of images, where the default layout
    is exact to 1e-6. Weights, their names and the results in eval mode stay as they are.

    Args:
        network: network whose ``BatchNorm2d`` and ``BatchNorm3d`` are changed.

    Returns:
        the same network.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.channels_last_norm import use_exact_batch_norms
        >>> norm = use_exact_batch_norms(torch.nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
        >>> x = (100 + torch.rand(2, 3, 300, 400)).contiguous(memory_format=torch.channels_last)
        >>> exact = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
        >>> bool((norm(x) - exact).abs().max() < 1e-4)
        True
    """
    for module in network.modules():
        if type(module) in _EXACT:
            module.__class__ = _EXACT[type(module)]
    return network


class _ExactStatistics(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise ``[B, C, *spatial]``."""
        mean, variance, count = self.running_mean, self.running_var, self.num_batches_tracked
        momentum = self.momentum  # without one, torch averages over all batches
        if mean is None or variance is None or count is None or not momentum or not self._adds_one_by_one(input):
            return super().forward(input)
        x = input.as_tensor() if isinstance(input, MetaTensor) else input
        output, batch_mean, batch_variance = _Normalise.apply(x, self.weight, self.bias, self.eps)
        values = x.numel() // x.shape[1]
        count.add_(1)
        mean.lerp_(batch_mean, momentum)
        variance.lerp_(batch_variance * (values / max(values - 1, 1)), momentum)
        return output

    def _adds_one_by_one(self, x: torch.Tensor) -> bool:
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return bool(
            self.training
            and self.affine
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=layout)
        )


class _ExactBatchNorm2d(_ExactStatistics, nn.BatchNorm2d):
    pass


class _ExactBatchNorm3d(_ExactStatistics, nn.BatchNorm3d):
    pass


_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: _ExactBatchNorm2d,
    nn.BatchNorm3d: _ExactBatchNorm3d,
}


class _Normalise(torch.autograd.Function):
    """torch's normalisation, forward and backward, with statistics that are given to it."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, variance = _statistics(x)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        return (*gradients, None)


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel; torch's sums are exact over rows."""
    rows = x.movedim(1, -1).flatten(0, -2)
    mean = rows.sum(0) / len(rows)
    squares = [(piece - mean).square_().sum(0) for piece in rows.split(max(1, _PIECE // x.shape[1]))]
    return mean, torch.stack(squares).sum(0) / len(rows)
