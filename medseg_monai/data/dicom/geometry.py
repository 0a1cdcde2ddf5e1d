"""The grid of a DICOM series: checking it, reporting its faults, and reading it as one volume of the scanner's values.

MONAI's readers take a folder as it is: a missing slice, a tilted gantry or two series in one folder become a volume
with the wrong geometry. Here the headers are read first, and a series that is not one regular 3D grid is refused with a
list of all its faults. The grid of a regular series is the same as that of MONAI's ``ITKReader``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from monai.data.utils import orientation_ras_lps

from medseg_monai.data.limits import TooLargeError
from medseg_monai.errors import shorten
from medseg_monai.files import one_line

from .files import DicomSlice, read_dicom
from .pixels import decode_pixels
from .series import SAME_POSITION, DicomSeries, along_normal, count_of, slice_axes, usual_step, without_localisers

__all__ = ["SeriesGeometry", "check_geometry", "find_faults", "list_series", "read_series"]

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

_LOGGER = logging.getLogger(__name__)

# many files in Hounsfield units say "unspecified"; density, atomic number, optical density ... are something else
_HOUNSFIELD_TYPES = ("HU", "US", "")


@dataclass(frozen=True, eq=False)
class SeriesGeometry:
    """A series that is one regular 3D grid.

    Attributes:
        series: the series.
        slices: its slices in the order of the grid's third axis, without localisers.
        shape: columns, rows and slices: X, Y, Z.
        affine: ``[4, 4]``, from voxel indices to mm in RAS.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import check_geometry, find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0, spacing=(5.0, 2.5, 2.0))
        ...     geometry = check_geometry(find_series(patients)[0])
        >>> geometry.shape, [round(edge, 3) for edge in geometry.spacing]
        ((40, 32, 8), [2.0, 2.5, 5.0])
    """

    series: DicomSeries
    slices: tuple[DicomSlice, ...]
    shape: tuple[int, int, int]
    affine: DoubleArray

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of the slices."""
        return tuple(s.file for s in self.slices)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxels along X, Y and Z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(x), float(y), float(z))


def check_geometry(series: DicomSeries, *, modality: str = "CT") -> SeriesGeometry:
    """Order the slices of a series and compute its grid, or refuse the series.

    A localiser (``LOCALIZER`` in ``ImageType``) among the slices is left out with a warning if the other slices are a
    regular series. Slices that share a ``SOPInstanceUID`` but not a position are taken with a warning: their positions
    tell them apart, but nothing can refer to them. Nothing else is repaired.

    Args:
        series: a series from :func:`find_series`.
        modality: the modality that the series must have. Every file must have rescale tags only for ``CT``.

    Returns:
        the grid: axes along rows, along columns and along the normal of the slices, as in MONAI's ``ITKReader``.

    Raises:
        ValueError: the series is not one regular grid of grey values; one line lists everything that
            :func:`find_faults` found.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import check_geometry, find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     check_geometry(find_series(patients)[0]).shape
        (40, 32, 8)
    """
    faults = find_faults(series, modality=modality)
    if faults:
        raise ValueError(f"{series.folder}: DICOM series {series.uid}: {'; '.join(faults)}.")
    scan = without_localisers(series.slices)
    if len(scan) < len(series.slices):
        left_out = shorten(series.name_of(s.file) for s in series.slices if s.is_localiser)
        _LOGGER.warning("%s: DICOM series %s: localiser left out: %s.", series.folder, series.uid, left_out)
    if same := _same_instance(scan):
        names = " and ".join(series.name_of(s.file) for s in same)
        _LOGGER.warning(
            "%s: DICOM series %s: %s have one SOPInstanceUID; the series may be incomplete.",
            series.folder,
            series.uid,
            names,
        )
    distances = along_normal(scan)
    ordered = [scan[i] for i in np.argsort(distances, kind="stable")]
    row, column, normal = slice_axes(scan[0])
    x, y = scan[0].pixel_spacing
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * x, column * y
    lps[:3, 2] = normal * (distances.max() - distances.min()) / (len(scan) - 1)
    lps[:3, 3] = ordered[0].position
    affine: DoubleArray = np.asarray(orientation_ras_lps(lps), dtype=np.float64)
    return SeriesGeometry(series, tuple(ordered), (*scan[0].size, len(scan)), affine)


