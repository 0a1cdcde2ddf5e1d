"""The files and folders that a user names, turned into cases; ambiguous input is refused."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from monai.data.utils import is_supported_format
from monai.utils import ensure_tuple
from PIL import Image

from .datalist import Item, shorten
from .dicom import check_geometry, find_series, is_dicom_file, list_series, read_modality
from .dicom.files import DICOM_SUFFIX
from .readers.radiograph import RADIOGRAPH_MODALITIES
from .readers.raster import RASTER_SUFFIXES
from .readers.volume import VOLUME_SUFFIXES

__all__ = ["case_name", "find_images", "find_radiographs", "find_volumes"]

_LOGGER = logging.getLogger(__name__)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Item]:
    """List the 2D images in files and folders.

    A folder stands for the image files directly in it, which are recognised by their suffix; hidden files are left out.
    A file that is named itself is taken whatever its suffix.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path}`` with absolute paths, each file once, in the given order and sorted within a folder.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without an image, or two files whose predictions would have the same name.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(item["image"]).name for item in find_images(folder)]
        ['a.jpg', 'b.png']
    """
    return _cases(paths, in_folder=_images_in, named=_existing)


def find_radiographs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Item]:
    """List the radiographs in files and folders, for :class:`medseg_monai.data.RadiographReader`.

    A folder stands for the image files (recognised by their suffix) and the DICOM radiographs directly in it; hidden
    files and ``DICOMDIR`` are left out. DICOM is recognised by the ending ``.dcm`` or by its content, and each file is
    a case. Other DICOM files in a folder (reports, earlier segmentations, CT) are left out, and one warning names them.
    A DICOM file whose header does not state a modality is kept, so that reading it reports what is wrong. A file that
    is named itself is taken whatever its suffix, but DICOM must be a radiograph.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path}`` with absolute paths, each file once, in the given order and sorted within a folder.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without a radiograph, a named DICOM file of another modality than CR or DX, or two files
            whose predictions would have the same name.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_radiographs
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 64), seed=0, image_format="dicom")
        ...     [Path(item["image"]).name for item in find_radiographs(f"{folder}/images")]
        ['phantom_0001.dcm']
    """
    return _cases(paths, in_folder=_radiographs_in, named=_radiograph)


def find_volumes(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    series: str | Sequence[str] | None = None,
    modality: str = "CT",
) -> list[Item]:
    """List the 3D volumes in files and folders, for :class:`medseg_monai.data.VolumeReader`.

    A folder stands for the volume files directly in it, which are recognised by their suffix (hidden files are left
    out), and for the one DICOM series below it. If there are several series, ``series`` must choose among them; folders
    then stand for the chosen series and nothing else. The headers of a series are checked here, before any network is
    loaded.

    Args:
        paths: one or several files and folders.
        series: SeriesInstanceUID of one or several series.
        modality: DICOM modality that a series must have.

    Returns:
        items ``{"image": path}`` with absolute paths, each once, in the given order and sorted within a folder, files
        first. The path of a series is its folder, or ``<folder>/<SeriesInstanceUID>`` if ``series`` names it.

    Raises:
        FileNotFoundError: a path or a chosen series does not exist.
        ValueError: a file whose suffix is not that of a volume, a folder without a volume, a folder with several series
            (all are listed, each with its faults), a series that is not a regular grid (with all its faults), or two
            volumes whose predictions would have the same name.

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
    items = _cases(given, in_folder=partial(in_folder, modality=modality), named=_volume)
    missing = [uid for uid in wanted if not any(Path(item["image"]).name == uid for item in items)]
    if missing:
        there = shorten(str(path) for path in given)
        raise FileNotFoundError(f"{there}: no DICOM series {shorten(missing)}.")
    return items


def case_name(path: str | os.PathLike[str]) -> str:
    """The name of a case's results: the last part of its path, without the ending of an image file.

    Archives name DICOM files and series by their UIDs, without an ending; the last number of a UID is not an ending.

    Args:
        path: ``item["image"]`` of a data list.

    Example:
        >>> from medseg_monai.data.inputs import case_name
        >>> [case_name(path) for path in ("a/chest.png", "a/scan.nii.gz", "a/1.2.840.1", "a/series")]
        ['chest', 'scan', '1.2.840.1', 'series']
    """
    name = Path(path).name
    told = (ending for ending in _endings() if name.lower().endswith(ending) and len(name) > len(ending))
    return next((name[: -len(ending)] for ending in told), name)


