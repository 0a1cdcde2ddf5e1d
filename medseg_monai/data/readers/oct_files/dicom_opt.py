"""DICOM of ophthalmic tomography (OPT)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset

from medseg_monai.data.dicom.files import read_dicom
from medseg_monai.data.readers.dicom_picture import OCT, read_dicom_picture
from medseg_monai.files import one_line

from .scan import OCTScan, spacing_um

__all__ = ["read_dicom_opt"]

_SAME_DISTANCE = 0.04  # relative


def read_dicom_opt(path: Path, max_image_mib: float) -> OCTScan:
    """Read a B-scan, or a volume with one in each frame, in the order of the frames.

    The values are shown as those of other DICOM pictures, see :class:`medseg_monai.data.readers.picture.PictureReader`.
    The spacings are those of the functional groups, or else of the image; that of the B-scans is
    ``SpacingBetweenSlices``, or else the distance of parallel frames by their ``ImagePositionPatient``.

    Args:
        path: the file.
        max_image_mib: MiB of the largest scan, as 12 bytes a pixel.

    Raises:
        ValueError: another modality, or it is damaged or cannot be shown.
    """
    picture = read_dicom_picture(path, OCT, max_image_mib)
    values = picture.values
    with one_line(f"{path}: damaged functional groups; export the scan again."):
        header = read_dicom(path, stop_before_pixels=True)
        axial_um, lateral_um = _of_pixels(header)
        across_um = _between_frames(header)
        side = str(header.get("ImageLaterality") or header.get("Laterality") or _of_eye(header)).strip()
    return OCTScan(
        values if values.ndim == 3 else values[None],
        "DICOM",
        axial_um=spacing_um(path, axial_um),
        lateral_um=spacing_um(path, lateral_um),
        bscan_spacing_um=spacing_um(path, across_um if values.ndim == 3 else 0, of_bscans=True),
        laterality=side if side in ("R", "L") else "",
        mode=picture.interpretation,
    )


def _groups(header: Dataset) -> Iterator[Dataset]:
    """The functional groups: those of all frames, and then those of each."""
    yield from header.get("SharedFunctionalGroupsSequence") or ()
    yield from header.get("PerFrameFunctionalGroupsSequence") or ()


def _measures(header: Dataset) -> Iterator[Dataset]:
    for group in _groups(header):
        yield from group.get("PixelMeasuresSequence") or ()


def _common(rows: Sequence[Sequence[float]], count: int) -> list[float]:
    """What all frames state; NaN if they state different values or none."""
    if not rows or any(len(row) != count for row in rows) or not np.allclose(rows, rows[0], rtol=1e-3):
        return [math.nan] * count
    return [float(value) for value in rows[0]]


def _of_pixels(header: Dataset) -> tuple[float, float]:
    """Micrometres between rows and columns."""
    stated = [[float(value) for value in one.PixelSpacing] for one in _measures(header) if one.get("PixelSpacing")]
    if not stated and header.get("PixelSpacing"):
        stated = [[float(value) for value in header.PixelSpacing]]
    rows_mm, columns_mm = _common(stated, 2)
    return rows_mm * 1000, columns_mm * 1000


def _between_frames(header: Dataset) -> float:
    """Micrometres between parallel frames at equal distances; NaN if they are not so or do not say."""
    stated = [[float(one.SpacingBetweenSlices)] for one in _measures(header) if one.get("SpacingBetweenSlices")]
    if stated:
        return _common(stated, 1)[0] * 1000
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    places = [
        [float(value) for value in place.ImagePositionPatient]
        for frame in frames
        for place in frame.get("PlanePositionSequence") or ()
    ]
    if len(places) < 2 or len(places) != len(frames):
        return math.nan
    steps = np.asarray([np.subtract(second, first) for first, second in itertools.pairwise(places)])
    mean = float(np.linalg.norm(steps, axis=1).mean())
    return mean * 1000 if np.allclose(steps, steps[0], rtol=0, atol=_SAME_DISTANCE * mean) else math.nan


def _of_eye(header: Dataset) -> str:
    """The eye that the frames' anatomy states, if it is one."""
    stated = {str(one.FrameLaterality) for group in _groups(header) for one in group.get("FrameAnatomySequence") or ()}
    return stated.pop() if len(stated) == 1 else ""
