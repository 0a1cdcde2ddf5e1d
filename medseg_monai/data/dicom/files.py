"""DICOM files: told from others, and the header of one slice as the checks of a series need it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from monai.data.utils import is_supported_format
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from .versions import missing_decoder

__all__ = [
    "DICOM_SUFFIX",
    "DamagedFile",
    "DicomSlice",
    "SliceHeader",
    "files_by_folder",
    "is_dicom_file",
    "read_modality",
    "read_slice_header",
]

_LOGGER = logging.getLogger(__name__)

DICOM_SUFFIX = "dcm"
"""File name ending of DICOM, without the dot; files without it are told by their content."""

_TAGS = [
    "BitsAllocated",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",  # stands in the multi-frame ("enhanced") files
    "SpecificCharacterSet",
]

# made from a scan, with pixels of their own, but not a scan
_DERIVED_MODALITIES = ("SEG", "RTDOSE")

# headers that are kept: those of a few large studies
_KEPT_HEADERS = 16384


@dataclass(frozen=True)
class DicomSlice:
    """What the header of one file says; what it does not say, or not in numbers, is empty or ``None``.

    Attributes:
        file: the file.
        size: columns and rows.
        frames: number of frames, 1 in an ordinary slice.
        pixel_spacing: mm between columns and between rows (DICOM writes the two the other way round).
        position: centre of the first pixel in mm, LPS.
        orientation: direction of a row, then of a column, LPS.
        image_type: the values of ``ImageType``.
        colour: ``PhotometricInterpretation`` if a pixel is not one grey value, else empty.
        slope: ``RescaleSlope``.
        intercept: ``RescaleIntercept``.
        rescale_type: ``RescaleType``, empty if absent.
        cut_off: the file ends before its pixels do (compressed pixels: before they begin).
        decoder: what has to be installed to decode the pixels, empty if nothing.
    """

    file: Path
    size: tuple[int, int]
    frames: int
    pixel_spacing: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    image_type: tuple[str, ...]
    colour: str
    slope: float | None
    intercept: float | None
    rescale_type: str
    cut_off: bool
    decoder: str

    @property
    def is_localiser(self) -> bool:
        """Whether ``ImageType`` says so."""
        return "LOCALIZER" in self.image_type


@dataclass(frozen=True)
class SliceHeader:
    """The header of one file of a series.

    Attributes:
        series_uid: ``SeriesInstanceUID``.
        description: ``SeriesDescription``, empty if absent.
        modality: ``Modality``, empty if absent.
        slice: what the checks of the geometry need.
    """

    series_uid: str
    description: str
    modality: str
    slice: DicomSlice


@dataclass(frozen=True)
class DamagedFile:
    """A file that is DICOM by its name or content, and whose header cannot be read.

    Attributes:
        file: the file.
    """

    file: Path


def is_dicom_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is DICOM, by its ending ``.dcm`` or by the letters DICM after 128 bytes.

    Args:
        path: the file. One that is named ``.dcm`` counts whatever it holds, so that reading it says what is wrong.
    """
    file = Path(path)
    return is_supported_format(file, [DICOM_SUFFIX]) or (file.is_file() and is_dicom(file))


def read_modality(path: str | os.PathLike[str]) -> str:
    """Return the ``Modality`` of a DICOM file, empty if the file does not tell or its header cannot be read.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return str(dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality") or "")
    except OSError:
        raise
    except Exception:  # pydicom raises many types on damaged headers
        return ""


def read_slice_header(path: str | os.PathLike[str]) -> SliceHeader | DamagedFile | None:
    """Read what a series has to know of one of its files.

    A header is read once: a file of the same size and time of change is not opened again. So a scan may be listed,
    checked and loaded one after the other for the price of one look at its headers.

    Args:
        path: any file.

    Returns:
        the header; ``None`` for a file that is not DICOM, or not an image that a scanner made (reports, contours,
        segmentations, doses); a :class:`DamagedFile` if the header cannot be read.

    Raises:
        OSError: the file cannot be opened.
    """
    state = os.stat(path)
    return _read_once(os.path.abspath(path), state.st_size, state.st_mtime_ns)


def files_by_folder(root: Path) -> Iterator[list[Path]]:
    """List the files below a folder, folder by folder, without hidden ones and ``DICOMDIR``.

    Args:
        root: the folder. Links to files are followed, links to folders are not.

    Raises:
        OSError: a folder below it cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(root, onerror=fail):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        yield [file for file in files if file.is_file()]


