"""Writing a data set of phantoms: one patient per phantom, its files in folders by kind, and the data list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medseg_monai.data.datalist import Item, write_datalist

__all__ = [
    "SECTIONS",
    "PhantomCase",
    "PhantomDrawer",
    "PhantomFile",
    "check_counts",
    "check_dimensions",
    "check_format",
    "mask_file",
    "write_phantoms",
]

SECTIONS = ("training", "validation", "test")

_SIZE = {2: "rows and columns", 3: "D, H and W"}


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse numbers of phantoms that are not possible.

    Args:
        counts: number of phantoms in each section.

    Raises:
        ValueError: for an unknown section, a negative count, or no phantom at all.
    """
    if unknown := sorted(set(counts) - set(SECTIONS)):
        raise ValueError(f"counts has unknown sections {', '.join(unknown)}: choose from {', '.join(SECTIONS)}.")
    if min(counts.values(), default=0) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"counts={dict(counts)} asks for no phantom: give at least one section a positive number.")


def check_format(image_format: str, formats: Iterable[str]) -> None:
    """Refuse a format in which images are not written.

    Args:
        image_format: the requested format.
        formats: the formats that there are.

    Raises:
        ValueError: for any other format.
    """
    if image_format not in formats:
        raise ValueError(f"image_format='{image_format}' is not written: choose from {', '.join(formats)}.")


def check_dimensions(size: tuple[int, ...], spatial_dims: int) -> None:
    """Refuse a size with another number of axes.

    Args:
        size: size of a phantom.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if the size has more or fewer axes.
    """
    if len(size) != spatial_dims:
        raise ValueError(f"size={size} is not a {spatial_dims}D size: give {_SIZE[spatial_dims]}.")


@dataclass(frozen=True)
class PhantomCase:
    """The position of a phantom in its data set.

    Attributes:
        number: number from 1 over all sections; together with the seed it decides what is drawn.
        index: index from 0 within its section, for everything that alternates there.
    """

    number: int
    index: int

    @property
    def patient(self) -> str:
        """Return the name of the patient and of the files."""
        return f"phantom_{self.number:04d}"


@dataclass(frozen=True)
class PhantomFile:
    """A file of a phantom that will be written.

    Attributes:
        folder: folder inside that of the data set.
        suffix: the part of the file name after the patient's name; empty for the folder of a series.
        write: function that writes the file to a path.
    """

    folder: str
    suffix: str
    write: Callable[[Path], object]


PhantomDrawer = Callable[[PhantomCase], tuple[str, Mapping[str, PhantomFile]]]
"""A function that draws a phantom and returns its ``source`` and its files by their keys in the data list."""


def mask_file(folder: str, mask: npt.NDArray[np.bool_]) -> PhantomFile:
    """Plan a mask as an 8-bit PNG of 0 and 255.

    Args:
        folder: folder inside that of the data set.
        mask: ``[H, W]``.
    """
    return PhantomFile(folder, ".png", Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save)


def write_phantoms(folder: str | os.PathLike[str], counts: Mapping[str, int], draw: PhantomDrawer) -> Path:
    """Write the phantoms of each section, each as one patient, and their data list.

    Nothing is written before the first phantom has been drawn, so that nothing remains if ``draw`` refuses.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        draw: function that draws each phantom.

    Returns:
        Path of the data list, ``datalist.json``.

    Raises:
        ValueError: for an unknown section, a negative count, or no phantom at all.
    """
    check_counts(counts)
    root, numbers = Path(folder), count(1)
    datalist = {
        section: [_write(root, PhantomCase(next(numbers), index), draw) for index in range(counts.get(section, 0))]
        for section in SECTIONS
    }
    path = root / "datalist.json"
    write_datalist(datalist, path)
    return path


def _write(root: Path, case: PhantomCase, draw: PhantomDrawer) -> Item:
    source, files = draw(case)
    item: Item = {}
    for key, file in files.items():
        path = root / file.folder / f"{case.patient}{file.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write(path)
        item[key] = str(path)
    return {**item, "patient": case.patient, "source": source}
