"""NIfTI files opened by what they hold: compressed or not, whatever their names say."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple
from nibabel.spatialimages import HeaderDataError

__all__ = ["NiftiReader", "check_end", "open_nifti"]

_GZIP = b"\x1f\x8b"
_NIFTI2_HEADER = 540  # bytes, as the first of them say
_LONGEST_HEADER = 2**26  # bytes, with extensions
_CHUNK = 2**20


def open_nifti(path: str | os.PathLike[str]) -> Any:
    """Open a NIfTI file by its content: ``nibabel`` goes by a name that may say ``.gz`` wrongly, or not say it.

    Args:
        path: ``.nii`` or ``.nii.gz``, in upper or lower case.

    Returns:
        the ``nibabel`` image; its values are read when they are needed.

    Raises:
        OSError: it cannot be opened.
        Exception: those of ``nibabel`` and of decompression, for a file that is damaged or no NIfTI.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from medseg_monai.data.readers.nifti_file import open_nifti
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
        ...     _ = Path(folder, "scan.nii.gz").write_bytes(image.to_bytes())  # not compressed
        ...     open_nifti(f"{folder}/scan.nii.gz").shape
        (2, 3, 4)
    """
    file = Path(path)
    with file.open("rb") as stream:
        is_compressed = stream.read(len(_GZIP)) == _GZIP
    opened = gzip.open if is_compressed else open
    with opened(file, "rb") as stream:
        start = stream.read(_NIFTI2_HEADER)
    is_second = _NIFTI2_HEADER in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    image_class = nib.Nifti2Image if is_second else nib.Nifti1Image
    header = image_class.header_class(start[: image_class.header_class.sizeof_hdr], check=False)
    if not header["vox_offset"] <= _LONGEST_HEADER:  # nibabel reads everything in front of the voxels
        raise HeaderDataError(f"vox_offset is {header['vox_offset']}")
    return image_class.from_stream(opened(file, "rb"))


def check_end(image: Any) -> None:
    """Compare the checksum of a compressed file, which stands at its end, after its voxels were read.

    Args:
        image: the image, as :func:`open_nifti` opened it.

    Raises:
        Exception: those of ``gzip``, for another checksum or none.
    """
    stream = image.file_map["image"].fileobj
    for _ in range(_LONGEST_HEADER // _CHUNK):  # a little may follow the voxels, but never without end
        if not stream.read(_CHUNK):
            return


class NiftiReader(NibabelReader):
    """MONAI's reader of NIfTI, with :func:`open_nifti`."""

    def read(self, data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], **kwargs: Any) -> Any:
        """Open one file.

        Args:
            data: the file.
            kwargs: MONAI's other options, which have no effect here.
        """
        self.filenames = ensure_tuple(data)
        return correct_nifti_header_if_necessary(open_nifti(self.filenames[0]))
