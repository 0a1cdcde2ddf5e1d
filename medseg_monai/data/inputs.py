"""The files and folders that a user names, turned into cases; ambiguous input is refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from monai.utils import ensure_tuple

from medseg_monai.errors import shorten
from medseg_monai.files import REPORT_FILES, has_ending

from .datalist import Item
from .dicom import check_geometry, find_series, is_dicom_file, list_series, read_modality
from .names import case_name, name_cases
from .readers.dicom_picture import OCT, PHOTOGRAPH, RADIOGRAPH, PictureKind
from .readers.itk_header import data_files
from .readers.oct import OCT_SUFFIXES, files_of_scan, scans_in, why_no_scan
from .readers.oct_files.scan import split_number
from .readers.raster import RASTER_SUFFIXES
from .readers.volume import VOLUME_SUFFIXES

__all__ = ["FoundCases", "find_images", "find_oct", "find_photographs", "find_radiographs", "find_volumes"]

_LOGGER = logging.getLogger(__name__)

_HIDDEN = ("dicomdir", "thumbs.db", "desktop.ini")  # what archives and file managers leave behind


class FoundCases(list[Item]):
    """The cases in what a user named, and what was left out of the folders among it.

    Args:
        items: the cases.
        left_out: see the attribute.

    Attributes:
        left_out: absolute paths of files and folders that are no cases, such as pictures of an unknown format.

    Example:
        >>> from medseg_monai.data.inputs import FoundCases
        >>> found = FoundCases([{"image": "eyes/a.png"}], left_out=["eyes/b.heic"])
        >>> len(found), found.left_out
        (1, ['eyes/b.heic'])
    """

    def __init__(self, items: Iterable[Item] = (), left_out: Iterable[str] = ()) -> None:
        super().__init__(items)
        self.left_out = list(left_out)


@dataclass
class _Folder:
    """The cases that a folder stands for, and what is left out of it, with the reason if the name does not say it."""

    cases: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


_IMAGE = PictureKind("image", (), in_colour=True)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundCases:
    """List the 2D images in files and folders.

    A folder stands for the image files directly in it, which are recognised by their suffix. If there are none, it
    stands for its case folders: those directly in it with one image each, without hidden folders and those with the
    results of a prediction. One warning names whatever else there is except hidden files: other files, broken links,
    folders with images beside images. A file that is named itself is taken whatever its suffix.

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
    return _cases(paths, in_folder=partial(_pictures_in, kind=_IMAGE), named=_existing, what=_IMAGE.name)


