"""What is foreground in a 2D mask, found from its values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import DtypeLike, KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_data_type
from torch.nn.functional import max_pool2d

from medseg_monai.errors import shorten

from .same_size import file_name

__all__ = ["BinarizeMaskd"]

_HALF = 127.5
#: how far JPEG and smoothed edges bring a value from 0 or 255 within an area
_NOISE = 32
#: the largest part of a mask that its edges can be; most of a photograph lies between black and white
_EDGES = 0.25
#: the most values that a mask of numbered structures has; JPEG of ordinary quality leaves more
_FEW = 8


class BinarizeMaskd(MapTransform):
    """Find the foreground of a mask whose file may hold 0 and 255, 0 and 1, 16 bits, a colour or a palette.

    A mask with one value besides 0 has that as its foreground. One that reaches white may also hold what JPEG and
    smooth edges leave in between; its foreground is above 127.5. A mask of several structures (also one in which they
    are 1, 2 ... and 255 means "ignore"), a photograph, and whatever else leaves open what is foreground is refused. A
    mask of zeros is empty.

    Args:
        keys: masks ``[1, H, W]`` from 0 to 255, as ``RasterReader(channels=1)`` reads them, or stacks of masks
            ``[1, pages, H, W]``.
        dtype: type of the result, which holds 0 and 1.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import BinarizeMaskd
        >>> binarize = BinarizeMaskd(keys="label", dtype=torch.uint8)
        >>> binarize({"label": torch.tensor([[[0.0, 1.0, 1.0]]])})["label"].tolist()
        [[[0, 1, 1]]]
        >>> binarize({"label": torch.tensor([[[0.0, 3.0, 251.0]]])})["label"].tolist()  # JPEG
        [[[0, 0, 1]]]
        >>> binarize({"label": torch.tensor([[[0.0, 1.0, 2.0]]])})
        Traceback (most recent call last):
        ValueError: label: values 0, 1, 2 (white is 255) do not say what is foreground; give a mask of 0 and 255.
    """

    def __init__(
        self, keys: KeysCollection, *, dtype: DtypeLike | torch.dtype = torch.float32, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dtype = dtype

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace the values of each mask by 0 and 1.

        Args:
            data: item with loaded masks.

        Returns:
            the item with binary masks.

        Raises:
            ValueError: it is not clear what is foreground; the message names the file and its values.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            if not _is_clear(torch.as_tensor(d[key]).float()):
                raise ValueError(
                    f"{file_name(d[key], key)}: values {_listed(d[key])} (white is 255) do not say what is foreground; "
                    "give a mask of 0 and 255."
                )
            foreground = d[key] > (_HALF if d[key].max() > _HALF else 0)
            d[key] = convert_data_type(foreground, dtype=self.dtype)[0]
        return d


def _is_clear(values: torch.Tensor) -> bool:
    if bool(((values == 0) | (values == values.max())).all()):
        return True
    if values.max() <= _HALF or _is_numbered(values):
        return False
    between = (values > _NOISE) & (values < 255 - _NOISE)
    return not between.any() or (float(between.float().mean()) <= _EDGES and not _has_area(values, between))


def _is_numbered(values: torch.Tensor) -> bool:
    """Whether low values are numbers of structures: JPEG's noise is near white too, and seldom has so few values."""
    levels = values.unique()
    inner = (values > levels[0]) & (values < levels[-1])
    return len(levels) <= _FEW and bool((values[inner] <= _NOISE).all()) and _has_area(values, inner)


def _has_area(values: torch.Tensor, between: torch.Tensor) -> bool:
    """Whether a value between fills 3x3 pixels somewhere: another structure does, an edge changes from row to row."""
    if min(values.shape[-2:]) < 3:
        return False
    highest, lowest = max_pool2d(values, 3, 1), -max_pool2d(-values, 3, 1)
    return bool(((highest == lowest) & between[..., 1:-1, 1:-1]).any())


def _listed(values: torch.Tensor) -> str:
    return shorten(f"{value:.3g}" for value in values.unique().tolist())
