"""CURVAS: liver, kidneys and pancreas in slices of abdominal CT, drawn by three raters."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from medseg_monai.data.datalist import Datalist, Item

from ._common import Mask, Problems, by_key, files, locate, pair, progress, save_mask
from ._volumes import split_five_to_one

__all__ = ["read_curvas"]

RATERS = ("rater1", "rater2", "rater3")
NAME = r"(\d+_\d+)"

# red, green, blue
COLOURS = {"liver": (255, 0, 255), "kidney": (255, 255, 0), "pancreas": (0, 255, 255)}
_BACKGROUND = (0, 0, 0)
_ONE_NUMBER = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)


def read_curvas(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    organ: str = "liver",
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read slices of the CURVAS challenge as 8-bit PNG: 108 slices of 14 cases with 512x512 pixels.

    The layout is this project's own; the files come from a public repository of slices of the challenge's volumes::

        images_rater1/10001_394.png     case and slice; 8-bit grey, a soft-tissue window, no Hounsfield units
        masks_rater1/10001_394.png      liver magenta, kidneys yellow, pancreas cyan
        images_rater2/... masks_rater2/... images_rater3/... masks_rater3/...

    A rater may be absent. Slices without the organ are kept with an empty label, since scans have such slices too.

    Items have ``image``, ``label`` (one organ, written to ``derived`` as 8-bit PNG), ``patient`` (the case, which may
    have slices from several raters) and ``source``. There is no official split; the split is seeded, five cases to one
    as the paper splits other data, and validation is taken from the training cases.

    Args:
        root: the folder that has the raters' folders.
        derived: folder for the masks.
        organ: ``"liver"``, ``"kidney"`` or ``"pancreas"``.
        validation_fraction: part of the training cases for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful, present twice, of another size than their image or of other colours
            (all are listed), ``organ`` is unknown, or ``validation_fraction`` is not in [0, 1).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_curvas
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images_rater1", "masks_rater1"):
        ...         Path(folder, kind).mkdir()
        ...         for name in ("10001_394", "10002_120"):
        ...             Image.new("RGB", (30, 20), (255, 0, 255)).save(f"{folder}/{kind}/{name}.png")
        ...     datalist = read_curvas(folder, derived=f"{folder}/derived", organ="liver", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['10001', '10002']

    Source: Riera-Marin et al., CURVAS challenge, MICCAI 2024.
    """
    if organ not in COLOURS:
        raise ValueError(f"organ='{organ}' is unknown: choose from {', '.join(COLOURS)}.")
    source = f"curvas_{organ}"
    base = locate(root, source=source, needs=tuple(f"images_{rater}" for rater in RATERS))
    problems = Problems(source, base)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for rater in RATERS:
        drawn = by_key(files(base / f"images_{rater}"), NAME, problems)
        marked = by_key(files(base / f"masks_{rater}"), NAME, problems)
        pair(drawn, marked, problems)
        for name in sorted(drawn.keys() & marked.keys()):
            if name in images:
                problems.add(drawn[name], f"second file of {name} beside {images[name].parent.name}")
            images[name], masks[name] = drawn[name], marked[name]
            problems.check_size(drawn[name], [marked[name]])
    if not images:
        problems.add(base, "no images")
    problems.raise_if_any()
    target = Path(derived) / source / "label"
    items: list[Item] = []
    for name in progress(sorted(images), source=source):
        try:
            label = save_mask(_organ(masks[name], organ), target / f"{name}.png")
        except (OSError, ValueError) as error:
            problems.add(masks[name], str(error))
            continue
        case = name.partition("_")[0]
        items.append({"image": str(images[name]), "label": label, "patient": case, "source": source})
    problems.raise_if_any()
    return split_five_to_one(items, validation_fraction=validation_fraction, seed=seed)


def _organ(path: Path, organ: str) -> Mask:
    """Decode the mask of one organ.

    Raises:
        OSError: if the file is broken.
        ValueError: if it has a colour that stands for no structure.
    """
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    colours = pixels @ _ONE_NUMBER
    known = np.isin(colours, [np.dot(colour, _ONE_NUMBER) for colour in (_BACKGROUND, *COLOURS.values())])
    if not known.all():
        raise ValueError(f"{int((~known).sum())} pixels of a colour that stands for no organ")
    return np.asarray(colours == np.dot(COLOURS[organ], _ONE_NUMBER))
