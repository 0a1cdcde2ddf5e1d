"""Phantom data sets of electron microscopy on disk, as public copies of ISBI 2012 have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from PIL import Image

from .case_files import SECTIONS, PhantomCase, PhantomFile, check_counts, check_dimensions, mask_file, write_phantoms
from .neuropil import NeuropilPhantom, draw_neuropil

__all__ = ["write_neuropil_phantoms"]


def write_neuropil_phantoms(
    folder: str | os.PathLike[str], *, counts: Mapping[str, int], size: tuple[int, ...], seed: int
) -> Path:
    """Write sections of phantom tissue and their data list.

    ``folder`` gets ``images/phantom_0001.png`` and ``labels/phantom_0001.png`` (8 bits, 255 inside cells, 0 on
    membranes) and ``datalist.json``. Each section of the list is a block of its own, of which the phantoms are
    consecutive sections.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: rows and columns ``(H, W)``, each at least 64.
        seed: the same seed writes the same files.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``patient`` and ``source`` (``phantom``).

    Raises:
        ValueError: for an unknown section, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_neuropil_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_neuropil_phantoms(folder, counts={"training": 2}, size=(64, 80), seed=0)
        ...     [item["patient"] for item in load_datalist(path, "training")]
        ['phantom_0001', 'phantom_0002']
    """
    check_counts(counts)
    check_dimensions(size, 2)
    blocks = [section for section in SECTIONS for _ in range(counts.get(section, 0))]

    @cache
    def block_of(section: str) -> NeuropilPhantom:
        number = SECTIONS.index(section)
        return draw_neuropil(sections=counts[section], size=(size[0], size[1]), seed=(seed, number))

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        block = block_of(blocks[case.number - 1])
        return "phantom", {
            "image": PhantomFile("images", ".png", Image.fromarray(block.images[case.index]).save),
            "label": mask_file("labels", block.cells[case.index]),
        }

    return write_phantoms(folder, counts, draw)
