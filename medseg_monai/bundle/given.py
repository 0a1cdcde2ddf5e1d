"""What was given as input is never written over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medseg_monai.data.datalist import Item, item_paths
from medseg_monai.data.dicom import find_series
from medseg_monai.data.readers.oct_files.scan import split_number
from medseg_monai.files import same_place

__all__ = ["refuse_folders_of_inputs"]


def refuse_folders_of_inputs(
    written: Iterable[str | os.PathLike[str]], cases: Sequence[Item], folders: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Refuse to write into a folder that holds what was given: a result could replace it, or be taken for an input.

    An input is looked for where it was named and, if that is a link, where the link leads; a DICOM series lies in each
    folder that holds one of its files. Folders are told by what they are, not by how they are written.

    Args:
        written: folders that are about to be written into.
        cases: items of a data list.
        folders: further folders that were given, such as that of infection masks.

    Raises:
        ValueError: names the folder and an input in it.
    """
    held = dict(reversed([(folder, path) for path in _inputs(cases) for folder in _folders_of(path)]))
    held |= {Path(folder): Path(folder) for folder in folders}
    for target in written:
        for folder, path in held.items():
            if same_place(target, folder):
                raise ValueError(f"{target}: holds the input {path.name}; give another folder for the results.")


def _inputs(cases: Sequence[Item]) -> Iterator[Path]:
    return (split_number(Path(path))[0] for case in cases for path in item_paths(case))


def _folders_of(path: Path) -> Iterator[Path]:
    yield from (link.parent for link in _chain(path))
    yield path.resolve().parent
    if path.is_dir():
        yield path
        yield from _folders_of_series(path)
    elif not path.exists():  # a series that its folder's files have by their UID
        yield from _folders_of_series(path.parent, [path.name])


def _chain(path: Path) -> Iterator[Path]:
    """A path, and each link on the way to what it stands for."""
    seen: set[Path] = set()
    while path not in seen:
        yield path
        seen.add(path)
        if path.is_symlink():
            path = path.parent / os.readlink(path)


def _folders_of_series(folder: Path, wanted: Sequence[str] = ()) -> Iterator[Path]:
    yield from {file.parent for series in find_series(folder, wanted) for file in series.files}
