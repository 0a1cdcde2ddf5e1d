"""OCT scans in files and folders."""

from __future__ import annotations

from pathlib import Path

from medseg_monai.data.readers.dicom_picture import OCT
from medseg_monai.data.readers.oct import OCT_SUFFIXES, files_of_scan, scans_in, why_no_scan
from medseg_monai.data.readers.oct_files.scan import split_number
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.files import has_ending

from .folders import Folder, FoundCases, Paths, directly_in, find_cases
from .pictures import at_least_one, picture, why_no_picture

__all__ = ["find_oct"]


def find_oct(paths: Paths) -> FoundCases:
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
    return find_cases(paths, in_folder=_oct_in, named=_oct, what=OCT.name, parts=_scans_of)


def _oct_in(folder: Path) -> Folder:
    return at_least_one(folder, _oct_directly_in, OCT, (*RASTER_SUFFIXES, *OCT_SUFFIXES))


def _oct_directly_in(folder: Path) -> Folder:
    """The OCT scans directly in a folder, without the pictures that are parts of an XML export."""
    found = directly_in(folder, _why_no_oct)
    pictures = {picture for file in found.cases for picture in _pictures_of(file)}
    found.cases = [file for file in found.cases if file not in pictures]
    return found


def _why_no_oct(file: Path) -> str | None:
    return why_no_scan(file) if has_ending(file, OCT_SUFFIXES) else why_no_picture(file, OCT)


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
    picture(file, kind=OCT)
    return path
