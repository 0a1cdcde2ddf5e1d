"""The headers that a DICOM SEG repeats: read, checked, and repaired where the standard leaves room for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, keyword_for_tag, tag_for_keyword
from pydicom.uid import OphthalmicPhotography8BitImageStorage, OphthalmicPhotography16BitImageStorage, generate_uid
from pydicom.valuerep import DA, TM, format_number_as_ds, validate_value

from .files import read_dicom

__all__ = ["SegSources", "read_radiograph_source", "read_slice_sources", "without_place"]

# attributes that a SEG copies from its source, which therefore must have them (DICOM type 1)
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")

# attributes that each slice of a series must have in addition
_REQUIRED_OF_SLICES = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")

# attributes by which highdicom places an image in space. A radiograph or photograph has no such place, and
# highdicom refuses an incomplete set: a spacing without a slice thickness, and in older versions also a frame of
# reference without the other four
_GEOMETRY = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
)

# classes whose images may have several frames, but have no functional groups
_OF_FRAMES = (OphthalmicPhotography8BitImageStorage, OphthalmicPhotography16BitImageStorage)

# attributes that a SEG must have but that may be empty (DICOM type 2); it has an empty one if the source has none
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)

# further attributes that a SEG may repeat, outside the groups of the patient, the trial and the visit
_MAY_BE_ABSENT = (
    "AdmittingDiagnosesDescription",
    "FrameOfReferenceUID",
    "NameOfPhysiciansReadingStudy",
    "PatientOrientation",
    "PhysiciansOfRecord",
    "PositionReferenceIndicator",
    "StudyDescription",
)
_GROUPS = (0x0010, 0x0012, 0x0032, 0x0038)

_STRICT_TYPES = ("AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI")  # a text that is too long is kept: readers show it
_SEXES = {"MALE": "M", "FEMALE": "F", "OTHER": "O"}
_SAME_DIRECTION = 1e-3  # direction cosines; files of one series may round them differently

_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, OverflowError)  # pydicom's, for a value of a wrong form


class _WithoutSpacing(Dataset):
    """A functional group in which highdicom, which wants one of any class with frames, finds no spacing."""

    PixelMeasuresSequence = None


@dataclass
class SegSources:
    """The headers of the source files, fit for a SEG.

    Attributes:
        headers: one for each file, without pixels; the first has the patient, the study and the geometry.
        emptied: attributes whose value DICOM does not allow, and that are empty for this reason.
        repaired: attributes whose value was written in another way, or made anew.
    """

    headers: list[Dataset]
    emptied: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    def describe_repairs(self) -> str:
        """What was changed, without the values, which may name a patient; empty if nothing was."""
        parts = {"leaves empty": self.emptied, "corrects": self.repaired}
        return " and ".join(f"{what} {', '.join(keywords)}" for what, keywords in parts.items() if keywords)


def read_slice_sources(files: Sequence[Path]) -> SegSources:
    """Read the headers of a series of slices.

    Use it within ``pydicom.config.disable_value_validation``, without which pydicom prints values that it doubts.

    The distance between slices and their thickness are those of the positions: ``SpacingBetweenSlices`` and
    ``SliceThickness`` of scanners are nominal, and some are negative, or the gap instead of the distance.

    Args:
        files: the files of one series, in the order of the grid's third axis.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file lacks what a SEG must repeat, or the files are not one series of distinct instances.
    """
    sources = SegSources([_header(file, (*_REQUIRED, *_REQUIRED_OF_SLICES)) for file in files])
    _refuse_mixed(sources.headers, files)
    _share_orientation(sources.headers, files[0].parent)
    _repair_frame_of_reference(sources)
    _repair_patient_and_study(sources)
    _measure_distance(sources.headers, files[0])
    return sources


def read_radiograph_source(file: Path) -> SegSources:
    """Read the header of a radiograph or photograph, which has no place in the patient; see :func:`read_slice_sources`.

    Args:
        file: the image.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it lacks what a SEG must repeat.
    """
    sources = SegSources([_header(file, _REQUIRED)])
    _repair_patient_and_study(sources)
    return sources


def without_place(header: Dataset) -> Dataset:
    """A copy of the header of a single image without what places it in space.

    Args:
        header: the header.
    """
    place = {tag_for_keyword(keyword) for keyword in _GEOMETRY}
    copied = Dataset({tag: header.get_item(tag) for tag in header.keys() if tag not in place})  # noqa: SIM118
    if header.SOPClassUID in _OF_FRAMES:
        copied.NumberOfFrames, copied.SharedFunctionalGroupsSequence = 1, [_WithoutSpacing()]
    return copied


def _header(file: Path, required: Sequence[str]) -> Dataset:
    """Everything except the pixels."""
    header = read_dicom(file, stop_before_pixels=True)
    if missing := [keyword for keyword in required if _value(header, keyword) in (None, "")]:
        raise ValueError(f"{file}: no usable {', '.join(missing)}, which a DICOM SEG must repeat; repair the file.")
    return header


def _value(header: Dataset, keyword: str) -> Any:
    """The value of an attribute; ``None`` if it is absent or has no value of its type."""
    try:
        return header.get(keyword)
    except _UNREADABLE:
        return None


def _refuse_mixed(headers: Sequence[Dataset], files: Sequence[Path]) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Rows", "Columns"):
        if len({header[keyword].value for header in headers}) > 1:
            raise ValueError(
                f"{files[0].parent}: several values of {keyword} in one series, which no DICOM SEG can refer to; "
                "keep the slices of one series."
            )
    uid, count = Counter(str(header.SOPInstanceUID) for header in headers).most_common(1)[0]
    if count > 1:
        same = [file.name for file, header in zip(files, headers, strict=True) if header.SOPInstanceUID == uid]
        raise ValueError(
            f"{files[0].parent}: SOPInstanceUID of {same[0]} and {same[1]} is the same, so no DICOM SEG can refer to "
            "the slices; export the series again."
        )


def _share_orientation(headers: Sequence[Dataset], folder: Path) -> None:
    """Give all headers the orientation of the first, since highdicom compares them to the last digit."""
    orientation = headers[0].ImageOrientationPatient
    for header in headers:
        if not np.allclose(header.ImageOrientationPatient, orientation, rtol=0, atol=_SAME_DIRECTION):
            raise ValueError(f"{folder}: several orientations, so no DICOM SEG; keep the slices of one acquisition.")
        header.ImageOrientationPatient = orientation


def _repair_frame_of_reference(sources: SegSources) -> None:
    """A frame of reference of the SEG's own if the source has none or several: its positions stay comparable."""
    found = {str(_value(header, "FrameOfReferenceUID") or "") for header in sources.headers}
    if len(found) == 1 and found != {""} and _is_valid(sources.headers[0], "FrameOfReferenceUID"):
        return
    own = generate_uid()
    for header in sources.headers:
        header.FrameOfReferenceUID = own
    sources.repaired.append("FrameOfReferenceUID")


