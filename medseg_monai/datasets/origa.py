"""ORIGA-light: optic disc in 650 fundus photographs."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from medseg_monai.data.datalist import Datalist, Item

from ._common import Mask, Problems, by_key, files, hold_out, locate, pair, progress, save_mask, split_three_ways

__all__ = ["read_origa"]

SOURCE = "origa"
LIST = "OrigaList.csv"
ANNOTATIONS = "Semi-automatic-annotations"
SETS = {"A": "training", "B": "test"}
# errors of scipy for a damaged file, and for the HDF5 files of Matlab 7.3
UNREADABLE = (OSError, ValueError, TypeError, NotImplementedError, MatReadError)


def read_origa(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    r"""Read ORIGA-light: 650 images of 3072x2048 pixels, set A (325) for training and set B (325) for testing.

    Layout. We did not have the data; published code and descriptions of copies agree on these names::

        Images/001.jpg                          (or images/)
        Semi-automatic-annotations/001.mat      variable "mask": 0 background, 1 rim, 2 cup
        OrigaList.csv                           columns Filename and Set ("A" or "B"), among others

    The name of the second folder may be longer. The disc is every value from 1. Without ``OrigaList.csv`` the split is
    seeded, 60/20/20.

    Items have ``image``, ``label`` (written to ``derived``), ``patient`` (the image number; patients are not published)
    and ``source``.

    Args:
        root: the folder with ``Images``, or the folder above it if that folder is called ``ORIGA``.
        derived: folder for the masks, 8-bit PNG.
        validation_fraction: part of set A (without the list: of all images) that is held out for validation; 0 holds
            out nothing.
        seed: seed of that choice.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed), or
            ``validation_fraction`` is not in [0, 1), or without the list not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from scipy.io import savemat
        >>> from medseg_monai.datasets import read_origa
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("Images", "Semi-automatic-annotations"):
        ...         Path(folder, name).mkdir()
        ...     for number in ("001", "002"):
        ...         Image.new("RGB", (30, 20)).save(f"{folder}/Images/{number}.jpg")
        ...         savemat(f"{folder}/Semi-automatic-annotations/{number}.mat", {"mask": np.ones((20, 30))})
        ...     _ = Path(folder, "OrigaList.csv").write_text("Filename,Set\n001.jpg,A\n002.jpg,B\n")
        ...     datalist = read_origa(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> {section: [item["patient"] for item in items] for section, items in datalist.items()}
        {'training': ['001'], 'validation': [], 'test': ['002']}

    Source: Zhang et al., "ORIGA-light: an online retinal fundus image database for glaucoma analysis and research",
    EMBC 2010; the split as in Gu et al., "CE-Net", IEEE TMI 2019, Section III-B.
    """
    base = locate(root, source=SOURCE, needs=("Images", "images"), inside=("ORIGA",))
    problems = Problems(SOURCE, base)
    images = by_key(files(base, "[Ii]mages/*"), r"(\d+)", problems)
    if not images:
        problems.add(base / "Images", "no images")
    masks = by_key(files(base, f"{ANNOTATIONS}*/*", suffixes=(".mat",)), r"(\d+)", problems)
    pair(images, masks, problems)
    for number in images.keys() & masks.keys():
        _check_size(images[number], masks[number], problems)
    section_of = _official_sections(base / LIST, images, problems) if (base / LIST).is_file() else None
    problems.raise_if_any()
    items = [
        _item(number, images[number], masks[number], Path(os.path.abspath(derived)), problems)
        for number in progress(sorted(images), source=SOURCE)
    ]
    problems.raise_if_any()
    if section_of is None:
        return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)
    training = [item for item in items if section_of[item["patient"]] == "training"]
    test = [item for item in items if section_of[item["patient"]] == "test"]
    return hold_out(training, test, validation_fraction=validation_fraction, seed=seed)


def _check_size(image: Path, mask: Path, problems: Problems) -> None:
    size = problems.image_size(image)
    try:
        shapes = {name: tuple(shape) for name, shape, _ in whosmat(str(mask))}
    except UNREADABLE:
        problems.add(mask, "can't be read as a Matlab file of version 7 or older")
        return
    if "mask" not in shapes:
        problems.add(mask, f"has no variable 'mask', but {', '.join(sorted(shapes)) or 'none'}")
    elif size and shapes["mask"] != (size[1], size[0]):
        problems.add(mask, f"is {'x'.join(map(str, shapes['mask'][::-1]))}, its image {size[0]}x{size[1]}")


def _official_sections(path: Path, images: dict[str, Path], problems: Problems) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        # some copies of the list have their values in single quotes
        rows = [
            {key: (value or "").strip(" '\"") for key, value in row.items() if key} for row in csv.DictReader(handle)
        ]
    set_of = {Path(row.get("Filename", "")).stem: row.get("Set", "") for row in rows}
    for number in images:
        if set_of.get(number) not in SETS:
            problems.add(images[number], f"{LIST} has no Set 'A' or 'B' for it")
    for number in sorted(set_of.keys() - images.keys()):
        problems.add(path.parent / "Images" / f"{number}.jpg", f"missing, but in {LIST}")
    return {number: SETS[name] for number, name in set_of.items() if name in SETS}


def _item(number: str, image: Path, published: Path, derived: Path, problems: Problems) -> Item:
    target = derived / SOURCE / "label" / f"{number}.png"
    try:
        label = save_mask(_disc(published), target)
    except UNREADABLE as error:
        problems.add(published, str(error))
        label = str(target)
    return {"image": str(image), "label": label, "patient": number, "source": SOURCE}


def _disc(published: Path) -> Mask:
    mask = np.asarray(loadmat(str(published), variable_names=["mask"])["mask"]) >= 1
    if not mask.any():
        raise ValueError("mask is empty")
    return mask
