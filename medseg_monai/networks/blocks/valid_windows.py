"""Windows of a U-Net of three levels with valid convolutions: legal sizes, tiles, crops that reach over the border."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["MARGIN", "SMALLEST_OUTPUT", "check_window", "crop_zero_padded", "legal_output", "tile_starts"]

MARGIN = 44
"""Voxels that the valid convolutions take off on each side."""

SMALLEST_OUTPUT = 4
"""Edge of the smallest output; legal ones are 4, 12, 20, … (inputs 92, 100, 108, …)."""


def check_window(window: int) -> None:
    """Make sure that an input window is legal.

    Args:
        window: edge of the input in voxels.

    Raises:
        ValueError: it is not one of 92, 100, 108, …; names the nearest that are.
    """
    if window < SMALLEST_OUTPUT + 2 * MARGIN or window % 8 != 4:
        smallest = SMALLEST_OUTPUT + 2 * MARGIN
        larger = max(smallest, (window + 3) // 8 * 8 + 4)
        fitting = sorted({max(smallest, larger - 8), larger})
        raise ValueError(
            f"A window of {window} voxels does not fit valid convolutions at three levels: "
            f"take {' or '.join(map(str, fitting))}."
        )


def legal_output(extent: int) -> int:
    """Edge of the smallest legal output that covers ``extent`` voxels.

    Args:
        extent: voxels to cover, at least 1.
    """
    return (extent + 3) // 8 * 8 + 4


def tile_starts(start: int, stop: int, output: int) -> list[int]:
    """First voxels of tiles side by side over ``start`` to ``stop``; the last one is shifted back to end at ``stop``.

    Args:
        start: first voxel to cover.
        stop: voxel after the last one to cover.
        output: edge of a tile; one that is longer than the range makes a single tile from ``start``.
    """
    starts: list[int] = []
    position = start
    while position + output < stop:
        starts.append(position)
        position += output
    starts.append(max(start, stop - output))
    return starts


def crop_zero_padded(x: torch.Tensor, start: list[int], size: list[int]) -> torch.Tensor:
    """Cut a block out of ``x``; what lies outside of ``x`` is zero.

    Args:
        x: ``[B, C, D, H, W]``.
        start: first voxel along each axis, negative in front of ``x``.
        size: edges of the block.

    Returns:
        ``[B, C, *size]``.
    """
    low = [max(0, start[axis]) for axis in range(3)]
    high = [max(low[axis], min(x.shape[2 + axis], start[axis] + size[axis])) for axis in range(3)]
    inside = x[:, :, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    padding: list[int] = []
    for axis in (2, 1, 0):
        front = min(low[axis] - start[axis], size[axis])
        padding += [front, size[axis] - front - (high[axis] - low[axis])]
    return F.pad(inside, padding)
