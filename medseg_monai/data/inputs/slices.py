"""Pictures of CT slices in files and folders."""

from __future__ import annotations

from pathlib import Path

from medseg_monai.data.dicom import is_dicom_file
from medseg_monai.data.readers.dicom_picture import PictureKind
from medseg_monai.data.readers.volume import VOLUME_SUFFIXES
from medseg_monai.files import has_ending

from .folders import Folder, FoundCases, Paths, existing, find_cases
from .pictures import pictures_in

__all__ = ["find_slices"]

_SLICE = PictureKind("slice", (), in_colour=True)


def find_slices(paths: Paths) -> FoundCases:
    """List the slices of CT in files and folders, for :class:`medseg_monai.data.CTSliceReader`.

    As :func:`find_images`, but whoever gives a scan is told of the key with which a bundle takes scans.

    Args:
        paths: one or several files and folders.

    Returns:
        items ``{"image": path, "name": name}`` as :func:`find_images` returns them.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a volume, DICOM, a folder without a slice, a case folder with several, or two files of a folder that
            differ in their endings alone.

    Example:
        >>> from medseg_monai.data import find_slices
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ID_0000_Z_0142.tif", "ID_0001_Z_0146.tif"):
        ...         Path(folder, name).touch()
        ...     [item["name"] for item in find_slices(folder)]
        ['ID_0000_Z_0142', 'ID_0001_Z_0146']
    """
    return find_cases(paths, in_folder=_slices_in, named=_slice, what=_SLICE.name)


def _slices_in(folder: Path) -> Folder:
    try:
        return pictures_in(folder, kind=_SLICE)
    except ValueError as error:
        if scan := next((file for file in sorted(folder.rglob("*")) if file.is_file() and _is_of_a_scan(file)), None):
            name = scan.relative_to(folder).as_posix()
            raise ValueError(f"{folder}: no picture of a slice, but {name} of a scan; set slices=false.") from error
        raise


def _slice(path: Path) -> Path:
    if _is_of_a_scan(existing(path)):
        raise ValueError(f"{path}: a scan, not a picture of one slice; set slices=false.")
    return path


def _is_of_a_scan(file: Path) -> bool:
    return has_ending(file, VOLUME_SUFFIXES) or is_dicom_file(file)
