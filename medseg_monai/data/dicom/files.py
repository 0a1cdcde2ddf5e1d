"""DICOM files: recognising them, and reading what the checks of a series need from each header."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg_monai.data.limits import TooLargeError
from medseg_monai.errors import printable
from medseg_monai.files import has_ending

from .versions import is_implicit, missing_decoder

__all__ = [
    "DICOM_SUFFIX",
    "DamagedFile",
    "DicomSlice",
    "SliceHeader",
    "files_by_folder",
    "has_dicom_content",
    "has_shifted_bits",
    "is_dicom_file",
    "read_dicom",
    "read_modality",
    "read_slice_header",
]

_LOGGER = logging.getLogger(__name__)

DICOM_SUFFIX = "dcm"
"""File name ending of DICOM, without the dot; files without it are recognised by their content."""

_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
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
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",  # in multi-frame ("enhanced") files
    "SpecificCharacterSet",
]

# objects with pixels that were made from a scan and are not scans themselves
_DERIVED_MODALITIES = ("SEG", "RTDOSE")

_PREAMBLE = 128
_FIRST_GROUPS = (0x0002, 0x0008)

# pydicom takes seconds for so many data elements and items; a segmentation of thousands of frames has fewer
_MOST_PARTS = 500_000
_ITEM = b"\xfe\xff\x00\xe0"

# bytes that a deflated file may have in front of its pixels, and that a pixel may take
_LONGEST_HEADER = 2**26
_BYTES_PER_PIXEL = 8

# number of headers to keep: enough for a few large studies
_KEPT_HEADERS = 16384


@dataclass(frozen=True)
class DicomSlice:
    """The contents of one file's header; what it does not state, or not as a number, is empty or ``None``.

    Attributes:
        file: the file.
        size: columns and rows.
        frames: number of frames, 1 in an ordinary slice.
        pixel_spacing: mm between columns, then between rows (DICOM has them in the opposite order).
        position: centre of the first pixel in mm, LPS.
        orientation: direction of a row, then of a column, LPS.
        image_type: the values of ``ImageType``.
        colour: ``PhotometricInterpretation`` if a pixel is not a single grey value, else empty.
        slope: ``RescaleSlope``.
        intercept: ``RescaleIntercept``.
        rescale_type: ``RescaleType``, empty if absent.
        uid: ``SOPInstanceUID``, empty if absent.
        shifted: ``HighBit`` says that the stored bits do not begin with the lowest one, which no decoder heeds.
        cut_off: the file ends before its pixels do (compressed pixels: before they begin).
        decoder: what has to be installed to decode the pixels, empty if nothing.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     first = find_series(patients)[0].slices[0]
        >>> first.size, first.rescale_type, first.cut_off
        ((40, 32), 'HU', False)
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
    uid: str
    shifted: bool
    cut_off: bool
    decoder: str

    @property
    def is_localiser(self) -> bool:
        """Whether ``ImageType`` marks the slice as a localiser."""
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
    """A file that is DICOM by its name or content, but whose header cannot be read.

    Attributes:
        file: the file.
    """

    file: Path


