"""Decoding of pixels, after the size in their code has been compared with that in the header.

A decoder allocates what the code declares, which the header need not know of.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import RLELossless

from medseg_monai.data.limits import TooLargeError

from .versions import coded_frames, read_pixels

__all__ = ["coded_size", "decode_pixels"]

_JPEG = b"\xff\xd8"
_JPEG_2000 = b"\xff\x4f\xff\x51"
# the markers with the size: those of JPEG (C0 to CF) without DHT, JPG and DAC, and that of JPEG-LS
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


def decode_pixels(dataset: Dataset) -> npt.NDArray[Any]:
    """Decode the pixels of an image.

    Args:
        dataset: the image, with its pixels.

    Returns:
        the stored values ``[rows, columns]``, or ``[rows, columns, 3]`` of a colour image, those in YBR as RGB; several
        frames have an axis in front.

    Raises:
        TooLargeError: the code of the pixels has another size than the header.
        Exception: those of pydicom and its decoders.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        stated = (int(dataset.Rows), int(dataset.Columns))
        for code in coded_frames(dataset):
            rows, columns = coded_size(code) or stated
            if (rows, columns) != stated:
                raise TooLargeError(
                    f"{dataset.filename}: {rows} x {columns} pixels are coded, the header says {stated[0]} x "
                    f"{stated[1]}; copy the file again."
                )
    return read_pixels(dataset)


def coded_size(code: bytes) -> tuple[int, int] | None:
    r"""Rows and columns that JPEG, JPEG-LS or JPEG 2000 code declares; ``None`` if it declares none.

    Args:
        code: the code of one frame.

    Example:
        >>> from medseg_monai.data.dicom.pixels import coded_size
        >>> coded_size(b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x40\x00\x30\x01\x01\x11\x00")
        (64, 48)
    """
    if code.startswith(_JPEG_2000):
        columns, rows, left, top = (int.from_bytes(code[start : start + 4]) for start in (8, 12, 16, 20))
        return rows - top, columns - left
    position = 2 if code.startswith(_JPEG) else len(code)
    while position + 9 <= len(code):
        if code[position : position + 2] == b"\xff\xff":  # filled up
            position += 1
        elif code[position + 1] in _FRAME_MARKERS:
            return int.from_bytes(code[position + 5 : position + 7]), int.from_bytes(code[position + 7 : position + 9])
        else:
            position += 2 + int.from_bytes(code[position + 2 : position + 4])
    return None
