"""Messidor: optic disc in 1200 fundus photographs."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import (
    Problems,
    by_key,
    files,
    locate,
    pair,
    polygon,
    progress,
    read_contour,
    save_mask,
    split_three_ways,
)

__all__ = ["read_messidor"]

SOURCE = "messidor"
IMAGE_NAME = r"(\d{8}_\d+_\d+_PP)"
CONTOUR_GLOB = "**/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]_*"


def read_messidor(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    r"""Read Messidor's 1200 images (1440x960, 2240x1488 or 2304x1536 pixels) with the disc boundaries of Huelva.

    Layout. The images are published in twelve folders, ``Base11`` to ``Base34``; the boundaries are published
    separately by the University of Huelva. We did not have the data: the names of the images follow the documentation,
    and the form of the boundaries is an assumption::

        Base11/20051019_38557_0100_PP.tif       in any folder below root, or in root itself
        Base11/20051019_38557_0100_PP.txt       likewise; the name may continue after "_PP"

    with one point ``x y`` per line (column and row in pixels, from the top left corner of the image). A file of another
    form is refused.

    Items have ``image``, ``label`` (the filled contour, written to ``derived``), ``patient`` (the image name; patients
    are not published) and ``source``. There is no official split; the split is seeded, by default 60/20/20. The
    publisher's errata list images that are in the data set twice; remove one of each pair first, or the two may end up
    in different sections.

    Args:
        root: the folder with images and boundaries.
        derived: folder for the masks, 8-bit PNG.
        validation_fraction: part of the images for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not a folder.
        ValueError: if files are missing or doubtful (all are listed), or ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_messidor
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("20051019_38557_0100_PP", "20051020_43808_0100_PP"):
        ...         Image.new("RGB", (30, 20)).save(f"{folder}/{name}.tif")
        ...         _ = Path(folder, f"{name}.txt").write_text("5 5\n20 5\n20 15\n5 15\n")
        ...     datalist = read_messidor(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['20051019_38557_0100_PP', '20051020_43808_0100_PP']

    Source: Decenciere et al., "Feedback on a publicly distributed image database: the Messidor database", Image
    Analysis & Stereology 33(3), 2014; boundaries: http://www.uhu.es/retinopathy.
    """
    base = locate(root, source=SOURCE, needs=(".",))
    problems = Problems(SOURCE, base)
    target = Path(os.path.abspath(derived)) / SOURCE / "label"
    # the masks of an earlier run have the names of images and may lie below root
    found = [path for path in files(base, "**/*_PP.*") if not path.is_relative_to(target)]
    images = by_key(found, IMAGE_NAME, problems)
    if not images:
        problems.add(base, "no images named like 20051019_38557_0100_PP.tif")
    contours = by_key(files(base, CONTOUR_GLOB, suffixes=(".txt",)), rf"{IMAGE_NAME}.*", problems)
    pair(images, contours, problems, kind="boundary")
    problems.raise_if_any()
    items = [
        _item(name, images[name], contours[name], target / f"{name}.png", problems)
        for name in progress(sorted(images), source=SOURCE)
    ]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _item(name: str, image: Path, contour: Path, target: Path, problems: Problems) -> Item:
    if size := problems.image_size(image):
        try:
            save_mask(polygon(read_contour(contour), size), target)
        except (OSError, ValueError) as error:
            problems.add(contour, str(error))
    return {"image": str(image), "label": str(target), "patient": name, "source": SOURCE}
