"""ISBI 2012 challenge: cell contours in 30 sections of electron microscopy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.data.readers.raster import picture_formats

from ._common import Problems, locate, progress, save_grey, save_mask
from ._sections import check_cells, grey_values, hold_out_block, numbered_pairs, read_values

__all__ = ["read_isbi2012"]

SOURCE = "isbi2012"
VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
Pages = list[NDArray[np.integer]]


def read_isbi2012(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
    held_out: tuple[int, int] = (24, 29),
) -> Datalist:
    """Read the 30 labelled sections of the ISBI 2012 challenge: 512x512 pixels of 4 nm, 50 nm apart.

    Layout as published, two stacks of 30 pages::

        train-volume.tif    the sections
        train-labels.tif    255 inside cells, 0 on membranes

    or as single files, named by the number of the section, which is taken as a number (2 comes before 10)::

        image/0.png    label/0.png

    The pages of stacks are written to ``derived`` as PNG. The labels stay as published. ``test-volume.tif`` has no
    public labels; predict it as it is.

    The sections are consecutive cuts of one block, and neighbours are alike. So the test set is one run of sections,
    never a random choice, and the validation is the end of what is left.

    Args:
        root: the folder with the stacks or with ``image`` and ``label``, or the folder above it if that folder is
            called ``train``.
        derived: folder for the pages of stacks.
        validation_fraction: part of the sections outside the test block that is held out for validation.
        seed: not used, since nothing is drawn.
        held_out: first and last section of the test block, counted from 0.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths. Items have ``image``, ``label``, ``patient``
        (the run of sections, since it must not be split) and ``source``.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files or pages are missing, doubtful or of another size than their image (all are listed), a
            label is not black and white, or there is nothing to test or to train on.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import tifffile
        >>> from medseg_monai.datasets import read_isbi2012
        >>> label = np.full((30, 16, 20), 255, np.uint8)
        >>> label[:, 5] = 0
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tifffile.imwrite(f"{folder}/train-volume.tif", label // 2)
        ...     tifffile.imwrite(f"{folder}/train-labels.tif", label)
        ...     datalist = read_isbi2012(folder, derived=f"{folder}/derived", validation_fraction=0.25)
        >>> {section: (len(items), items[0]["patient"]) for section, items in datalist.items()}
        {'training': (18, 'sections_0-17'), 'validation': (6, 'sections_18-23'), 'test': (6, 'sections_24-29')}

    Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
    Frontiers in Neuroanatomy 9, 2015. The flat layout is that of public copies.
    """
    base = locate(root, source=SOURCE, needs=(VOLUME, "image"), inside=("train",))
    problems = Problems(SOURCE, base)
    read = _stacks if (base / VOLUME).exists() else _folders
    items = read(base, Path(os.path.abspath(derived)) / SOURCE, problems)
    problems.raise_if_any()
    return hold_out_block(items, source=SOURCE, held_out=held_out, validation_fraction=validation_fraction)


def _folders(base: Path, derived: Path, problems: Problems) -> dict[int, Item]:
    pairs = numbered_pairs(base / "image", base / "label", problems)
    for _, label in pairs.values():
        if (values := read_values(label, problems)) is not None:
            check_cells(values, label, problems)
    return {number: {"image": str(image), "label": str(label)} for number, (image, label) in pairs.items()}


def _stacks(base: Path, derived: Path, problems: Problems) -> dict[int, Item]:
    volume, labels = (_pages(base / name, problems) for name in (VOLUME, LABELS))
    if volume and labels and len(volume) != len(labels):
        problems.add(base / LABELS, f"has {len(labels)} pages, {VOLUME} {len(volume)}")
    for page, (section, label) in enumerate(zip(volume, labels, strict=False), start=1):
        if section.shape != label.shape:
            problems.add(base / LABELS, f"page {page} has another size than that of {VOLUME}")
        check_cells(label, base / LABELS, problems, page=f"page {page} ")
    problems.raise_if_any()
    items: dict[int, Item] = {}
    for name in progress(map(str, range(len(volume))), source=SOURCE):
        number = int(name)
        items[number] = {
            "image": save_grey(volume[number], derived / "image" / f"{number:02d}.png"),
            "label": save_mask(labels[number] > 0, derived / "label" / f"{number:02d}.png"),
        }
    return items


def _pages(path: Path, problems: Problems) -> Pages:
    """The grey pages of a stack, or a note."""
    try:
        with Image.open(path, formats=picture_formats()) as stack:
            return [grey_values(page, path, number) for number, page in enumerate(ImageSequence.Iterator(stack))]
    except FileNotFoundError:
        problems.add(path, "no such file")
    except ValueError as error:
        problems.add_error(path, error)
    except Exception:  # Pillow's decoders raise many types on damaged files
        problems.add(path, "can't be read as an image")
    return []
