"""JSRT: both lungs in 247 chest X-rays of the Japanese Society of Radiological Technology, with the masks of SCR."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.files import atomic_path

from ._common import Mask, Problems, by_key, files, locate, pair, progress, save_mask, split_three_ways, union

__all__ = ["read_jsrt"]

SOURCE = "jsrt"
IMAGES = "All247images"
MASKS = ("scratch", ".")
SIDES = ("left lung", "right lung")
NAME = r"(JPC[LN]N\d{3})"

SIDE = 2048
WHITE = 4095
_MOST_ABOVE = 0.01  # share of the pixels; in the wrong byte order, nearly all pixels of an image are above


def read_jsrt(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read JSRT's 247 chest X-rays, 2048x2048 pixels of 0.175 mm, with the lung masks of the SCR database.

    Layout as published, with the archives of both databases unpacked into one folder::

        All247images/JPCLN001.IMG                       154 images with a nodule; JPCNN001 to 093 without
        scratch/fold1/masks/left lung/JPCLN001.gif      fold1 or fold2; 1024x1024 pixels
        scratch/fold1/masks/right lung/JPCLN001.gif

    An ``.IMG`` file is raw: it has no header, only unsigned 16-bit big-endian numbers of which 12 bits are used. They
    are the density of the film, so 0 is the brightest white. Images are written to ``derived`` as 16-bit PNG in which
    dense tissue is white and the 12 bits are spread over 16: ``rint((4095 - value) * 65535 / 4095)``. Single values
    above 4095 count as 4095; a file in which more than 1 % of the values are above is refused.

    The masks have half the size of the images. Left and right lung are merged, scaled to the image by nearest
    neighbour, which doubles each pixel, and written to ``derived``. They leave out the heart and the large vessels.

    Items have ``image``, ``label``, ``patient`` (the name of the image; patients are not published) and ``source``.
    There is no official split; the split is seeded, by default 60/20/20.

    Args:
        root: the folder that has ``All247images`` and ``scratch``.
        derived: folder for images and masks; the images need up to 2 GB, like the published ones.
        validation_fraction: part of the images for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing or doubtful (all are listed), or ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_jsrt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("JPCLN001", "JPCNN001"):
        ...         path = Path(folder, "All247images", f"{name}.IMG")
        ...         path.parent.mkdir(exist_ok=True)
        ...         _ = path.write_bytes(bytes(2 * 2048 * 2048))
        ...         for side in ("left lung", "right lung"):
        ...             path = Path(folder, "scratch/fold1/masks", side, f"{name}.gif")
        ...             path.parent.mkdir(parents=True, exist_ok=True)
        ...             Image.new("L", (1024, 1024), 255).save(path)
        ...     datalist = read_jsrt(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> {section: len(items) for section, items in datalist.items()}
        {'training': 1, 'validation': 0, 'test': 1}

    Source: Shiraishi et al., AJR 174, 2000 (images); van Ginneken et al., Medical Image Analysis 10(1), 2006 (masks).
    We had no files; byte order and polarity follow public programs that read them.
    """
    base = locate(root, source=SOURCE, needs=(IMAGES,), inside=("JSRT",))
    problems = Problems(SOURCE, base)
    images = by_key(files(base / IMAGES, suffixes=(".img",)), NAME, problems)
    if not images:
        problems.add(base / IMAGES, "no images")
    for path in images.values():
        if path.stat().st_size != 2 * SIDE * SIDE:
            problems.add(path, f"has {path.stat().st_size} bytes, not the {2 * SIDE * SIDE} of {SIDE}x{SIDE} pixels")
    masks = {side: _masks(base, side, problems) for side in SIDES}
    for side, found in masks.items():
        pair(images, found, problems, kind=f"mask of the {side}")
    for name in sorted(set.intersection(*(set(found) for found in masks.values()))):
        left, right = (found[name] for found in masks.values())
        problems.check_size(left, [right])
        size = problems.image_size(left)
        if size and (size[0] != size[1] or SIDE % size[0]):
            problems.add(left, f"is {size[0]}x{size[1]}, which cannot be scaled to {SIDE}x{SIDE} by an integer factor")
    problems.raise_if_any()
    target = Path(os.path.abspath(derived)) / SOURCE
    items = [
        _item(name, images[name], [found[name] for found in masks.values()], target, problems)
        for name in progress(sorted(images), source=SOURCE)
    ]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _masks(base: Path, side: str, problems: Problems) -> dict[str, Path]:
    found = next((paths for name in MASKS if (paths := files(base / name, f"fold[12]/masks/{side}/*"))), [])
    return by_key(found, NAME, problems)


def _item(name: str, image: Path, masks: list[Path], derived: Path, problems: Problems) -> Item:
    item: Item = {"image": str(derived / "image" / f"{name}.png"), "patient": name, "source": SOURCE}
    values = np.fromfile(image, dtype=">u2").reshape(SIDE, SIDE)
    if (values > WHITE).mean() > _MOST_ABOVE:
        problems.add(image, f"has values above {WHITE}, so it is not a 12-bit image in big-endian order")
    else:
        _save_image(values, Path(item["image"]))
    lungs = union(masks, problems)
    if lungs is not None:
        item["label"] = save_mask(_to_image_size(lungs), derived / "label" / f"{name}.png")
    return item


def _save_image(values: NDArray[np.uint16], path: Path) -> None:
    white = np.iinfo(np.uint16).max
    grey = np.rint((WHITE - np.minimum(values, WHITE).astype(np.float64)) * white / WHITE).astype(np.uint16)
    with atomic_path(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG", compress_level=1)


def _to_image_size(mask: Mask) -> Mask:
    return np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST))
