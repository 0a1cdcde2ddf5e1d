"""Which file the memory did not suffice for: neither Python nor MONAI says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TypeVar

from medseg_monai.errors import memory_for

__all__ = ["names_file"]

Reader = TypeVar("Reader")
Result = TypeVar("Result")


def names_file(get_data: Callable[[Reader, Sequence[Path]], Result]) -> Callable[[Reader, Sequence[Path]], Result]:
    """Let a reader's ``get_data`` name its file if the memory does not suffice for it.

    Args:
        get_data: the method of the reader.
    """

    @wraps(get_data)
    def named(self: Reader, img: Sequence[Path]) -> Result:
        with memory_for(", ".join(str(path) for path in img)):
            return get_data(self, img)

    return named