@lru_cache(maxsize=_KEPT_HEADERS)
def _read_once(path: str, size: int, changed: int) -> SliceHeader | DamagedFile | None:
    file = Path(path)
    if not is_dicom_file(file):
        return None
    try:
        header, held = _read_header(file)
        if not _is_scan(header):
            return None
        return SliceHeader(
            series_uid=str(header.SeriesInstanceUID),
            description=" ".join(str(header.get("SeriesDescription") or "").split()),
            modality=str(header.get("Modality") or ""),
            slice=_to_slice(file, header, held),
        )
    except OSError:
        raise
    except Exception as error:  # pydicom raises many types on damaged headers
        _LOGGER.debug("%s: %s", file, error)
        return DamagedFile(file)


def _read_header(file: Path) -> tuple[Dataset, int]:
    """The header, and how many bytes of the file follow it: those of the pixels."""
    with file.open("rb") as stream:
        header = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
        return header, file.stat().st_size - stream.tell()


def _is_scan(header: Dataset) -> bool:
    """Whether the file is an image and not made from one; a damaged header counts as an image's."""
    storage = header.file_meta.get("MediaStorageSOPClassUID")
    is_image = "Rows" in header or storage is None or "Image Storage" in UID(storage).name
    return is_image and header.get("Modality") not in _DERIVED_MODALITIES


def _to_slice(file: Path, header: Dataset, held: int) -> DicomSlice:
    colour = "" if int(header.get("SamplesPerPixel", 1)) == 1 else "colour"
    interpretation = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    spacing = _numbers(header, "PixelSpacing", 2)
    slope, intercept = _numbers(header, "RescaleSlope", 1), _numbers(header, "RescaleIntercept", 1)
    size = (int(header.Columns), int(header.Rows))
    enhanced = "SharedFunctionalGroupsSequence" in header
    return DicomSlice(
        file=file,
        size=size,
        frames=max(int(header.get("NumberOfFrames") or 1), 2 if enhanced else 1),
        pixel_spacing=spacing[::-1] if min(spacing, default=0) > 0 else (),
        position=_numbers(header, "ImagePositionPatient", 3),
        orientation=_directions(_numbers(header, "ImageOrientationPatient", 6)),
        image_type=tuple(str(value).upper() for value in _values(header, "ImageType")),
        colour="" if not colour and interpretation.startswith("MONOCHROME") else interpretation,
        slope=slope[0] if slope else None,
        intercept=intercept[0] if intercept else None,
        rescale_type=str(header.get("RescaleType") or "").upper(),
        cut_off=_is_cut_off(header, held),
        decoder=missing_decoder(header.file_meta.TransferSyntaxUID),
    )


def _values(header: Dataset, keyword: str) -> list[object]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    values = tuple(float(str(value)) for value in _values(header, keyword))
    return values if len(values) == count and np.isfinite(values).all() else ()


def _directions(values: tuple[float, ...]) -> tuple[float, ...]:
    """The direction cosines, if they are two perpendicular directions of length 1."""
    directions = np.reshape(values, (-1, 3))
    is_usable = len(directions) == 2 and np.allclose(directions @ directions.T, np.eye(2), atol=1e-3)
    return values if is_usable else ()


def _is_cut_off(header: Dataset, held: int) -> bool:
    syntax = header.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:  # the whole file is one compressed stream, which has been read
        return False
    if syntax.is_compressed:
        return held <= 0
    voxels = int(header.Columns) * int(header.Rows) * int(header.get("NumberOfFrames") or 1)
    expected = voxels * int(header.get("SamplesPerPixel", 1)) * int(header.get("BitsAllocated", 16)) // 8
    return held < expected + (8 if syntax.is_implicit_VR else 12)  # tag, type and length of the pixels' element
