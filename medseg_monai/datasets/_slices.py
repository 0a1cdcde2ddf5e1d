"""Shared by the readers of CT slices: slices in Hounsfield units, and masks of structures that a slice may not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medseg_monai.data.datalist import shorten
from medseg_monai.data.readers import CTSliceReader

from ._common import Problems, foreground, save_mask

__all__ = ["check_slice", "slice_mask"]

_READER = CTSliceReader()


def check_slice(path: Path, problems: Problems) -> tuple[int, int] | None:
    """Read a slice as a training will.

    Args:
        path: TIFF in Hounsfield units, or an 8-bit picture of a window.
        problems: where a slice is noted that a training would refuse.

    Returns:
        rows and columns; ``None`` if the slice was noted.
    """
    try:
        values, _ = _READER.get_data(_READER.read(path))
    except (OSError, ValueError) as error:
        problems.add_error(path, error)
        return None
    return values.shape[1], values.shape[2]


def slice_mask(published: Path, derived: Path, size: tuple[int, int] | None, problems: Problems) -> str:
    """Return the path of an 8-bit mask of 0 and 255, which may be empty.

    This is the published file itself if it is such an image, otherwise a PNG that is written to ``derived``. A mask
    that is broken or of another size than its slice is noted in ``problems``.

    Args:
        published: the mask.
        derived: the PNG to write.
        size: rows and columns of its slice, if they are known.
        problems: where a doubtful mask is noted.
    """
    try:
        with Image.open(published) as image:
            values = np.asarray(image)
            is_plain = image.mode == "L" and set(np.unique(values)) <= {0, 255}
    except OSError as error:
        problems.add(published, str(error))
        return str(published)
    if size and values.shape[:2] != size:
        problems.add(published, f"is {values.shape[1]}x{values.shape[0]}, its image {size[1]}x{size[0]}")
    if is_plain:
        return str(published)
    if len(np.unique(values)) > 2 and values.ndim == 2:
        listed = shorten(str(value) for value in np.unique(values))
        problems.add(published, f"has values {listed}, which do not say what is foreground; give a mask of 0 and 255")
        return str(published)
    try:
        return save_mask(foreground(published) if values.any() else np.zeros(values.shape[:2], np.bool_), derived)
    except ValueError as error:
        problems.add(published, str(error))
        return str(published)
