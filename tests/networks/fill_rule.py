"""Weights that anyone can make again: each tensor follows from its place in the checkpoint, its name and its shape.

Tensor number ``i`` is drawn from ``numpy.random.default_rng(i)`` as standard normal numbers ``z``; its name decides
what becomes of them, so that a deep network neither dies out nor blows up:

====================  ==============================
running mean          ``0.1 z``
running variance      ``1 + 0.25 |z|``
batch counter         0
bias, beta            ``0.05 z``
scale of a norm       ``1 + 0.1 z``
kernel                ``gain z / sqrt(fan)``
====================  ==============================

A scale is any other tensor of one axis, a kernel one of more; ``fan`` is the size of a kernel over its first axis.
A name with a slash is one of Keras, whose statistics are moving and whose kernels have their outputs last; there
``fan`` is the size over the last axis, and that of the taps for a depthwise kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

__all__ = ["make_state", "make_tensor"]


def _fan(key: str, shape: tuple[int, ...]) -> int:
    if "/" not in key:
        return math.prod(shape[1:])
    return math.prod(shape[:2] if key.endswith("/depthwise_kernel") else shape[:-1])


def make_tensor(index: int, key: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    """Make the tensor that stands at place ``index`` (from 0) of the checkpoint."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    z = np.random.default_rng(index).standard_normal(shape)
    if key.endswith(("running_mean", "moving_mean")):
        z *= 0.1
    elif key.endswith(("running_var", "moving_variance")):
        z = 1 + 0.25 * np.abs(z)
    elif key.endswith(("bias", "beta")):
        z *= 0.05
    elif len(shape) == 1:
        z = 1 + 0.1 * z
    else:
        z *= gain / math.sqrt(_fan(key, shape))
    return torch.from_numpy(z.astype(np.float32))


def make_state(shapes: Mapping[str, tuple[int, ...]], gain: Callable[[str], float]) -> dict[str, torch.Tensor]:
    """Make a whole checkpoint; ``shapes`` in the checkpoint's order, ``gain`` from the tensor's name."""
    return {key: make_tensor(index, key, shape, gain(key)) for index, (key, shape) in enumerate(shapes.items())}
