"""One small case for each registered network; a new network adds one entry to ``CASES``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

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


def _label(x: torch.Tensor) -> torch.Tensor:
    """Any label: what matters in this suite is that there is one."""
    return torch.arange(x[:, :1].numel()).reshape(x[:, :1].shape) % 6


CASES: dict[str, NetworkCase] = {
    "anunet": NetworkCase(
        kwargs={"out_channels": 2, "features": (4, 6, 8, 10, 12)},
        parameters=21_738,
        in_shapes=((1, 1, 32, 32), (1, 1, 32, 48)),
        out_channels=2,
        illegal_shape=(1, 1, 40, 17),
        padding="48x32",
    ),
    "cenet": NetworkCase(
        kwargs={"in_channels": 3, "out_channels": 2},
        parameters=29_003_382,
        in_shapes=((1, 3, 192, 192), (1, 3, 192, 224)),
        out_channels=2,
        illegal_shape=(1, 3, 200, 100),
        padding="224x192",
    ),
    "ctsunet": NetworkCase(
        kwargs={
            "stage1_features": (4, 4, 4, 6, 6, 6, 8, 8, 6, 6, 6, 4, 4, 4),
            "stage2_features": (4, 4, 6, 6, 6, 6, 8, 8, 6, 6, 6, 6, 4, 4),
            "embedding_channels": 4,
            "patch_size": 92,
        },
        parameters=30_042,
        in_shapes=((1, 1, 32, 32, 32), (1, 1, 32, 48, 32)),
        out_channels=6,
        illegal_shape=(1, 1, 33, 40, 16),
        padding="48x48x32",
        train_inputs=lambda x: (_label(x),),
    ),
    "defunet": NetworkCase(
        kwargs={"out_channels": 2, "features": (8, 12, 16, 20)},
        parameters=119_078,
        in_shapes=((1, 1, 32, 32), (1, 1, 32, 48)),
        out_channels=2,
        illegal_shape=(1, 1, 40, 17),
        padding="48x32",
    ),
    "rescrnet": NetworkCase(
        kwargs={"in_channels": 1, "out_channels": 2},
        parameters=47_189,
        in_shapes=((1, 1, 21, 21), (1, 1, 23, 30)),
        out_channels=2,
        illegal_shape=None,
    ),
}
