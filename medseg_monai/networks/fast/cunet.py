"""The fast form of CU-Net II: slice by slice, with folded batch norms and fewer multiplications."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medseg_monai.networks.blocks.cunet import CUNet
from medseg_monai.networks.blocks.valid_windows import crop_zero_padded

from .winograd import BLOCK, SliceConvolution

__all__ = ["FastCUNet", "fold_batch_norms"]

_CROPS = (40, 16, 4)
"""Voxels between a skip connection's border and the part that the decoder uses, at levels 1 to 3 of a legal window."""


class FastCUNet(nn.Module):
    """The fast form of a valid :class:`CUNet`: the same logits up to rounding, in less time and much less memory.

    Four things make the difference:

    - Slices flow through the network in stacks of a few. A convolution along the slices keeps the last two of a stack
      for the next one, so nothing is computed twice. The wide feature maps of level 1 never exist as a whole: the part
      of them that the decoder needs is computed again when the decoder gets there, which takes a tenth of the time. A
      window can therefore be as large as a lung, while windows of 132 voxels compute 27 voxels for each that they
      yield.
    - :class:`SliceConvolution` computes convolutions with many channels.
    - A convolution over concatenated maps is the sum of two, so nothing is concatenated. A convolution over an
      upsampled map is split into its taps along the slices and the rows. Their products are computed before the map is
      upsampled along these axes, since both steps are linear; this takes a quarter of the multiplications.
    - Everything is channels last, and batch norms are folded.

    Args:
        network: a CU-Net of valid convolutions; its weights are copied, and later changes are not followed.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import CUNet
        >>> from medseg_monai.networks.fast.cunet import FastCUNet
        >>> network = CUNet(in_channels=1, out_channels=6, features=[2] * 14, padded=False, embedding_channels=2)
        >>> scan, centers = torch.zeros(1, 1, 12, 20, 12), [torch.linspace(-0.5, 0.5, edge)[None] for edge in (4, 5, 4)]
        >>> window = FastCUNet(network)(scan, start=[-40, -40, -40], size=[92, 100, 92], centers=centers)
        >>> torch.cat(list(window)).shape  # slices first; lobes and border together
        torch.Size([4, 7, 12, 4])
    """

    def __init__(self, network: CUNet) -> None:
        super().__init__()
        folded = fold_batch_norms(network)
        self.down1, self.down2, self.down3, self.bridge = (
            nn.ModuleList(SliceConvolution(conv.weight, conv.bias, relu=True) for conv in _pair(block))
            for block in (folded.down1, folded.down2, folded.down3, folded.bridge)
        )
        self.attention = folded.attention
        self.up1, self.up2, self.up3 = (
            _UpBlock(*_pair(block), upsampled=_pair(below)[1].weight.shape[0])
            for block, below in ((folded.up1, folded.bridge), (folded.up2, folded.up1), (folded.up3, folded.up2))
        )
        heads = (folded.lobes, folded.border)
        weight = torch.cat([head.weight.detach()[..., 0] for head in heads])
        self.register_buffer("head_weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("head_bias", torch.cat([head.bias.detach() for head in heads]))
        self.requires_grad_(False).eval()

    head_weight: torch.Tensor
    head_bias: torch.Tensor

    @torch.no_grad()
    def forward(
        self, scan: torch.Tensor, start: list[int], size: list[int], centers: list[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Compute the logits of both heads for one window of a scan, a few slices at a time.

        Args:
            scan: ``[1, in_channels, D, H, W]``; everything outside of it is zero.
            start: first voxel of the window; negative in front of the scan. The middle of the window must lie in the
                scan.
            size: edges of the window: 92, 100, 108, …
            centers: where in the scan the bridge's features look, ``[1, d]``, ``[1, h]`` and ``[1, w]``.

        Yields:
            logits ``[slices, out_channels + 1, H - 88, W - 88]`` from front to back; the lobes come before the border.
        """
        bridge = [(edge - 60) // 8 for edge in size]
        skip2: deque[torch.Tensor] = deque()
        pooled = []
        level2 = _regroup(self._convolutions(self.down2, self._pooled_level1(scan, start, size)), BLOCK)
        for i, rows in enumerate(level2):
            skip2 += _part(rows, i * BLOCK, _CROPS[1], [4 * edge - 8 for edge in bridge])
            pooled.append(_pool(rows))
        (skip3,) = self._convolutions(self.down3, [torch.cat(pooled)])
        pooled.clear()
        (x,) = self._convolutions(self.bridge, [_pool(skip3)])
        if self.attention is not None:
            x = _to_slices(self.attention(x.transpose(0, 1)[None], centers))
        level3 = self.up1([x], bridge[0], _part(skip3, 0, _CROPS[2], [2 * edge for edge in bridge]))
        decoded2 = self.up2(level3, 2 * bridge[0] - 4, _drain(skip2))
        # compute again the part of level 1 that the decoder needs
        used_start, used_size = [first + _CROPS[0] for first in start], [8 * edge - 20 for edge in bridge]
        skip1 = self._convolutions(self.down1, _read(scan, used_start, used_size))
        for rows in self.up3(decoded2, 4 * bridge[0] - 12, skip1):
            yield F.conv2d(rows, self.head_weight, self.head_bias)

    def _pooled_level1(self, scan: torch.Tensor, start: list[int], size: list[int]) -> Iterator[torch.Tensor]:
        """Compute level 1 after pooling; beyond the scan's border it is the same everywhere and is computed once."""
        edges = [edge - 4 for edge in size]
        low = [min(max(-first - 4, 0), edge) // 2 * 2 for first, edge in zip(start, edges, strict=True)]
        high = [min(scan.shape[2 + axis] - start[axis] + 1, edges[axis]) // 2 * 2 for axis in range(3)]
        (outside,) = self._convolutions(self.down1, [scan.new_zeros(5, scan.shape[1], 5, 5)])
        empty = outside.expand(1, -1, edges[1] // 2, edges[2] // 2).contiguous(memory_format=torch.channels_last)
        yield from [empty] * (low[0] // 2)
        first = [start[axis] + low[axis] for axis in range(3)]
        inside = _read(scan, first, [high[axis] - low[axis] + 4 for axis in range(3)])
        for rows in _regroup(self._convolutions(self.down1, inside), 2 * BLOCK):
            pooled = _pool(rows)
            whole = empty.repeat(pooled.shape[0], 1, 1, 1)
            whole[:, :, low[1] // 2 : high[1] // 2, low[2] // 2 : high[2] // 2] = pooled
            yield whole
        yield from [empty] * ((edges[0] - high[0]) // 2)

    @staticmethod
    def _convolutions(layers: Iterable[nn.Module], stacks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for layer in layers:
            stacks = _convolve(layer, stacks)
        return iter(stacks)


class _UpBlock(nn.Module):
    """Two convolutions over an upsampled map followed by a skip connection."""

    def __init__(self, first: Any, second: Any, *, upsampled: int) -> None:
        super().__init__()
        weight = first.weight.detach()
        taps = weight[:, :upsampled].permute(2, 3, 0, 4, 1).flatten(1, 2)[:, :, None].contiguous()
        self.register_buffer("taps", taps.permute(0, 1, 4, 2, 3))  # [3 (z), 3 (y) * C_out, C_in, 1, 3], channels last
        self.skip = SliceConvolution(weight[:, upsampled:], first.bias, relu=False)
        self.second = SliceConvolution(second.weight, second.bias, relu=True)

    taps: torch.Tensor

    def forward(self, low: Iterable[torch.Tensor], count: int, skip: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield stacks of the block's output.

        Args:
            low: stacks of the map to upsample.
            count: total number of its slices.
            skip: stacks of the skip connection, cropped to ``2 * count`` slices and the doubled edges.
        """
        return _convolve(self.second, self._first(low, count, _Slices(skip)))

    def _first(self, low: Iterable[torch.Tensor], count: int, skip: _Slices) -> Iterator[torch.Tensor]:
        products: dict[int, list[torch.Tensor]] = {}  # for each slice of ``low``, one product per tap along the slices
        arrived = done = 0
        for rows in (part for stack in low for part in stack.split(BLOCK // 2)):
            for offset, row in enumerate(self._products(rows)):
                products[arrived + offset] = row
            arrived += rows.shape[0]
            # output slice z needs slices up to (z + 1) // 2 + 1
            ready = 2 * count - 2 if arrived == count else max(0, 2 * arrived - 3) // BLOCK * BLOCK
            if ready == done:
                continue
            out: torch.Tensor = self.skip(skip.take(ready - done + 2, again=2))
            for z in range(done, ready):
                self._add_upsampled(out[z - done], products, z, count)
            done = ready
            for gone in [z for z in products if z < _neighbours(done, count)[0]]:
                del products[gone]
            yield out.relu_()

    def _products(self, rows: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        size = [rows.shape[2], 2 * rows.shape[3]]
        upsampled = F.interpolate(rows, size=size, mode="bilinear", align_corners=True)
        products = [_upsample_rows(F.conv2d(upsampled, tap).chunk(3, dim=1)) for tap in self.taps]
        for z in range(rows.shape[0]):
            yield [product[z] for product in products]

    @staticmethod
    def _add_upsampled(out: torch.Tensor, products: dict[int, list[torch.Tensor]], z: int, count: int) -> None:
        for tap in range(3):
            lower, fraction = _neighbours(z + tap, count)
            out.add_(products[lower][tap], alpha=1 - fraction)
            if fraction > 0:
                out.add_(products[lower + 1][tap], alpha=fraction)


def _upsample_rows(products: Sequence[torch.Tensor]) -> torch.Tensor:
    """Upsample the products with three taps from ``n`` to ``2 n`` rows and add them, each shifted by one row more.

    Upsampled row ``2 m`` lies between rows ``m - 1`` and ``m``, and row ``2 m + 1`` between ``m`` and ``m + 1``.
    """
    slices, channels, count, width = products[0].shape
    beyond = torch.arange(count, dtype=products[0].dtype, device=products[0].device)[:, None] / (2 * count - 1)
    shares = (beyond, beyond.flip(0))  # shares of the row below an even one and of the row above an odd one
    shape = (slices, channels, 2 * count - 2, width)
    out = products[0].new_zeros(shape).contiguous(memory_format=torch.channels_last)
    for parity in range(2):
        rows = out[:, :, parity::2]
        for tap, product in enumerate(products):
            first, odd = divmod(parity + tap, 2)
            for shift, share in ((0, 1 - shares[odd]), (1 if odd else -1, shares[odd])):
                low, high = max(0, -first - shift), min(count - 1, count - first - shift)
                part = product[:, :, low + first + shift : high + first + shift]
                rows[:, :, low:high].addcmul_(part, share[low + first : high + first])
    return out


class _Slices:
    """Slices that arrive in stacks of one size and are taken in stacks of another."""

    def __init__(self, stacks: Iterable[torch.Tensor]) -> None:
        self._stacks = iter(stacks)
        self._held: list[torch.Tensor] = []

    def take(self, count: int, *, again: int = 0) -> torch.Tensor | None:
        """Take the next ``count`` slices, fewer at the end; the last ``again`` of them come first next time."""
        while sum(stack.shape[0] for stack in self._held) < count:
            stack = next(self._stacks, None)
            if stack is None:
                break
            self._held.append(stack)
        if not self._held:
            return None
        held = self._held[0] if len(self._held) == 1 else torch.cat(self._held)
        self._held = [held[count - again :]] if held.shape[0] > count - again else []
        return held[:count]


def _regroup(stacks: Iterable[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """Yield the same slices in stacks of ``count``; the last stack may be smaller."""
    slices = _Slices(stacks)
    while (stack := slices.take(count)) is not None:
        yield stack


def fold_batch_norms(network: CUNet) -> CUNet:
    """Copy a CU-Net in eval mode, with its batch norms folded into the convolutions in front of them.

    Args:
        network: the network to copy; it does not change.

    Returns:
        the copy, which computes the same up to rounding and whose convolutions have a bias.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import CUNet
        >>> from medseg_monai.networks.fast.cunet import fold_batch_norms
        >>> network = CUNet(1, 6, [2] * 14, padded=True, non_local=False).eval()
        >>> folded, x = fold_batch_norms(network), torch.rand(1, 1, 8, 16, 8)
        >>> torch.allclose(folded(x, centers=[])[0], network(x, centers=[])[0], atol=1e-4)
        True
    """
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, Convolution):
            module.conv = fuse_conv_bn_eval(cast(nn.Conv3d, module.conv), cast(Any, module.adn).N)
            cast(Any, module.adn).N = nn.Identity()
    return copied


def _pair(block: nn.Sequential) -> list[Any]:
    """Return the two convolutions of a level."""
    return [cast(Any, layer).conv for layer in block]


def _convolve(layer: nn.Module, stacks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Convolve a volume that arrives in stacks of slices."""
    held: list[torch.Tensor] = []
    depth = 0
    for stack in stacks:
        held.append(stack)
        depth += stack.shape[0]
        if depth < BLOCK + 2:
            continue
        rows = torch.cat(held)
        held, depth = [rows[-2:]], 2
        yield layer(rows)
    if depth > 2:
        yield layer(torch.cat(held))


def _read(scan: torch.Tensor, start: list[int], size: list[int]) -> Iterator[torch.Tensor]:
    """Cut a block out of a scan in stacks; after two convolutions the first stack yields as much as the others."""
    done = 0
    while done < size[0]:
        count = min(2 * BLOCK + (4 if done == 0 else 0), size[0] - done)
        yield _to_slices(crop_zero_padded(scan, [start[0] + done, *start[1:]], [count, *size[1:]]))
        done += count


def _to_slices(volume: torch.Tensor) -> torch.Tensor:
    """Turn ``[1, C, D, H, W]`` into slices ``[D, C, H, W]``, channels last."""
    return volume[0].transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _pool(rows: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(torch.maximum(rows[0::2], rows[1::2]), 2)


def _part(rows: torch.Tensor, first: int, crop: int, edges: list[int]) -> list[torch.Tensor]:
    """Copy the part of the block ``crop`` voxels from each border that lies in this stack, if there is one."""
    front, back = max(crop - first, 0), min(crop + edges[0] - first, rows.shape[0])
    part = rows[front : max(front, back), :, crop : crop + edges[1], crop : crop + edges[2]]
    return [part.clone(memory_format=torch.channels_last)] if part.shape[0] > 0 else []


def _drain(stacks: deque[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the stacks and release them."""
    while stacks:
        yield stacks.popleft()


def _neighbours(position: int, count: int) -> tuple[int, float]:
    """Locate a slice of a map upsampled from ``count`` slices: the slice below it, and the fraction to the next one."""
    lower, rest = divmod(position * (count - 1), 2 * count - 1)
    return lower, rest / (2 * count - 1)
