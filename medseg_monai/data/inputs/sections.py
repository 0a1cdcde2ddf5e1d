"""Sections, and stacks of them, in files and folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from medseg_monai.data.names import NAME_KEY, case_name
from medseg_monai.data.readers.dicom_picture import PictureKind
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.data.readers.stack import natural_order, sections_of
from medseg_monai.data.results.stacks import probability_file

from .folders import Folder, FoundCases, Paths, directly_in, existing, find_cases, left_out_of
from .pictures import pictures_in, why_no_picture

__all__ = ["find_sections"]

_SECTION = PictureKind("section", (), in_colour=True)


def find_sections(paths: Paths, *, stack: bool = False) -> FoundCases:
    """List sections and stacks of them in files and folders, for :class:`medseg_monai.data.StackReader`.

    Each file is a case, whether it has one page or many; those of a folder are found as :func:`find_images` does it. In
    a folder they are in the natural order of their names: 2 comes before 10.

    Args:
        paths: one or several files and folders.
        stack: take all sections of a folder for the pages of one stack; the folder is the case then.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each once, in the given order;
        :func:`medseg_monai.data.names.name_cases` tells how they are named.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without an image, a case folder with several, two files of a folder that differ in their
            endings alone, or a case whose probabilities would be named as another's mask.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_sections
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("10.png", "2.png", "1.png"):
        ...         Path(folder, name).touch()
        ...     [Path(item["image"]).name for item in find_sections(folder)], len(find_sections(folder, stack=True))
        (['1.png', '2.png', '10.png'], 1)
    """
    found = find_cases(paths, in_folder=_stack_in if stack else _sections_in, named=existing, what=_SECTION.name)
    images = {item[NAME_KEY].casefold(): item["image"] for item in found}
    for name, image in images.items():
        if other := images.get(case_name(probability_file(name))):
            raise ValueError(
                f"{image} and {other}: probabilities of the one would have the name of the other's mask; predict them "
                "into two folders."
            )
    return found


def _sections_in(folder: Path) -> Folder:
    found = pictures_in(folder, kind=_SECTION)
    found.cases.sort(key=natural_order)
    return found


def _stack_in(folder: Path) -> Folder:
    """The folder itself, if there is a section directly in it."""
    found = directly_in(folder, partial(why_no_picture, kind=_SECTION))
    if not sections_of(folder):
        wanted = ", ".join(RASTER_SUFFIXES)
        raise ValueError(
            f"{folder}: no {_SECTION.name} in this folder (looked for {wanted}){left_out_of(folder, found)}."
        )
    return Folder([folder], found.left_out)
