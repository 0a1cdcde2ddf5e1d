"""Montgomery: both lungs in 138 chest X-rays of Montgomery County's tuberculosis control program."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import (
    Problems,
    by_key,
    files,
    locate,
    mask_file,
    pair,
    progress,
    save_mask,
    split_three_ways,
    union,
)

__all__ = ["read_montgomery"]

SOURCE = "montgomery"
IMAGES = "CXR_png"
FLAT_IMAGES = "images"
SIDES = {"left mask": "ManualMask/leftMask", "right mask": "ManualMask/rightMask"}
FLAT_MASKS = {"mask": "masks"}
NAME = r"(MCUCXR_\d+_[01])"


def read_montgomery(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the Montgomery County chest X-rays: 138 images of 4020x4892 or 4892x4020 pixels, with a mask for each lung.

    Layout as published by the U.S. National Library of Medicine, in ``MontgomerySet``::

        CXR_png/MCUCXR_0001_0.png                 the last number is 0 (normal) or 1 (tuberculosis)
        ManualMask/leftMask/MCUCXR_0001_0.png
        ManualMask/rightMask/MCUCXR_0001_0.png

    or flat, for a copy of reduced size: ``images/MCUCXR_0001_0.png`` and ``masks/MCUCXR_0001_0.png``, the mask of both
    lungs. In the smooth edges of a scaled mask, values above 127 count as lung.

    Items have ``image``, ``label`` (both lungs; the two published masks are merged and written to ``derived`` as 8-bit
    PNG in the size of the image), ``patient`` (MCUCXR_0001; one image each) and ``source``. There is no official split;
    the split is seeded, by default 60/20/20. The masks leave out the heart and the large vessels.

    Args:
        root: the folder ``MontgomerySet``, the folder above it, or the flat folder.
        derived: folder for the masks that have to be made.
        validation_fraction: part of the patients for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed), or
            ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_montgomery
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "masks"):
        ...         Path(folder, kind).mkdir()
        ...         for name in ("MCUCXR_0001_0", "MCUCXR_0104_1"):
        ...             Image.new("L", (30, 20), 255).save(f"{folder}/{kind}/{name}.png")
        ...     datalist = read_montgomery(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['MCUCXR_0001', 'MCUCXR_0104']

    Source: Jaeger et al., "Two public chest X-ray datasets for computer-aided screening of pulmonary diseases",
    Quant Imaging Med Surg 4(6), 2014; Candemir et al., IEEE TMI 33(2), 2014 (masks). The flat layout is this project's
    own reduced copy.
    """
    inner = "MontgomerySet"
    base = locate(root, source=SOURCE, needs=(IMAGES, FLAT_IMAGES), inside=(inner, f"NLM-MontgomeryCXRSet/{inner}"))
    problems = Problems(SOURCE, base)
    published = (base / IMAGES).is_dir()
    folder = base / (IMAGES if published else FLAT_IMAGES)
    images = by_key(files(folder), NAME, problems)
    if not images:
        problems.add(folder, "no images")
    masks = {
        kind: by_key(files(base / name), NAME, problems) for kind, name in (SIDES if published else FLAT_MASKS).items()
    }
    for kind, found in masks.items():
        pair(images, found, problems, kind=kind)
    for name, image in images.items():
        problems.check_size(image, [found[name] for found in masks.values() if name in found])
    problems.raise_if_any()
    target = Path(derived) / SOURCE / "label"
    items: list[Item] = [
        {
            "image": str(images[name]),
            "label": _label([found[name] for found in masks.values()], target / f"{name}.png", problems),
            "patient": name.rpartition("_")[0],
            "source": SOURCE,
        }
        for name in progress(sorted(images), source=SOURCE)
    ]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _label(published: list[Path], derived: Path, problems: Problems) -> str:
    if len(published) == 1:
        return mask_file(published[0], derived, problems)
    lungs = union(published, problems)
    return str(published[0]) if lungs is None else save_mask(lungs, derived)