def _measure_distance(headers: Sequence[Dataset], file: Path) -> None:
    first = headers[0]
    if len(headers) == 1:
        if not _value(first, "SliceThickness"):
            raise ValueError(f"{file}: a single slice without SliceThickness; repair the file.")
        first.pop("SpacingBetweenSlices", None)
        return
    way = np.subtract(headers[-1].ImagePositionPatient, first.ImagePositionPatient)
    step = format_number_as_ds(float(np.linalg.norm(way)) / (len(headers) - 1))
    for header in headers:
        header.SliceThickness = header.SpacingBetweenSlices = step


def _repair_patient_and_study(sources: SegSources) -> None:
    """Only the first header's: the SEG has these attributes once."""
    first = sources.headers[0]
    for keyword in _repeated(first):
        if _is_valid(first, keyword):
            continue
        if text := _rewritten(first, keyword):
            setattr(first, keyword, text)
            sources.repaired.append(keyword)
        else:
            first.pop(keyword)
            sources.emptied.append(keyword)
    for header in sources.headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")


def _repeated(header: Dataset) -> list[str]:
    """Keywords of the attributes of patient and study that a SEG repeats."""
    tags = [tag for tag in header.keys() if tag.group in _GROUPS and not tag.is_private]  # noqa: SIM118
    keywords = {keyword_for_tag(tag) for tag in tags} - {""}
    return sorted(keywords | {keyword for keyword in (*_MAY_BE_EMPTY, *_MAY_BE_ABSENT) if keyword in header})


def _is_valid(header: Dataset, keyword: str) -> bool:
    """Whether the value of an attribute, if there is any, is one that DICOM allows."""
    try:
        _check(header[keyword])
    except _UNREADABLE:
        return False
    return True


def _check(element: DataElement) -> None:
    if element.VR == "SQ" or element.is_empty:
        return
    if element.VM > 1 and dictionary_VM(element.tag) == "1":
        raise ValueError("several values, as a backslash separates them")
    values = element.value if element.VM > 1 else [element.value]
    for value in values if element.VR in _STRICT_TYPES else ():
        validate_value(element.VR, str(value), RAISE)
        _PARSE.get(element.VR, str)(str(value))
    if element.keyword == "PatientSex" and element.value not in _SEXES.values():
        raise ValueError("no sex that DICOM knows")


_PARSE: dict[str, Callable[[str], Any]] = {"DA": DA, "TM": TM}  # these know how many days a month has


def _rewritten(header: Dataset, keyword: str) -> str | None:
    """The same value as DICOM writes it: dates and times without the marks of ACR-NEMA, codes in capital letters."""
    try:
        element = header[keyword]
        text = str(element.value).strip()
        marks = {"DA": ".-/", "TM": ":"}.get(element.VR, "")
        capital = text.translate(str.maketrans("", "", marks)).upper()
        rewritten = DataElement(element.tag, element.VR, _SEXES.get(capital, capital))
        _check(rewritten)
    except _UNREADABLE:
        return None
    return str(rewritten.value) if element.VR in _STRICT_TYPES else None
