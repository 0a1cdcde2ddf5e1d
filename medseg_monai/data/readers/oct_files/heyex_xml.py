"""Heidelberg's XML export: a list of B-scans, with their pictures in files beside it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from medseg_monai.data.limits import check_size
from medseg_monai.data.readers.raster import RasterReader
from medseg_monai.errors import printable
from medseg_monai.files import one_line

from .scan import OCTScan, one_of_several, spacing_um

__all__ = ["is_heyex_xml", "pictures_of", "read_xml", "scans_in_xml"]

_ROOT = "HEDX"
_LOOKED_AT = 4096
_MOST_MIB = 512
_ARRAY = "Array"  # the device's own segmentation, by far the most of the text, which is not read
_SAME_DISTANCE = 0.04  # relative; the device places B-scans within some percent


@dataclass(frozen=True)
class _BScan:
    picture: str
    size: tuple[int, int]
    axial_um: float
    lateral_um: float
    start_mm: tuple[float, float]
    end_mm: tuple[float, float]


def is_heyex_xml(path: Path) -> bool:
    """Whether an XML file is such an export; other XML lies beside scans too.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        return re.search(rb"<\s*HEDX\b", stream.read(_LOOKED_AT).replace(b"\0", b"")) is not None


def scans_in_xml(path: Path) -> list[int]:
    """The numbers of the scans in an export, those of its series.

    Args:
        path: the file.

    Raises:
        ValueError: it is damaged or no such export.
    """
    return list(_series(path))


def pictures_of(path: Path) -> list[Path]:
    """The pictures that an export names, those of the fundus too, whether they are there or not.

    Args:
        path: the file.

    Raises:
        ValueError: it is damaged or no such export.
    """
    names = (_picture_name(path, image) for image in _parse(path).iter("Image"))
    return [path.parent / name for name in dict.fromkeys(names) if name]


def read_xml(path: Path, number: int | None, max_image_mib: float, bytes_each: int = 4) -> OCTScan:
    """Read one scan; its B-scans are in the order of the list, with the grey values of their pictures.

    Args:
        path: the file.
        number: number of the series; needed only if there are several.
        max_image_mib: MiB of the largest scan.
        bytes_each: bytes that a pixel takes.

    Raises:
        FileNotFoundError: no such series, or a picture is missing.
        ValueError: the list or a picture is damaged, or they contradict each other.
    """
    every = _series(path)
    series = every[one_of_several(path, list(every), number)]
    with one_line(f"{path}: an entry of a B-scan that is missing or damaged; export the scan again."):
        listed = [_to_bscan(path, image) for image in _bscans_of(series)]
        side = (series.findtext("Laterality") or "").strip()
    sizes = {bscan.size for bscan in listed}
    if len(sizes) > 1 or min(min(sizes)) < 1:
        raise ValueError(f"{path}: B-scans of several sizes, or of none; export the scan again.")
    shape = (len(listed), *listed[0].size)
    check_size(path, shape, max_image_mib, bytes_each=bytes_each)
    grey = np.empty(shape, dtype=np.float32)
    reader = RasterReader(channels=1, max_image_mib=max_image_mib)
    for place, bscan in enumerate(listed):
        file = path.parent / bscan.picture
        values, _ = reader.get_data([file])
        if (found := values.shape[1:]) != bscan.size:
            raise ValueError(
                f"{file}: size {found} (rows first), but {path.name} says {bscan.size}; export the scan again."
            )
        grey[place] = values[0]
    return OCTScan(
        grey,
        "HEYEX XML",
        axial_um=_common(path, [bscan.axial_um for bscan in listed]),
        lateral_um=_common(path, [bscan.lateral_um for bscan in listed]),
        bscan_spacing_um=spacing_um(path, _distance_um(listed), of_bscans=True),
        laterality=side if side in ("R", "L") else "",
    )


def _parse(path: Path) -> Element:
    """The elements of the file, without the device's segmentation and without any document type.

    An entity of a document type can unfold to gigabytes.
    """
    if path.stat().st_size > _MOST_MIB * 2**20:
        raise ValueError(f"{path}: more than {_MOST_MIB} MiB of XML; export each scan by itself.")
    builder = TreeBuilder()
    inside: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        inside.append(tag)
        builder.start(tag, {})

    def end(tag: str) -> None:
        inside.pop()
        builder.end(tag)

    def data(text: str) -> None:
        if inside[-1] != _ARRAY:
            builder.data(text)

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    parser.StartDoctypeDeclHandler = refuse
    with one_line(f"{path}: truncated or damaged XML; export the scan again."), path.open("rb") as stream:
        parser.ParseFile(stream)
        root = builder.close()
    if root.tag != _ROOT:
        raise ValueError(f"{path}: not an XML export of Heidelberg; give the scan itself.")
    return root


def _series(path: Path) -> dict[int, Element]:
    """The series with B-scans, by their numbers."""
    found: dict[int, Element] = {}
    for series in _parse(path).iter("Series"):
        if _bscans_of(series):
            with one_line(f"{path}: a series without a number of its own; export the scan again."):
                number = int(series.findtext("ID") or "")
                if number in found:
                    raise ValueError("the same number twice")
            found[number] = series
    return found


def _bscans_of(series: Element) -> list[Element]:
    return [image for image in series.findall("Image") if (image.findtext("ImageType/Type") or "").strip() == "OCT"]


def _picture_name(path: Path, image: Element) -> str:
    """The name of a picture, which lies beside the list wherever it was exported to."""
    address = (image.findtext("ImageData/ExamURL") or "").strip()
    name = re.split(r"[\\/]", address)[-1]
    if name in (".", "..") or "\0" in name:
        raise ValueError(f"{path}: names no picture ({printable(address)}); export the scan again.")
    return name


def _to_bscan(path: Path, image: Element) -> _BScan:
    context = image.find("OphthalmicAcquisitionContext")
    name = _picture_name(path, image)
    if context is None or not name:
        raise ValueError("no context or no picture")
    return _BScan(
        picture=name,
        size=(int(context.findtext("Height") or ""), int(context.findtext("Width") or "")),
        axial_um=float(context.findtext("ScaleY") or 0) * 1000,
        lateral_um=float(context.findtext("ScaleX") or 0) * 1000,
        start_mm=_place(context, "Start"),
        end_mm=_place(context, "End"),
    )


def _place(context: Element, end: str) -> tuple[float, float]:
    x, y = (float(context.findtext(f"{end}/Coord/{axis}") or math.nan) for axis in ("X", "Y"))
    return x, y


def _common(path: Path, values: Sequence[float]) -> float:
    """The spacing of all B-scans; NaN if they differ."""
    return spacing_um(path, values[0]) if np.allclose(values, values[0], rtol=1e-3) else math.nan


def _distance_um(listed: Sequence[_BScan]) -> float:
    """Micrometres between parallel B-scans at equal distances; NaN for any others."""
    steps = [
        (np.subtract(second.start_mm, first.start_mm), np.subtract(second.end_mm, first.end_mm))
        for first, second in itertools.pairwise(listed)
    ]
    distances = np.linalg.norm(np.reshape(steps, (-1, 2)), axis=1) * 1000
    if not distances.size or not np.isfinite(distances).all():
        return math.nan
    mean = float(distances.mean())
    is_even = np.allclose(
        np.reshape(steps, (-1, 2)) * 1000, np.reshape(steps, (-1, 2))[0] * 1000, atol=_SAME_DISTANCE * mean
    )
    return mean if is_even else math.nan
