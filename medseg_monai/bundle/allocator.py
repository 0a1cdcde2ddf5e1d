"""The C library's memory allocator in a training."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors in the process, for the next step of a training.

    By default glibc asks the system for each tensor above 32 MiB and gives it back, so that the system clears each one,
    page by page, in every step. The process needs more memory at its peak; ``benchmarks/README.md`` has figures.

    Returns:
        whether the C library could be told; only glibc can.

    Example:
        >>> from medseg_monai.bundle.allocator import keep_freed_memory
        >>> keep_freed_memory() in (True, False)
        True
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt that does nothing
        return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER))
    except (AttributeError, OSError, TypeError):  # no glibc; no library under this name
        return False
