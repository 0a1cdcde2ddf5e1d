"""Whether the label of an image in a folder can be trained on: what a client sends, and what lies there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.transforms import LoadImage

from medseg_monai.data import RadiographReader, RasterReader, VolumeReader
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.data.readers.volume import VOLUME_SUFFIXES
from medseg_monai.files import has_ending
from medseg_monai.transforms import BinarizeMaskd, CheckSameSized, MatchGridd

from .segmentations import name_values
from .served import ServedBundle

__all__ = ["check_label", "check_values"]

_PAIR = ("image", "label")
_HIGHEST = 255


def check_label(image: Path, label: Path) -> torch.Tensor:
    """Read a label, and refuse one that is damaged or not in the grid of its image.

    Args:
        image: picture, radiograph in DICOM, or volume.
        label: picture or volume; viewers of volumes save the label of a picture as a volume of one slice.

    Returns:
        the values ``[1, *spatial]``.

    Raises:
        ValueError: either cannot be read, or the label has another size or lies elsewhere.
    """
    if has_ending(image, VOLUME_SUFFIXES):
        load = LoadImage(reader=VolumeReader(), ensure_channel_first=True)
        return MatchGridd(_PAIR)({"image": load(image), "label": load(label)})["label"]
    is_picture = has_ending(label, RASTER_SUFFIXES)
    reader = RasterReader(channels=1) if is_picture else VolumeReader(one_slice=True)
    mask: Any = LoadImage(reader=reader, ensure_channel_first=True)(label)
    if not is_picture:
        if mask[0].squeeze().ndim != 2:
            raise ValueError(f"{label}: a volume of several slices, but its image is a picture; save its own label.")
        mask = mask[0].squeeze().T[None]
    # what an image shows is the bundle's concern: its size is the same for all of them
    picture = LoadImage(reader=RadiographReader(), ensure_channel_first=True)(image)
    return CheckSameSized(_PAIR)({"image": picture, "label": mask})["label"]


def check_values(values: torch.Tensor, info: Mapping[str, Any], bundles: Iterable[ServedBundle]) -> None:
    """Refuse a label with values that no bundle could learn from.

    Args:
        values: the label ``[1, *spatial]``.
        info: information from the client; see :func:`~.segmentations.name_values`.
        bundles: the bundles that are served.

    Raises:
        ValueError: several values of which one is no label, or has no name.
    """
    dimension = values.ndim - 1
    known = [one.labels for one in bundles if one.dimension == dimension]
    present = [float(value) for value in values.unique() if value]
    if not known or (len(present) == 1 and min(map(len, known)) == 1):
        return
    try:
        if not all(value in range(1, _HIGHEST + 1) for value in present):
            raise ValueError("values that are not labels; save whole numbers from 0 to 255.")
        name_values(info, [int(value) for value in present], max(known, key=len))
    except ValueError:
        if dimension != 2:
            raise
        BinarizeMaskd("label")({"label": values})  # smooth edges of one structure
