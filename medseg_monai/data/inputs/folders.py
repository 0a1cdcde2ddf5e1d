"""What a folder stands for, and how the cases in files and folders are listed, whatever they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai.utils import ensure_tuple

from medseg_monai.data.datalist import Item
from medseg_monai.data.names import case_name, name_cases
from medseg_monai.errors import shorten
from medseg_monai.files import REPORT_FILES

__all__ = [
    "Folder",
    "FoundCases",
    "Paths",
    "directly_in",
    "existing",
    "find_cases",
    "in_folder_or_below",
    "left_out_of",
]

_LOGGER = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_HIDDEN = ("dicomdir", "thumbs.db", "desktop.ini")  # what archives and file managers leave behind


class FoundCases(list[Item]):
    """The cases in what a user named, and what was left out of the folders among it.

    Args:
        items: the cases.
        left_out: see the attribute.

    Attributes:
        left_out: absolute paths of files and folders that are no cases, such as pictures of an unknown format.

    Example:
        >>> from medseg_monai.data.inputs import FoundCases
        >>> found = FoundCases([{"image": "eyes/a.png"}], left_out=["eyes/b.heic"])
        >>> len(found), found.left_out
        (1, ['eyes/b.heic'])
    """

    def __init__(self, items: Iterable[Item] = (), left_out: Iterable[str] = ()) -> None:
        super().__init__(items)
        self.left_out = list(left_out)


@dataclass
class Folder:
    """The cases that a folder stands for, and what is left out of it, with the reason if the name does not say it."""

    cases: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


def find_cases(
    paths: Paths,
    *,
    in_folder: Callable[[Path], Folder],
    named: Callable[[Path], Path],
    what: str,
    parts: Callable[[Path], list[Path]] = lambda file: [file],
) -> FoundCases:
    """List the cases (the parts of files) in folders and in files that are named, each once; tell what is left out.

    Args:
        paths: one or several files and folders.
        in_folder: finds the cases of a folder.
        named: checks a file that is named itself.
        what: what a case is, for messages.
        parts: the cases in one file.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths.

    Raises:
        ValueError: two files of a folder differ in their endings alone, or what ``in_folder`` and ``named`` refuse.
    """
    found: dict[Path, None] = {}
    folders: dict[Path, Folder] = {}
    for entry in ensure_tuple(paths):
        path = Path(os.path.abspath(entry))  # without "..", so that a file named twice counts once
        if path.is_dir():
            folders[path] = in_folder(path)
        found.update(dict.fromkeys(folders[path].cases if path in folders else [named(path)]))
    taken = {*found, *folders}
    left_out: dict[Path, None] = {}
    for folder, one in folders.items():
        unread = {path: reason for path, reason in sorted(one.left_out.items()) if path not in taken}
        left_out.update(dict.fromkeys(unread))
        if unread:
            _LOGGER.warning("%s: left out, as they are not %ss: %s.", folder, what, _listed(folder, unread))
    cases = dict.fromkeys(part for path in found for part in parts(path))
    _refuse_same_stem(cases)
    return FoundCases(name_cases([{"image": str(path)} for path in cases]), map(str, left_out))


def _listed(folder: Path, left_out: Mapping[Path, str]) -> str:
    names = {path.relative_to(folder).as_posix(): reason for path, reason in left_out.items()}
    return shorten(f"{name} ({reason})" if reason else name for name, reason in names.items())


def left_out_of(folder: Path, found: Folder) -> str:
    """Say what is left out of a folder for another reason than its name, which may be why it has no case.

    Args:
        folder: the folder.
        found: what was found in it.

    Returns:
        the end of a message; empty if there is nothing to say.
    """
    told = {path: reason for path, reason in found.left_out.items() if reason}
    return f"; left out: {_listed(folder, told)}" if told else ""


def existing(path: Path) -> Path:
    """Return a path that exists.

    Args:
        path: file or folder.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    return path


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones and the results of an earlier run, which are no cases."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path)]
    return [path for path in folders if not all((path / name).is_file() for name in REPORT_FILES)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _HIDDEN


def directly_in(folder: Path, why_not: Callable[[Path], str | None]) -> Folder:
    """The cases directly in a folder.

    Args:
        folder: the folder.
        why_not: why a file is no case; ``None`` if it is one, empty if its name says it.
    """
    found = Folder()
    for path in sorted(folder.iterdir()):
        if path.is_dir() or _is_hidden(path):
            continue
        reason = why_not(path) if path.is_file() else "a broken link"
        if reason is None:
            found.cases.append(path)
        else:
            found.left_out[path] = reason
    return found


def in_folder_or_below(folder: Path, *, directly_in: Callable[[Path], Folder], what: str) -> Folder:
    """The cases directly in a folder, or else the one in each of its folders.

    Args:
        folder: the folder.
        directly_in: finds the cases directly in a folder.
        what: what a case is, for messages.

    Raises:
        ValueError: a folder of its own has several.
    """
    found = directly_in(folder)
    below = {path: directly_in(path) for path in _folders_in(folder)}
    if found.cases:
        found.left_out |= {path: "a folder" for path, there in below.items() if there.cases}
        return found
    for path, there in below.items():
        if len(there.cases) > 1:
            names = shorten(case.name for case in there.cases)
            raise ValueError(
                f"{folder}: no {what} directly in it, and {len(there.cases)} in {path.name} ({names}), expected one a "
                "case folder; name the folders or files to predict."
            )
        found.cases += there.cases
        # a folder without a case may have nothing to do with them, but a broken link in it may be one
        found.left_out |= {file: why for file, why in there.left_out.items() if there.cases or why}
    return found


def _refuse_same_stem(paths: Iterable[Path]) -> None:
    """Refuse files of a folder that differ in their endings alone: most likely the same image twice."""
    first: dict[tuple[Path, str], Path] = {}
    for path in paths:
        other = first.setdefault((path.parent, case_name(path)), path)
        if other != path:
            raise ValueError(
                f"{other} and {path}: both predictions would be named {case_name(path)}; predict them into two folders."
            )