@cache
def _endings() -> tuple[str, ...]:
    """Endings of all image files that can be read, the longest first."""
    ours = (f".{suffix}" for suffix in (*RASTER_SUFFIXES, *VOLUME_SUFFIXES, DICOM_SUFFIX))
    return tuple(sorted({*ours, *Image.registered_extensions()}, key=lambda ending: (-len(ending), ending)))


def _cases(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    in_folder: Callable[[Path], list[Path]],
    named: Callable[[Path], Path],
) -> list[Item]:
    """List the cases in folders and the files that are named themselves, each case once."""
    found: dict[Path, None] = {}
    for entry in ensure_tuple(paths):
        path = Path(os.path.abspath(entry))  # without "..", so that a file named twice counts once
        found.update(dict.fromkeys(in_folder(path) if path.is_dir() else [named(path)]))
    _refuse_equal_names(found)
    return [{"image": str(path)} for path in found]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    return path


def _images_in(folder: Path) -> list[Path]:
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    images = [p for p in files if p.suffix.lower().lstrip(".") in RASTER_SUFFIXES]
    if not images:
        raise ValueError(f"{folder}: no image in this folder (looked for {', '.join(RASTER_SUFFIXES)}).")
    return images


def _radiographs_in(folder: Path) -> list[Path]:
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p.name != "DICOMDIR"]
    others = {file: _other_modality(file) for file in files if is_dicom_file(file)}
    images = [file for file in files if file in others or file.suffix.lower().lstrip(".") in RASTER_SUFFIXES]
    radiographs = [file for file in images if not others.get(file)]
    left_out = shorten(f"{file.name} ({modality})" for file, modality in others.items() if modality)
    if not radiographs:
        also = f"; DICOM of other modalities: {left_out}" if left_out else ""
        wanted = f"{', '.join(RASTER_SUFFIXES)}, DICOM of {' or '.join(RADIOGRAPH_MODALITIES)}"
        raise ValueError(f"{folder}: no radiograph in this folder (looked for {wanted}){also}.")
    if left_out:
        _LOGGER.warning("%s: left out, as they are not radiographs: %s.", folder, left_out)
    return radiographs


def _radiograph(path: Path) -> Path:
    if is_dicom_file(_existing(path)) and (modality := _other_modality(path)):
        wanted = " or ".join(RADIOGRAPH_MODALITIES)
        raise ValueError(f"{path}: modality {modality}, expected {wanted}; give a radiograph.")
    return path


def _other_modality(file: Path) -> str:
    """The modality of a DICOM file that is not a radiograph; empty if it is one, or if its header states none."""
    modality = read_modality(file)
    return "" if modality in RADIOGRAPH_MODALITIES else modality


def _volume(path: Path) -> Path:
    if not is_supported_format(_existing(path), VOLUME_SUFFIXES):
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{path}: not a volume by its name ({suffixes}); for a DICOM series, give the folder.")
    return path


def _volumes_in(folder: Path, modality: str) -> list[Path]:
    """The volume files in a folder, and the folder itself if one DICOM series lies below."""
    series = find_series(folder)
    if len(series) > 1:
        several = list_series(series, modality=modality)
        raise ValueError(f"{folder}: {len(series)} DICOM series, choose with --series: {several}.")
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    volumes = [p for p in files if is_supported_format(p, VOLUME_SUFFIXES)]
    if not volumes and not series:
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{folder}: no volume in this folder (looked for {suffixes}) and no DICOM series below it.")
    for one in series:
        check_geometry(one, modality=modality)
        volumes.append(folder)
    return volumes


def _series_named(folder: Path, wanted: Sequence[str], modality: str) -> list[Path]:
    """The series below a folder that ``wanted`` names, at least one."""
    below = find_series(folder)
    named = [series for series in below if series.uid in wanted]
    if not named:
        there = list_series(below, modality=modality) or "none"
        raise FileNotFoundError(f"{folder}: no DICOM series {shorten(wanted)}; found: {there}.")
    volumes = []
    for series in named:
        check_geometry(series, modality=modality)
        path = folder / series.uid
        if path.exists() and not series.folder.is_relative_to(path):
            raise ValueError(f"{path}: only a part of the DICOM series of this name; move all its files there.")
        volumes.append(path)
    return volumes


def _refuse_equal_names(paths: Iterable[Path]) -> None:
    by_name = defaultdict(list)
    for path in paths:
        by_name[case_name(path)].append(path)
    for stem, same in by_name.items():
        if len(same) > 1:
            raise ValueError(
                f"{same[0]} and {same[1]}: both predictions would be named {stem}; predict them into two folders."
            )
