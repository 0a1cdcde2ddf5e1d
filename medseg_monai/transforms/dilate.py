"""Dilation of masks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.transforms.utils_morphological_ops import dilate

__all__ = ["DilateMaskd"]


class DilateMaskd(MapTransform):
    """Dilate binary masks with a square or a cube, each channel by itself.

    MONAI has the operation, which mixes the channels of a mask, but it has no such transform.

    Args:
        keys: masks ``[C, *spatial]``, 2D or 3D, 0 and 1; type and metadata are kept.
        filter_size: side of the square or cube in pixels, odd; 1 changes nothing.
        allow_missing_keys: whether a key may be missing.

    Raises:
        ValueError: the side is not odd and positive.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import DilateMaskd
        >>> mask = torch.tensor([[[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]])
        >>> DilateMaskd(keys="label", filter_size=3)({"label": mask})["label"]
        tensor([[[0, 0, 1, 1, 1],
                 [0, 0, 1, 1, 1],
                 [0, 0, 1, 1, 1],
                 [0, 0, 0, 0, 0]]])

    Source: Zhang et al., "DEFU-Net", ICPR 2020, Section III-A: "All masks were dilated to gain more information on the
    edge of lungs for training". The paper does not say by how much.
    """

    def __init__(self, keys: KeysCollection, filter_size: int = 3, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if filter_size < 1 or filter_size % 2 == 0:
            raise ValueError(f"filter_size must be odd and positive, got {filter_size}.")
        self.filter_size = filter_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Dilate ``keys``.

        Args:
            data: item with masks.

        Returns:
            the item with the masks dilated.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = dilate(d[key][:, None], self.filter_size)[:, 0]
        return d
