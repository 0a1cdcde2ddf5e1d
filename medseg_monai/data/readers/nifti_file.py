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

__all__ = ["NiftiReader", "open_nifti"]

_GZIP = b"\x1f\x8b"
_NIFTI2_HEADER = 540  # bytes, as the first of them say


def open_nifti(path: str | os.PathLike[str]) -> Any:
    """Open a NIfTI file as ``nibabel`` does, and also one whose name says ``.gz`` wrongly, or does not say it.

    Args:
        path: ``.nii`` or ``.nii.gz``, in upper or lower case.

    Returns:
        the ``nibabel`` image; its values are read when they are needed.

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
    if file.name.endswith(".nii.gz" if is_compressed else ".nii"):
        return nib.load(file)
    content = gzip.decompress(file.read_bytes()) if is_compressed else file.read_bytes()
    is_second = _NIFTI2_HEADER in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))
    return (nib.Nifti2Image if is_second else nib.Nifti1Image).from_bytes(content)


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
