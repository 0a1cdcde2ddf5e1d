"""2D images in DICOM files, and stacks of them, as a viewer shows them: grey values or colours from 0 to 255."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID

from medseg_monai.data.dicom.files import DICOM_SUFFIX, has_dicom_content, has_shifted_bits, read_dicom
from medseg_monai.data.dicom.pixels import decode_pixels
from medseg_monai.data.dicom.versions import apply_modality_lut, apply_voi_lut, missing_decoder
from medseg_monai.data.limits import MAX_IMAGE_MIB, TooLargeError, check_size
from medseg_monai.errors import printable
from medseg_monai.files import one_line

from .raster import BYTES_PER_PIXEL

__all__ = ["OCT", "PHOTOGRAPH", "RADIOGRAPH", "DicomPicture", "PictureKind", "read_dicom_picture"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_LOGGER = logging.getLogger(__name__)

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

# what the standard asks PresentationLUTShape to be, so that it only repeats PhotometricInterpretation
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}


@dataclass(frozen=True)
class PictureKind:
    """A kind of image that DICOM knows by its modality.

    Attributes:
        name: what messages call one.
        modalities: the modalities.
        in_colour: whether it may have colours.
        stretched: whether the darkest and the brightest pixel of grey values without a window become 0 and 255. If not,
            the ends of the range of the depth do, as in a file of another format.
        in_frames: whether it may have several frames.
    """

    name: str
    modalities: tuple[str, ...]
    in_colour: bool = False
    stretched: bool = False
    in_frames: bool = False

    @property
    def interpretations(self) -> tuple[str, ...]:
        """The photometric interpretations that can be read."""
        return _GREY + _COLOURS if self.in_colour else _GREY


RADIOGRAPH = PictureKind("radiograph", ("CR", "DX"), stretched=True)
"""Computed radiography and digital X-ray."""

PHOTOGRAPH = PictureKind("photograph", ("OP",), in_colour=True)
"""Ophthalmic photography."""

OCT = PictureKind("retinal scan", ("OPT",), in_frames=True)
"""Ophthalmic tomography: a B-scan, or a volume with one in each frame."""


@dataclass(frozen=True, eq=False)
class DicomPicture:
    """What a file holds.

    Attributes:
        values: ``[H, W]`` grey or ``[H, W, 3]`` RGB, from 0 to 255; several frames have an axis in front.
        interpretation: its photometric interpretation.
    """

    values: FloatArray
    interpretation: str


def read_dicom_picture(path: Path, kind: PictureKind, max_image_mib: float = MAX_IMAGE_MIB) -> DicomPicture:
    """Read a DICOM file as a viewer shows it.

    Args:
        path: the file.
        kind: what it must be.
        max_image_mib: MiB of the largest image, see :class:`medseg_monai.data.RasterReader`.

    Raises:
        ValueError: it is of another kind, damaged, or cannot be shown.
        OSError: it cannot be read.
    """
    dataset = _open(path, kind, max_image_mib)
    stored = _stored_values(path, dataset)
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation not in _GREY:
        return DicomPicture(stored.astype(np.float32), interpretation)
    padding = _padding(dataset, stored)
    if padding.all():
        raise ValueError(f"{path}: every pixel is padding; export the image again.")
    shown = np.empty(stored.shape, dtype=np.float32)
    try:
        for frame in np.ndindex(stored.shape[:-2]):  # one by one, to save memory
            shown[frame] = _as_shown(dataset, stored[frame], padding[frame], stretch=kind.stretched)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many types for tags with no value or an impossible one
        reason = printable(str(error).strip().split("\n")[0])
        raise ValueError(
            f"{path}: LUT, window or rescale tags that cannot be applied ({reason}); repair them."
        ) from error
    shown[padding] = 0
    return DicomPicture(shown, interpretation)


def _reading(path: Path) -> AbstractContextManager[None]:
    return one_line(f"{path}: damaged DICOM header; copy the file again.", passing=(OSError, TooLargeError))


def _open(path: Path, kind: PictureKind, max_image_mib: float) -> Dataset:
    """Read the file, and refuse anything that is not a single image of the kind."""
    if not has_dicom_content(path):
        raise ValueError(f"{path}: named .{DICOM_SUFFIX}, but is not DICOM; export it again.")
    with _reading(path):
        dataset = read_dicom(path, stop_before_pixels=True)
        size = (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
        modality = printable(dataset.get("Modality") or "unknown")
        frames = int(dataset.get("NumberOfFrames") or 1)
        samples = int(dataset.get("SamplesPerPixel") or 1)
        interpretation = printable(dataset.get("PhotometricInterpretation") or "unknown")
        bits = int(dataset.get("BitsStored") or 0)
        shifted = has_shifted_bits(dataset)
        flat = dataset.get("RescaleSlope") == 0
        decoder = missing_decoder(UID(dataset.file_meta.TransferSyntaxUID), bits)
    if modality not in kind.modalities:
        wanted = " or ".join(kind.modalities)
        raise ValueError(f"{path}: modality {modality}, expected {wanted}; give a {kind.name}.")
    if frames > 1 and not kind.in_frames:
        raise ValueError(f"{path}: {frames} frames; save the frame to segment as a file of its own.")
    is_grey = interpretation in _GREY
    if interpretation not in kind.interpretations or samples != (1 if is_grey else 3):
        wanted = " or ".join(kind.interpretations)
        raise ValueError(f"{path}: colour ({interpretation}), expected {wanted}; give the original image.")
    if not 8 <= bits <= (16 if is_grey else 8):
        wanted = "8 to 16" if is_grey else "8 for each colour"
        raise ValueError(f"{path}: {bits} bits per pixel, expected {wanted}; give the original image.")
    if shifted:
        raise ValueError(f"{path}: HighBit contradicts BitsStored, so the values are uncertain; export it again.")
    if flat:
        raise ValueError(f"{path}: RescaleSlope 0, so all values are equal; export the image again.")
    if decoder:
        raise ValueError(
            f"{path}: compressed ({_syntax(dataset)}), needs {decoder}; install that or decompress the image."
        )
    _warn(path, dataset, interpretation)
    shape = (frames, *size) if frames > 1 else size
    check_size(path, shape, max_image_mib, bytes_each=BYTES_PER_PIXEL)
    with _reading(path):
        dataset = read_dicom(path, pixels=math.prod(shape))
    if "PixelData" not in dataset:
        raise ValueError(f"{path}: no pixel data; copy the whole file again.")
    return dataset


def _warn(path: Path, dataset: Dataset, interpretation: str) -> None:
    if str(dataset.get("PresentationIntentType") or "") == "FOR PROCESSING":
        _LOGGER.warning("%s: FOR PROCESSING (the detector's values); prefer the image FOR PRESENTATION.", path)
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape in _SHAPES.values() and shape != _SHAPES.get(interpretation, shape):
        _LOGGER.warning(
            "%s: PresentationLUTShape %s contradicts %s, by which the image is read; check that it is not a negative.",
            path,
            shape,
            interpretation,
        )


def _syntax(dataset: Dataset) -> str:
    return printable(UID(dataset.file_meta.get("TransferSyntaxUID", "")).name) or "unknown transfer syntax"


def _stored_values(path: Path, dataset: Dataset) -> npt.NDArray[np.integer[Any]]:
    try:
        return decode_pixels(dataset)
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:  # each decoder raises its own types
        raise ValueError(
            f"{path}: the pixels cannot be decoded ({_syntax(dataset)}); copy the file again, or decompress it first."
        ) from error


def _padding(dataset: Dataset, stored: npt.NDArray[np.integer[Any]]) -> BoolArray:
    """The pixels that were added to fill the image up to a rectangle."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    # some files write the bits of a negative value as an unsigned number, or vice versa
    low, high = sorted(np.asarray([value, value if limit is None else limit]).astype(stored.dtype).tolist())
    return np.asarray((stored >= low) & (stored <= high))


