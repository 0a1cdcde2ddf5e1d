"""DICOM series: the files below a folder that belong together, whatever their names and subfolders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_monai.errors import shorten

from .files import DamagedFile, DicomSlice, SliceHeader, files_by_folder, read_slice_header

__all__ = [
    "SAME_POSITION",
    "DicomSeries",
    "along_normal",
    "count_of",
    "find_series",
    "slice_axes",
    "usual_step",
    "without_localisers",
]

DoubleArray = npt.NDArray[np.float64]

# files state positions in mm with one to six decimals; slices closer than this count as being at the same position
SAME_POSITION = 0.01


@dataclass(frozen=True)
class DicomSeries:
    """The files of one ``SeriesInstanceUID`` below one folder.

    Attributes:
        uid: ``SeriesInstanceUID``.
        description: ``SeriesDescription``, empty if absent.
        modality: ``Modality``, such as ``CT``.
        slices: the headers, sorted by file.
        damaged: files in the same folders that look like DICOM but cannot be read; any of them may be a lost slice.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     series = find_series(patients)[0]
        >>> series.modality, series.description, len(series.files)
        ('CT', 'Abdomen phantom', 8)
    """

    uid: str
    description: str
    modality: str
    slices: tuple[DicomSlice, ...]
    damaged: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, sorted by name."""
        return tuple(s.file for s in self.slices)

    @property
    def folder(self) -> Path:
        """The deepest folder that holds all files."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Most common distance between columns, rows and slices in mm; ``nan`` where no file states one."""
        scan = [s for s in without_localisers(self.slices) if s.position and s.orientation and s.pixel_spacing]
        if not scan:
            return (np.nan, np.nan, np.nan)
        x, y = scan[0].pixel_spacing
        return (x, y, usual_step(np.diff(np.sort(along_normal(scan)))))

    def describe(self) -> str:
        """One line that distinguishes the series: UID, description, modality, number of slices, spacing."""
        spacing = " x ".join(f"{value:.4g}" for value in self.spacing) + " mm"
        known = "unknown spacing" if np.isnan(self.spacing).any() else spacing
        return f"{self.uid} '{self.description}' ({self.modality}), {count_of(len(self.slices), 'slice')}, {known}"

    def name_of(self, file: Path) -> str:
        """The name of a file for a message: its path below :attr:`folder`, or the whole path if it lies elsewhere.

        Args:
            file: the file.
        """
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else str(file)


def find_series(folder: str | os.PathLike[str], wanted: Collection[str] = ()) -> list[DicomSeries]:
    """Find the DICOM series below a folder, whatever the names and subfolders of their files.

    A DICOM file is recognised by its content (the letters DICM after 128 bytes) or by its ending ``.dcm``. The search
    leaves out hidden files and folders, ``DICOMDIR``, objects without pixels (reports, contours, presentation states),
    segmentations and doses. It follows links to files, but not links to folders.

    An empty file or a broken link beside DICOM files, a file named ``.dcm`` that is not DICOM, and a file whose header
    cannot be read are listed as ``damaged`` in the series of the same folder, since each may be a slice that was lost
    while copying.

    Args:
        folder: where to search.
        wanted: SeriesInstanceUIDs to choose; by default all. Damaged files then matter only beside a series of these.

    Returns:
        the series, sorted by UID.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: damaged files in a folder without any series.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data.dicom import find_series
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=2, size=(8, 32, 40), seed=0)
        ...     [(series.modality, len(series.slices)) for series in find_series(patients)]
        [('CT', 8), ('CT', 8)]
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder.")
    found: dict[str, list[SliceHeader]] = defaultdict(list)
    damaged: dict[Path, list[Path]] = defaultdict(list)
    for files in files_by_folder(root):
        headers = {file: read_slice_header(file) if file.is_file() else None for file in files}
        has_dicom = any(headers.values())
        for file, header in headers.items():
            if isinstance(header, DamagedFile) or (has_dicom and header is None and _is_empty(file)):
                damaged[file.parent].append(file)
            elif header is not None:
                found[header.series_uid].append(header)
    series = [_to_series(uid, members, damaged) for uid, members in sorted(found.items())]
    if wanted:
        return [one for one in series if one.uid in wanted]
    alone = sorted({file for files in damaged.values() for file in files} - {f for s in series for f in s.damaged})
    if alone:
        others = f"; or choose with --series: {shorten(one.uid for one in series)}" if series else ""
        raise ValueError(f"{alone[0]}: empty, damaged or not DICOM; copy it again or remove it{others}.")
    return series


def _is_empty(file: Path) -> bool:
    return not file.exists() or file.stat().st_size == 0


def _to_series(uid: str, members: list[SliceHeader], damaged: dict[Path, list[Path]]) -> DicomSeries:
    slices = sorted((member.slice for member in members), key=lambda s: s.file)
    beside = [file for folder in sorted({s.file.parent for s in slices}) for file in damaged.get(folder, [])]
    return DicomSeries(uid, members[0].description, members[0].modality, tuple(slices), tuple(beside))


def without_localisers(slices: Sequence[DicomSlice]) -> list[DicomSlice]:
    """The slices that are not localisers.

    Args:
        slices: headers of a series.
    """
    return [s for s in slices if not s.is_localiser]


def slice_axes(header: DicomSlice) -> DoubleArray:
    """Unit vectors along rows, along columns and along their normal, LPS, as rows of ``[3, 3]``.

    Args:
        header: a slice whose orientation is known.
    """
    row, column = np.reshape(header.orientation, (2, 3))
    return np.stack([row, column, np.cross(row, column)])


def along_normal(scan: Sequence[DicomSlice]) -> DoubleArray:
    """Position of each slice in mm along the normal of the first.

    Args:
        scan: slices whose position and orientation are known.
    """
    positions = np.asarray([s.position for s in scan], dtype=np.float64)
    distances: DoubleArray = positions @ slice_axes(scan[0])[2]
    return distances


def usual_step(gaps: DoubleArray) -> float:
    """The usual distance between neighbours: the median, and the smaller of two middle values.

    The smaller one is right, since the gap where a slice is missing is larger.

    Args:
        gaps: distances between neighbours in mm.

    Returns:
        the distance in mm; ``nan`` if all slices lie at the same position.
    """
    apart = np.sort(gaps[gaps >= SAME_POSITION])
    return float(apart[(len(apart) - 1) // 2]) if len(apart) else float("nan")


def count_of(number: int, noun: str) -> str:
    """A number with its noun, for a message.

    Args:
        number: the number.
        noun: what is counted, in the singular.

    Example:
        >>> from medseg_monai.data.dicom.series import count_of
        >>> count_of(1, "slice"), count_of(2, "slice")
        ('1 slice', '2 slices')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
