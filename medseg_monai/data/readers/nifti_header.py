"""What a NIfTI header says of place and units: read by one rule, and kept so that a mask can say the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NIFTI_FORMS", "NiftiForms", "place_in_mm"]

_LOGGER = logging.getLogger(__name__)

NIFTI_FORMS = "nifti_forms"
"""Key of the header's entries of place and units in the metadata; :meth:`NiftiForms.of_meta` reads it."""

# the entries that say where a volume lies, with the number of values that are kept of each
_ENTRIES = {
    "qform_code": 1,
    "sform_code": 1,
    "xyzt_units": 1,
    "pixdim": 4,
    "quatern_b": 1,
    "quatern_c": 1,
    "quatern_d": 1,
    "qoffset_x": 1,
    "qoffset_y": 1,
    "qoffset_z": 1,
    "srow_x": 4,
    "srow_y": 4,
    "srow_z": 4,
}

_SPACE = 0b111  # the bits of xyzt_units that hold the unit of space
_MM = {1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}

# most programs write no unit: a line for every file, each time that it is read, would hide the lines that matter
_NO_UNIT = "no unit of length (xyzt_units)"
_TOLD: set[str] = set()

# mm; a voxel outside is one whose unit was stated wrongly
_SMALLEST, _LARGEST = 0.005, 50.0

_SAME_PLACE = 0.1  # as a share of the smallest spacing: rounding to 32 bits stays far below, a moved scan above


@dataclass(frozen=True, eq=False)
class NiftiForms:
    """Both forms of a NIfTI header (qform and sform) with their codes, its voxel size and its units.

    Attributes:
        values: the header's entries one after the other.

    Example:
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from medseg_monai.data.readers.nifti_header import NiftiForms
        >>> image = nib.Nifti1Image(np.zeros((2, 3, 4)), np.diag([1, 1, 2, 1]))
        >>> image.set_qform(np.eye(4), code="scanner")
        >>> other = nib.Nifti1Header()
        >>> NiftiForms.of_header(image.header).write_to(other)
        >>> other["qform_code"].item(), other["sform_code"].item()
        (1, 2)
    """

    values: npt.NDArray[np.float64]

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> NiftiForms:
        """Take the entries from a header, as ``nibabel`` has it."""
        parts = [np.ravel(header[name])[:count] for name, count in _ENTRIES.items()]
        return cls(np.concatenate(parts).astype(np.float64))

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> NiftiForms | None:
        """Take the entries from the metadata of an image; ``None`` if it was not read from NIfTI."""
        values = meta.get(NIFTI_FORMS)
        return None if values is None else cls(np.asarray(values, dtype=np.float64).ravel())

    def write_to(self, header: Any) -> None:
        """Set the entries of a ``nibabel`` header to exactly these.

        Args:
            header: header of an image of the same grid.
        """
        start = 0
        for name, count in _ENTRIES.items():
            part = self.values[start : start + count]
            start += count
            if name == "pixdim":
                header[name][:count] = part
            else:
                header[name] = part if count > 1 else part[0]


def place_in_mm(path: Path, image: Any) -> npt.NDArray[np.float64]:
    """The affine of a NIfTI image in mm, by the rule of ``nibabel`` and MONAI, with a warning where it is in doubt.

    The sform counts if its code is above 0, else the qform if its code is, else the voxel size alone. If both codes are
    above 0 and the forms place the volume differently, the sform counts, and one warning names the file. Metres and
    microns are converted to mm; a header without a unit of space, as many programs write it, means mm.

    Args:
        path: the file, for messages.
        image: the ``nibabel`` image.

    Returns:
        ``[4, 4]`` from voxel indices to mm in RAS.
    """
    header = image.header
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        _LOGGER.warning("%s: neither qform nor sform, so left and right follow convention; check them.", path)
    elif header["qform_code"] > 0 and header["sform_code"] > 0:
        _warn_of_two_places(path, image)
    affine = np.array(image.affine, dtype=np.float64)
    factor = _factor(path, int(header["xyzt_units"]) & _SPACE)
    affine[:3] *= factor
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if factor != 1.0 and not (sizes.min() >= _SMALLEST and sizes.max() <= _LARGEST):
        size = " x ".join(f"{value:.3g}" for value in sizes)
        raise ValueError(f"{path}: voxels of {size} mm by its unit (xyzt_units); correct the header.")
    return affine


def _factor(path: Path, unit: int) -> float:
    """Millimetres in a unit of space."""
    if unit not in _MM:
        if _NO_UNIT not in _TOLD:
            _TOLD.add(_NO_UNIT)
            _LOGGER.info("%s: %s, so its voxel size and place are taken as mm, as in all such files.", path, _NO_UNIT)
        return 1.0
    name, factor = _MM[unit]
    if factor != 1.0:
        _LOGGER.info("%s: voxel size and place in %s, converted to mm.", path, name)
    return factor


def _warn_of_two_places(path: Path, image: Any) -> None:
    try:
        qform, sform = image.get_qform(), image.get_sform()
    except ValueError:  # nibabel's, of a quaternion that is none
        _LOGGER.warning("%s: its qform cannot be read; it is read by the sform.", path)
        return
    last = np.subtract((*image.shape[:3], 1)[:3], 1)  # the mask of a 2D image may have two axes
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    difference = qform - sform
    apart = float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())
    if not apart <= _SAME_PLACE * np.linalg.norm(sform[:3, :3], axis=0).min():
        _LOGGER.warning(
            "%s: qform and sform place the volume up to %.3g apart; it is read by the sform, which other programs may "
            "not follow.",
            path,
            apart,
        )
