"""What the header of a NRRD or MetaImage file states of place and size, and which other files it names.

ITK makes up a place or a size that is not stated, and it opens whatever file a header names.
"""

from __future__ import annotations

import glob
import logging
import re
from pathlib import Path, PureWindowsPath

from medseg_monai.errors import printable
from medseg_monai.files import has_ending

__all__ = ["check_data_files", "check_stated_geometry", "data_files", "files_of_volume"]

_LOGGER = logging.getLogger(__name__)

_LONGEST_HEADER = 2**20
_LAST_OF_META_IMAGE = "elementdatafile"

# as NrrdIO and MetaIO read: a carriage return ends a line of NRRD only, and only NRRD takes capitals for small letters
_NRRD_LINE_END = re.compile(r"\r\n|\r|\n")
_NRRD_DATA_FILE = re.compile(r"data ?file: (.*)", re.IGNORECASE)
_META_DATA_FILE = re.compile(r"[ \t]*ElementDataFile[ \t]*[=:][ \t]*(.*)")

# the place of the number in a name that stands for several files: "slice%03d.raw 1 24 1"
_NUMBER = re.compile(r"%[\d.]*[a-z]")

# spaces in the patient; all others say nothing of left and right
_SPACES = (
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"),
    *("right-anterior-superior-time", "left-anterior-superior-time", "left-posterior-superior-time"),
    *("rast", "last", "lpst"),
)


def check_stated_geometry(path: Path) -> None:
    """Refuse a file whose header states no voxel size, and doubt one that states no directions.

    ITK reads the first with voxels of 1 mm, so that every volume in ml and every network that looks at millimetres is
    wrong. It reads the second with the first axis to the left and the second to the back, which is only a convention.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Raises:
        ValueError: no voxel size.
    """
    fields = _fields(path)
    if has_ending(path, ("nrrd", "nhdr")):
        has_size = "space directions" in fields or "spacings" in fields
        has_directions = "space directions" in fields and fields.get("space", "").lower() in _SPACES
    else:
        has_size = "elementspacing" in fields or "elementsize" in fields
        has_directions = any(key in fields for key in ("transformmatrix", "orientation", "rotation"))
    if not has_size:
        raise ValueError(f"{path}: the header states no voxel size; restore the geometry from the original image.")
    if not has_directions:
        _LOGGER.warning("%s: the header states no directions, so left and right follow convention; check them.", path)


def data_files(path: Path) -> list[str]:
    """The files that hold the voxels, as the header names them.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Returns:
        names, paths or patterns for several names; none if the voxels follow the header in the file itself.

    Raises:
        ValueError: the header does not end, or says nothing of its voxels.
    """
    with path.open("rb") as stream:
        text = stream.read(_LONGEST_HEADER).decode("latin-1")
        is_whole = not stream.read(1)
    is_nrrd = has_ending(path, ("nrrd", "nhdr"))
    named = _named_by_nrrd(text, is_whole) if is_nrrd else _named_by_meta_image(text)
    if named is None:
        raise ValueError(f"{path}: truncated, damaged or incomplete; copy it again.")
    return named


def check_data_files(path: Path) -> None:
    """Refuse a header that names a file elsewhere: whoever sends a header must not choose what else is opened.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Raises:
        ValueError: a data file that does not lie beside its header, or a header that does not end.
    """
    for name in data_files(path):
        plain = name.removeprefix("./")
        if plain == ".." or PureWindowsPath(plain).name != plain:
            raise ValueError(
                f"{path}: its data file {printable(name)} must lie beside it; move it there and name it alone."
            )


def files_of_volume(path: Path) -> list[Path]:
    """The header and the files beside it that hold the voxels.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Returns:
        the header, and those of its data files that exist, sorted by name.

    Raises:
        ValueError: see :func:`check_data_files`.
    """
    check_data_files(path)
    beside = {file for name in data_files(path) for file in _existing(path.parent, name)}
    return [path, *sorted(beside)]


def _existing(folder: Path, name: str) -> list[Path]:
    if (folder / name).is_file():
        return [folder / name]
    pattern, *numbers = name.split()[:2]  # a pattern ends at the first blank, where its first number follows
    if not numbers:
        return []
    return list(folder.glob("*".join(glob.escape(part) for part in _NUMBER.split(pattern))))


def _named_by_nrrd(text: str, is_whole: bool) -> list[str] | None:
    """What a NRRD header names; ``None`` if it has no end, which is an empty line or the end of the file."""
    lines = _NRRD_LINE_END.split(text)
    if "" not in lines and not is_whole:
        return None
    found = [(number, match) for number, line in enumerate(lines) if (match := _NRRD_DATA_FILE.match(line))]
    return [name for number, match in found for name in _listed(match[1], lines[number + 1 :])]


def _named_by_meta_image(text: str) -> list[str] | None:
    """What a MetaImage header names; ``None`` if the key of its last line stands nowhere, or within another line."""
    lines = text.split("\n")
    number = next((number for number, line in enumerate(lines) if _LAST_OF_META_IMAGE in line.lower()), 0)
    found = _META_DATA_FILE.match(lines[number].rstrip("\r"))
    if found is None:
        return None
    return [] if found[1].strip().lower() == "local" else _listed(found[1], lines[number + 1 :])


def _listed(value: str, below: list[str]) -> list[str]:
    """The names in a field: the field itself, or the lines below if it announces a list."""
    if value.split()[:1] != ["LIST"]:
        return [value.strip()]
    return [line.strip() for line in below if line.strip()]


def _fields(path: Path) -> dict[str, str]:
    """The fields of a header by their names in small letters."""
    with path.open("rb") as stream:
        lines = stream.read(_LONGEST_HEADER).split(b"\n")
    fields: dict[str, str] = {}
    sign = ":" if has_ending(path, ("nrrd", "nhdr")) else "="
    for line in lines:
        text = line.decode("latin-1").strip()
        if not text:  # the end of a NRRD header
            break
        name, _, value = text.partition(sign)
        fields[name.strip().lower()] = value.strip().strip("=").strip()
        if name.strip().lower() == _LAST_OF_META_IMAGE:
            break
    return fields