def _as_shown(
    dataset: Dataset, stored: npt.NDArray[np.integer[Any]], padding: BoolArray, *, stretch: bool
) -> FloatArray:
    """Grey values ``[H, W]`` in 0 to 255; dense is white."""
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        shown, low, high = _through_table(values, dataset)
    else:
        shown = apply_voi_lut(values, dataset)
        if shown is not values:
            low, high = apply_voi_lut(np.asarray((-np.inf, np.inf)), dataset)
        elif stretch:
            low, high = (float(end(values[~padding])) for end in (np.min, np.max))
        else:
            low, high = _range_of_depth(dataset)
    scaled = (shown.astype(np.float64) - low) / ((high - low) or 1.0)
    grey = np.clip(scaled, 0, 1) * 255
    return np.asarray(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey, dtype=np.float32)


def _range_of_depth(dataset: Dataset) -> tuple[float, float]:
    """The ends of the range of stored values, rescaled as they are."""
    bits = int(dataset.BitsStored)
    lowest = -(2 ** (bits - 1)) if dataset.get("PixelRepresentation") else 0
    ends = apply_modality_lut(np.asarray((lowest, lowest + 2**bits - 1)), dataset)
    return float(min(ends)), float(max(ends))


def _through_table(values: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[Any], float, float]:
    """Apply the first VOI LUT; return the output and the ends of the range that its descriptor declares."""
    table = dataset.VOILUTSequence[0]
    entries, first, depth = table.LUTDescriptor
    # pydicom counts the entries of a table in the type of its output, which is too small for 12 bits in and 8 out
    table.LUTDescriptor = [entries, first, 16]
    whole = np.clip(np.rint(values), -(2**15), 2**16 - 1).astype(np.int32)
    return apply_voi_lut(whole, dataset), 0.0, 2.0 ** int(depth) - 1
