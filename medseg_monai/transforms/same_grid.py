"""Masks on the grid of their image, whatever order of axes their file has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import product

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from .same_size import CheckSameSized, file_name

__all__ = ["Affine", "MatchGridd", "grid_distance", "same_grid"]

Affine = NDArray[np.float64]

_TOLERANCE = 0.5  # of a voxel's shortest side, at the corners
_WORLD = (("L", "R"), ("P", "A"), ("I", "S"))


class MatchGridd(MapTransform):
    """Turn masks to the axes of their image, and refuse one that lies elsewhere; to be placed right behind loading.

    A label map and its scan may hold one grid in the world with their axes in another order or direction: a DICOM
    series and the NIfTI file that was drawn on it, for instance. MONAI's ``Orientationd`` turns images to axes named
    once for all; here each mask gets those of its own image, so that what is restored to the image's grid can be
    compared with it.

    Args:
        keys: volumes ``[C, X, Y, Z]`` with their affines; the first one sets the grid.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ensure_same_size = CheckSameSized(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Turn and compare.

        Args:
            data: item with loaded volumes.

        Returns:
            the item with all keys on the grid of the first.

        Raises:
            TypeError: a volume without an affine.
            ValueError: a mask of another size than the image, or of another place in the world; names both files.
        """
        d = dict(data)
        keys = list(self.key_iterator(d))
        for key in keys:
            if not isinstance(d[key], MetaTensor):
                raise TypeError(f"'{key}' has no affine, so its place is unknown; load it with LoadImaged.")
        first = d[keys[0]]
        axes = aff2axcodes(first.affine.cpu().numpy(), _WORLD)  # type: ignore[attr-defined]
        turn = Orientation("".join(axes), labels=_WORLD)
        for key in keys[1:]:
            d[key] = turn(d[key])
        d = self.ensure_same_size(d)
        for key in keys[1:]:
            if not same_grid(first, d[key]):
                raise ValueError(
                    f"{file_name(d[key], key)}: lies elsewhere in the world than its image "
                    f"{file_name(first, keys[0])}; give a mask on the image's grid."
                )
        return d


def same_grid(first: MetaTensor, second: MetaTensor) -> bool:
    """Tell whether two images of one size lie in the same place.

    Args:
        first: ``[C, *spatial]``.
        second: the same.

    Returns:
        whether their corners are less than half a voxel's shortest side apart.
    """
    here, there = (image.affine.double().cpu().numpy() for image in (first, second))
    return grid_distance(there, here, tuple(second.shape[1:])) <= _TOLERANCE


def grid_distance(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """Distance between two grids of one shape: that of their corners, at most, as a share of the smallest spacing.

    Args:
        first: ``[4, 4]``, from voxel indices to mm; its spacing is the unit.
        second: the same of the other grid.
        shape: of both, without channels.
    """
    corners = np.array(list(product(*((0, length - 1) for length in shape))), float)
    difference = first - second
    distances = np.linalg.norm(corners @ difference[:-1, : len(shape)].T + difference[:-1, -1], axis=1)
    return float(distances.max() / np.linalg.norm(first[:-1, : len(shape)], axis=0).min())
