"""What every file of an OCT device is read as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OCTScan", "check_damage", "heidelberg_grey", "one_of_several", "spacing_um", "split_number"]

FloatArray = npt.NDArray[np.float32]

SEVERAL_SUFFIXES = ("e2e", "xml")
"""Endings of the files that can hold several scans, without the dot."""

_FINEST, _COARSEST = 0.1, 1000.0  # um between pixels, beyond any device's
_FARTHEST = 10_000.0  # um between B-scans

# Heidelberg's linear reflectivity to the grey values that its viewer exports, as eyepy has it
_OFFSET, _BLACK, _SPAN = 2.44e-4, 8.3, 8.285


@dataclass(frozen=True, eq=False)
class OCTScan:
    """One scan: a volume, or a single B-scan.

    Attributes:
        bscans: ``[B-scans, rows, columns]`` from 0 to 255, each B-scan upright.
        format: name of the format.
        axial_um: micrometres between rows; NaN if the file does not say, as for the next two.
        lateral_um: micrometres between columns.
        bscan_spacing_um: micrometres between neighbouring B-scans, if they are parallel.
        laterality: ``R`` or ``L``; empty if the file does not say.
        mode: what the pixels were, as Pillow or DICOM calls it.
    """

    bscans: FloatArray
    format: str
    axial_um: float = math.nan
    lateral_um: float = math.nan
    bscan_spacing_um: float = math.nan
    laterality: str = ""
    mode: str = "L"


def spacing_um(path: Path, value: float, *, of_bscans: bool = False) -> float:
    """A spacing as a file states it, or NaN if it states none.

    Args:
        path: the file.
        value: micrometres; files write 0 or nothing for what they do not know.
        of_bscans: whether it is the distance of neighbouring B-scans, not of pixels.

    Raises:
        ValueError: it cannot be the spacing of a scan.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.data.readers.oct_files.scan import spacing_um
        >>> spacing_um(Path("eye.vol"), 3.87), spacing_um(Path("eye.vol"), 0)
        (3.87, nan)
    """
    if math.isnan(value) or value == 0:
        return math.nan
    highest = _FARTHEST if of_bscans else _COARSEST
    if not _FINEST <= value <= highest:
        raise ValueError(
            f"{path}: a spacing of {value:g} um, expected {_FINEST:g} to {highest:g}; export the scan again."
        )
    return float(value)


def check_damage(path: Path, *, whole: bool) -> None:
    """Refuse a file that contradicts itself.

    Args:
        path: the file.
        whole: whether it is as it says.

    Raises:
        ValueError: it is not.
    """
    if not whole:
        raise ValueError(f"{path}: truncated or damaged; export the scan again.")


def heidelberg_grey(reflectivity: npt.NDArray[Any], *, empty: float) -> FloatArray:
    """The grey values that Heidelberg's viewer shows for the reflectivity that its raw files hold.

    Args:
        reflectivity: linear, not negative; 1 is white.
        empty: values from here on stand for pixels outside the scan; they become 0.

    Returns:
        float32 from 0 to 255, not rounded.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.data.readers.oct_files.scan import heidelberg_grey
        >>> heidelberg_grey(np.asarray([0, 0.01, 0.1, 1, 3e38]), empty=2).round()
        array([  0., 114., 185., 255.,   0.], dtype=float32)

    Source: eyepy, ``from_vol_intensity``; its author found that it differs from the viewer's own 8-bit export by at
    most 3 grey values (OCT-Converter, issue 21). The fourth root that older programs take is darker in bright layers.
    """
    values = np.where(reflectivity >= empty, 0, np.minimum(reflectivity, 1)).astype(np.float32)
    grey = (np.log(values + np.float32(_OFFSET)) + np.float32(_BLACK)) * np.float32(255 / _SPAN)
    return np.clip(grey, 0, 255)


def split_number(path: Path) -> tuple[Path, int | None]:
    """The file of a scan, and the number of the scan if the path names one of several.

    Args:
        path: ``FILE``, or ``FILE/NUMBER`` for a scan of a file that holds several.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.data.readers.oct_files.scan import split_number
        >>> file, number = split_number(Path("eyes.e2e/4711"))
        >>> file.name, number
        ('eyes.e2e', 4711)
    """
    endings = tuple(f".{suffix}" for suffix in SEVERAL_SUFFIXES)
    if path.name.isdecimal() and path.parent.name.lower().endswith(endings):
        return path.parent, int(path.name)
    return path, None


def one_of_several(path: Path, numbers: Sequence[int], wanted: int | None) -> int:
    """The number of the scan to read.

    Args:
        path: the file.
        numbers: the scans in it.
        wanted: the one that was asked for.

    Raises:
        FileNotFoundError: no such scan.
        ValueError: none, or several and none was asked for.
    """
    listed = ", ".join(str(number) for number in numbers)
    if not numbers:
        raise ValueError(f"{path}: no OCT scan in this file; export the scan again.")
    if wanted is None and len(numbers) > 1:
        raise ValueError(f"{path}: {len(numbers)} OCT scans, choose one: {path.name}/NUMBER with {listed}.")
    if wanted is not None and wanted not in numbers:
        raise FileNotFoundError(f"{path}: no OCT scan {wanted}; it has {listed}.")
    return numbers[0] if wanted is None else wanted
