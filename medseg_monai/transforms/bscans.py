"""The size of a B-scan, alone or in a volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, Resize

__all__ = ["ResizeBScansd"]


class ResizeBScansd(MapTransform, InvertibleTransform):
    """Resize B-scans to one number of rows and columns: one ``[C, H, W]``, or those of a volume ``[C, N, H, W]``.

    MONAI's ``Resized`` needs to be told in advance how many axes an image has. The interpolation is linear, without
    smoothing; from one B-scan to the next there is none, since their number stays.

    Args:
        keys: the images.
        spatial_size: rows and columns of the result.
        allow_missing_keys: whether a key may be missing.

    Raises:
        ValueError: the size is not two positive numbers.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.transforms import ResizeBScansd
        >>> resize = ResizeBScansd("image", (8, 10))
        >>> scans = [MetaTensor(torch.rand(*shape)) for shape in [(3, 16, 5), (1, 7, 16, 5)]]
        >>> [tuple(resize({"image": scan})["image"].shape) for scan in scans]
        [(3, 8, 10), (1, 7, 8, 10)]
    """

    backend = Resize.backend

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(spatial_size) != 2 or min(spatial_size) < 1:
            raise ValueError(f"spatial_size must be rows and columns of 1 or more, got {list(spatial_size)}.")
        size = [int(side) for side in spatial_size]
        self.resizers = {2: Resize(size, mode="bilinear"), 3: Resize([-1, *size], mode="trilinear")}  # by axes

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize ``keys``.

        Args:
            data: item with images ``[C, H, W]`` or ``[C, N, H, W]``.

        Returns:
            the item with the resized images, as float32.

        Raises:
            ValueError: an image has another number of axes.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            axes = d[key].ndim - 1
            if axes not in self.resizers:
                raise ValueError(f"'{key}' has shape {tuple(d[key].shape)}; give [C, H, W] or [C, N, H, W].")
            d[key] = self.resizers[axes](d[key])
        return d

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize ``keys`` back with the interpolation that their traces name.

        Args:
            data: item with images that this transform has resized, or with copies of their traces (``Invertd``).

        Returns:
            the item with the images at their original sizes.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resizers[d[key].ndim - 1].inverse(d[key])
        return d
