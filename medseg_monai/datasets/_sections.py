"""Shared by the readers of electron microscopy: consecutive sections of one block, whose labels are white in cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg_monai.data.datalist import Datalist, Item, shorten
from medseg_monai.data.readers.raster import picture_formats, stored_values

from ._common import Problems, by_key, files, pair

__all__ = ["check_cells", "grey_values", "hold_out_block", "numbered_pairs", "read_values"]

_NUMBER = r"0*(\d+)"


def numbered_pairs(images: Path, labels: Path, problems: Problems) -> dict[int, tuple[Path, Path]]:
    """Images and labels of two folders by the numbers that are their names, in the order of the numbers.

    What lacks its other half, or has another size than it, is noted.
    """
    sections, masks = (by_key(files(folder), _NUMBER, problems) for folder in (images, labels))
    if not sections:
        problems.add(images, "no images")
    pair(sections, masks, problems, kind="label")
    both = sorted(sections.keys() & masks.keys(), key=int)
    for number in both:
        problems.check_size(sections[number], [masks[number]])
    return {int(number): (sections[number], masks[number]) for number in both}


def check_cells(values: NDArray[np.integer], path: Path, problems: Problems, *, page: str = "") -> None:
    """Note a label that is not black and one other value, or whose white part cannot be the inside of cells.

    Args:
        values: ``[H, W]``.
        path: its file.
        problems: collects what is wrong.
        page: which page of the file it is, with a blank behind it.
    """
    white = values == values.max()
    if values.max() == 0 or not (white | (values == 0)).all():
        listed = shorten(str(value) for value in np.unique(values))
        problems.add(path, f"{page}has values {listed}, expected 0 for membranes and 255 for cells")
    elif not 0.5 < white.mean() < 1:
        problems.add(path, f"{page}is white in {white.mean():.0%}; white is the inside of cells, black the membranes")


def read_values(path: Path, problems: Problems) -> NDArray[np.integer] | None:
    """The grey values ``[H, W]`` of a picture, or ``None`` and a note."""
    try:
        with Image.open(path, formats=picture_formats()) as image:
            return grey_values(image, path)
    except OSError:
        problems.add(path, "can't be read as an image")
    except ValueError as error:
        problems.add_error(path, error)
    return None


def grey_values(image: Image.Image, path: Path, page: int = 0) -> NDArray[np.integer]:
    """The grey values ``[H, W]`` of a picture or of a page: of 8 and 16 bits as they are, others scaled to 16 bits.

    Args:
        image: the picture, at the page.
        path: its file.
        page: number of the page, from 0.

    Raises:
        ValueError: it is in colour, or its scale is unknown.
    """
    if image.mode in ("L", "I;16"):
        return np.array(image)
    values = stored_values(image, path, page)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError(f"{path}: in colour, expected grey.")
        values = values[..., 0]
    return np.rint(values * (65535 / 255)).astype(np.uint16)


def hold_out_block(
    items: Mapping[int, Item], *, source: str, held_out: Sequence[int], validation_fraction: float
) -> Datalist:
    """Split consecutive sections of one block: neighbours are alike, so that only whole runs of them are held out.

    The validation is the end of what is left for training. The items of one section of the list count as one patient,
    since none of them may move to another.

    Args:
        items: the sections by their numbers.
        source: name of the data set.
        held_out: first and last number of the test block.
        validation_fraction: part of the other sections, 0 or more and below 1.

    Raises:
        ValueError: the fraction is outside its range, or the block or what is left has no section.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be 0 or more and below 1, got {validation_fraction}")
    first, last = held_out
    test = [number for number in sorted(items) if first <= number <= last]
    others = [number for number in sorted(items) if number not in test]
    if not test or not others:
        raise ValueError(
            f"{source}: sections {_span(sorted(items))}, of which {first} to {last} are held out; give sections within "
            "that block and outside of it"
        )
    kept = len(others) - min(round(validation_fraction * len(others)), len(others) - 1)
    numbers = {"training": others[:kept], "validation": others[kept:], "test": test}
    return {
        name: [{**items[number], "patient": f"sections_{_span(found)}", "source": source} for number in found]
        for name, found in numbers.items()
    }


def _span(numbers: Sequence[int]) -> str:
    """Consecutive numbers by the first and the last of each run, such as 0-23 or 0-9_16-29."""
    runs = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return "_".join(f"{first}-{last}" for first, last in zip(runs, ends, strict=True))
