"""Names of cases: what their results, overlays and drawings are called, and how tables list them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from monai.utils import ImageMetaKey
from PIL import Image

from .dicom.files import DICOM_SUFFIX
from .readers.oct import OCT_SUFFIXES
from .readers.oct_files.scan import split_number
from .readers.raster import RASTER_SUFFIXES
from .readers.volume import VOLUME_SUFFIXES

__all__ = ["NAME_KEY", "case_name", "item_name", "name_cases"]

NAME_KEY = "name"
"""Key of a case's name in the items of data lists."""


def case_name(path: str | os.PathLike[str]) -> str:
    """The name of a case by itself: the last part of its path, without the ending of an image file.

    The name of one of several OCT scans in a file (``FILE/NUMBER``) is that of the file with the number.

    Archives name DICOM files and series by their UIDs, without an ending; the last number of a UID is not an ending.

    Args:
        path: ``item["image"]`` of a data list.

    Example:
        >>> from medseg_monai.data.names import case_name
        >>> [case_name(path) for path in ("a/chest.png", "a/scan.nii.gz", "a/1.2.840.1", "a/series", "eyes.e2e/4711")]
        ['chest', 'scan', '1.2.840.1', 'series', 'eyes_4711']
    """
    file, number = split_number(Path(path))
    name = file.name.removesuffix(_ending(file.name))
    return name if number is None else f"{name}_{number}"


def name_cases(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give each case of a run a name that tells it from the others, as the key ``name`` of its item.

    The name is that of the file or series (:func:`case_name`), or the one that the item has already. Cases of the same
    name get the names of those of their folders in front that differ among them, from the nearest on, as many as it
    takes: ``s0001/ct.nii.gz`` and ``s0002/ct.nii.gz`` become ``s0001_ct`` and ``s0002_ct``. Files of one folder that
    differ in their endings alone keep these. Upper and lower case do not count as a difference, since some file systems
    ignore them. Items of the same image and name are the same case.

    Args:
        items: items with ``image``, all those of the run.

    Returns:
        copies of the items, in their order, each with its ``name``.

    Raises:
        ValueError: two cases whose names remain the same even so.

    Example:
        >>> from medseg_monai.data.names import name_cases
        >>> images = ("data/s0001/ct.nii.gz", "data/s0002/ct.nii.gz", "data/lung.nii.gz", "a/DICOM", "b/1/DICOM")
        >>> [item["name"] for item in name_cases([{"image": path} for path in images])]
        ['s0001_ct', 's0002_ct', 'lung', 'a_DICOM', '1_DICOM']
    """
    cases = [(Path(str(item["image"])), _plain(item.get(NAME_KEY)) or case_name(str(item["image"]))) for item in items]
    alike: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path, name in dict.fromkeys(cases):
        alike[name.casefold()].append((path, name))
    told = {case: name for group in alike.values() for case, name in zip(group, _tell_apart(group), strict=True)}
    _refuse_equal(told)
    return [{**item, NAME_KEY: told[case]} for item, case in zip(items, cases, strict=True)]


def item_name(item: Mapping[Any, Any], image_key: str = "image") -> str:
    """The name of a case in a pipeline: the one that :func:`name_cases` gave it, else that of its image by itself.

    Args:
        item: the case, with its image loaded.
        image_key: key of the image, whose metadata state its file.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data.names import item_name
        >>> image = MetaTensor(torch.zeros(1, 4, 5), meta={"filename_or_obj": "s0001/ct.nii.gz"})
        >>> item_name({"image": image}), item_name({"image": image, "name": "s0001_ct"})
        ('ct', 's0001_ct')
    """
    return _plain(item.get(NAME_KEY)) or case_name(str(item[image_key].meta[ImageMetaKey.FILENAME_OR_OBJ]))


def _plain(name: object) -> str:
    """A name that stays in the folder that it is written to; empty for no name."""
    return "" if name is None else str(name).replace("/", "_").replace("\\", "_")


def _tell_apart(alike: Sequence[tuple[Path, str]]) -> list[str]:
    """Names of cases that have the same one, with the folders that differ in front, and at last with their endings."""
    folders = [path.parent.parts[::-1] for path, _ in alike]
    names = [name for _, name in alike]
    for level in range(max(map(len, folders))):
        if _are_different(names):
            return names
        here = [parts[level].strip(os.sep) if level < len(parts) else "" for parts in folders]
        if len(set(here)) > 1:
            names = [f"{folder}_{name}" if folder else name for folder, name in zip(here, names, strict=True)]
    if _are_different(names):
        return names
    count = Counter(names)
    endings = [_ending(path.name) if count[name] > 1 else "" for (path, _), name in zip(alike, names, strict=True)]
    return [name + ending for name, ending in zip(names, endings, strict=True)]


def _are_different(names: Sequence[str]) -> bool:
    return len({name.casefold() for name in names}) == len(names)


def _refuse_equal(told: Mapping[tuple[Path, str], str]) -> None:
    first: dict[str, Path] = {}
    for (path, _), name in told.items():
        if name in first:
            raise ValueError(f"{first[name]} and {path}: both would be named {name}; rename one of them.")
        first[name] = path


def _ending(name: str) -> str:
    """The ending of an image file, as the name writes it; empty if it has none."""
    lower = name.lower()
    told = (len(ending) for ending in _endings() if lower.endswith(ending) and len(name) > len(ending))
    length = next(told, 0)
    return name[len(name) - length :]


@cache
def _endings() -> tuple[str, ...]:
    """Endings of all image files that can be read, the longest first."""
    ours = (f".{suffix}" for suffix in (*RASTER_SUFFIXES, *VOLUME_SUFFIXES, *OCT_SUFFIXES, DICOM_SUFFIX))
    return tuple(sorted({*ours, *Image.registered_extensions()}, key=lambda ending: (-len(ending), ending)))
