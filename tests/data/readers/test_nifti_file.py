"""NIfTI is opened by what the file holds, not by what its name says."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg_monai.data import VolumeReader, find_volumes

AFFINE = np.array([[0, 0, -1.5, 30.0], [0.8, 0, 0, -20.0], [0, -4.0, 0, 90.0], [0, 0, 0, 1.0]])
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def content(kind: type[nib.Nifti1Image], order: str = "<") -> bytes:
    header = kind.header_class(endianness=order)
    header.set_data_dtype(VOXELS.dtype)
    return kind(VOXELS, AFFINE, header).to_bytes()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.Nii.Gz"])
@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize(("kind", "order"), [(nib.Nifti1Image, "<"), (nib.Nifti1Image, ">"), (nib.Nifti2Image, ">")])
def test_whatever_its_name_a_file_is_read_compressed_or_not(name, is_compressed, kind, order, tmp_path):
    raw = content(kind, order)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if is_compressed else raw)
    (item,) = find_volumes(path)
    values, meta = VolumeReader().get_data((Path(item["image"]),))
    np.testing.assert_array_equal(values, VOXELS)
    np.testing.assert_allclose(meta["affine"], AFFINE, rtol=1e-6)
    assert item["name"].lower() == "a"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_truncated_file_is_refused_whatever_its_name(name, is_compressed, tmp_path):
    raw = content(nib.Nifti1Image)
    whole = gzip.compress(raw) if is_compressed else raw
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 9):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated, damaged or incomplete; copy it again\."):
            VolumeReader().get_data((tmp_path / name,))