def find_radiographs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundCases:
    """List the radiographs in files and folders, for :class:`medseg_monai.data.RadiographReader`.

    A folder stands for the image files (recognised by their suffix) and the DICOM radiographs directly in it. DICOM is
    recognised by the ending ``.dcm`` or by its content, and each file is a case. Other DICOM files in a folder
    (reports, earlier segmentations, CT) are left out with the rest. A DICOM file whose header does not state a modality
    is kept, so that reading it reports what is wrong. A folder without a radiograph stands for its case folders; that,
    and the warning of what is left out, is as in :func:`find_images`. A file that is named itself is taken whatever its
    suffix, but DICOM must be a radiograph.

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
    return _find_pictures(paths, RADIOGRAPH)


def find_photographs(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundCases:
    """List the photographs of eyes in files and folders, for :class:`medseg_monai.data.PhotographReader`.

    As :func:`find_radiographs`, with DICOM of ophthalmic photography (OP) instead of radiographs.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` as :func:`find_radiographs` returns them.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder without a photograph, a case folder with several, a named DICOM file of another modality
            than OP, or two files of a folder that differ in their endings alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_photographs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "left.jpg").touch()
        ...     [Path(item["image"]).name for item in find_photographs(folder)]
        ['left.jpg']
    """
    return _find_pictures(paths, PHOTOGRAPH)


def find_oct(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundCases:
    """List the OCT scans in files and folders, for :class:`medseg_monai.data.OCTReader`.

    As :func:`find_radiographs`, with DICOM of ophthalmic tomography (OPT) and the files of OCT devices, which are known
    by their suffix (XML by its content, ``.img`` by its name). Pictures that an XML export names are parts of its scan.
    Other pictures are a case each, even if they are the B-scans of one volume. Of a file with several, each is a case.

    Args:
        paths: one or several files and folders, and scans in a file (``FILE/NUMBER``).

    Returns:
        items ``{"image": path, "name": name}`` as :func:`find_radiographs` returns them; the path of one of several
        scans in a file is ``FILE/NUMBER``, and its name that of the file with the number.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: see :func:`find_radiographs`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data import find_oct
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.vol", "a.png", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(item["image"]).name for item in find_oct(folder)]
        ['a.png', 'b.vol']
    """
    return _cases(paths, in_folder=_oct_in, named=_oct, what=OCT.name, parts=_scans_of)


def find_volumes(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
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
    items = _cases(given, in_folder=partial(in_folder, modality=modality), named=_volume, what="volume")
    missing = [uid for uid in wanted if not any(Path(item["image"]).name == uid for item in items)]
    if missing:
        there = shorten(str(path) for path in given)
        raise FileNotFoundError(f"{there}: no DICOM series {shorten(missing)}.")
    return items


def _find_pictures(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], kind: PictureKind) -> FoundCases:
    in_folder, named = partial(_pictures_in, kind=kind), partial(_picture, kind=kind)
    return _cases(paths, in_folder=in_folder, named=named, what=kind.name)


def _cases(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    in_folder: Callable[[Path], _Folder],
    named: Callable[[Path], Path],
    what: str,
    parts: Callable[[Path], list[Path]] = lambda file: [file],
) -> FoundCases:
    """List the cases (the parts of files) in folders and in files that are named, each once; tell what is left out."""
    found: dict[Path, None] = {}
    folders: dict[Path, _Folder] = {}
    for entry in ensure_tuple(paths):
        path = Path(os.path.abspath(entry))  # without "..", so that a file named twice counts once
        if path.is_dir():
            folders[path] = in_folder(path)
        found.update(dict.fromkeys(folders[path].cases if path in folders else [named(path)]))
    taken = {*found, *folders}
    left_out: dict[Path, None] = {}
    for folder, one in folders.items():
        unread = {path: reason for path, reason in sorted(one.left_out.items()) if path not in taken}
        left_out.update(dict.fromkeys(unread))
        if unread:
            _LOGGER.warning("%s: left out, as they are not %ss: %s.", folder, what, _listed(folder, unread))
    cases = dict.fromkeys(part for path in found for part in parts(path))
    _refuse_same_stem(cases)
    return FoundCases(name_cases([{"image": str(path)} for path in cases]), map(str, left_out))


def _listed(folder: Path, left_out: Mapping[Path, str]) -> str:
    names = {path.relative_to(folder).as_posix(): reason for path, reason in left_out.items()}
    return shorten(f"{name} ({reason})" if reason else name for name, reason in names.items())


def _also(folder: Path, found: _Folder) -> str:
    """What is left out of a folder without a case for another reason than its name, which may be why there is none."""
    told = {path: reason for path, reason in found.left_out.items() if reason}
    return f"; left out: {_listed(folder, told)}" if told else ""


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    return path


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones and the results of an earlier run, which are no cases."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path)]
    return [path for path in folders if not all((path / name).is_file() for name in REPORT_FILES)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _HIDDEN


def _directly_in(folder: Path, why_not: Callable[[Path], str | None]) -> _Folder:
    """The cases directly in a folder: the files for which ``why_not`` gives ``None``."""
    found = _Folder()
    for path in sorted(folder.iterdir()):
        if path.is_dir() or _is_hidden(path):
            continue
        reason = why_not(path) if path.is_file() else "a broken link"
        if reason is None:
            found.cases.append(path)
        else:
            found.left_out[path] = reason
    return found


def _in_folder(folder: Path, *, directly_in: Callable[[Path], _Folder], what: str) -> _Folder:
    """The cases directly in a folder, or else the one in each of its folders."""
    found = directly_in(folder)
    below = {path: directly_in(path) for path in _folders_in(folder)}
    if found.cases:
        found.left_out |= {path: "a folder" for path, there in below.items() if there.cases}
        return found
    for path, there in below.items():
        if len(there.cases) > 1:
            names = shorten(case.name for case in there.cases)
            raise ValueError(
                f"{folder}: no {what} directly in it, and {len(there.cases)} in {path.name} ({names}), expected one a "
                "case folder; name the folders or files to predict."
            )
        found.cases += there.cases
        # a folder without a case may have nothing to do with them, but a broken link in it may be one
        found.left_out |= {file: why for file, why in there.left_out.items() if there.cases or why}
    return found


def _pictures_in(folder: Path, *, kind: PictureKind) -> _Folder:
    """The raster images and the DICOM images of a kind in a folder, at least one."""
    directly_in = partial(_directly_in, why_not=partial(_why_no_picture, kind=kind))
    return _at_least_one(folder, directly_in, kind, RASTER_SUFFIXES)


def _at_least_one(
    folder: Path, directly_in: Callable[[Path], _Folder], kind: PictureKind, suffixes: Sequence[str]
) -> _Folder:
    found = _in_folder(folder, directly_in=directly_in, what=kind.name)
    if not found.cases:
        wanted = ", ".join(suffixes) + (f", DICOM of {' or '.join(kind.modalities)}" if kind.modalities else "")
        raise ValueError(f"{folder}: no {kind.name} in this folder (looked for {wanted}){_also(folder, found)}.")
    return found


def _oct_in(folder: Path) -> _Folder:
    return _at_least_one(folder, _oct_directly_in, OCT, (*RASTER_SUFFIXES, *OCT_SUFFIXES))


def _oct_directly_in(folder: Path) -> _Folder:
    """The OCT scans directly in a folder, without the pictures that are parts of an XML export."""
    found = _directly_in(folder, _why_no_oct)
    pictures = {picture for file in found.cases for picture in _pictures_of(file)}
    found.cases = [file for file in found.cases if file not in pictures]
    return found


def _why_no_oct(file: Path) -> str | None:
    return why_no_scan(file) if has_ending(file, OCT_SUFFIXES) else _why_no_picture(file, OCT)


def _pictures_of(file: Path) -> list[Path]:
    try:
        return files_of_scan(file)[1:]
    except ValueError:  # a damaged export, which reading reports
        return []


def _scans_of(path: Path) -> list[Path]:
    """The scans in a file that may hold several."""
    try:
        numbers = scans_in(path)
    except ValueError:  # a damaged file, which reading reports
        numbers = []
    return [path / str(number) for number in numbers] if len(numbers) > 1 else [path]


def _oct(path: Path) -> Path:
    file, _ = split_number(path)
    _picture(file, kind=OCT)
    return path


def _why_no_picture(file: Path, kind: PictureKind) -> str | None:
    """Why a file is left out; ``None`` if it is a case, as is DICOM that states no modality, which reading reports."""
    if kind.modalities and is_dicom_file(file):
        return _other_modality(file, kind) or None
    return None if has_ending(file, RASTER_SUFFIXES) else ""


def _picture(path: Path, *, kind: PictureKind) -> Path:
    if is_dicom_file(_existing(path)) and (modality := _other_modality(path, kind)):
        wanted = " or ".join(kind.modalities)
        raise ValueError(f"{path}: modality {modality}, expected {wanted}; give a {kind.name}.")
    return path


def _other_modality(file: Path, kind: PictureKind) -> str:
    """The modality of a DICOM file of another kind; empty if it is of this one, or if its header states none."""
    modality = read_modality(file)
    return "" if modality in kind.modalities else modality


def _volume(path: Path) -> Path:
    if not has_ending(_existing(path), VOLUME_SUFFIXES):
        suffixes = ", ".join(VOLUME_SUFFIXES)
        raise ValueError(f"{path}: not a volume by its name ({suffixes}); for a DICOM series, give the folder.")
    return path


def _volumes_in(folder: Path, modality: str) -> _Folder:
    """The volume files in a folder, and the folder itself if one DICOM series lies below."""
    series = find_series(folder)
    if len(series) > 1:
        several = list_series(series, modality=modality)
        raise ValueError(f"{folder}: {len(series)} DICOM series, choose with --series: {several}.")
    volumes = _in_folder(folder, directly_in=_volumes_directly_in, what="volume")
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
            f"{_also(folder, volumes)}."
        )
    for one in series:
        check_geometry(one, modality=modality)
        volumes.cases.append(folder)
    return volumes


def _volumes_directly_in(folder: Path) -> _Folder:
    """The volume files in a folder; DICOM beside them belongs to a series, and raw data to their headers."""
    found = _directly_in(folder, lambda file: None if has_ending(file, VOLUME_SUFFIXES) else "")
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


def _series_named(folder: Path, wanted: Sequence[str], modality: str) -> _Folder:
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
    return _Folder(volumes)


def _refuse_same_stem(paths: Iterable[Path]) -> None:
    """Refuse files of a folder that differ in their endings alone: most likely the same image twice."""
    first: dict[tuple[Path, str], Path] = {}
    for path in paths:
        other = first.setdefault((path.parent, case_name(path)), path)
        if other != path:
            raise ValueError(
                f"{other} and {path}: both predictions would be named {case_name(path)}; predict them into two folders."
            )
