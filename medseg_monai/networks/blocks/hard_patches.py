"""Online hard example mining over patches of a scan: train where the first stage errs."""

from __future__ import annotations

import math

import torch

from .valid_windows import tile_starts

__all__ = ["hard_patches", "squared_error"]


def squared_error(probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean over the classes of the squared difference between probabilities and the one-hot label.

    Args:
        probabilities: ``[B, K, D, H, W]``.
        label: ``[B, 1, D, H, W]``, whole values from 0 to ``K - 1``.

    Returns:
        ``[B, D, H, W]``.
    """
    classes = probabilities.shape[1]
    own = probabilities.gather(1, label.long()).squeeze(1)
    # sum_k (p_k - [k is the label])^2 = sum_k p_k^2 - 2 p_label + 1, without a one-hot map of the scan; by channels, as
    # vector_norm over them takes ten times as long where they are not the innermost in memory
    squares = torch.zeros_like(own)
    for channel in probabilities.unbind(1):
        squares.addcmul_(channel, channel)
    return (squares - 2 * own + 1) / classes


def hard_patches(error: torch.Tensor, size: int, *, coverage: float, count: int) -> torch.Tensor:
    """Choose patches among those with the largest integral of the error.

    The candidates are the tiles that a prediction of the whole scan would take. Of these the fraction ``coverage`` with
    the largest error stays, and ``count`` of them are drawn at random (with repetition only if fewer are left).

    Args:
        error: ``[B, D, H, W]``.
        size: edge of a patch, not longer than the scan's shortest.
        coverage: fraction ``K`` of the candidates that may be chosen, above 0 up to 1.
        count: patches for each scan.

    Returns:
        first voxel of each patch, ``[B, count, 3]`` int64.

    Raises:
        ValueError: a scan that is smaller than a patch, or a coverage out of range.

    Source: Xie et al., "Contextual Two-Stage U-Nets …", Section III-D.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is a fraction above 0 up to 1, got {coverage}.")
    if min(error.shape[1:]) < size:
        raise ValueError(
            f"A scan of {tuple(error.shape[1:])} voxels has no patch with an edge of {size}: pad it or take smaller."
        )
    starts = [torch.tensor(tile_starts(0, edge, size), device=error.device) for edge in error.shape[1:]]
    integral = error.double()
    for axis, first in enumerate(starts, start=1):
        total = integral.cumsum(axis)
        before = total.index_select(axis, (first - 1).clamp(min=0))
        first_row = [1] * total.ndim
        first_row[axis] = -1
        integral = total.index_select(axis, first + size - 1) - before * (first > 0).reshape(first_row)
    corners = torch.cartesian_prod(*starts)
    hardest = integral.flatten(1).topk(math.ceil(coverage * len(corners)), dim=1).indices
    weights = torch.ones(hardest.shape, device=error.device)
    drawn = torch.multinomial(weights, count, replacement=hardest.shape[1] < count)
    return corners[hardest.gather(1, drawn)]
