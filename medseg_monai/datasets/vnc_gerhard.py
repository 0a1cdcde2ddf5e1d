"""Cell contours in 20 sections of a fly larva's nerve cord (Gerhard et al., 2013), to test on."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, locate, progress, save_mask
from ._sections import check_cells, numbered_pairs, read_values

__all__ = ["read_vnc_gerhard"]

SOURCE = "vnc_gerhard"
PUBLISHED = ("raw", "membranes")
COPY = ("images", "masks")


def read_vnc_gerhard(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the labelled sections of a larva's ventral nerve cord, all of them to test on: another animal than ISBI's.

    They have 1024x1024 pixels of 4.6 nm. Layout as published, in ``stack1``, with white membranes::

        raw/00.tif       membranes/00.png

    or as a copy with white cells, as ISBI 2012 has them::

        images/00.jpg    masks/00.png

    The published labels are inverted into ``derived``, so that both are white in cells. Glia and thick dark sheaths are
    part of the membranes where the annotators drew them so.

    Args:
        root: the folder with one of the layouts, or the folder above ``stack1``.
        derived: folder for the inverted labels.
        validation_fraction: not used, since all sections are for testing.
        seed: not used.

    Returns:
        ``training`` and ``validation``, both empty, and ``test``, with absolute paths. Items have ``image``, ``label``,
        ``patient`` (the animal) and ``source``.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image, or a label is not black and
            white (all are listed).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_vnc_gerhard
        >>> membranes = Image.new("L", (20, 16))
        >>> membranes.paste(255, (5, 0, 7, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("stack1/raw/00.tif", "stack1/membranes/00.png"):
        ...         Path(folder, name).parent.mkdir(parents=True)
        ...         membranes.save(Path(folder, name))
        ...     datalist = read_vnc_gerhard(folder, derived=f"{folder}/derived")
        ...     label = Image.open(datalist["test"][0]["label"])
        ...     [label.getpixel((column, 0)) for column in (4, 5)]
        [255, 0]

    Source: Gerhard et al., "Segmented anisotropic ssTEM dataset of neural tissue", figshare 856713, 2013;
    https://github.com/unidesigner/groundtruth-drosophila-vnc.
    """
    base = locate(root, source=SOURCE, needs=("raw", "images"), inside=("stack1",))
    problems = Problems(SOURCE, base)
    is_published = (base / "raw").is_dir()
    images, labels = PUBLISHED if is_published else COPY
    pairs = numbered_pairs(base / images, base / labels, problems)
    problems.raise_if_any()
    target = Path(os.path.abspath(derived)) / SOURCE / "label" if is_published else None
    test = [_item(number, *pairs[int(number)], target, problems) for number in progress(map(str, pairs), source=SOURCE)]
    problems.raise_if_any()
    return {"training": [], "validation": [], "test": test}


def _item(number: str, image: Path, label: Path, inverted: Path | None, problems: Problems) -> Item:
    item: Item = {"image": str(image), "label": str(label), "patient": "larva", "source": SOURCE}
    if (values := read_values(label, problems)) is None:
        return item
    cells = values if inverted is None else values.max() - values
    check_cells(cells, label, problems)
    return item if inverted is None else {**item, "label": save_mask(cells > 0, inverted / f"{int(number):02d}.png")}
