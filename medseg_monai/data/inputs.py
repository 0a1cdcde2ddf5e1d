"""What a user points at, turned into cases; what is ambiguous is refused."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from .datalist import Item
from .readers import RASTER_SUFFIXES

__all__ = ["find_images"]


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Item]:
    """List the 2D images that files and folders stand for.

    A folder stands for the image files directly in it, told by their suffix; hidden files are left out. A file that is
    named is taken whatever its suffix.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path}`` with absolute paths, each file once, in the order given and sorted within a folder.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without an image, or two files whose predictions would have the same name.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: dict[Path, None] = {}
    for entry in given:
        path = Path(entry)
        for file in _images_in(path) if path.is_dir() else [_existing(path)]:
            found[Path(os.path.abspath(file))] = None  # without "..", so that a file named twice is seen to be one
    _refuse_equal_names(found)
    return [{"image": str(file)} for file in found]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    return path


def _images_in(folder: Path) -> list[Path]:
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    images = [p for p in files if p.suffix.lower().lstrip(".") in RASTER_SUFFIXES]
    if not images:
        raise ValueError(f"{folder}: no image in this folder (looked for {', '.join(RASTER_SUFFIXES)}).")
    return images


def _refuse_equal_names(files: Iterable[Path]) -> None:
    by_stem = defaultdict(list)
    for file in files:
        by_stem[file.stem].append(file)
    for same in by_stem.values():
        if len(same) > 1:
            raise ValueError(
                f"{same[0]} and {same[1]}: both predictions would be named {same[0].stem}; "
                "predict them into two folders."
            )