def is_dicom_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is DICOM, by its ending ``.dcm`` or by its content, see :func:`has_dicom_content`.

    Args:
        path: the file. Any file named ``.dcm`` counts as DICOM, so that reading it reports what is wrong.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data.dicom import is_dicom_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, content in {"IM001": bytes(128) + b"DICM", "notes": b"text"}.items():
        ...         _ = Path(folder, name).write_bytes(content)
        ...     [is_dicom_file(Path(folder, name)) for name in ("IM001", "notes")]
        [True, False]
    """
    file = Path(path)
    return has_ending(file, [DICOM_SUFFIX]) or (file.is_file() and has_dicom_content(file))


def has_dicom_content(path: str | os.PathLike[str]) -> bool:
    r"""Return whether a file begins as DICOM does, whatever its name.

    That is by the letters DICM after a preamble of 128 bytes, or, as some archives and older scanners write files, at
    once with a data element of group 0002 or 0008 that the DICOM dictionary knows, little endian, with the type that
    the dictionary states or with a length that the file has room for.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data.dicom.files import has_dicom_content
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a").write_bytes(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")  # no preamble
        ...     has_dicom_content(Path(folder, "a"))
        True
    """
    file = Path(path)
    with file.open("rb") as stream:
        start = stream.read(_PREAMBLE + 4)
    return start[_PREAMBLE:] == b"DICM" or _is_element(start[:8], file.stat().st_size)


def _is_element(head: bytes, size: int) -> bool:
    """Whether eight bytes are the head of one of the first data elements of a DICOM file of a size."""
    if len(head) < 8:
        return False
    group, number = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    if group not in _FIRST_GROUPS:
        return False
    if number == 0:  # the length of the group
        kind = "UL"
    else:
        try:
            kind = dictionary_VR((group, number))
        except KeyError:
            return False
    length = int.from_bytes(head[4:], "little")
    return head[4:6] == kind.encode() or (length % 2 == 0 and length <= size - 8)


def read_dicom(path: str | os.PathLike[str], *, pixels: int = 0, **options: Any) -> FileDataset:
    """Read a DICOM file, also one without preamble or without file meta information, as the header can tell.

    Args:
        path: the file.
        pixels: how many the header declares, if they are to be read; a deflated file may not inflate to more.
        options: those of ``pydicom.dcmread``.

    Returns:
        the data set; ``file_meta`` always has a ``TransferSyntaxUID``.

    Raises:
        OSError: it cannot be opened.
        TooLargeError: it has more parts than any image, or inflates to more than it declares.
        Exception: pydicom's, for a file that is not DICOM or damaged.
    """
    with Path(path).open("rb") as stream:
        return _read(stream, Path(path), pixels, **options)


def _read(stream: BinaryIO, path: Path, pixels: int, **options: Any) -> FileDataset:
    bounded = _BoundedFile(stream, path, pixels, is_header=bool(options))
    dataset = dcmread(bounded, force=has_dicom_content(path), **options)
    dataset.buffer = None  # or copies of the data set would ask for the file
    return _with_syntax(dataset)


class _BoundedFile:
    """An open file for pydicom, which reads and inflates whatever it is told to; copies of data sets know its name.

    pydicom reads the head of each data element and item by itself, the value of a sequence that states its length at
    once, and a deflated data set as everything that is left.
    """

    def __init__(self, stream: BinaryIO, path: Path, pixels: int, *, is_header: bool) -> None:
        self.name = str(path)
        self.seek, self.tell = stream.seek, stream.tell
        self._stream = stream
        self._inflated = _LONGEST_HEADER + _BYTES_PER_PIXEL * pixels
        self._is_header = is_header
        self._left = _MOST_PARTS

    def read(self, size: int = -1) -> bytes:
        """Read a number of bytes, or what is left of a deflated file."""
        if size < 0:
            return self._within_bounds(self._stream.read())
        content = self._stream.read(size)
        self._count(content)
        return content

    def _count(self, content: bytes) -> None:
        self._left -= 1 + content.count(_ITEM)
        if self._left < 0:
            raise TooLargeError(f"{self.name}: more than {_MOST_PARTS} data elements and items; export it again.")

    def _within_bounds(self, deflated: bytes) -> bytes:
        """The same data set, deflated, of which a header is as much as can belong to it."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(deflated, self._inflated)
        self._count(content)
        if inflater.unconsumed_tail and not self._is_header:
            raise TooLargeError(f"{self.name}: inflates to more than the image that it declares; export it again.")
        stored = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
        return stored.compress(content) + stored.flush()