def find_faults(series: DicomSeries, *, modality: str = "CT") -> list[str]:
    """List everything in the headers that keeps a series from being one regular 3D grid of grey values.

    The check finds damaged and truncated files, pixels that need a decoder which is not installed, another modality,
    multi-frame files, colour, bits that do not begin with the lowest, a rescale slope of 0, rescale tags in some files
    only, in CT none or values other than Hounsfield units, missing or mixed geometry, a single slice, several slices at
    one position, missing slices, uneven distances (more than 0.1 mm and 5 % of the slice distance off a regular grid),
    and gantry tilt and slices that are shifted sideways (both from half a pixel over the stack).

    Args:
        series: a series from :func:`find_series`.
        modality: the modality that the series must have.

    Returns:
        one text for each fault, with its remedy; empty for a regular series.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_faults, find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     find_faults(find_series(patients)[0], modality="MR")
        ['modality CT, expected MR; choose a series of MR']
    """
    scan = without_localisers(series.slices)
    faults = _file_faults(series)
    if series.modality != modality:
        faults.append(f"modality {series.modality or 'unknown'}, expected {modality}; choose a series of {modality}")
    if not scan:
        return [*faults, "only localisers; choose the series of the scan"]
    multi_frame = [s for s in scan if s.frames > 1]
    if multi_frame:
        fault = f"{_names(series, multi_frame)}: multi-frame; convert it to NIfTI or to single-frame DICOM first"
        return [*faults, fault]
    faults += _value_faults(series, scan, modality) + _grid_faults(series, scan)
    localisers = [s for s in series.slices if s.is_localiser]
    if faults and localisers:
        faults.append(f"localiser among the slices ({_names(series, localisers)}); remove it")
    return faults


def list_series(found: Sequence[DicomSeries], *, modality: str = "CT") -> str:
    """Describe several series in one line, each with its faults.

    Args:
        found: the series.
        modality: the modality that the series must have.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_series, list_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     print(list_series(find_series(patients)))  # doctest: +ELLIPSIS
        (1) ... 'Abdomen phantom' (CT), 8 slices, ... mm
    """
    lines = []
    for number, series in enumerate(found, start=1):
        faults = find_faults(series, modality=modality)
        lines.append(f"({number}) {series.describe()}" + (f", unusable: {'; '.join(faults)}" if faults else ""))
    return "; ".join(lines)


def read_series(series: DicomSeries | SeriesGeometry, *, modality: str = "CT") -> tuple[FloatArray, DoubleArray]:
    """Read a series as one volume, each file scaled by its own rescale tags: Hounsfield units for CT.

    One slice is decoded at a time into the volume, so the peak memory is one float32 copy.

    Args:
        series: a series, or its geometry if it has been checked.
        modality: the modality that the series must have.

    Returns:
        float32 ``[X, Y, Z]`` and the affine ``[4, 4]`` from voxel indices to mm in RAS.

    Raises:
        ValueError: the series is not regular (see :func:`check_geometry`), or the pixels of a file cannot be decoded.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_series, read_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     hounsfield, affine = read_series(find_series(patients)[0])
        >>> hounsfield.shape, affine.shape
        ((40, 32, 8), (4, 4))
    """
    geometry = series if isinstance(series, SeriesGeometry) else check_geometry(series, modality=modality)
    volume: FloatArray = np.empty(geometry.shape, dtype=np.float32)
    for z, header in enumerate(geometry.slices):
        slope, intercept = (1.0 if header.slope is None else header.slope), header.intercept or 0.0
        pixels = _pixels(header).astype(np.float32)
        volume[:, :, z] = (pixels * np.float32(slope) + np.float32(intercept)).T
    return volume, geometry.affine


def _names(series: DicomSeries, slices: Sequence[DicomSlice]) -> str:
    more = f" and {count_of(len(slices) - 1, 'other')}" if len(slices) > 1 else ""
    return series.name_of(slices[0].file) + more


