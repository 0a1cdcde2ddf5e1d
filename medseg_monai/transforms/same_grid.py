"""Masks on the grid of their image, whatever the order of axes in their file."""

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

_TOLERANCE = 0.5  # distance of the corners as a share of a voxel's shortest side
_WORLD = (("L", "R"), ("P", "A"), ("I", "S"))


class MatchGridd(MapTransform):
    """Turn masks to the axes of their image, and refuse a mask that lies elsewhere; place it directly after loading.

    A label map and its scan may describe the same grid in the world with their axes in another order or direction, for
    instance a DICOM series and the NIfTI file that was drawn on it. MONAI's ``Orientationd`` turns all images to the
    same named axes; this transform turns each mask to the axes of its own image, so that a prediction that is restored
    to the image's grid can be compared with it.

    Args:
        keys: volumes ``[C, X, Y, Z]`` with their affines; the first one sets the grid.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.transforms import MatchGridd
        >>> image = MetaTensor(torch.zeros(1, 3, 1, 1), affine=torch.eye(4))
        >>> flipped = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
        >>> flipped[0, 3] = 2.0  # the first voxel of the mask lies at x = 2 mm
        >>> mask = MetaTensor(torch.tensor([5.0, 6.0, 7.0]).reshape(1, 3, 1, 1), affine=flipped)
        >>> MatchGridd(keys=["image", "label"])({"image": image, "label": mask})["label"].flatten().tolist()
        [7.0, 6.0, 5.0]
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ensure_same_size = CheckSameSized(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Turn the masks and compare their grids.

        Args:
            data: item with loaded volumes.

        Returns:
            the item with all keys on the grid of the first.

        Raises:
            TypeError: a volume has no affine.
            ValueError: a mask has another size than the image or lies elsewhere; the message names both files.
        """
        d = dict(data)
        keys = list(self.key_iterator(d))
        for key in keys:
            if not isinstance(d[key], MetaTensor):
                raise TypeError(f"'{key}' has no affine, so its position is unknown; load it with LoadImaged.")
        first = d[keys[0]]
        axes = aff2axcodes(first.affine.cpu().numpy(), _WORLD)  # type: ignore[attr-defined]
        turn = Orientation("".join(axes), labels=_WORLD)
        for key in keys[1:]:
            d[key] = turn(d[key])
        d = self.ensure_same_size(d)
        for key in keys[1:]:
            if not same_grid(first, d[key]):
                raise ValueError(
                    f"{file_name(d[key], key)}: lies elsewhere than its image "
                    f"{file_name(first, keys[0])}; give a mask on the image's grid."
                )
        return d


def same_grid(first: MetaTensor, second: MetaTensor) -> bool:
    """Tell whether two images of the same size lie in the same place.

    Args:
        first: image ``[C, *spatial]``.
        second: image of the same size.

    Returns:
        whether their corners are at most half a voxel's shortest side apart.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.transforms import same_grid
        >>> image = MetaTensor(torch.zeros(1, 3, 4, 5), affine=torch.eye(4))
        >>> moved = MetaTensor(torch.zeros(1, 3, 4, 5), affine=torch.eye(4))
        >>> moved.affine[0, 3] = 0.4  # mm
        >>> same_grid(image, moved)
        True
        >>> moved.affine[0, 3] = 0.6
        >>> same_grid(image, moved)
        False
    """
    here, there = (image.affine.double().cpu().numpy() for image in (first, second))
    return grid_distance(there, here, tuple(second.shape[1:])) <= _TOLERANCE


def grid_distance(first: Affine, second: Affine, shape: tuple[int, ...]) -> float:
    """Compute the largest distance between the corners of two grids of one shape, in units of the smallest spacing.

    Args:
        first: affine ``[4, 4]`` from voxel indices to mm; its smallest spacing is the unit.
        second: affine of the other grid.
        shape: shape of both grids, without channels.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.transforms import grid_distance
        >>> first, second = np.diag([4.0, 2.0, 2.0, 1.0]), np.diag([4.0, 2.0, 2.0, 1.0])
        >>> second[2, 3] = 1.0  # 1 mm, half of the smallest spacing
        >>> grid_distance(first, second, (10, 20, 20))
        0.5
    """
    corners = np.array(list(product(*((0, length - 1) for length in shape))), float)
    difference = first - second
    distances = np.linalg.norm(corners @ difference[:-1, : len(shape)].T + difference[:-1, -1], axis=1)
    return float(distances.max() / np.linalg.norm(first[:-1, : len(shape)], axis=0).min())
