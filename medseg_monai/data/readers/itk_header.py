"""What the header of a NRRD or MetaImage file states of place and size: ITK makes up what it does not state."""

from __future__ import annotations

import logging
from pathlib import Path

from medseg_monai.files import has_ending

__all__ = ["check_stated_geometry"]

_LOGGER = logging.getLogger(__name__)

_LONGEST_HEADER = 2**20
_LAST_OF_META_IMAGE = "elementdatafile"

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
