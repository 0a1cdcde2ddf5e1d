"""Which values a flat key can have: its type is that of the bundle's value, its range is here, by the key's name."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

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
            else f"{kind} from {self.low:g} to {self.high:.10g}"
        )

    def holds(self, number: float) -> bool:
        is_right_kind = isinstance(number, int) if self.is_whole else -math.inf < number < math.inf
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
    **dict.fromkeys(("lambda_dice", "lambda_ce", "axial_um"), _POSITIVE),
    **dict.fromkeys(("keep_largest", "num_workers", "overlay_cases"), _COUNT),
    "lung_channel": _Range(0, 1, is_whole=True),  # ResCRNet has two channels, whoever trained it
    **dict.fromkeys(("batch_size", "sw_batch_size", "max_epochs", "val_interval", "overlay_interval"), _FROM_ONE),
    **dict.fromkeys(("image_size", "patch_size", "patches", "slices_per_volume", "views_per_image"), _FROM_ONE),
    **dict.fromkeys(("plateau_patience", "stop_patience", "max_image_mib", "accumulation_steps"), _FROM_ONE),
    **dict.fromkeys(("crop_size", "in_plane_size", "filters", "num_blocks", "max_window_voxels"), _FROM_ONE),
    **dict.fromkeys(("features", "stage1_features", "stage2_features", "embedding_channels"), _FROM_ONE),
    "num_lstm_blocks": _COUNT,
    "out_channels": _Range(2, 254, is_whole=True),  # classes, of which 255 is none
    "seed": _Range(0, 2**32 - 1, is_whole=True),  # what NumPy takes
    "ema_decay": _Range(0, 0.999999),  # with 1 the average would stay what it was after the first step
}
#: keys whose values are lists of numbers
_LISTS = ("image_size", "crop_size", "features", "stage1_features", "stage2_features")
#: keys that name one file or folder, or a section of a data list
_TEXTS = ("datalist", "output_dir", "checkpoint", "initial_weights", "section")

#: what a key takes instead of yes or no, if this is the bundle's own value
_AUTO = "auto"
#: the key that takes a file instead, too
_OR_FILE = "pretrained"


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
    if value == default and isinstance(value, (str, type(None))):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else f"expected true or false, got {value!r}"
    if default == _AUTO:
        is_file = key == _OR_FILE and isinstance(value, (str, os.PathLike)) and bool(str(value))
        choices = "true, false, auto or a file" if key == _OR_FILE else "true, false or auto"
        return "" if isinstance(value, bool) or value == _AUTO or is_file else f"expected {choices}, got {value!r}"
    if key == "device":
        return _device_fault(value)
    if key in _TEXTS and not isinstance(value, (str, os.PathLike)):
        return f"expected a text, got {value!r}"
    allowed = _RANGES.get(key, _ANY)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    if key in _LISTS and not (is_list and all(allowed.holds(one) for one in _numbers(value))):
        return f"expected a list, each {allowed}, got {value!r}"
    has_kind = is_number or not isinstance(default, (int, float))
    if not has_kind or (key in _RANGES and not (is_number or is_list)):
        return f"expected {allowed}, got {value!r}"
    return "" if all(allowed.holds(one) for one in _numbers(value)) else f"expected {allowed}, got {value!r}"


def _device_fault(value: Any) -> str:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, TypeError, AssertionError):  # the types of torch for other devices
        return f"expected a device that this machine has, such as cpu or cuda:0, got {value!r}"
    return ""


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value, whether it is one or a list of them."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
