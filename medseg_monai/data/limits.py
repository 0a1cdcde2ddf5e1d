"""How large an image may be: compared with what its header declares, before anything is allocated for it.

A file of a few kilobytes can declare a volume of a terabyte, or unpack to one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

__all__ = ["LONGEST_AXIS", "MAX_IMAGE_MIB", "TooLargeError", "check_size"]

MAX_IMAGE_MIB = 4096.0
"""MiB of the largest image, as the readers hold it: a CT of 512 x 512 x 4096 voxels, a photograph of 358 megapixels."""

LONGEST_AXIS = 8192
"""Voxels along the longest axis of a volume. The networks resize slices, so their number decides on the memory."""


class TooLargeError(ValueError):
    """The file declares more, or unpacks to more, than is read."""


def check_size(
    path: str | os.PathLike[str], shape: Sequence[int], max_image_mib: float, *, bytes_each: int = 4
) -> None:
    """Refuse an image by the size that its header declares.

    Args:
        path: the file, for the message.
        shape: pixels or voxels along each axis.
        max_image_mib: MiB that the largest image may take.
        bytes_each: bytes of a voxel or pixel as a reader holds it: 4 for a volume, 12 for a 2D image.

    Raises:
        TooLargeError: it takes more.

    Example:
        >>> from medseg_monai.data.limits import check_size
        >>> check_size("scan.nii", (512, 512, 2000), max_image_mib=4096)
        >>> check_size("scan.nii", (30000, 30000, 30000), max_image_mib=4096)
        Traceback (most recent call last):
        medseg_monai.data.limits.TooLargeError: scan.nii: 30000 x 30000 x 30000 takes 102996826 MiB, more than \
max_image_mib=4096; crop it or scale it down, or set max_image_mib higher.
    """
    needed = math.prod(int(length) for length in shape) * bytes_each / 2**20
    if needed > max_image_mib:
        size = " x ".join(str(length) for length in shape)
        raise TooLargeError(
            f"{path}: {size} takes {needed:.0f} MiB, more than max_image_mib={max_image_mib:g}; crop it or scale it "
            "down, or set max_image_mib higher."
        )
