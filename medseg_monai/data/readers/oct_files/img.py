"""Zeiss Cirrus' raw export, ``.img``: bare pixels, whose name says what they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medseg_monai.data.limits import check_size

from .scan import OCTScan, check_damage

__all__ = ["is_cube_name", "read_img"]

_ROWS = 1024  # of the cubes of all Cirrus devices
# P1_Macular Cube 512x128_1-15-2014_10-10-10_OD_sn12_cube_z.img
_NAME = re.compile(r"cube[ _]?(\d{1,4})x(\d{1,4})_.*cube_(z|raw)\.img$", re.IGNORECASE)
_SIDE = re.compile(r"_O([DS])_", re.IGNORECASE)


def is_cube_name(path: Path) -> bool:
    """Whether a file's name is that of a cube that :func:`read_img` reads.

    Args:
        path: the file.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.data.readers.oct_files.img import is_cube_name
        >>> is_cube_name(Path("P1_Optic Disc Cube 200x200_1-15-2014_10-10-10_OS_sn12_cube_z.img"))
        True
        >>> is_cube_name(Path("brain.img"))
        False
    """
    return _NAME.search(path.name) is not None


def read_img(path: Path, max_image_mib: float, bytes_each: int = 4) -> OCTScan:
    """Read a cube: 8-bit pixels, columns fastest, then rows from the choroid up, then B-scans.

    The number of columns and B-scans stands in the name alone. The file states no spacing.

    Args:
        path: the file, named as the device exports it.
        max_image_mib: MiB of the largest scan.
        bytes_each: bytes that a pixel takes.

    Raises:
        ValueError: another name, or not as many bytes as the name says.

    Source: retimat (``read_img``) and AURA's ``octCirrusReader``, which agree on rows and columns.
    """
    stated = _NAME.search(path.name)
    if stated is None:
        raise ValueError(
            f"{path}: its name does not say the size of a cube; give it the device's name (…Cube 512x128_…cube_z.img)."
        )
    shape = (int(stated[2]), _ROWS, int(stated[1]))
    check_size(path, shape, max_image_mib, bytes_each=bytes_each)
    size = path.stat().st_size
    if size != shape[0] * shape[1] * shape[2]:
        raise ValueError(
            f"{path}: {size} bytes, but a cube of {stated[1]} x {stated[2]} has {shape[0] * shape[1] * shape[2]}; "
            "export the scan again."
        )
    pixels = np.fromfile(path, dtype=np.uint8)
    check_damage(path, whole=pixels.size == size and pixels.size > 0)
    side = _SIDE.search(path.name)
    return OCTScan(
        np.ascontiguousarray(pixels.reshape(shape)[:, ::-1, ::-1]).astype(np.float32),
        "Zeiss IMG",
        laterality={"D": "R", "S": "L"}[side[1].upper()] if side else "",
    )
