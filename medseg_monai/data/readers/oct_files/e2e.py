"""Heidelberg's database export, ``.e2e``."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from medseg_monai.data.limits import check_size

from .scan import FloatArray, OCTScan, check_damage, heidelberg_grey, one_of_several, spacing_um

__all__ = ["read_e2e", "scans_in_e2e"]

_MAGIC, _MAIN, _DIRECTORY, _DATA = b"CMDb", b"MDbMDir", b"MDbDir", b"MDbData"
_AFTER_HEADER = 36
# name, version and numbers; then how many entries, where this directory is, where the one before it
_DIRECTORY_HEADER = struct.Struct("<12s24x3I4x")
_ENTRY = np.dtype(
    {
        "names": ["place", "start", "size", "patient", "study", "series", "slice", "type"],
        "formats": ["<u4", "<u4", "<u4", "<i4", "<i4", "<i4", "<i4", "<u4"],
        "offsets": [0, 4, 8, 16, 20, 24, 28, 36],
        "itemsize": 44,
    }
)
_DATA_HEADER = 60

_LATERALITY, _PLACE, _IMAGE = 11, 10004, 0x40000000  # types of entries
_IMAGE_HEADER = struct.Struct("<4xI4x2I")
_BSCAN = 0x02200201  # type of an image; that of the fundus is another
_PLACE_HEADER = struct.Struct("<4x2I24xf24x2I")  # rows, columns, mm of a row, number of B-scans, number of this one
_SIDE_BYTE = 14
_SIDES = {b"R": "R", b"L": "L"}

_MANTISSA_BITS, _EXPONENT_BIAS = 10, 63  # of a pixel, a number of 16 bits without sign
_EMPTY = 1.99  # the largest such number: pixels outside the scan


class _Entry(NamedTuple):
    start: int
    size: int


class _Place(NamedTuple):
    rows: int
    columns: int
    axial_mm: float
    bscans: int
    number: int


@dataclass
class _Series:
    """The entries of a series: the eye, and those of each B-scan by their types."""

    eye: _Entry | None = None
    slices: dict[int, dict[int, _Entry]] = field(default_factory=lambda: defaultdict(dict))


def scans_in_e2e(path: Path) -> list[int]:
    """The numbers of the scans in a file, those of its series.

    Args:
        path: the file.

    Raises:
        ValueError: it is damaged or no such file.
    """
    with path.open("rb") as stream:
        return list(_series(path, stream))


def read_e2e(path: Path, number: int | None, max_image_mib: float, bytes_each: int = 4) -> OCTScan:
    """Read one scan, B-scans in the order of their numbers.

    Places are in degrees in such a file, so that the spacings of columns and B-scans are not known. The patient is not
    read.

    Args:
        path: the file.
        number: number of the series; needed only if there are several.
        max_image_mib: MiB of the largest scan.
        bytes_each: bytes that a pixel takes.

    Raises:
        FileNotFoundError: no such series.
        ValueError: it is damaged, truncated, too large or no such file.

    Source: uocte's reader; LibE2E for where a B-scan lies. A pixel has 6 bits of exponent and then 10 of mantissa, as
    many as the numbers in a ``.vol`` have. (eyepy 0.21 and OCT-Converter 0.7 take the bits of the mantissa in reverse
    order, which adds noise of up to 21 grey values.)
    """
    with path.open("rb") as stream:
        every = _series(path, stream)
        series = every[one_of_several(path, list(every), number)]
        check_damage(path, whole=all(entries.keys() >= {_PLACE, _IMAGE} for entries in series.slices.values()))
        places = {key: _place(path, stream, entries[_PLACE]) for key, entries in series.slices.items()}
        order = sorted(places, key=lambda key: (places[key].number, key))
        first = places[order[0]]
        shape = (len(order), first.rows, first.columns)
        check_size(path, shape, max_image_mib, bytes_each=bytes_each)
        check_damage(path, whole=min(shape) > 0 and all(place.bscans == len(order) for place in places.values()))
        grey = np.empty(shape, dtype=np.float32)
        for target, key in zip(grey, order, strict=True):
            entry = series.slices[key][_IMAGE]
            _, *size = _IMAGE_HEADER.unpack(_read(path, stream, entry, 0, _IMAGE_HEADER.size))
            check_damage(path, whole=tuple(size) == shape[1:])
            pixels = _read(path, stream, entry, _IMAGE_HEADER.size, 2 * target.size)
            target[:] = _grey_values()[np.frombuffer(pixels, dtype="<u2")].reshape(target.shape)
        side = b"" if series.eye is None else _read(path, stream, series.eye, _SIDE_BYTE, 1)
    return OCTScan(
        grey,
        "HEYEX E2E",
        axial_um=spacing_um(path, first.axial_mm * 1000),
        laterality=_SIDES.get(side, ""),
        mode="F",
    )


@cache
def _grey_values() -> FloatArray:
    """The grey value of each of the 65,536 numbers that a pixel can be."""
    numbers = np.arange(2**16)
    mantissa = numbers % 2**_MANTISSA_BITS / 2**_MANTISSA_BITS
    return heidelberg_grey(np.ldexp(1 + mantissa, numbers // 2**_MANTISSA_BITS - _EXPONENT_BIAS), empty=_EMPTY)


def _series(path: Path, stream: BinaryIO) -> dict[int, _Series]:
    """The series with B-scans, by their numbers."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError(f"{path}: not an E2E file of Heidelberg; export the scan again.")
    found: dict[int, _Series] = defaultdict(_Series)
    owners: dict[int, tuple[int, int]] = {}
    for one in _entries(path, stream):
        number, key, kind = int(one["series"]), int(one["slice"]), int(one["type"])
        entry = _Entry(int(one["start"]), int(one["size"]))
        if number < 0 or (kind == _IMAGE and not _is_bscan(path, stream, entry)):
            continue
        # the numbers of series are those of the device's database, in which no two have the same
        owner = (int(one["patient"]), int(one["study"]))
        check_damage(path, whole=owners.setdefault(number, owner) == owner)
        if kind == _LATERALITY:
            found[number].eye = entry
        elif key >= 0:
            check_damage(path, whole=kind not in found[number].slices[key])
            found[number].slices[key][kind] = entry
    return {number: series for number, series in sorted(found.items()) if _has_image(series)}


