"""Shared by the readers of volumes: the tolerance between grids, masks on tissue, label files, the paper's split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_monai.data.datalist import Datalist, Item, split_by_patient
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.data.results.masks import write_label_nifti
from medseg_monai.transforms import Affine

from ._common import Mask, hold_out

__all__ = [
    "MAX_SHARE_IN_AIR",
    "SAME_PLACE",
    "save_label_volume",
    "share_in_air",
    "size_text",
    "split_five_to_one",
]

# the corners of two grids may be this far apart, as a share of the smallest spacing
SAME_PLACE = 0.1

# Air, lung and bowel gas are below this value in HU; fat and all organs are above it.
AIR = -200.0

# The mask of an organ has hardly a voxel of air. In CHAOS CT set 3 no voxel of the liver is air; with the slices in
# reverse order 10 % are, with each slice upside down 5 %, and with left and right exchanged 20 %.
MAX_SHARE_IN_AIR = 0.02

TEST_FRACTION = 1 / 6


def share_in_air(hounsfield: NDArray[Any], mask: Mask) -> float:
    """Share of a mask's voxels that lie in air; 0 for an empty mask.

    Args:
        hounsfield: CT in Hounsfield units.
        mask: mask of the same shape.
    """
    inside = hounsfield[mask]
    return float(np.mean(inside < AIR)) if inside.size else 0.0


def size_text(shape: tuple[int, ...]) -> str:
    """A size in the form for messages, such as ``512x512x90``."""
    return "x".join(map(str, shape))


def save_label_volume(labels: NDArray[Any], affine: Affine, path: Path, *, forms: NiftiForms | None = None) -> str:
    """Write labels ``[X, Y, Z]`` as 8-bit ``.nii.gz``, all or nothing, and return the absolute path.

    Args:
        labels: the labels.
        affine: ``[4, 4]`` of the scan.
        path: the file.
        forms: what the scan's header says of place and units, if it is NIfTI.
    """
    target = Path(os.path.abspath(path))
    write_label_nifti(target, labels, affine, forms=forms)
    return str(target)


def split_five_to_one(items: list[Item], *, validation_fraction: float, seed: int) -> Datalist:
    """Split with the paper's ratio: of six patients, five are for training and one is for testing.

    The paper has no validation set; here it is taken from the training patients.

    Args:
        items: items with a ``patient``.
        validation_fraction: part of the training patients that goes to validation, 0 or more and below 1.
        seed: seed of the split, see :func:`~medseg_monai.data.datalist.split_by_patient`.

    Raises:
        ValueError: if ``validation_fraction`` is outside its range, or there are too few patients.

    Source: Li et al., "ANU-Net", Computers & Graphics 90, 2020, Section 4.1.
    """
    ratio = {"training": 1 - TEST_FRACTION, "test": TEST_FRACTION}
    split = split_by_patient(items, fractions=ratio, seed=seed)
    return hold_out(split["training"], split["test"], validation_fraction=validation_fraction, seed=seed)
