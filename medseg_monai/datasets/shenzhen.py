"""Shenzhen: both lungs in 566 of the 662 chest X-rays of Shenzhen No. 3 Hospital."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, by_key, files, locate, mask_file, pair, progress, split_three_ways

__all__ = ["read_shenzhen"]

SOURCE = "shenzhen"
IMAGES = "CXR_png"
FLAT_IMAGES = "images"
MASKS = ("mask", "mask/mask", "../mask", "../mask/mask")
FLAT_MASKS = ("masks",)
NAME = r"(CHNCXR_\d+_[01])"

_LOGGER = logging.getLogger(__name__)


def read_shenzhen(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the Shenzhen Hospital chest X-ray set (662 images, about 3000x3000 pixels) with its separate lung masks.

    Layout: the images as published by the U.S. National Library of Medicine, in ``ChinaSet_AllFiles``, and the folder
    ``mask`` of the mask set (Stirenko et al., Kaggle ``yoctoman/shcxr-lung-mask``) beside them or one folder above::

        CXR_png/CHNCXR_0001_0.png                 the last number is 0 (normal) or 1 (tuberculosis)
        mask/CHNCXR_0001_0_mask.png

    or flat, for a copy of reduced size: ``images/CHNCXR_0001_0.png`` and ``masks/CHNCXR_0001_0.png``. In the smooth
    edges of a scaled mask, values above 127 count as lung.

    The mask set has 566 masks. Images without a mask are left out, and one warning says how many and which.

    Items have ``image``, ``label`` (both lungs, in the size of the image), ``patient`` (CHNCXR_0001; one image each)
    and ``source``. There is no official split; the split is seeded, by default 60/20/20. The masks leave out the heart
    and the large vessels.

    Args:
        root: the folder that has ``CXR_png``, a folder above it, or the flat folder.
        derived: folder for the masks that have to be made: those that are not 8-bit grey.
        validation_fraction: part of the patients for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if there are no masks, masks without an image, or files that are doubtful or of another size than
            their image (all are listed), or ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_shenzhen
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "masks"):
        ...         Path(folder, kind).mkdir()
        ...         for name in ("CHNCXR_0001_0", "CHNCXR_0327_1"):
        ...             Image.new("L", (30, 20), 255).save(f"{folder}/{kind}/{name}.png")
        ...     datalist = read_shenzhen(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['CHNCXR_0001', 'CHNCXR_0327']

    Source: Jaeger et al., "Two public chest X-ray datasets for computer-aided screening of pulmonary diseases",
    Quant Imaging Med Surg 4(6), 2014; Stirenko et al., IEEE ELNANO 2018 (masks). The flat layout is this project's own
    reduced copy.
    """
    inner = "ChinaSet_AllFiles"
    base = locate(root, source=SOURCE, needs=(IMAGES, FLAT_IMAGES), inside=(inner, f"{inner}/{inner}"))
    problems = Problems(SOURCE, base)
    published = (base / IMAGES).is_dir()
    folder = base / (IMAGES if published else FLAT_IMAGES)
    images = by_key(files(folder), NAME, problems)
    if not images:
        problems.add(folder, "no images")
    masks = _masks(base, problems, published=published)
    with_mask = {name: path for name, path in images.items() if name in masks}
    pair(with_mask, masks, problems)
    for name, image in with_mask.items():
        problems.check_size(image, [masks[name]])
    problems.raise_if_any()
    if without := sorted(images.keys() - masks.keys()):
        count = f"{len(without)} of {len(images)} images"
        _LOGGER.warning("%s: %s have no mask and are left out: %s.", base, count, ", ".join(without))
    target = Path(derived) / SOURCE / "label"
    items: list[Item] = [
        {
            "image": str(with_mask[name]),
            "label": mask_file(masks[name], target / f"{name}.png", problems),
            "patient": name.rpartition("_")[0],
            "source": SOURCE,
        }
        for name in progress(sorted(with_mask), source=SOURCE)
    ]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _masks(base: Path, problems: Problems, *, published: bool) -> dict[str, Path]:
    folders = [Path(os.path.normpath(base / name)) for name in (MASKS if published else FLAT_MASKS)]
    found = next((paths for paths in map(files, folders) if paths), [])
    if not found:
        problems.add(folders[0], "no masks; they are a data set of their own: put its folder here")
    return by_key(found, NAME + ("_mask" if published else ""), problems)
