"""The authors' DEFU-Net (uceclz0/DEFU-Net): its layers in the order of their creation, and weights by rule.

Layers are named by their role, as in the reference vectors: ``dcrc0_conv0``, ``incep3_conv6``. What a file of Keras
calls them instead is in ``keras_file.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from tests.networks.fill_rule import make_state
from tests.networks.keras_file import Layers

__all__ = ["author_layers", "author_shapes", "inception_shapes", "recurrent_shapes"]

Named = Iterator[tuple[str, tuple[int, ...]]]
FEATURES = (64, 128, 256, 512)


def _conv(name: str, size: int, width_in: int, width_out: int) -> Named:
    yield f"{name}/kernel", (size, size, width_in, width_out)
    yield f"{name}/bias", (width_out,)


def recurrent_shapes(name: str, width_in: int, width: int) -> Named:
    """One densely connected recurrent block."""
    convs, norms = (map(f"{name}_{kind}{{}}".format, itertools.count()) for kind in ("conv", "bn"))
    if width_in != width:
        yield from _conv(next(convs), 1, width_in, width)
    for _ in range(2):
        for _ in range(3):
            yield from _conv(next(convs), 3, width, width)
            norm = next(norms)
            for role in ("gamma", "beta", "moving_mean", "moving_variance"):
                yield f"{norm}/{role}", (width,)
        yield from _conv(next(convs), 1, 2 * width, width)
    yield from _conv(next(convs), 1, 3 * width, width)


def inception_shapes(name: str, width_in: int, width: int) -> Named:
    """One inception block; ``width`` is that of a branch."""
    for number, (size, first) in enumerate(
        [(1, True), (1, True), (3, False), (3, True), (1, True), (3, False), (3, False)]
    ):
        yield from _conv(f"{name}_conv{number}", size, width_in if first else width, width)


def _all_shapes(in_channels: int, f: tuple[int, ...]) -> Named:
    yield from recurrent_shapes("dcrc0", in_channels, f[0])
    yield from recurrent_shapes("dcrc1", f[0], f[1])
    yield from inception_shapes("incep0", f[0], f[1] // 4)
    yield from recurrent_shapes("dcrc2", f[1], f[2])
    yield from inception_shapes("incep1", f[1], f[2] // 4)
    yield from recurrent_shapes("dcrc3", f[2], f[3])
    yield from inception_shapes("incep2", f[2], f[3] // 4)
    yield from inception_shapes("incep3", f[3], f[3] // 4)
    yield from recurrent_shapes("dcrc4", f[3], f[3])
    for number, (width_in, width) in enumerate([(f[3], f[2]), (f[2], f[1]), (f[1], f[0]), (f[0], f[0])], start=5):
        yield from recurrent_shapes(f"dcrc{number}", 2 * width_in, width)
    yield from _conv("final_conv0", 1, f[0], 1)


def author_shapes(in_channels: int = 1, features: tuple[int, ...] = FEATURES) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' network."""
    return dict(_all_shapes(in_channels, features))


def author_layers(shapes: dict[str, tuple[int, ...]]) -> Layers:
    """The rule-made weights, layer by layer, by role."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in make_state(shapes, lambda key: 1.2).items():
        layer, role = key.split("/")
        layers.setdefault(layer, {})[role] = tensor.numpy()
    return layers
