"""What differs between pydicom 2 and pydicom 3: lookup tables, decoders, colours, and writing a complete file.

pydicom 2 works with NumPy 1, which some hospitals' environments require; masks and files are the same with both.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGExtended12Bit

try:
    from pydicom.encaps import generate_frames
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, convert_color_space
except ImportError:  # pydicom 2 has them elsewhere; there, pydicom 3 warns and pydicom 4 will have nothing
    from pydicom.encaps import generate_pixel_data_frame
    from pydicom.pixel_data_handlers.util import (  # type: ignore[no-redef]
        apply_modality_lut,
        apply_voi_lut,
        convert_color_space,
    )

    _HAS_DECODERS = False
else:
    _HAS_DECODERS = True

__all__ = [
    "apply_modality_lut",
    "apply_voi_lut",
    "coded_frames",
    "is_implicit",
    "missing_decoder",
    "read_pixels",
    "write_dicom",
]

_UNKNOWN = "a decoder that pydicom does not have"

# the only package that decodes more than 8 bits of JPEG Extended; its licence, GPL-3.0, is for the user to accept
_TWELVE_BITS = {"pylibjpeg": "pylibjpeg", "libjpeg": "pylibjpeg-libjpeg"}


def missing_decoder(syntax: UID, bits: int = 8) -> str:
    """Return what has to be installed to decode pixels of a transfer syntax; empty if nothing.

    Args:
        syntax: the transfer syntax.
        bits: ``BitsStored``.
    """
    if syntax == JPEGExtended12Bit and bits > 8:  # pydicom names decoders here that fail
        absent = any(find_spec(module) is None for module in _TWELVE_BITS)
        return " and ".join(_TWELVE_BITS.values()) if absent else ""
    missing = _missing_of_decoder(syntax) if _HAS_DECODERS else _missing_of_handlers(syntax)
    return re.sub("^gdcm", "python-gdcm", missing, flags=re.IGNORECASE)  # what pip calls it


def read_pixels(dataset: Dataset) -> npt.NDArray[Any]:
    """Decode the pixels of an image; those in YBR become RGB.

    pydicom logs a traceback for each decoder that fails, before it raises an error that says the same. This function
    lets only the error through.

    Args:
        dataset: a data set as it was read.

    Returns:
        ``[H, W]`` or ``[H, W, 3]``, with a first axis for several frames.

    Raises:
        Exception: each decoder has types of its own.
    """
    with _without_log():
        pixels: npt.NDArray[Any] = dataset.pixel_array
    interpretation = str(dataset.get("PhotometricInterpretation") or "")
    if not _HAS_DECODERS and interpretation.startswith("YBR_FULL"):
        return np.asarray(convert_color_space(pixels, interpretation, "RGB"))
    return pixels


@contextmanager
def _without_log() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _missing_of_decoder(syntax: UID) -> str:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return _UNKNOWN
    if decoder.is_available:
        return ""
    return " or ".join(text.split(" requires ")[-1] for text in decoder.missing_dependencies)


def _missing_of_handlers(syntax: UID) -> str:
    """The same for pydicom 2, whose ``pixel_array`` tries a list of handlers."""
    handlers = [handler for handler in pydicom.config.pixel_data_handlers if handler.supports_transfer_syntax(syntax)]
    if not handlers:
        return _UNKNOWN
    if any(handler.is_available() for handler in handlers):
        return ""
    needed = [
        [name for module, (_, name) in handler.DEPENDENCIES.items() if module != "numpy"] or [handler.HANDLER_NAME]
        for handler in handlers
    ]
    return " or ".join(" and ".join(names) for names in needed)


def is_implicit(dataset: FileDataset) -> bool:
    """Return whether a data set was read as one that does not state the types of its values.

    Args:
        dataset: a data set as it was read.
    """
    try:
        return bool(dataset.original_encoding[0])
    except AttributeError:  # pydicom 2
        return bool(dataset.is_implicit_VR)


def coded_frames(dataset: Dataset) -> Iterator[bytes]:
    """Return the code of the compressed pixels, frame by frame.

    Args:
        dataset: an image with its pixels.
    """
    frames = int(dataset.get("NumberOfFrames") or 1)
    if _HAS_DECODERS:
        return generate_frames(dataset.PixelData, number_of_frames=frames)
    return generate_pixel_data_frame(dataset.PixelData, frames)


def write_dicom(attributes: Dataset, path: str | os.PathLike[str]) -> None:
    """Write a complete DICOM file (PS3.10), explicit VR little endian.

    Args:
        attributes: contents of the file, with ``SOPClassUID`` and ``SOPInstanceUID``.
        path: the file to write or replace.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom replaces it with the true one
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = attributes.SOPClassUID, attributes.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    validate_file_meta(meta)
    # pydicom 2 writes by this argument, pydicom 3 by the transfer syntax
    written = FileDataset(str(path), attributes, preamble=bytes(128), file_meta=meta, is_implicit_VR=False)
    written.save_as(path)
