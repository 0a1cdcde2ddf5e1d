"""One small case for each registered network; a new network adds one entry to ``CASES``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CASES", "NetworkCase"]


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """What the suite needs to know of a network.

    Attributes:
        kwargs: constructor arguments.
        parameters: number of trainable parameters with these.
        in_shapes: two legal input shapes, the second not square.
        out_channels: channels of the logits.
        illegal_shape: an input shape that the network refuses.
        padding: the size that the refusal has to name, as it is written there.
    """

    kwargs: dict[str, Any]
    parameters: int
    in_shapes: tuple[tuple[int, ...], tuple[int, ...]]
    out_channels: int
    illegal_shape: tuple[int, ...]
    padding: str


CASES: dict[str, NetworkCase] = {
    "cenet": NetworkCase(
        kwargs={"in_channels": 3, "out_channels": 2},
        parameters=29_003_382,
        in_shapes=((1, 3, 192, 192), (1, 3, 192, 224)),
        out_channels=2,
        illegal_shape=(1, 3, 200, 100),
        padding="224x192",
    ),
}
