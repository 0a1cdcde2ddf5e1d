"""The authors' Res-CR-Net (dgattiwsu/Res-CR-Net): its layers in the order of their creation, and weights by rule.

Layers are named by their role, as in the reference vectors: ``stem0_sep1``, ``res3_bn0``, ``lstm0_bilstm1``. What a
file of Keras calls them instead is in ``keras_file.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.networks.fill_rule import make_state
from tests.networks.keras_file import Layers

__all__ = ["author_layers", "author_shapes"]

Named = Iterator[tuple[str, tuple[int, ...]]]


def _norm(name: str, width: int) -> Named:
    for role in ("gamma", "beta", "moving_mean", "moving_variance"):
        yield f"{name}/{role}", (width,)


def _separable(name: str, size: int, width_in: int, width: int) -> Named:
    yield f"{name}/depthwise_kernel", (size, size, width_in, 1)
    yield f"{name}/pointwise_kernel", (1, 1, width_in, width)
    yield f"{name}/bias", (width,)


def _pointwise(name: str, width_in: int, width: int) -> Named:
    yield f"{name}/kernel", (1, 1, width_in, width)
    yield f"{name}/bias", (width,)


def _conv_block(name: str, width_in: int, filters: int, width: int) -> Named:
    before = 0 if name == "stem0" else 1
    if before:
        yield from _norm(f"{name}_bn0", width_in)
    for branch, size in enumerate((3, 5, 7)):
        yield from _separable(f"{name}_sep{2 * branch}", size, width_in, filters)
        yield from _norm(f"{name}_bn{before + branch}", filters)
        yield from _separable(f"{name}_sep{2 * branch + 1}", size, filters, filters)
    yield from _pointwise(f"{name}_conv0", width_in, width)
    yield from _norm(f"{name}_bn{before + 3}", width)


def _lstm_block(number: int, width_in: int, classes: int) -> Named:
    yield from _pointwise(f"lstm{number}_conv0", width_in, classes)
    for axis in range(2):
        inner = "conv_lstm2d" + (f"_{2 * number + axis}" if number + axis else "")
        for direction in ("forward", "backward"):
            for role in ("kernel", "recurrent_kernel"):
                yield f"lstm{number}_bilstm{axis}/{direction}_{inner}/{role}", (3, classes, 1, 4)
            yield f"lstm{number}_bilstm{axis}/{direction}_{inner}/bias", (4,)


def author_shapes(
    in_channels: int = 3, classes: int = 4, filters: int = 16, blocks: int = 5, lstm_blocks: int = 1, wide: int = 3
) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' network; ``wide`` is 3 if it concatenates branches, 1 if it adds them up."""
    width = wide * filters
    shapes = dict(_conv_block("stem0", in_channels, filters, width))
    for block in range(blocks):
        shapes |= _conv_block(f"res{block}", width, filters, width)
    for number in range(lstm_blocks):
        shapes |= _lstm_block(number, classes if number else width, classes)
    if lstm_blocks == 0:
        shapes |= _pointwise("head0_conv0", width, classes)
    return shapes


def author_layers(shapes: dict[str, tuple[int, ...]]) -> Layers:
    """The rule-made weights, layer by layer, by role."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in make_state(shapes, lambda key: 1.1).items():
        layer, role = key.split("/", 1)
        layers.setdefault(layer, {})[role] = tensor.numpy()
    return layers
