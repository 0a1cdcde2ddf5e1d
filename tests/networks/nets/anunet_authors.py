"""The authors' ANU-Net checkpoint (lichen14/Attention-unet-plusplus): names and shapes in order, weights by rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from tests.networks.fill_rule import make_state

__all__ = ["FULL", "QUARTER", "author_shapes", "author_state"]

Named = Iterator[tuple[str, tuple[int, ...]]]
FULL, QUARTER = (32, 64, 128, 256, 512), (8, 16, 32, 64, 128)
DEPTH = 4


def _conv_norm(conv: str, norm: str, out: int, *kernel: int) -> Named:
    """A convolution with bias and ``out`` output channels, and its normalisation."""
    yield f"{conv}.weight", kernel
    yield f"{conv}.bias", (out,)
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{key}", (out,)
    yield f"{norm}.num_batches_tracked", ()


def _all_shapes(widths: Sequence[int], in_channels: int, out_channels: int) -> Named:
    gate_widths = (widths[0], *(width // 2 for width in widths[1:]))
    for level in reversed(range(DEPTH)):
        up = f"Up{level + 2}.up"
        yield from _conv_norm(f"{up}.0", f"{up}.1", widths[level], widths[level + 1], widths[level], 2, 2)
    nodes = [(level, column) for column in range(DEPTH + 1) for level in range(DEPTH + 1 - column)]
    for level, column in nodes:
        width, name = widths[level], f"conv{level}_{column}"
        above = in_channels if level == 0 else widths[level - 1]
        inputs = above if column == 0 else (column + 1) * width
        yield from _conv_norm(f"{name}.conv1", f"{name}.bn1", width, width, inputs, 3, 3)
        yield from _conv_norm(f"{name}.conv2", f"{name}.bn2", width, width, width, 3, 3)
    for level, column in nodes:
        if column > 0:
            width, gate_width, name = widths[level], gate_widths[level], f"Att{level}_{column}"
            yield from _conv_norm(f"{name}.W_g.0", f"{name}.W_g.1", gate_width, gate_width, width, 1, 1)
            yield from _conv_norm(f"{name}.W_x.0", f"{name}.W_x.1", gate_width, gate_width, width, 1, 1)
            yield from _conv_norm(f"{name}.psi.0", f"{name}.psi.1", 1, 1, gate_width, 1, 1)
    for level in range(1, DEPTH + 1):
        yield f"final{level}.0.weight", (out_channels, widths[0], 1, 1)
        yield f"final{level}.0.bias", (out_channels,)


def author_shapes(
    widths: Sequence[int] = FULL, in_channels: int = 1, out_channels: int = 1
) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' checkpoint."""
    return dict(_all_shapes(widths, in_channels, out_channels))


def author_state(
    widths: Sequence[int] = QUARTER, in_channels: int = 1, out_channels: int = 1
) -> dict[str, torch.Tensor]:
    """The whole rule-made checkpoint."""
    return make_state(author_shapes(widths, in_channels, out_channels), lambda key: math.sqrt(2))