def _has_image(series: _Series) -> bool:
    return any(_IMAGE in entries for entries in series.slices.values())


def _entries(path: Path, stream: BinaryIO) -> np.ndarray:
    """The entries of the types above in all directories, which are a chain from the last to the first."""
    stream.seek(_AFTER_HEADER)
    name, _, current, _ = _directory_header(path, stream)
    check_damage(path, whole=name == _MAIN)
    most = path.stat().st_size // _ENTRY.itemsize  # or they would overlap
    tables = [np.empty(0, _ENTRY)]
    seen = set()
    while current:
        check_damage(path, whole=current not in seen)
        seen.add(current)
        stream.seek(current)
        name, count, _, before = _directory_header(path, stream)
        most -= count
        check_damage(path, whole=name == _DIRECTORY and most >= 0)
        content = stream.read(count * _ENTRY.itemsize)
        check_damage(path, whole=len(content) == count * _ENTRY.itemsize)
        table = np.frombuffer(content, _ENTRY)
        # directories are filled up with entries that lie nowhere
        is_wanted = np.isin(table["type"], (_LATERALITY, _PLACE, _IMAGE)) & (table["start"] > table["place"])
        tables.append(table[is_wanted])
        current = before
    return np.concatenate(tables[::-1])


def _directory_header(path: Path, stream: BinaryIO) -> tuple[bytes, int, int, int]:
    content = stream.read(_DIRECTORY_HEADER.size)
    check_damage(path, whole=len(content) == _DIRECTORY_HEADER.size)
    name, count, current, before = _DIRECTORY_HEADER.unpack(content)
    return name.rstrip(b"\0"), count, current, before


def _read(path: Path, stream: BinaryIO, entry: _Entry, skip: int, count: int) -> bytes:
    """Some bytes of what an entry refers to."""
    check_damage(path, whole=skip + count <= entry.size)
    stream.seek(entry.start)
    check_damage(path, whole=stream.read(len(_DATA)) == _DATA)
    stream.seek(entry.start + _DATA_HEADER + skip)
    content = stream.read(count)
    check_damage(path, whole=len(content) == count)
    return content


def _is_bscan(path: Path, stream: BinaryIO, entry: _Entry) -> bool:
    return bool(_IMAGE_HEADER.unpack(_read(path, stream, entry, 0, _IMAGE_HEADER.size))[0] == _BSCAN)


def _place(path: Path, stream: BinaryIO, entry: _Entry) -> _Place:
    return _Place(*_PLACE_HEADER.unpack(_read(path, stream, entry, 0, _PLACE_HEADER.size)))