def _with_syntax(dataset: FileDataset) -> FileDataset:
    """State the transfer syntax in which pydicom read a file that does not state it."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        syntax = ImplicitVRLittleEndian if is_implicit(dataset) else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def read_modality(path: str | os.PathLike[str]) -> str:
    """Return the ``Modality`` of a DICOM file; empty if the file states none or its header cannot be read.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import read_modality
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 64), seed=0, image_format="dicom")
        ...     read_modality(f"{folder}/images/phantom_0001.dcm")
        'DX'
    """
    try:
        header = read_dicom(path, stop_before_pixels=True, specific_tags=["Modality"])
        return printable(header.get("Modality") or "")
    except OSError:
        raise
    except Exception:  # pydicom raises many types on damaged headers
        return ""


def read_slice_header(path: str | os.PathLike[str]) -> SliceHeader | DamagedFile | None:
    """Read what a series needs to know about one of its files.

    A header is read once: a file with the same size and modification time is not opened again. A scan can therefore be
    listed, checked and loaded while its headers are read only once.

    Args:
        path: any file.

    Returns:
        the header; ``None`` for a file that is not DICOM or not an image from a scanner (reports, contours,
        segmentations, doses); a :class:`DamagedFile` if the header cannot be read.

    Raises:
        OSError: the file cannot be opened.
    """
    state = os.stat(path)
    return _read_once(os.path.abspath(path), state.st_size, state.st_mtime_ns)


def files_by_folder(root: Path) -> Iterator[list[Path]]:
    """List the files below a folder, folder by folder, without hidden ones and ``DICOMDIR``.

    Args:
        root: the folder. Links to files are followed, links to folders are not; broken links are listed too.

    Raises:
        OSError: a folder below it cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(root, onerror=fail):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        yield [file for file in files if file.is_file() or file.is_symlink()]


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
            series_uid=printable(header.SeriesInstanceUID),
            description=printable(header.get("SeriesDescription") or ""),
            modality=printable(header.get("Modality") or ""),
            slice=_to_slice(file, header, held),
        )
    except OSError:
        raise
    except Exception as error:  # pydicom raises many types on damaged headers
        _LOGGER.debug("%s: %s", file, error)
        return DamagedFile(file)


def _read_header(file: Path) -> tuple[Dataset, int]:
    """The header, and the number of bytes that follow it in the file: those of the pixels."""
    with file.open("rb") as stream:
        header = _read(stream, file, 0, stop_before_pixels=True, specific_tags=_TAGS)
        return header, file.stat().st_size - stream.tell()


def _is_scan(header: Dataset) -> bool:
    """Whether the file is an image and was not derived from one; a damaged header counts as that of an image."""
    storage = header.file_meta.get("MediaStorageSOPClassUID")
    is_cut_off = not len(header)  # nothing after the first group, whose last entries may be cut off too
    is_image = "Rows" in header or storage is None or is_cut_off or "Image Storage" in UID(storage).name
    return is_image and header.get("Modality") not in _DERIVED_MODALITIES


def _to_slice(file: Path, header: Dataset, held: int) -> DicomSlice:
    colour = "" if int(header.get("SamplesPerPixel", 1)) == 1 else "colour"
    interpretation = printable(header.get("PhotometricInterpretation", "MONOCHROME2"))
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
        rescale_type=printable(header.get("RescaleType") or "").upper(),
        uid=str(header.get("SOPInstanceUID") or ""),
        shifted=has_shifted_bits(header),
        cut_off=_is_cut_off(header, held),
        decoder=missing_decoder(header.file_meta.TransferSyntaxUID, int(header.get("BitsStored") or 0)),
    )


def has_shifted_bits(header: Dataset) -> bool:
    """Return whether ``HighBit`` contradicts ``BitsStored``, so that the pixels' values are not certain.

    Args:
        header: header of an image.
    """
    stored = int(header.get("BitsStored") or 0)
    return bool(stored) and int(header.get("HighBit", stored - 1)) != stored - 1


def _values(header: Dataset, keyword: str) -> list[object]:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    values = tuple(float(str(value)) for value in _values(header, keyword))
    return values if len(values) == count and np.isfinite(values).all() else ()


def _directions(values: tuple[float, ...]) -> tuple[float, ...]:
    """The direction cosines, if they are two perpendicular unit vectors."""
    directions = np.reshape(values, (-1, 3))
    is_usable = len(directions) == 2 and np.allclose(directions @ directions.T, np.eye(2), atol=1e-3)
    return values if is_usable else ()


def _is_cut_off(header: Dataset, held: int) -> bool:
    syntax = header.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:  # the whole file is one compressed stream, which was read completely
        return False
    if syntax.is_compressed:
        return held <= 0
    voxels = int(header.Columns) * int(header.Rows) * int(header.get("NumberOfFrames") or 1)
    expected = voxels * int(header.get("SamplesPerPixel", 1)) * int(header.get("BitsAllocated", 16)) // 8
    return held < expected + (8 if syntax.is_implicit_VR else 12)  # tag, type and length of the pixel data element
