"""Windows of a three-level U-Net with valid convolutions: legal sizes, tiles, and crops beyond the scan's border."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["MARGIN", "SMALLEST_OUTPUT", "check_window", "crop_zero_padded", "legal_output", "tile_starts"]

MARGIN = 44
"""Voxels that the valid convolutions remove on each side."""

SMALLEST_OUTPUT = 4
"""Edge of the smallest output; legal ones are 4, 12, 20, … (inputs 92, 100, 108, …)."""


def check_window(window: int) -> None:
    """Make sure that an input window is legal.

    Args:
        window: edge of the input in voxels.

    Raises:
        ValueError: it is not one of 92, 100, 108, …; the message names the nearest legal ones.

    Example:
        >>> from medseg_monai.networks.blocks.valid_windows import check_window
        >>> check_window(132)
        >>> check_window(128)
        Traceback (most recent call last):
        ValueError: A window of 128 voxels does not fit valid convolutions at three levels: take 124 or 132.
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
    """Compute the edge of the smallest legal output that covers ``extent`` voxels.

    Args:
        extent: number of voxels to cover, at least 1.

    Example:
        >>> from medseg_monai.networks.blocks.valid_windows import legal_output
        >>> [legal_output(extent) for extent in (1, 4, 5, 44)]
        [4, 4, 12, 44]
    """
    return (extent + 3) // 8 * 8 + 4


def tile_starts(start: int, stop: int, output: int) -> list[int]:
    """List the first voxels of tiles that cover ``start`` to ``stop`` side by side.

    The last tile is shifted back to end at ``stop``.

    Args:
        start: first voxel to cover.
        stop: voxel after the last one to cover.
        output: edge of a tile; if it is longer than the range, there is one tile, which begins at ``start``.

    Example:
        >>> from medseg_monai.networks.blocks.valid_windows import tile_starts
        >>> tile_starts(0, 30, 12)
        [0, 12, 18]
    """
    starts: list[int] = []
    position = start
    while position + output < stop:
        starts.append(position)
        position += output
    starts.append(max(start, stop - output))
    return starts


def crop_zero_padded(x: torch.Tensor, start: list[int], size: list[int]) -> torch.Tensor:
    """Cut a block out of ``x``; the part of the block outside of ``x`` is zero.

    Args:
        x: ``[B, C, D, H, W]``.
        start: first voxel along each axis; negative in front of ``x``.
        size: edges of the block.

    Returns:
        the block ``[B, C, *size]``.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks.valid_windows import crop_zero_padded
        >>> crop_zero_padded(torch.ones(1, 1, 1, 1, 3), start=[0, 0, -2], size=[1, 1, 4])
        tensor([[[[[0., 0., 1., 1.]]]]])
    """
    low = [max(0, start[axis]) for axis in range(3)]
    high = [max(low[axis], min(x.shape[2 + axis], start[axis] + size[axis])) for axis in range(3)]
    inside = x[:, :, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    padding: list[int] = []
    for axis in (2, 1, 0):
        front = min(low[axis] - start[axis], size[axis])
        padding += [front, size[axis] - front - (high[axis] - low[axis])]
    return F.pad(inside, padding)
