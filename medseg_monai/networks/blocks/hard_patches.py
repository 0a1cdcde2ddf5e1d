"""Online hard example mining over patches of a scan: training draws patches where the first stage is wrong."""

from __future__ import annotations

import math

import torch

from .valid_windows import tile_starts

__all__ = ["hard_patches", "squared_error"]


def squared_error(probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Average the squared difference between probabilities and the one-hot label over the classes.

    Args:
        probabilities: ``[B, K, D, H, W]``.
        label: ``[B, 1, D, H, W]``, whole values from 0 to ``K - 1``.

    Returns:
        the error ``[B, D, H, W]``.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.hard_patches import squared_error
        >>> probabilities = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 1, 1, 2)  # class 1, then class 0
        >>> squared_error(probabilities, label=torch.tensor([1, 1]).reshape(1, 1, 1, 1, 2))  # the second is wrong
        tensor([[[[0., 1.]]]])
    """
    classes = probabilities.shape[1]
    own = probabilities.gather(1, label.long()).squeeze(1)
    # sum_k (p_k - [k is the label])^2 = sum_k p_k^2 - 2 p_label + 1, without a one-hot map of the scan; channel by
    # channel, since vector_norm takes ten times as long where the channels are not the innermost in memory
    squares = torch.zeros_like(own)
    for channel in probabilities.unbind(1):
        squares.addcmul_(channel, channel)
    return (squares - 2 * own + 1) / classes


def hard_patches(error: torch.Tensor, size: int, *, coverage: float, count: int) -> torch.Tensor:
    """Choose patches among those with the largest integral of the error.

    The candidates are the tiles that a prediction of the whole scan would use. The fraction ``coverage`` of them with
    the largest error is kept, and ``count`` of these are drawn at random (with repetition only if fewer are left).

    Args:
        error: ``[B, D, H, W]``.
        size: edge of a patch; must not be longer than the shortest edge of the scan.
        coverage: fraction ``K`` of the candidates that may be chosen, above 0 and at most 1.
        count: number of patches for each scan.

    Returns:
        the first voxel of each patch, ``[B, count, 3]`` int64.

    Raises:
        ValueError: a scan is smaller than a patch, or the coverage is out of range.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.hard_patches import hard_patches
        >>> error = torch.zeros(1, 4, 8, 8)
        >>> error[0, 1, 6, 5] = 1.0
        >>> hard_patches(error, size=4, coverage=0.25, count=1)  # one tile in four, the one with the error
        tensor([[[0, 4, 4]]])

    Source: Xie et al., "Contextual Two-Stage U-Nets …", Section III-D.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be a fraction above 0 and at most 1, got {coverage}.")
    if min(error.shape[1:]) < size:
        raise ValueError(
            f"A scan of {tuple(error.shape[1:])} voxels has no patch with an edge of {size}: pad it or reduce the size."
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
    # in the order of the tiles, so that what is drawn does not depend on rounding where all are kept
    hardest = integral.flatten(1).topk(math.ceil(coverage * len(corners)), dim=1).indices.sort(dim=1).values
    weights = torch.ones(hardest.shape, device=error.device)
    drawn = torch.multinomial(weights, count, replacement=hardest.shape[1] < count)
    return corners[hardest.gather(1, drawn)]
