"""The fingerprint of an input, by which a later run knows whether it is still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from medseg_monai.data.dicom import find_series
from medseg_monai.files import file_sha256, has_ending

from .itk_header import files_of_volume
from .oct import files_of_scan
from .oct_files.scan import split_number
from .stack import sections_of
from .volume import ITK_SUFFIXES

__all__ = ["input_files", "input_sha256"]


def input_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that are read for an input.

    Args:
        path: ``item["image"]`` of a data list.

    Returns:
        the file, with the voxels of a detached header or the pictures that an XML export of OCT names, or the files of
        every DICOM series that the path can stand for, or else the pictures of the folder, which may be a stack; none
        if there is no such file, folder or series.

    Raises:
        ValueError: damaged files beside no series, or a header that is damaged or names a file elsewhere.
        OSError: a file or folder cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data.readers.fingerprint import input_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "ct.mhd").write_text("ElementDataFile = ct.raw")
        ...     _ = Path(folder, "ct.raw").write_bytes(b"voxels")
        ...     [file.name for file in input_files(f"{folder}/ct.mhd")]
        ['ct.mhd', 'ct.raw']
    """
    given, _ = split_number(Path(path))
    if given.is_file():
        return files_of_volume(given) if has_ending(given, ITK_SUFFIXES) else files_of_scan(given)
    if given.is_dir():
        series = find_series(given)
        if not series:
            return sections_of(given)
    else:  # a series that its folder's files have by their UID
        series = find_series(given.parent, [given.name]) if given.parent.is_dir() else []
    return sorted(file for one in series for file in one.files)


def input_sha256(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 of everything that is read for a case.

    Args:
        paths: the image, and whatever else is read for it, such as a mask.

    Returns:
        64 hexadecimal digits, those of the file if it is one alone. For several files, they are the SHA-256 of a text
        with the SHA-256 of each on a line, path after path, sorted by name within a path. Empty if nothing is there.

    Raises:
        ValueError: see :func:`input_files`.
        OSError: see :func:`input_files`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.data.readers.fingerprint import input_sha256
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.png").write_bytes(b"")
        ...     input_sha256([f"{folder}/a.png"])[:8]
        'e3b0c442'
    """
    digests = [file_sha256(file) for path in paths for file in input_files(path)]
    if len(digests) <= 1:
        return "".join(digests)
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
