"""Values that a user sets: told from code, and handed to MONAI as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["as_it_is", "is_code"]

_CODE = ("$", "@", "%")  # MONAI's expressions, references and macros


def is_code(value: Any) -> bool:
    """Tell whether MONAI would run a value, look it up or build an object from it instead of taking it as it is.

    Args:
        value: anything that JSON can hold.

    Example:
        >>> is_code([192, 224]), is_code("BGR"), is_code("$print(1)"), is_code({"_target_": "os.system"})
        (False, False, True, True)
    """
    if isinstance(value, str):
        return value.lstrip().startswith(_CODE)
    if isinstance(value, Mapping):
        return "_target_" in value or any(is_code(one) for one in value.values())
    return isinstance(value, (list, tuple)) and any(is_code(one) for one in value)


class _Literal(str):
    """A text in which MONAI leaves the character ``#``, which it takes for a separator of keys wherever it stands."""

    def __str__(self) -> str:
        return self

    def replace(self, old: str, new: str, count: Any = -1) -> str:
        return self if old == "#" else super().replace(old, new, count)


def as_it_is(value: Any) -> Any:
    """A value in which MONAI leaves every ``#``; expressions are MONAI's to read.

    Args:
        value: text, or a list or dictionary with texts; keys stay as they are.
    """
    if isinstance(value, dict):
        return {key: as_it_is(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_it_is(one) for one in value]
    is_plain = isinstance(value, str) and "#" in value and not value.startswith(_CODE)
    return _Literal(value) if is_plain else value
