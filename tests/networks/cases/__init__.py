"""One small case for each registered network: a file of this folder, under the network's name, with its ``CASE``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from medseg_monai.networks import NETWORKS

__all__ = ["CASES", "NetworkCase"]


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """What the suite needs to know of a network.

    Attributes:
        kwargs: constructor arguments.
        parameters: number of trainable parameters with these.
        in_shapes: two legal input shapes, the second not square or not cubic.
        out_channels: channels of the logits.
        illegal_shape: an input shape that the network refuses; ``None`` for one that takes any size.
        padding: the size that the refusal has to name, as it is written there.
        train_inputs: for an input what the network takes beside it in train mode.
    """

    kwargs: dict[str, Any]
    parameters: int
    in_shapes: tuple[tuple[int, ...], tuple[int, ...]]
    out_channels: int
    illegal_shape: tuple[int, ...] | None
    padding: str = ""
    train_inputs: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = lambda x: ()


CASES: dict[str, NetworkCase] = {name: import_module(f"{__name__}.{name}").CASE for name in NETWORKS.names}
