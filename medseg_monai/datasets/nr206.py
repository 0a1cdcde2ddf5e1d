"""NR206: eight layers in B-scans of healthy retinas, drawn in colours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medseg_monai.data.datalist import Datalist, Item, shorten
from medseg_monai.layers import disordered_columns

from ._common import Problems, by_key, files, hold_out, locate, pair, progress, save_grey, split_three_ways
from ._layers import Labels, set_columns_aside

__all__ = ["COLOURS", "read_nr206"]

SOURCE = "nr206"
SECTIONS = {"train": "training", "val": "validation", "test": "test"}
COLOURS = (
    *((255, 0, 0), (128, 128, 0), (255, 255, 0), (0, 128, 0)),
    *((0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255)),
)
"""Red, green and blue of the eight layers from the vitreous to the choroid."""

_BELOW = len(COLOURS) + 1
_ONE_NUMBER = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)


def read_nr206(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read NR206: 206 B-scans of 750x500 pixels, eight layers in nine colours with the background.

    Layout: ``images/NAME.png`` and ``masks/NAME.png``, or the same below ``train``, ``val`` and ``test``. The full set
    is on request from its authors; their example of six has such files.

    The background lies above and below the layers. It becomes two classes, the part that reaches the upper edge and the
    part that reaches the lower one, so that there are ten classes and nine boundaries; the order of the colours is that
    of the six examples, in which it is the same in every column. In columns with background between the layers, or
    with colours out of order, nobody knows what is true: they become columns without truth (255), and are named.

    Items have ``image``, ``label`` (written to ``derived``), ``patient`` (NAME) and ``source``. Where there are no
    official sections the split is seeded. The spacing of the rows is not published.

    Args:
        root: the folder.
        derived: folder for the labels.
        validation_fraction: part of the B-scans for validation; without effect if there are official sections.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful, of another size than their image or of other colours, or the
            background above and below is one (all are listed), or ``validation_fraction`` is not in its range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_nr206
        >>> from medseg_monai.datasets.nr206 import COLOURS
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "masks"):
        ...         Path(folder, kind).mkdir()
        ...     for name in "abcde":
        ...         Image.new("L", (30, 12)).save(f"{folder}/images/{name}.png")
        ...         mask = Image.new("RGB", (30, 12))
        ...         for row, colour in enumerate(COLOURS, start=1):
        ...             mask.paste(colour, (0, row, 30, row + 1))
        ...         mask.save(f"{folder}/masks/{name}.png")
        ...     datalist = read_nr206(folder, derived=f"{folder}/derived")
        ...     [count for count, _ in Image.open(datalist["test"][0]["label"]).getcolors()]
        [30, 30, 30, 30, 30, 30, 30, 30, 30, 90]

    Source: He et al., "Exploiting multi-granularity visual features for retinal layer segmentation in human eyes",
    Frontiers in Bioengineering and Biotechnology 11, 2023.
    """
    base = locate(root, source=SOURCE, needs=("images", *(f"{name}/images" for name in SECTIONS)), inside=("NR206",))
    problems = Problems(SOURCE, base)
    if (base / "images").is_dir():
        items = _items(base, Path(derived) / SOURCE / "label", problems)
        problems.raise_if_any()
        return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)
    sections: Datalist = {
        section: _items(base / name, Path(derived) / SOURCE / name, problems) if (base / name).is_dir() else []
        for name, section in SECTIONS.items()
    }
    problems.raise_if_any()
    if sections["validation"]:
        return sections
    return hold_out(sections["training"], sections["test"], validation_fraction=validation_fraction, seed=seed)


def _items(folder: Path, target: Path, problems: Problems) -> list[Item]:
    images = by_key(files(folder / "images"), r"(.+)", problems)
    masks = by_key(files(folder / "masks"), r"(.+)", problems)
    if not images:
        problems.add(folder / "images", "no images")
    pair(images, masks, problems)
    items: list[Item] = []
    for name in progress(sorted(images.keys() & masks.keys()), source=SOURCE):
        problems.check_size(images[name], [masks[name]])
        try:
            label = save_grey(_classes(masks[name]), target / f"{name}.png")
        except (OSError, ValueError) as error:
            problems.add(masks[name], str(error))
            continue
        items.append({"image": str(images[name]), "label": label, "patient": name, "source": SOURCE})
    return items


def _classes(path: Path) -> Labels:
    """Decode a mask to the classes 0 to 9.

    Raises:
        OSError: if the file is broken.
        ValueError: if it has another colour, or its background is not above and below the layers.
    """
    with Image.open(path) as image:
        colours = np.asarray(image.convert("RGB")) @ _ONE_NUMBER
    numbers = {0: 0, **{int(np.dot(colour, _ONE_NUMBER)): layer for layer, colour in enumerate(COLOURS, start=1)}}
    found = np.unique(colours).tolist()
    if unknown := [colour for colour in found if colour not in numbers]:
        raise ValueError(f"colours that stand for no layer: {shorten(f'#{colour:06x}' for colour in unknown)}")
    labels = np.zeros(colours.shape, dtype=np.uint8)
    for colour in found:
        labels[colours == colour] = numbers[colour]
    return _with_two_backgrounds(labels, path)


def _with_two_backgrounds(labels: Labels, path: Path) -> Labels:
    regions, _ = ndimage.label(labels == 0)
    above, below = (set(np.unique(edge).tolist()) - {0} for edge in (regions[0], regions[-1]))
    if above & below:
        columns = np.flatnonzero((labels == 0).all(axis=0))
        where = f" (column {columns[0]} has no layer)" if columns.size else ""
        raise ValueError(f"the background above and below the layers is one{where}")
    numbered = labels.copy()
    numbered[np.isin(regions, list(below))] = _BELOW
    between = (numbered == 0) & ~np.isin(regions, list(above))
    doubtful: NDArray[np.int64] = np.union1d(np.flatnonzero(between.any(axis=0)), disordered_columns(numbered))
    return set_columns_aside(numbered, doubtful, path)
