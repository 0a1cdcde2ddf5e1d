"""Values that a user sets: told from code, and handed to MONAI as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .loader import BundleError

__all__ = ["check_values", "is_code"]

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


def check_values(values: Mapping[str, Any], source: str) -> None:
    """Refuse values that would be run as code.

    Args:
        values: flat keys and their values.
        source: where they come from, for the message.

    Raises:
        BundleError: a value is code.
    """
    for key, value in values.items():
        if is_code(value):
            raise BundleError(
                f"{source} {key}={value}: would be run as code; give a value, or --allow-expressions if you trust it."
            )
