"""Files written whole or not at all; the lowest room, which every other may know."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``, and rename it to ``path`` when the block ends well.

    A block that raises leaves neither the temporary file nor a half-written ``path``. The folder is made when missing.

    Args:
        path: the file to write or replace.

    Yields:
        The path to write to, with the suffix of ``path``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    try:
        yield temporary
        _flush_to_disc(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disc(path: Path) -> None:
    """Make sure that a power cut after the renaming cannot leave an empty file under the new name."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
