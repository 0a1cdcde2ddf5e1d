"""Prediction of whole scans by CTSU-Net: stage 1 once, then stage 2 in large windows where stage 1 finds lung."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import nn

from medseg_monai.networks.blocks.valid_windows import MARGIN, check_window, legal_output
from medseg_monai.networks.nets import CTSUNet

__all__ = ["TwoStageInferer", "plan_output"]

BACKGROUND_LOGIT = 20.0
"""Logit of the background outside the box that stage 2 sees; the lobes' logits are 0 there."""

GROWTH = 12
"""Voxels by which the box grows at a face that a lobe touches; as a legal output it wastes little computation."""


def plan_output(edges: list[int], max_window_voxels: int) -> list[int]:
    """Compute the edges of the largest tiles within a size limit that cover a box evenly.

    A tile's input is larger than its output by 88 voxels along each axis, so few large tiles cost far less than many
    small ones.

    Args:
        edges: edges of the box.
        max_window_voxels: largest number of voxels in a tile's input.

    Returns:
        edges of a tile's output, each of which is legal for valid convolutions.

    Example:
        >>> from medseg_monai.inferers.ctsunet import plan_output
        >>> plan_output([100, 200, 100], max_window_voxels=30_000_000)  # one tile covers the box
        [100, 204, 100]
        >>> plan_output([100, 200, 100], max_window_voxels=8_000_000)  # two tiles
        [100, 100, 100]
    """
    tiles = [1, 1, 1]
    while True:
        output = [legal_output(math.ceil(edge / count)) for edge, count in zip(edges, tiles, strict=True)]
        if math.prod(edge + 2 * MARGIN for edge in output) <= max_window_voxels or max(output) == legal_output(1):
            return output
        longest = max(range(3), key=output.__getitem__)
        while legal_output(math.ceil(edges[longest] / tiles[longest])) == output[longest]:
            tiles[longest] += 1


