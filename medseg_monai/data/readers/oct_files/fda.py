"""Topcon's scans, ``.fda``."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from medseg_monai.data.limits import check_size
from medseg_monai.files import one_line

from .scan import OCTScan, check_damage, spacing_um

__all__ = ["read_fda"]

_MAGIC = b"FOCT"
_AFTER_HEADER = 15
_MOST_CHUNKS = 10_000  # files have some thirty

_BSCANS = b"@IMG_JPEG"
_BSCANS_HEADER = struct.Struct("<B6I")
# where the width and height in mm and the depth of a pixel in um begin, of the newer and the older chunk
_PARAMETERS = {b"@PARAM_SCAN_04": 12, b"@PARAM_SCAN_02": 21}
_SIZES = struct.Struct("<3d")
_EYES = (b"@CAPTURE_INFO_02", b"@CAPTURE_INFO")
_SIDES = {0: "R", 1: "L"}

_RECTANGULAR = 2  # type of a scan with parallel B-scans


def read_fda(path: Path, max_image_mib: float, bytes_each: int = 4) -> OCTScan:
    """Read the B-scans, which the file holds as JPEG 2000 or JPEG pictures.

    Neither the patient nor the raw values of ``@IMG_MOT_COMP``, whose grey scale the file does not state, are read.

    Args:
        path: the file.
        max_image_mib: MiB of the largest scan.
        bytes_each: bytes that a pixel takes.

    Raises:
        ValueError: it is not such a file, not whole, too large, or holds no pictures of B-scans.

    Source: uocte's description of the format, and the sizes of chunks in OCT-Converter 0.7.
    """
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path}: not a scan of Topcon; export it again.")
        chunks = _chunks(path, stream)
        if _BSCANS not in chunks:
            raise ValueError(f"{path}: no pictures of B-scans (@IMG_JPEG); export the scan again.")
        kind, _, _, columns, rows, count, _ = _BSCANS_HEADER.unpack(
            _read(path, stream, chunks[_BSCANS], _BSCANS_HEADER)
        )
        shape = (count, rows, columns)
        check_size(path, shape, max_image_mib, bytes_each=bytes_each)
        start, size = chunks[_BSCANS]
        # each picture has a length of 4 bytes in front, so a chunk cannot hold more of them
        check_damage(path, whole=min(shape) > 0 and count <= size // 4)
        grey = np.empty(shape, dtype=np.float32)
        stream.seek(start + _BSCANS_HEADER.size)
        for number in range(count):
            grey[number] = _picture(path, stream, start + size, shape[1:])
        spacings = _spacings(path, stream, chunks, (columns, count if kind == _RECTANGULAR else 0))
        side = next(
            (_read(path, stream, chunks[name], struct.Struct("<B"))[0] for name in _EYES if name in chunks), None
        )
    return OCTScan(grey, "Topcon FDA", *spacings, laterality=_SIDES.get(side, "") if side is not None else "")


def _chunks(path: Path, stream: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Place and size of the first chunk of each name."""
    found: dict[bytes, tuple[int, int]] = {}
    end = path.stat().st_size
    stream.seek(_AFTER_HEADER)
    for _ in range(_MOST_CHUNKS):
        length = stream.read(1)
        if length == b"\0":
            return found
        check_damage(path, whole=bool(length))
        name, size = stream.read(length[0]), stream.read(4)
        place = stream.tell()
        after = place + int.from_bytes(size, "little")
        check_damage(path, whole=len(size) == 4 and after <= end)
        found.setdefault(name, (place, after - place))
        stream.seek(after)
    raise ValueError(f"{path}: more than {_MOST_CHUNKS} chunks; export the scan again.")


def _read(path: Path, stream: BinaryIO, chunk: tuple[int, int], form: struct.Struct, skip: int = 0) -> bytes:
    """The bytes of a form in a chunk."""
    start, size = chunk
    check_damage(path, whole=skip + form.size <= size)
    stream.seek(start + skip)
    return stream.read(form.size)


def _picture(path: Path, stream: BinaryIO, end: int, size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The picture of the next B-scan."""
    length = int.from_bytes(stream.read(4), "little")
    check_damage(path, whole=stream.tell() + length <= end)
    code = io.BytesIO(stream.read(length))
    with one_line(f"{path}: a B-scan that is truncated or damaged; export the scan again."):
        image = Image.open(code, formats=("JPEG2000", "JPEG"))
        # the code may declare another size than the header, which was compared with what is allowed
        if (image.height, image.width) != size or image.mode not in ("L", "RGB"):
            raise ValueError("another picture than the header says")
        return np.asarray(image.convert("L"))


def _spacings(
    path: Path, stream: BinaryIO, chunks: dict[bytes, tuple[int, int]], steps: tuple[int, int]
) -> tuple[float, float, float]:
    """Micrometres between rows, columns and B-scans; B-scans that are not parallel have none."""
    for name, skip in _PARAMETERS.items():
        if name in chunks:
            width_mm, height_mm, axial_um = _SIZES.unpack(_read(path, stream, chunks[name], _SIZES, skip))
            columns, bscans = steps
            across = height_mm * 1000 / bscans if bscans > 1 else 0
            return (
                spacing_um(path, axial_um),
                spacing_um(path, width_mm * 1000 / columns),
                spacing_um(path, across, of_bscans=True),
            )
    return math.nan, math.nan, math.nan
