"""What must hold of a data list before a training or an evaluation begins."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Transform
from PIL import Image

from medseg_monai.data.datalist import Item, read_sections, refuse_leaks
from medseg_monai.data.dicom.files import is_dicom_file, read_dicom
from medseg_monai.data.readers.raster import RASTER_SUFFIXES, picture_formats
from medseg_monai.errors import shorten
from medseg_monai.files import file_sha256, has_ending

__all__ = ["check_evaluation_data", "check_training_data", "read_label", "refuse_unlabelled"]

#: columns that an evaluation counts, if its bundle reads them
_COUNTED = ("fov", "label_expert")
_THREADS = 4


def check_training_data(parser: ConfigParser) -> None:
    """Refuse data that no training can learn from, or whose validation says nothing.

    Args:
        parser: the training's config.

    Raises:
        ValueError: items without a label; a section of which all labels are empty; an image that is in two sections,
            under whatever name; a mask or an image that the bundle refuses.
    """
    datalist = parser.get_parsed_content("datalist")
    for section, engine in (("training", "train"), ("validation", "validate")):
        _check_labels(parser, datalist, section, parser.get_parsed_content(f"{engine}#dataset#data"))
    _refuse_copies(Path(datalist))


def check_evaluation_data(parser: ConfigParser) -> None:
    """Refuse data on which an evaluation would count nothing, or not what the list asks for.

    Args:
        parser: the evaluation's config.

    Raises:
        ValueError: items without a label; labels that are all empty; a field of view or an expert's mask that the
            bundle does not read; a mask or an image that the bundle refuses.
    """
    datalist, section = (parser.get_parsed_content(key) for key in ("datalist", "section"))
    items = parser.get_parsed_content("validate#dataset#data")
    _check_labels(parser, datalist, section, items)
    _refuse_unread_columns(datalist, items, parser.get_parsed_content("load_transforms"))


def refuse_unlabelled(datalist: str | os.PathLike[str], section: str, items: Sequence[Item]) -> None:
    """Refuse items without a label, or with one that is no path.

    Args:
        datalist: the data list, for the message.
        section: its section, for the message.
        items: the items of the section.

    Raises:
        ValueError: names the images of the items.
    """
    if without := [str(item["image"]) for item in items if not item.get("label")]:
        raise ValueError(f"{datalist}: items without 'label' in section '{section}': {shorten(without)}; add the key.")
    if strange := [str(item["label"]) for item in items if not isinstance(item["label"], str)]:
        raise ValueError(
            f"{datalist}: labels that are no paths in section '{section}': {shorten(strange)}; name one file each."
        )


def read_label(item: Item, load_transforms: Sequence[Transform]) -> torch.Tensor:
    """The label in the grid of its image; a slice may have a third axis of length 1.

    Args:
        item: item of a data list.
        load_transforms: those of a bundle's training or evaluation.
    """
    label: torch.Tensor = _read(item, load_transforms)["label"]
    return label


def _read(item: Item, load_transforms: Sequence[Transform]) -> dict[str, Any]:
    read: Any = dict(item)
    for transform in load_transforms:  # not MONAI's Compose, which hides a message in another error
        read = transform(read)
    return dict(read)


def _check_labels(parser: ConfigParser, datalist: str, section: str, items: Sequence[Item]) -> None:
    refuse_unlabelled(datalist, section, items)
    load_transforms = parser.get_parsed_content("load_transforms")
    # the first label is rarely empty, so that seldom more than one is read
    if items and not any(read_label(item, load_transforms).any() for item in items):
        raise ValueError(f"{datalist}: all labels of section '{section}' are empty; give masks with the structure.")


def _refuse_unread_columns(datalist: str, items: Sequence[Item], load_transforms: Sequence[Transform]) -> None:
    having = {key: item for item in reversed(items) for key in item if key.startswith(_COUNTED)}
    for key, item in having.items():
        if isinstance(_read(item, load_transforms)[key], str):
            raise ValueError(f"{datalist}: the bundle has no '{key}', which {item['image']} names; remove the key.")


def _refuse_copies(datalist: Path) -> None:
    """Refuse a data list of which two sections have the same image, byte for byte or, in 2D, pixel for pixel."""
    sections = read_sections(datalist)
    images = sorted({item["image"] for items in sections.values() for item in items if item.get("image")})
    with ThreadPoolExecutor(_THREADS) as threads:
        hashes = dict(zip(images, threads.map(_hash, images), strict=True))
    refuse_leaks(datalist, "image", sections, lambda item: hashes.get(item.get("image")))


def _hash(image: str) -> str | None:
    if not os.path.exists(image):  # in a section that is not read now
        return None
    if has_ending(image, RASTER_SUFFIXES):
        return _hash_of_pixels(image)
    if os.path.isfile(image) and is_dicom_file(image):
        return _hash_of_dicom(image)
    files = [path for path in sorted(Path(image).rglob("*")) if path.is_file()] or [Path(image)]
    return "".join(sorted(map(file_sha256, files)))


def _hash_of_dicom(image: str) -> str | None:
    """The hash of the pixels as they are coded, which an export under another name leaves as they are."""
    try:
        header = read_dicom(image, stop_before_pixels=True)
        size = (header.Rows, header.Columns)
        pixels = read_dicom(image, pixels=math.prod(size)).PixelData
        return hashlib.sha256(repr(size).encode() + pixels).hexdigest()
    except Exception:  # pydicom raises many types on damaged files, which are refused when they are read
        return None


def _hash_of_pixels(image: str) -> str | None:
    try:
        with Image.open(image, formats=picture_formats()) as opened:
            pixels = opened if opened.mode.startswith(("I", "F")) else opened.convert("RGB")
            return hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()
    except Exception:  # Pillow's decoders raise many types on damaged files, which are refused when they are read
        return None