class TwoStageInferer(Inferer):
    """Predict a whole scan with :class:`CTSUNet`.

    Stage 1 sees the scan once. Stage 2 sees the bounding box of what stage 1 classifies as lung, with a margin. Where a
    predicted lobe reaches a face of the box, the box grows there until no lobe touches that face or the scan ends, so
    that no lobe is cut off. If stage 1 finds no lung at all, stage 2 sees the whole scan.

    Larger windows of stage 2 waste less computation (a window of 132 voxels yields 44) and let its attention see more
    of the scan. The authors' code corresponds to ``window=132``.

    Args:
        window: edge of stage 2's input: 92, 100, 108, …; ``None`` takes the largest tiles within ``max_window_voxels``.
        max_window_voxels: size limit of a tile's input if ``window`` is ``None``. ``None`` takes the network's own
            limit: 8 million for a plain :class:`CTSUNet` (about 300 bytes of memory a voxel at full width), 30 million
            for its fast form (about 100 bytes).
        lung_only: ``False`` lets stage 2 see the whole scan.
        margin: number of voxels around the bounding box of stage 1's lung; 2 as in the authors' code.

    Raises:
        ValueError: ``window`` is not legal.

    Example:
        >>> import torch
        >>> from medseg_monai.inferers import TwoStageInferer
        >>> from medseg_monai.networks.nets import CTSUNet
        >>> widths = {"stage1_features": [2] * 14, "stage2_features": [2] * 14, "embedding_channels": 2}
        >>> network = CTSUNet(**widths).eval().fast_form()
        >>> TwoStageInferer()(torch.zeros(1, 1, 32, 32, 32), network).shape
        torch.Size([1, 6, 32, 32, 32])

    Source: Xie et al., "Contextual Two-Stage U-Nets …", Section IV-D; the box from
    DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, test.py.
    """

    def __init__(
        self,
        *,
        window: int | None = None,
        max_window_voxels: int | None = None,
        lung_only: bool = True,
        margin: int = 2,
    ) -> None:
        super().__init__()
        if window is not None:
            check_window(window)
        self.window = window
        self.max_window_voxels = max_window_voxels
        self.lung_only = lung_only
        self.margin = margin

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the logits of every voxel.

        Args:
            inputs: scans ``[B, C, D, H, W]`` as :meth:`CTSUNet.forward` takes them.
            network: a :class:`CTSUNet`, or its wrapper for distributed training.
            args: further arguments of MONAI's inferers, which are ignored.
            kwargs: further keyword arguments of MONAI's inferers, which are ignored.

        Returns:
            logits ``[B, out_channels, D, H, W]``; the metadata of a :class:`monai.data.MetaTensor` is kept.

        Raises:
            TypeError: the network is not a :class:`CTSUNet`.
        """
        inner = getattr(network, "module", network)
        if not isinstance(inner, CTSUNet):
            raise TypeError(f"TwoStageInferer needs a CTSUNet, got {type(inner).__name__}.")
        scans = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        logits = torch.cat([self._predict(scan[None], inner) for scan in scans])
        return MetaTensor(logits).copy_meta_from(inputs, copy_attr=True) if isinstance(inputs, MetaTensor) else logits

    def _predict(self, scan: torch.Tensor, network: CTSUNet) -> torch.Tensor:
        size = list(scan.shape[2:])
        lobes, border = network.first_stage(scan)
        start, stop = self._lung_box(lobes, size)
        context = network.context(scan, lobes, border)
        logits = torch.zeros([1, lobes.shape[1], *size], dtype=lobes.dtype, device=lobes.device)
        logits[:, 0] = BACKGROUND_LOGIT
        self._fill(logits, context, network, start, stop)
        while (grown := _touched_face(logits, start, stop)) is not None:
            axis, at_end = grown
            slab_start, slab_stop = list(start), list(stop)
            if at_end:
                slab_start[axis], slab_stop[axis] = stop[axis], min(stop[axis] + GROWTH, size[axis])
                stop[axis] = slab_stop[axis]
            else:
                slab_start[axis], slab_stop[axis] = max(start[axis] - GROWTH, 0), start[axis]
                start[axis] = slab_start[axis]
            self._fill(logits, context, network, slab_start, slab_stop)
        return logits

    def _lung_box(self, lobes: torch.Tensor, size: list[int]) -> tuple[list[int], list[int]]:
        found = lobes[0].argmax(dim=0) > 0
        if not self.lung_only or not found.any():
            return [0, 0, 0], list(size)
        start, stop = [], []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            (places,) = found.any(dim=others).nonzero(as_tuple=True)
            start.append(max(2 * int(places[0]) - self.margin, 0))
            stop.append(min(2 * int(places[-1]) + 2 + self.margin, size[axis]))
        return start, stop

    def _fill(
        self, logits: torch.Tensor, context: torch.Tensor, network: CTSUNet, start: list[int], stop: list[int]
    ) -> None:
        edges = [last - first for first, last in zip(start, stop, strict=True)]
        if self.window is None:
            output = plan_output(edges, self.max_window_voxels or network.max_window_voxels)
        else:
            output = [self.window - 2 * MARGIN] * 3
        z, y, x = (slice(first, last) for first, last in zip(start, stop, strict=True))
        logits[:, :, z, y, x] = network.second_stage(context, start, stop, output)


def _touched_face(logits: torch.Tensor, start: list[int], stop: list[int]) -> tuple[int, bool] | None:
    """Find a face of the box inside the scan that a lobe touches: its axis, and whether it is at the end of the box."""
    for axis in range(3):
        for at_end, inside in ((False, start[axis] > 0), (True, stop[axis] < logits.shape[2 + axis])):
            place = stop[axis] - 1 if at_end else start[axis]
            if inside and bool((logits.select(2 + axis, place).argmax(dim=1) > 0).any()):
                return axis, at_end
    return None
