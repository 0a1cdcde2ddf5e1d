"""DICOM SEG: a label map as a DICOM object that refers to the series or the radiograph that it was made from."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.sr.codedict import codes
from skimage.color import rgb2lab

import medseg_monai
from medseg_monai.data.segments import Segment
from medseg_monai.files import atomic_path

from .seg_sources import SegSources, read_radiograph_source, read_slice_sources, without_place

__all__ = ["check_seg_source", "write_dicom_seg", "write_radiograph_seg"]

_LOGGER = logging.getLogger(__name__)

_FAULTS = (AttributeError, KeyError, TypeError, ValueError)  # what highdicom raises for a source that it cannot use
_NAME_WARNING = "The string .* is unlikely to represent the intended person name"  # it would print a patient's name
_SERIES_NUMBER = 1000  # larger than those of scanners


@disable_value_validation()  # else pydicom prints what it doubts, names and dates of birth too
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

    Patient and study are those of the first source file; attributes that it lacks stay empty. So do attributes whose
    value DICOM does not allow (a birth date ``00000000``), unless the same value can be written as DICOM wants it (a
    time ``10:11:12``); one warning names them. Frame of reference, position, orientation and pixel spacing are those of
    the source; a SEG of slices with no or several frames of reference gets one of its own. The distance between slices
    and their thickness are measured from the positions, whatever the source states, since readers compute volumes from
    them. Each frame states the source instance that it belongs to.

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
    files = [Path(file) for file in source_files]
    if not files:
        raise ValueError(f"{path}: no source files; a DICOM SEG needs the series that it was made from.")
    sources = read_slice_sources(files)
    first = sources.headers[0]
    expected = (int(first.Columns), int(first.Rows), len(files))
    if labels.shape != expected:
        raise ValueError(f"{path}: the label map is {labels.shape}, its DICOM series {expected}; apply Invertd first.")
    _refuse_other_labels(path, labels, segments)
    segmentation = _segmentation(files[0], sources.headers, labels.T, segments, algorithm_name, algorithm_version)
    _tell_repairs(files[0], sources)
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


@disable_value_validation()  # else pydicom prints what it doubts, names and dates of birth too
def write_radiograph_seg(
    path: str | os.PathLike[str],
    labels: npt.NDArray[np.integer],
    *,
    source_file: str | os.PathLike[str],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> None:
    """Write the label map of one radiograph, or of one photograph, as a binary DICOM SEG, all or nothing.

    The counterpart of :func:`write_dicom_seg` for an image that has neither slices nor a position in the patient. Each
    frame states the image as its source and has the same rows and columns. The spacing is not repeated, since readers
    take it from the image. Patient, study and the frame of reference, if there is one, are those of the
    source; attributes that it lacks stay empty.

    Args:
        path: the file to write or replace.
        labels: ``[H, W]``, rows first, in the size of the source, 0 for background and 1 to ``len(segments)``.
        source_file: the radiograph or photograph, a single-frame DICOM file.
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
    file = Path(source_file)
    sources = read_radiograph_source(file)
    source = sources.headers[0]
    expected = (int(source.Rows), int(source.Columns))
    if labels.shape != expected:
        raise ValueError(f"{path}: the label map is {labels.shape}, its image {expected}; apply Invertd first.")
    _refuse_other_labels(path, labels, segments)
    segmentation = _segmentation(file, [without_place(source)], labels, segments, algorithm_name, algorithm_version)
    segmentation.PatientOrientation = source.get("PatientOrientation", "")  # type 2 of an image without a place
    if source.get("FrameOfReferenceUID"):
        segmentation.FrameOfReferenceUID = source.FrameOfReferenceUID
        segmentation.PositionReferenceIndicator = source.get("PositionReferenceIndicator")
    _tell_repairs(file, sources)
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


@disable_value_validation()  # else pydicom prints what it doubts, names and dates of birth too
def check_seg_source(
    source_files: Sequence[str | os.PathLike[str]], segments: Sequence[Segment], *, volume: bool
) -> None:
    """Refuse a source that no SEG can refer to, before there is a label map.

    All headers are read as for writing, and a SEG of at most two frames is made of them and discarded: whatever
    highdicom has against the source shows here.

    Args:
        source_files: as for :func:`write_dicom_seg`; the one file of a radiograph or photograph.
        segments: description of the labels.
        volume: whether the source is a series, and not a single image.

    Raises:
        FileNotFoundError: a source file is missing.
        ValueError: the source lacks what a SEG needs; the message names the file and the attribute.
    """
    files = [Path(file) for file in source_files]
    if volume:
        headers = read_slice_sources(files).headers
        headers = [headers[0], headers[-1]] if len(headers) > 1 else headers
    else:
        headers = [without_place(read_radiograph_source(files[0]).headers[0])]
    shape = (len(headers), int(headers[0].Rows), int(headers[0].Columns))
    full = np.ones(shape if volume else shape[1:], dtype=np.uint8)
    _segmentation(files[0], headers, full, segments[:1], "check", "0")


def _tell_repairs(file: Path, sources: SegSources) -> None:
    if repairs := sources.describe_repairs():
        _LOGGER.warning("%s: has values that DICOM does not allow; the DICOM SEG %s.", file, repairs)


def _refuse_other_labels(
    path: str | os.PathLike[str], labels: npt.NDArray[np.integer], segments: Sequence[Segment]
) -> None:
    if labels.min() < 0 or labels.max() > len(segments):
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{path}: labels {found}, but segments for 1 to {len(segments)}; describe each label.")


def _segmentation(
    file: Path,
    headers: Sequence[Dataset],
    frames: npt.NDArray[np.integer],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> hd.seg.Segmentation:
    """The SEG of frames ``[slices, rows, columns]``, or of one frame ``[rows, columns]``."""
    try:
        segmentation = _made_by_highdicom(headers, frames, segments, algorithm_name, algorithm_version)
    except _FAULTS as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{file}: no DICOM SEG can refer to this source ({reason}); repair it.") from error
    segmentation.ContentCreatorName = ""  # type 2: there must be one, and a program has no name of a person
    return segmentation


def _made_by_highdicom(
    sources: Sequence[Dataset],
    frames: npt.NDArray[np.integer],
    segments: Sequence[Segment],
    algorithm_name: str,
    algorithm_version: str,
) -> hd.seg.Segmentation:
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
        anatomic_regions=[segment.region] if segment.region else None,
    )
    # not highdicom's CIELabColor: its rounding differs between versions, and older versions do not accept RGB
    description.RecommendedDisplayCIELabValue = _to_cielab(segment.colour)
    return description


def _to_cielab(colour: tuple[int, int, int]) -> list[int]:
    """RGB as L* (0 to 100), a* and b* (-128 to 127), each over the range of 16 bits (PS3.3 C.10.7.1.1)."""
    lightness, a, b = rgb2lab(np.divide(colour, 255))
    return [round(float(part) * 0xFFFF) for part in (lightness / 100, (a + 128) / 255, (b + 128) / 255)]
