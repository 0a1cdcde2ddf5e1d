"""IDRiD: optic disc in 81 fundus photographs."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, by_key, files, hold_out, locate, mask_file, pair, progress

__all__ = ["read_idrid"]

SOURCE = "idrid"
IMAGES = "1. Original Images"
MASKS = "2. All Segmentation Groundtruths"
DISC = "5. Optic Disc"
SECTIONS = {"training": "a. Training Set", "test": "b. Testing Set"}
# item key -> image number -> path
Files = dict[str, dict[str, Path]]


def read_idrid(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the optic discs of IDRiD's segmentation part: 54 training and 27 test images of 4288x2848 pixels.

    Layout as published, in ``A. Segmentation``::

        1. Original Images/a. Training Set/IDRiD_01.jpg                                 (b. Testing Set: from 55)
        2. All Segmentation Groundtruths/a. Training Set/5. Optic Disc/IDRiD_01_OD.tif  (b. Testing Set: from 55)

    or flat, for a copy of reduced size: ``images/IDRiD_01.jpg`` and ``masks/IDRiD_01_OD.png``; all images of such a
    copy go to ``test``.

    Items have ``image``, ``label``, ``patient`` (the image name; patients are not published) and ``source``. The
    published masks have a palette of two colours and are written to ``derived`` as 8-bit PNG.

    Args:
        root: the folder ``A. Segmentation``, the folder above it, or the flat folder.
        derived: folder for the masks that have to be made.
        validation_fraction: part of the official training set that is held out for validation; 0 holds out nothing.
        seed: seed of that choice.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed), or
            ``validation_fraction`` is not in [0, 1).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_idrid
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images/IDRiD_55.jpg", "masks/IDRiD_55_OD.png"):
        ...         path = Path(folder, name)
        ...         path.parent.mkdir()
        ...         Image.new("L", (30, 20), 255).save(path)
        ...     datalist = read_idrid(folder, derived=f"{folder}/derived")
        >>> [item["patient"] for item in datalist["test"]]
        ['IDRiD_55']

    Source: Porwal et al., "Indian Diabetic Retinopathy Image Dataset (IDRiD)", Data 3(3), 2018. The flat layout is this
    project's own reduced copy.
    """
    inner = "A. Segmentation"
    base = locate(root, source=SOURCE, needs=(IMAGES, "masks"), inside=(inner, f"{inner}/{inner}"))
    problems = Problems(SOURCE, base)
    if (base / IMAGES).is_dir():
        sections = {
            name: _files(base / IMAGES / folder, base / MASKS / folder / DISC, problems)
            for name, folder in SECTIONS.items()
        }
    else:
        sections = {"test": _files(base / "images", base / "masks", problems)}
    problems.raise_if_any()
    target = Path(derived) / SOURCE / "label"
    items = {name: _items(found, target, problems) for name, found in sections.items()}
    problems.raise_if_any()
    return hold_out(items.get("training", []), items["test"], validation_fraction=validation_fraction, seed=seed)


def _files(images_folder: Path, masks_folder: Path, problems: Problems) -> Files:
    images = by_key(files(images_folder), r"(IDRiD_\d+)", problems)
    if not images:
        problems.add(images_folder, "no images")
    masks = by_key(files(masks_folder), r"(IDRiD_\d+)_OD", problems)
    pair(images, masks, problems)
    for name in images.keys() & masks.keys():
        problems.check_size(images[name], [masks[name]])
    return {"image": images, "label": masks}


def _items(found: Files, derived: Path, problems: Problems) -> list[Item]:
    return [
        {
            "image": str(found["image"][name]),
            "label": mask_file(found["label"][name], derived / f"{name}.png", problems),
            "patient": name,
            "source": SOURCE,
        }
        for name in progress(sorted(found["image"]), source=SOURCE)
    ]