def _file_faults(series: DicomSeries) -> list[str]:
    faults = []
    if series.damaged:
        names = shorten(series.name_of(file) for file in series.damaged)
        faults.append(f"empty, damaged or not DICOM beside the slices: {names}; copy it again or remove it")
    cut_off = [s for s in series.slices if s.cut_off]
    if cut_off:
        faults.append(f"{_names(series, cut_off)}: truncated; copy it again")
    for decoder in sorted({s.decoder for s in series.slices if s.decoder}):
        files = _names(series, [s for s in series.slices if s.decoder == decoder])
        faults.append(f"{files}: compressed, needs {decoder}; install that or decompress the series")
    return faults


def _value_faults(series: DicomSeries, scan: Sequence[DicomSlice], modality: str) -> list[str]:
    faults = []
    coloured = [s for s in scan if s.colour]
    if coloured:
        faults.append(f"{_names(series, coloured)}: colour image ({coloured[0].colour}); choose the series of the scan")
    if shifted := [s for s in scan if s.shifted]:
        files = _names(series, shifted)
        faults.append(f"{files}: HighBit contradicts BitsStored, so the values are uncertain; export the series again")
    if flat := [s for s in scan if s.slope == 0]:
        faults.append(f"{_names(series, flat)}: RescaleSlope 0, so all values are equal; export the series again")
    if modality != "CT":
        return faults + _partly_scaled(series, scan)
    if turned := [s for s in scan if s.slope is not None and s.slope < 0]:
        faults.append(f"{_names(series, turned)}: negative RescaleSlope, so air is dense; export the series again")
    unscaled = [s for s in scan if s.slope is None or s.intercept is None]
    if unscaled:
        files = _names(series, unscaled)
        faults.append(f"{files}: no RescaleSlope and RescaleIntercept, so no Hounsfield units; export the series again")
    other = [s for s in scan if s.rescale_type not in _HOUNSFIELD_TYPES]
    if other:
        kind = other[0].rescale_type
        faults.append(f"{_names(series, other)}: values of type {kind}; choose the series in Hounsfield units")
    return faults


def _partly_scaled(series: DicomSeries, scan: Sequence[DicomSlice]) -> list[str]:
    scaled = [s for s in scan if s.slope is not None or s.intercept is not None]
    if len(scaled) in (0, len(scan)):
        return []
    few = scaled if 2 * len(scaled) < len(scan) else [s for s in scan if s not in scaled]
    which = "with" if few is scaled else "without"
    return [f"{_names(series, few)}: {which} rescale tags, unlike the other slices; export the series again"]


def _same_instance(scan: Sequence[DicomSlice]) -> tuple[DicomSlice, DicomSlice] | None:
    """The first two slices with the same ``SOPInstanceUID``."""
    seen: dict[str, DicomSlice] = {}
    for one in scan:
        if one.uid and one.uid in seen:
            return seen[one.uid], one
        seen[one.uid] = one
    return None


def _grid_faults(series: DicomSeries, scan: Sequence[DicomSlice]) -> list[str]:
    faults = []
    tags: dict[str, Callable[[DicomSlice], tuple[float, ...]]] = {
        "ImagePositionPatient": lambda s: s.position,
        "ImageOrientationPatient": lambda s: s.orientation,
        "PixelSpacing": lambda s: s.pixel_spacing,
    }
    for tag, value in tags.items():
        without = [s for s in scan if not value(s)]
        if without:
            faults.append(f"{_names(series, without)}: no usable {tag}; export the series again")
    if len(scan) == 1:
        faults.append("a single slice, expected a volume; give the whole series")
    mixed = _mixed_faults(series, scan)
    if faults or any(fault.startswith("mixed orientations") for fault in mixed):
        return faults + mixed
    return faults + mixed + _position_faults(series, scan)


def _mixed_faults(series: DicomSeries, scan: Sequence[DicomSlice]) -> list[str]:
    facts: dict[str, tuple[Callable[[DicomSlice], tuple[float, ...]], float]] = {
        "sizes": (lambda s: s.size, 0.0),
        "pixel spacings": (lambda s: s.pixel_spacing, 1e-4),
        "orientations": (lambda s: s.orientation, 1e-3),
    }
    faults = []
    for fact, (value, tolerance) in facts.items():
        known = [s for s in scan if value(s)]
        if not known:
            continue
        usual = Counter(value(s) for s in known).most_common(1)[0][0]
        odd = [s for s in known if not np.allclose(value(s), usual, rtol=0, atol=tolerance)]
        if odd:
            files = _names(series, odd)
            have = f"{_numbers_text(value(odd[0]))}, the other {len(known) - len(odd)} {_numbers_text(usual)}"
            faults.append(f"mixed {fact}: {files} {have}; keep the slices of one acquisition")
    return faults


