"""Which values a flat key can have: its type is that of the bundle's value, its range is here, by the key's name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["value_fault"]


@dataclass(frozen=True)
class _Range:
    low: float = -math.inf
    high: float = math.inf
    is_whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a finite number" if self == _ANY else "a number"
        if math.isinf(self.low):
            return kind
        return (
            f"{kind} of at least {self.low:g}"
            if math.isinf(self.high)
            else f"{kind} from {self.low:g} to {self.high:g}"
        )

    def holds(self, number: float) -> bool:
        is_right_kind = float(number).is_integer() if self.is_whole else math.isfinite(number)
        return is_right_kind and self.low <= number <= self.high


_ANY = _Range()
_SHARE = _Range(0, 1)
_POSITIVE = _Range(0)
_COUNT = _Range(0, is_whole=True)
_FROM_ONE = _Range(1, is_whole=True)

_RANGES: Mapping[str, _Range] = {
    **dict.fromkeys(("threshold", "dropout", "momentum", "cache_rate", "coverage_end", "top_k", "val_split"), _SHARE),
    **dict.fromkeys(("flip_rows", "flip_columns", "plateau_factor"), _SHARE),
    **dict.fromkeys(("learning_rate", "weight_decay", "poly_power", "smooth", "max_grad_norm"), _POSITIVE),
    **dict.fromkeys(("keep_largest", "num_workers", "seed", "overlay_cases"), _COUNT),
    "lung_channel": _Range(0, 1, is_whole=True),  # ResCRNet has two channels, whoever trained it
    **dict.fromkeys(("batch_size", "sw_batch_size", "max_epochs", "val_interval", "overlay_interval"), _FROM_ONE),
    **dict.fromkeys(("image_size", "patch_size", "patches", "slices_per_volume", "max_window_voxels"), _FROM_ONE),
    **dict.fromkeys(("plateau_patience", "stop_patience", "max_image_mib", "accumulation_steps"), _FROM_ONE),
    "ema_decay": _Range(0, 0.999999),  # with 1 the average would stay what it was after the first step
}

#: what a key takes instead of yes or no, if this is the bundle's own value
_AUTO = "auto"


def value_fault(key: str, value: Any, default: Any) -> str:
    """Say what is wrong with a value of a flat key.

    A bundle that has a number or yes or no for a key takes nothing else, and a number is always finite. Where it has
    ``auto``, yes and no decide it.

    Args:
        key: the key.
        value: the value, which is no expression.
        default: the bundle's own value, or an expression for it.

    Returns:
        what was expected and what was given; empty if nothing is wrong.

    Example:
        >>> from medseg_monai.bundle.ranges import value_fault
        >>> value_fault("threshold", 0.4, 0.5)
        ''
        >>> value_fault("threshold", float("nan"), 0.5)
        'expected a number from 0 to 1, got nan'
        >>> value_fault("amp", "perhaps", True)
        "expected true or false, got 'perhaps'"
    """
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else f"expected true or false, got {value!r}"
    if default == _AUTO:
        return "" if isinstance(value, bool) or value == _AUTO else f"expected true, false or auto, got {value!r}"
    allowed = _RANGES.get(key, _ANY)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (isinstance(default, (int, float)) and not is_number) or not all(allowed.holds(one) for one in _numbers(value)):
        return f"expected {allowed}, got {value!r}"
    return ""


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value, whether it is one or a list of them."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
