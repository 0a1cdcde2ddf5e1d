"""DICOM SEG: a label map as a DICOM object that refers to the series or the radiograph that it was made from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.valuerep import format_number_as_ds
from skimage.color import rgb2lab

import medseg_monai
from medseg_monai.data.segments import Segment
from medseg_monai.files import atomic_path

__all__ = ["write_dicom_seg", "write_radiograph_seg"]

# attributes that a SEG copies from its source, which therefore must have them (DICOM type 1)
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")

# attributes that each slice of a series must have in addition
_REQUIRED_OF_SLICES = ("FrameOfReferenceUID", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")

# attributes by which highdicom places an image in space. A radiograph is a projection and has no such place, and
# highdicom refuses an incomplete set: a spacing without a slice thickness, and in older versions also a frame of
# reference without the other four
_GEOMETRY = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
)

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

_FAULTS = (AttributeError, KeyError, TypeError, ValueError)  # what highdicom raises for a source that it cannot use
_SAME_DIRECTION = 1e-3  # direction cosines; files of one series may round them differently
_NAME_WARNING = "The string .* is unlikely to represent the intended person name"  # it would print a patient's name
_SERIES_NUMBER = 1000  # larger than those of scanners


def write_dicom_seg(
    path: str | os.PathLike[str],
    labels: npt.NDArray[np.integer],
    *,
    source_files: Sequence[str | os.PathLike[str]],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> None:
    """Write a label map as one binary DICOM SEG, all or nothing.

    The file describes each of ``segments``, with its label as the segment number, whether the label occurs or not, so
    that a reader can tell a lobe that was not found from one that was not looked for. Frames without a voxel of a
    segment are left out, as usual. A map without any label becomes a file whose frames are all empty, since DICOM does
    not allow a file without frames. Frames are sorted by segment, and within a segment by position: highdicom runs
    against the normal of the slices (version 0.22, which works with pydicom 2, runs along the patient's coordinates).
    Readers rely on the position and the source instance that each frame states.

    Patient and study are those of the first source file; attributes that it lacks stay empty. Frame of reference,
    position, orientation and spacing are those of the source, and each frame states the source instance that it belongs
    to. If the source has no slice thickness, the distance between slices takes its place.

    Args:
        path: the file to write or replace.
        labels: ``[columns, rows, slices]`` in the grid of the source, 0 for background and 1 to ``len(segments)``.
        source_files: the single-frame DICOM files of one series, in the order of the third axis of ``labels``.
        segments: description of label 1, of label 2, and so on.
        algorithm_name: name of the algorithm, such as that of the bundle.
        algorithm_version: its version.

    Raises:
        FileNotFoundError: a source file is missing.
        ValueError: the map has another size than the source or other labels than ``segments``, or the source lacks
            what a SEG needs.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pydicom import dcmread
        >>> from medseg_monai.data import find_organ, write_dicom_seg
        >>> from medseg_monai.data.dicom import check_geometry, find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     scan = check_geometry(find_series(patients)[0])
        ...     labels = np.zeros(scan.shape, np.uint8)
        ...     labels[10:20, 10:20, 4] = 1
        ...     write_dicom_seg(
        ...         f"{folder}/liver.seg.dcm",
        ...         labels,
        ...         source_files=scan.files,
        ...         segments=[find_organ("liver")],
        ...         algorithm_name="liver_ct_anunet",
        ...         algorithm_version="0.1.0",
        ...     )
        ...     [segment.SegmentLabel for segment in dcmread(f"{folder}/liver.seg.dcm").SegmentSequence]
        ['liver']
    """
    sources = [_header(Path(file), _REQUIRED + _REQUIRED_OF_SLICES) for file in source_files]
    if not sources:
        raise ValueError(f"{path}: no source files; a DICOM SEG needs the series that it was made from.")
    first = sources[0]
    expected = (int(first.Columns), int(first.Rows), len(sources))
    if labels.shape != expected:
        raise ValueError(f"{path}: the label map is {labels.shape}, its DICOM series {expected}; apply Invertd first.")
    _refuse_other_labels(path, labels, segments)
    _share_orientation(sources, Path(source_files[0]).parent)
    _ensure_thickness(sources, Path(source_files[0]))
    try:
        segmentation = _segmentation(sources, labels.T, segments, algorithm_name, algorithm_version)
    except _FAULTS as error:
        raise ValueError(f"{source_files[0]}: no DICOM SEG can refer to this series ({error}); repair it.") from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def write_radiograph_seg(
    path: str | os.PathLike[str],
    labels: npt.NDArray[np.integer],
    *,
    source_file: str | os.PathLike[str],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> None:
    """Write the label map of one radiograph as a binary DICOM SEG, all or nothing.

    The counterpart of :func:`write_dicom_seg` for a projection, which has neither slices nor a position in the patient.
    Each frame states the radiograph as its source and has the same rows and columns. The spacing is not repeated, since
    readers take it from the radiograph. Patient, study and the frame of reference, if there is one, are those of the
    source; attributes that it lacks stay empty.

    Args:
        path: the file to write or replace.
        labels: ``[H, W]``, rows first, in the size of the source, 0 for background and 1 to ``len(segments)``.
        source_file: the radiograph, a single-frame DICOM file.
        segments: description of label 1, of label 2, and so on, such as ``LUNGS``.
        algorithm_name: name of the algorithm, such as that of the bundle.
        algorithm_version: its version.

    Raises:
        FileNotFoundError: the source file is missing.
        ValueError: the map has another size than the source or other labels than ``segments``, or the source lacks
            what a SEG needs.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pydicom import dcmread
        >>> from medseg_monai.data import LUNGS, write_radiograph_seg
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 80), seed=0, image_format="dicom")
        ...     write_radiograph_seg(
        ...         f"{folder}/lungs.seg.dcm",
        ...         np.ones((64, 80), np.uint8),
        ...         source_file=f"{folder}/images/phantom_0001.dcm",
        ...         segments=LUNGS,
        ...         algorithm_name="lung_cxr_rescrnet",
        ...         algorithm_version="0.1.0",
        ...     )
        ...     segmentation = dcmread(f"{folder}/lungs.seg.dcm")
        >>> segmentation.Modality, segmentation.Rows, segmentation.Columns
        ('SEG', 64, 80)
    """
    source = _header(Path(source_file), _REQUIRED)
    expected = (int(source.Rows), int(source.Columns))
    if labels.shape != expected:
        raise ValueError(f"{path}: the label map is {labels.shape}, its radiograph {expected}; apply Invertd first.")
    _refuse_other_labels(path, labels, segments)
    frame_of_reference = source.get("FrameOfReferenceUID")
    for keyword in _GEOMETRY:
        source.pop(keyword, None)
    try:
        segmentation = _segmentation([source], labels, segments, algorithm_name, algorithm_version)
        if frame_of_reference:
            segmentation.FrameOfReferenceUID = frame_of_reference
            segmentation.PositionReferenceIndicator = source.get("PositionReferenceIndicator")
    except _FAULTS as error:
        raise ValueError(f"{source_file}: no DICOM SEG can refer to this radiograph ({error}); repair it.") from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _refuse_other_labels(
    path: str | os.PathLike[str], labels: npt.NDArray[np.integer], segments: Sequence[Segment]
) -> None:
    if labels.min() < 0 or labels.max() > len(segments):
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{path}: labels {found}, but segments for 1 to {len(segments)}; describe each label.")


def _segmentation(
    sources: Sequence[Dataset],
    frames: npt.NDArray[np.integer],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> hd.seg.Segmentation:
    """The SEG of frames ``[slices, rows, columns]``, or of one frame ``[rows, columns]``."""
    # highdicom refuses character sets that begin with an empty value, as Japanese files have them, and older versions
    # do not support any
    characters = sources[0].get("SpecificCharacterSet")
    sources[0].pop("SpecificCharacterSet", None)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=algorithm_name, version=algorithm_version, family=codes.DCM.ArtificialIntelligence
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NAME_WARNING)
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames.astype(np.uint8, copy=False),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(n, segment, algorithm) for n, segment in enumerate(segments, start=1)],
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            series_description=f"{algorithm_name} segmentation",
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="medseg-monai",
            manufacturer_model_name=algorithm_name,
            software_versions=medseg_monai.__version__,
            device_serial_number=algorithm_version,
        )
    if characters:
        segmentation.SpecificCharacterSet = characters
    return segmentation


def _header(file: Path, required: Sequence[str]) -> Dataset:
    """Everything except the pixels, with empty values where DICOM allows an unknown value."""
    header = dcmread(file, stop_before_pixels=True)
    if missing := [keyword for keyword in required if header.get(keyword) in (None, "")]:
        raise ValueError(f"{file}: no {', '.join(missing)}, which a DICOM SEG must repeat; repair the file.")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _share_orientation(sources: Sequence[Dataset], folder: Path) -> None:
    """Give all headers the orientation of the first, since highdicom compares them to the last digit."""
    orientation = sources[0].ImageOrientationPatient
    for source in sources:
        if not np.allclose(source.ImageOrientationPatient, orientation, rtol=0, atol=_SAME_DIRECTION):
            raise ValueError(f"{folder}: source slices of several orientations; keep the slices of one acquisition.")
        source.ImageOrientationPatient = orientation


def _ensure_thickness(sources: Sequence[Dataset], file: Path) -> None:
    """Take the distance between slices as the thickness if the source does not state one."""
    if sources[0].get("SliceThickness"):
        return
    if len(sources) == 1:
        raise ValueError(f"{file}: a single slice without SliceThickness; repair the file.")
    step = np.subtract(sources[1].ImagePositionPatient, sources[0].ImagePositionPatient)
    sources[0].SliceThickness = format_number_as_ds(float(np.linalg.norm(step)))


def _describe(
    number: int, segment: Segment, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=segment.category,
        segmented_property_type=segment.type,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    # not highdicom's CIELabColor: its rounding differs between versions, and older versions do not accept RGB
    description.RecommendedDisplayCIELabValue = _to_cielab(segment.colour)
    return description


def _to_cielab(colour: tuple[int, int, int]) -> list[int]:
    """RGB as L* (0 to 100), a* and b* (-128 to 127), each over the range of 16 bits (PS3.3 C.10.7.1.1)."""
    lightness, a, b = rgb2lab(np.divide(colour, 255))
    return [round(float(part) * 0xFFFF) for part in (lightness / 100, (a + 128) / 255, (b + 128) / 255)]