def _numbers_text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _position_faults(series: DicomSeries, scan: Sequence[DicomSlice]) -> list[str]:
    along = along_normal(scan)
    order = np.argsort(along, kind="stable")
    ordered, distances = [scan[i] for i in order], along[order]
    gaps = np.diff(distances)
    faults = []
    same = np.flatnonzero(gaps < SAME_POSITION)
    if len(same):
        pair = f"{series.name_of(ordered[same[0]].file)} and {series.name_of(ordered[same[0] + 1].file)}"
        count = count_of(len(same), "duplicate position")
        faults.append(f"{count} ({pair}); keep one phase or reconstruction, each file once")
    if len(same) == len(gaps):
        return faults
    return faults + _gap_faults(series, ordered, distances) + _sideways_faults(ordered, distances)


def _gap_faults(series: DicomSeries, ordered: Sequence[DicomSlice], distances: DoubleArray) -> list[str]:
    """Missing slices and uneven distances, from the positions of the slices on the regular grid that fits them best."""
    gaps = np.diff(distances)
    step = usual_step(gaps)
    steps = np.where(gaps < SAME_POSITION, 0, np.maximum(np.rint(gaps / step), 1)).astype(np.int64)
    index = np.concatenate([[0], np.cumsum(steps)])
    tolerance = 0.05 * step + 0.1

    def between(i: int) -> str:
        first, second = (f"{series.name_of(ordered[k].file)} ({distances[k]:.2f} mm)" for k in (i, i + 1))
        return f"between {first} and {second}"

    faults = []
    uneven = np.abs(gaps - steps * step) > tolerance
    missing = np.flatnonzero((steps > 1) & ~uneven)
    if len(missing):
        places = shorten(between(int(i)) for i in missing)
        count = count_of(int((steps[missing] - 1).sum()), "missing slice")
        faults.append(f"{count} {places}, {step:.4g} mm apart elsewhere; export the whole series again")
    slope, origin = np.polyfit(index, distances, 1)
    if uneven.any() or (np.abs(distances - (origin + slope * index)) > tolerance).any():
        i = int(np.argmax(np.abs(gaps - steps * step)))
        place = f"{gaps[i]:.4g} mm {between(i)}, {step:.4g} mm elsewhere"
        faults.append(f"uneven slice distances ({place}); resample the series to a regular grid first")
    return faults


def _sideways_faults(ordered: Sequence[DicomSlice], distances: DoubleArray) -> list[str]:
    """Positions off the normal through the first slice: steadily (gantry tilt) or not (shifted slices)."""
    positions = np.asarray([s.position for s in ordered], dtype=np.float64)
    depth = distances - distances[0]
    sideways = positions - positions[0] - depth[:, None] * slice_axes(ordered[0])[2]
    limit = 0.5 * min(ordered[0].pixel_spacing)
    if np.linalg.norm(sideways, axis=1).max() <= limit:
        return []
    shear = depth @ sideways / (depth @ depth)
    if np.linalg.norm(sideways - depth[:, None] * shear, axis=1).max() > limit:
        shift = np.linalg.norm(sideways, axis=1).max()
        return [f"slices shifted sideways by up to {shift:.4g} mm; keep the slices of one acquisition"]
    angle = np.degrees(np.arctan(np.linalg.norm(shear)))
    return [f"gantry tilt of {angle:.3g} degrees; resample it to a straight grid first (dcm2niix does)"]


def _pixels(header: DicomSlice) -> npt.NDArray[np.generic]:
    """The stored values of one file, ``[rows, columns]``."""
    with one_line(
        f"{header.file}: the pixels cannot be decoded; copy the file again.", passing=(OSError, TooLargeError)
    ):
        dataset = read_dicom(header.file, pixels=header.size[0] * header.size[1])
        pixels: npt.NDArray[np.generic] = decode_pixels(dataset)
    if pixels.shape != header.size[::-1]:
        size = " x ".join(str(n) for n in pixels.shape[::-1])
        raise ValueError(f"{header.file}: {size} pixels, the header says {header.size[0]} x {header.size[1]}.")
    return pixels
