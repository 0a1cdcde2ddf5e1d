"""RIM-ONE, release 1: optic disc in 169 photographs of the optic nerve head, drawn by five experts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from medseg_monai.data.datalist import Datalist, Item

from ._common import (
    IMAGE_SUFFIXES,
    Mask,
    Problems,
    files,
    foreground,
    locate,
    polygon,
    progress,
    read_contour,
    save_mask,
    split_three_ways,
)

__all__ = ["read_rim_one"]

SOURCE = "rim_one"
NAME = re.compile(r"Im(\d+)(?:[-_](exp[1-5]|gs))?", flags=re.IGNORECASE)
EXPERTS = tuple(f"exp{number}" for number in range(1, 6))
GOLD = "gs"
TRAIN_LABELS = ("gold", "majority", "expert1")
# image -> the parts that were found: "" the image, "exp1" ... "exp5", "gs"
Case = dict[str, Path]


def read_rim_one(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    train_label: str = "gold",
    source: str = SOURCE,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read RIM-ONE r1: 169 photographs, cropped around the optic disc, each segmented by five experts.

    Layout. We did not have the data: the class folders and image names follow published code, and the names of the
    experts' files follow the later releases of the same group::

        Normal/Im001.bmp                                the class folders are Normal, Early, Moderate, Deep and OHT
        Normal/Im001-exp1.bmp ... Im001-exp5.bmp        a mask or a closed line, 8-bit or colour; or
        Normal/Im001-exp1.txt ... Im001-exp5.txt        the contour, see below
        Normal/Im001-gs.bmp or Im001-gs.txt             the gold standard (optional)

    A contour is text with one point ``x y`` per line, or as in release 2: a line of words, then one number per line,
    beginning with the centre of the disc, and at the end a line "Ellipse parameters" with a fitted ellipse (which is
    not used). If there is both a mask and a contour, the mask is used.

    Items have ``image``, ``label`` (by ``train_label``), ``label_expert1`` to ``label_expert5``, ``patient`` (class and
    image name; patients are not published) and ``source``. All masks are written to ``derived``. There is no official
    split; the split is seeded, by default 60/20/20.

    On the command line, ``rim_one`` has the gold standard, ``rim_one_majority`` the majority, and ``rim_one_expert1``
    the first expert, on whose masks CE-Net's authors train.

    Args:
        root: the folder with the class folders.
        derived: folder for the masks, 8-bit PNG.
        train_label: which mask is the ``label``: ``"gold"``, the gold standard or, if there is none, the majority;
            ``"majority"``, the pixels that three or more of the five experts marked; ``"expert1"``, the first expert's.
        source: ``source`` of the items.
        validation_fraction: part of the images for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed), or
            ``train_label`` is unknown or ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_rim_one
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "Normal").mkdir()
        ...     for name in ("Im001", "Im001-gs", "Im002", "Im002-gs"):
        ...         Image.new("L", (30, 20), 255).save(f"{folder}/Normal/{name}.bmp")
        ...     datalist = read_rim_one(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['Normal_Im001', 'Normal_Im002']

    Source: Fumero et al., "RIM-ONE: an open retinal image database for optic nerve evaluation", CBMS 2011.
    """
    if train_label not in TRAIN_LABELS:
        raise ValueError(f"train_label='{train_label}' is unknown: choose from {', '.join(TRAIN_LABELS)}.")
    base = locate(root, source=source, needs=(".",))
    problems = Problems(source, base)
    cases = _cases(base, problems)
    if not cases:
        problems.add(base, "no images named like Normal/Im001.bmp")
    for case in cases.values():
        _check(case, problems, needs_experts=train_label != "gold")
    problems.raise_if_any()
    target = Path(derived) / source
    items = []
    for name in progress(sorted(cases), source=source):
        item = _item(name, cases[name], target, problems, train_label=train_label)
        items.append({**item, "patient": name, "source": source})
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _cases(base: Path, problems: Problems) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    found = files(base, "*/*", suffixes=(*IMAGE_SUFFIXES, ".txt"))
    # images before text, so that a mask takes precedence over a contour of the same part
    for path in sorted(found, key=lambda path: path.suffix.lower() == ".txt"):
        match = NAME.fullmatch(path.stem)
        is_text = path.suffix.lower() == ".txt"
        if match is None or (is_text and match[2] is None):
            # other text is a readme
            if match or not is_text:
                problems.add(path, "unexpected name")
            continue
        case = cases.setdefault(f"{path.parent.name}_Im{match[1]}", {})
        part = (match[2] or "").lower()
        if part not in case:
            case[part] = path
        elif not is_text:
            problems.add(path, f"second file beside {case[part].name}")
    return cases


def _check(case: Case, problems: Problems, *, needs_experts: bool) -> None:
    present = [expert for expert in EXPERTS if expert in case]
    first = next(iter(case.values()))
    if "" not in case:
        problems.add(first, "mask without image")
        return
    if not present and GOLD not in case:
        problems.add(case[""], "image without mask")
    elif (present or needs_experts) and len(present) < len(EXPERTS):
        missing = [expert for expert in EXPERTS if expert not in case]
        problems.add(case[""], f"image without mask of {', '.join(missing)}")
    problems.check_size(case[""], [path for part, path in case.items() if part and path.suffix.lower() != ".txt"])


def _item(name: str, case: Case, derived: Path, problems: Problems, *, train_label: str) -> Item:
    item: Item = {"image": str(case[""])}
    size = problems.image_size(case[""])
    masks = {part: _mask(path, size, problems) for part, path in case.items() if part and size}
    if any(mask is None for mask in masks.values()):
        return item
    drawn = {part: mask for part, mask in masks.items() if mask is not None}
    for number, expert in enumerate(EXPERTS, start=1):
        if expert in drawn:
            key = f"label_expert{number}"
            item[key] = save_mask(drawn[expert], derived / key / f"{name}.png")
    label = _label(drawn, train_label)
    if not label.any():
        problems.add(case[""], "no pixel is marked by three experts")
    item["label"] = save_mask(label, derived / "label" / f"{name}.png")
    return item


def _mask(path: Path, size: tuple[int, int], problems: Problems) -> Mask | None:
    try:
        if path.suffix.lower() == ".txt":
            return polygon(read_contour(path), size)
        # a closed line becomes the disc that it encloses, and a filled disc stays as it is
        return np.asarray(ndimage.binary_fill_holes(foreground(path)))
    except (OSError, ValueError) as error:
        problems.add(path, str(error))
        return None


def _label(drawn: Mapping[str, Mask], train_label: str) -> Mask:
    if train_label == "expert1":
        return drawn[EXPERTS[0]]
    if train_label == "gold" and GOLD in drawn:
        return drawn[GOLD]
    return _majority([drawn[expert] for expert in EXPERTS])


def _majority(masks: list[Mask]) -> Mask:
    return np.asarray(np.sum(masks, axis=0) > len(masks) // 2)
