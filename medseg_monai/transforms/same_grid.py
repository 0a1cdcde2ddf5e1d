"""Masks on the grid of their image, whatever order of axes their file has."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Orientation
from nibabel.orientations import aff2axcodes

from .same_size import EnsureSameSized, file_name

__all__ = ["MatchGridd", "same_grid"]

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
        self.ensure_same_size = EnsureSameSized(keys, allow_missing_keys)

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
    last = torch.tensor(second.shape[1:], dtype=torch.float64) - 1
    corners = torch.cartesian_prod(*(torch.stack([torch.zeros_like(side), side]) for side in last)).T
    difference = (first.affine - second.affine).double().cpu()
    moved = difference[:-1, : len(corners)] @ corners + difference[:-1, -1:]
    shortest = min(affine_to_spacing(second.affine, r=second.ndim - 1).tolist())
    return float(moved.norm(dim=0).max()) <= _TOLERANCE * shortest
