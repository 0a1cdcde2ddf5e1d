"""Heidelberg's raw export, ``.vol``."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg_monai.data.limits import check_size

from .scan import OCTScan, check_damage, heidelberg_grey, spacing_um

__all__ = ["read_vol"]

_MAGIC = b"HSF-"
_HEADER = struct.Struct("<12s3I3d2I2dId4sQiI")
_AFTER_HEADER = 2048  # where the picture of the fundus begins
_SHORTEST_BSCAN_HEADER = 256
_NOT_PARALLEL = (1, 2, 5)  # scan patterns: a line, a circle, a star
_EMPTY = float(np.finfo(np.float32).max)  # pixels outside the scan
_BRIGHTEST = 2  # what is above 1 is white
_SIDES = {b"OD": "R", b"OS": "L"}


class _Header(NamedTuple):
    version: bytes
    columns: int
    bscans: int
    rows: int
    lateral_mm: float
    bscan_spacing_mm: float
    axial_mm: float
    fundus_columns: int
    fundus_rows: int
    fundus_column_mm: float
    fundus_row_mm: float
    field_degrees: int
    focus: float
    side: bytes
    time: int
    pattern: int
    bscan_header: int


def read_vol(path: Path, max_image_mib: float, bytes_each: int = 4) -> OCTScan:
    """Read a volume, a star, a line or a circle.

    Pixels outside the scan (3.4e38 in the file) become 0. The rest of the header, which holds the patient's number and
    date of birth, is not read.

    Args:
        path: the file.
        max_image_mib: MiB of the largest scan.
        bytes_each: bytes that a pixel takes.

    Raises:
        ValueError: it is not such a file, not whole, or too large.

    Source: Heidelberg Engineering, Spectralis Special Function: Exporting Raw Data (HSF-OCT-103).
    """
    with path.open("rb") as stream:
        start = stream.read(_HEADER.size)
        if not start.startswith(_MAGIC):
            raise ValueError(f"{path}: not a raw export of Heidelberg; export the scan again.")
        check_damage(path, whole=len(start) == _HEADER.size)
        header = _Header(*_HEADER.unpack(start))
        shape = (header.bscans, header.rows, header.columns)
        check_size(path, shape, max_image_mib, bytes_each=bytes_each)
        first = _AFTER_HEADER + header.fundus_columns * header.fundus_rows
        each = header.bscan_header + 4 * header.rows * header.columns
        size = path.stat().st_size
        is_whole = min(shape) > 0 and header.bscan_header >= _SHORTEST_BSCAN_HEADER
        check_damage(path, whole=is_whole and size >= first + header.bscans * each)
        grey = np.empty(shape, dtype=np.float32)
        for number in range(header.bscans):
            stream.seek(first + number * each + header.bscan_header)
            pixels = np.frombuffer(stream.read(4 * header.rows * header.columns), dtype="<f4")
            if not (((pixels >= 0) & (pixels <= _BRIGHTEST)) | (pixels == _EMPTY)).all():
                raise ValueError(f"{path}: values that are no reflectivity from 0 to 1; export the scan again.")
            grey[number] = heidelberg_grey(pixels, empty=_EMPTY).reshape(shape[1:])
    is_parallel = header.pattern not in _NOT_PARALLEL
    return OCTScan(
        grey,
        "HEYEX VOL",
        axial_um=spacing_um(path, header.axial_mm * 1000),
        lateral_um=spacing_um(path, header.lateral_mm * 1000),
        bscan_spacing_um=spacing_um(path, header.bscan_spacing_mm * 1000 if is_parallel else 0, of_bscans=True),
        laterality=_SIDES.get(header.side[:2], ""),
        mode="F",
    )
