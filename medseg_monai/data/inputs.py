"""The files and folders that a user names, turned into cases; ambiguous input is refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from monai.utils import ensure_tuple

from medseg_monai.errors import shorten
from medseg_monai.files import REPORT_FILES, has_ending

from .datalist import Item
from .dicom import check_geometry, find_series, is_dicom_file, list_series, read_modality
from .names import case_name, name_cases
from .readers.radiograph import RADIOGRAPH_MODALITIES
from .readers.raster import RASTER_SUFFIXES
from .readers.volume import VOLUME_SUFFIXES

__all__ = ["find_images", "find_radiographs", "find_volumes"]

_LOGGER = logging.getLogger(__name__)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Item]:
    """List the 2D images in files and folders.

    A folder stands for the image files directly in it, which are recognised by their suffix; hidden files are left out.
    If there are none, it stands for its case folders: those directly in it with one image each, without hidden folders
    and those with the results of a prediction. A file that is named itself is taken whatever its suffix.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each file once, in the given order and sorted
        within a folder; :func:`medseg_monai.data.names.name_cases` tells how they are named.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without an image, a case folder with several, or two files of a folder that differ in their
            endings alone.

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
    A DICOM file whose header does not state a modality is kept, so that reading it reports what is wrong. A folder
    without a radiograph stands for its case folders, see :func:`find_images`. A file that is named itself is taken
    whatever its suffix, but DICOM must be a radiograph.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` with absolute paths, each file once, in the given order and sorted
        within a folder; :func:`medseg_monai.data.names.name_cases` tells how they are named.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without a radiograph, a case folder with several, a named DICOM file of another modality
            than CR or DX, or two files of a folder that differ in their endings alone.

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
    then stand for the chosen series and nothing else. A folder with neither stands for its case folders, see
    :func:`find_images`. The headers of a series are checked here, before any network is loaded.

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
    items = _cases(given, in_folder=partial(in_folder, modality=modality), named=_volume)
    missing = [uid for uid in wanted if not any(Path(item["image"]).name == uid for item in items)]
    if missing:
        there = shorten(str(path) for path in given)
        raise FileNotFoundError(f"{there}: no DICOM series {shorten(missing)}.")
    return items


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
    _refuse_same_stem(found)
    return name_cases([{"image": str(path)} for path in found])


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    return path


def _files_in(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]


def _in_case_folders(folder: Path, directly_in: Callable[[Path], list[Path]], what: str) -> list[Path]:
    """The one image in each of a folder's folders; none if they hold no images either."""
    found = []
    for below in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        # the results of an earlier run would else become the cases of the next
        images = [] if all((below / name).is_file() for name in REPORT_FILES) else directly_in(below)
        if len(images) > 1:
            names = shorten(image.name for image in images)
            raise ValueError(
                f"{folder}: no {what} directly in it, and {len(images)} in {below.name} ({names}), expected one a case "
                "folder; name the folders or files to predict."
            )
        found += images
    return found


def _images_in(folder: Path) -> list[Path]:
    images = _images_directly_in(folder) or _in_case_folders(folder, _images_directly_in, "image")
    if not images:
        raise ValueError(f"{folder}: no image in this folder (looked for {', '.join(RASTER_SUFFIXES)}).")
    return images


def _images_directly_in(folder: Path) -> list[Path]:
    return [p for p in _files_in(folder) if p.suffix.lower().lstrip(".") in RASTER_SUFFIXES]


def _radiographs_in(folder: Path) -> list[Path]:
    radiographs = _radiographs_directly_in(folder) or _in_case_folders(folder, _radiographs_directly_in, "radiograph")
    if not radiographs:
        others = shorten(f"{file.name} ({modality})" for file, modality in _dicom_in(folder).items() if modality)
        also = f"; DICOM of other modalities: {others}" if others else ""
        wanted = f"{', '.join(RASTER_SUFFIXES)}, DICOM of {' or '.join(RADIOGRAPH_MODALITIES)}"
        raise ValueError(f"{folder}: no radiograph in this folder (looked for {wanted}){also}.")
    return radiographs


def _radiographs_directly_in(folder: Path) -> list[Path]:
    """The radiographs in a folder; one warning names the DICOM files beside them that are none."""
    dicom = _dicom_in(folder)
    radiographs = [
        file
        for file in _files_in(folder)
        if (not dicom[file] if file in dicom else file.suffix.lower().lstrip(".") in RASTER_SUFFIXES)
    ]
    left_out = shorten(f"{file.name} ({modality})" for file, modality in dicom.items() if modality)
    if radiographs and left_out:
        _LOGGER.warning("%s: left out, as they are not radiographs: %s.", folder, left_out)
    return radiographs


def _dicom_in(folder: Path) -> dict[Path, str]:
    """The DICOM files in a folder, each with its modality if that is not a radiograph's."""
    files = (file for file in _files_in(folder) if file.name != "DICOMDIR")
    return {file: _other_modality(file) for file in files if is_dicom_file(file)}


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
    if not has_ending(_existing(path), VOLUME_SUFFIXES):
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{path}: not a volume by its name ({suffixes}); for a DICOM series, give the folder.")
    return path


def _volumes_in(folder: Path, modality: str) -> list[Path]:
    """The volume files in a folder, and the folder itself if one DICOM series lies below."""
    series = find_series(folder)
    if len(series) > 1:
        several = list_series(series, modality=modality)
        raise ValueError(f"{folder}: {len(series)} DICOM series, choose with --series: {several}.")
    volumes = _volumes_directly_in(folder)
    if not volumes:
        volumes = _in_case_folders(folder, _volumes_directly_in, "volume")
        if volumes and series:
            raise ValueError(
                f"{folder}: a DICOM series below, and {volumes[0].relative_to(folder)} in folders of its own; name the "
                "folders or files to predict."
            )
    if not volumes and not series:
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{folder}: no volume in this folder (looked for {suffixes}) and no DICOM series below it.")
    for one in series:
        check_geometry(one, modality=modality)
        volumes.append(folder)
    return volumes


def _volumes_directly_in(folder: Path) -> list[Path]:
    return [p for p in _files_in(folder) if has_ending(p, VOLUME_SUFFIXES)]


def _series_named(folder: Path, wanted: Sequence[str], modality: str) -> list[Path]:
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
    return volumes


def _refuse_same_stem(paths: Iterable[Path]) -> None:
    """Refuse files of a folder that differ in their endings alone: most likely the same image twice."""
    first: dict[tuple[Path, str], Path] = {}
    for path in paths:
        other = first.setdefault((path.parent, case_name(path)), path)
        if other != path:
            raise ValueError(
                f"{other} and {path}: both predictions would be named {case_name(path)}; predict them into two folders."
            )
