"""Volume files and DICOM series in files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from monai.utils import ensure_tuple

from medseg_monai.data.dicom import check_geometry, find_series, is_dicom_file, list_series
from medseg_monai.data.readers.itk_header import data_files
from medseg_monai.data.readers.volume import VOLUME_SUFFIXES
from medseg_monai.errors import shorten
from medseg_monai.files import has_ending

from .folders import Folder, FoundCases, Paths, directly_in, existing, find_cases, in_folder_or_below, left_out_of

__all__ = ["find_volumes"]


def find_volumes(
    paths: Paths,
    *,
    series: str | Sequence[str] | None = None,
    modality: str = "CT",
) -> FoundCases:
    """List the 3D volumes in files and folders, for :class:`medseg_monai.data.VolumeReader`.

    A folder stands for the volume files directly in it, which are recognised by their suffix, and for the one DICOM
    series below it. If there are several series, ``series`` must choose among them; folders then stand for the chosen
    series and nothing else. A folder with neither stands for its case folders, see :func:`find_images`; that function
    also tells what the warning of left out files names, which here are neither DICOM nor the raw data of a header. The
    headers of a series are checked here, before any network is loaded.

    Args:
        paths: one or several files and folders.
        series: SeriesInstanceUID of one or several series.
        modality: DICOM modality that a series must have.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each once, in the given order and sorted within a
        folder, files first; :func:`medseg_monai.data.names.name_cases` tells how they are named. The path of a series
        is its folder, or ``<folder>/<SeriesInstanceUID>`` if ``series`` names it.

    Raises:
        FileNotFoundError: a path or a chosen series does not exist.
        ValueError: a file whose suffix is not that of a volume, a folder without a volume, a case folder with several,
            a folder with several series (all are listed, each with its faults), a series that is not a regular grid
            (with all its faults), or two volumes of a folder that differ in their endings alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_volumes
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)  # DICOM series of CT
        ...     [Path(item["image"]).relative_to(patients).as_posix() for item in find_volumes(patients / "CT" / "1")]
        ['CT/1']
    """
    given, wanted = ensure_tuple(paths), ensure_tuple(series or ())
    in_folder = partial(_series_named, wanted=wanted) if wanted else _volumes_in
    items = find_cases(given, in_folder=partial(in_folder, modality=modality), named=_volume, what="volume")
    missing = [uid for uid in wanted if not any(Path(item["image"]).name == uid for item in items)]
    if missing:
        there = shorten(str(path) for path in given)
        raise FileNotFoundError(f"{there}: no DICOM series {shorten(missing)}.")
    return items


def _volume(path: Path) -> Path:
    if not has_ending(existing(path), VOLUME_SUFFIXES):
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{path}: not a volume by its name ({suffixes}); for a DICOM series, give the folder.")
    return path


def _volumes_in(folder: Path, modality: str) -> Folder:
    """The volume files in a folder, and the folder itself if one DICOM series lies below."""
    series = find_series(folder)
    if len(series) > 1:
        several = list_series(series, modality=modality)
        raise ValueError(f"{folder}: {len(series)} DICOM series, choose with --series: {several}.")
    volumes = in_folder_or_below(folder, directly_in=_volumes_directly_in, what="volume")
    in_folders = [volume for volume in volumes.cases if volume.parent != folder]
    if series and in_folders:
        raise ValueError(
            f"{folder}: a DICOM series below, and {in_folders[0].relative_to(folder)} in folders of its own; name the "
            "folders or files to predict."
        )
    if not volumes.cases and not series:
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(
            f"{folder}: no volume in this folder (looked for {suffixes}) and no DICOM series below it"
            f"{left_out_of(folder, volumes)}."
        )
    for one in series:
        check_geometry(one, modality=modality)
        volumes.cases.append(folder)
    return volumes


def _volumes_directly_in(folder: Path) -> Folder:
    """The volume files in a folder; DICOM beside them belongs to a series, and raw data to their headers."""
    found = directly_in(folder, lambda file: None if has_ending(file, VOLUME_SUFFIXES) else "")
    raw = {ending for header in found.cases for ending in _endings_of_data(header)}
    for file in [file for file, reason in found.left_out.items() if not reason]:
        if file.suffix in raw or is_dicom_file(file):
            del found.left_out[file]
    return found


def _endings_of_data(header: Path) -> set[str]:
    """The endings of the files in which the voxels of a header lie, which may be many, named by a pattern."""
    if not has_ending(header, ("nhdr", "mhd")):
        return set()
    try:
        return {Path(name.split()[0]).suffix for name in data_files(header) if name}
    except ValueError:  # a damaged header, which reading reports
        return set()


def _series_named(folder: Path, wanted: Sequence[str], modality: str) -> Folder:
    """The series below a folder that ``wanted`` names, at least one."""
    named = find_series(folder, wanted)
    if not named:
        there = list_series(find_series(folder), modality=modality) or "none"
        raise FileNotFoundError(f"{folder}: no DICOM series {shorten(wanted)}; found: {there}.")
    volumes = []
    for series in named:
        check_geometry(series, modality=modality)
        path = folder / series.uid
        if path.exists() and not series.folder.is_relative_to(path):
            raise ValueError(f"{path}: only a part of the DICOM series of this name; move all its files there.")
        volumes.append(path)
    return Folder(volumes)
