"""A guard against masks with labels of several structures where only one is learned."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.transforms import MapTransform

from .same_size import file_name

__all__ = ["CheckBinaryd"]


class CheckBinaryd(MapTransform):
    """Refuse a mask with values other than 0 and 1; place it directly after loading.

    A loss for one structure would count label 2, such as a tumour in its organ, as twice the structure.

    Args:
        keys: masks.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import CheckBinaryd
        >>> check = CheckBinaryd(keys="label")
        >>> _ = check({"label": torch.tensor([[[0, 1, 1]]])})
        >>> check({"label": torch.tensor([[[0, 1, 2]]])})
        Traceback (most recent call last):
        ValueError: label: value 2, expected 0 and 1; give a mask of one structure.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Check every value.

        Args:
            data: item with loaded masks.

        Returns:
            the unchanged item.

        Raises:
            ValueError: a mask has another value; the message names the file and the value.
        """
        for key in self.key_iterator(dict(data)):
            other = (data[key] != 0) & (data[key] != 1)
            if other.any():
                name, value = file_name(data[key], key), float(data[key][other][0])
                raise ValueError(f"{name}: value {value:g}, expected 0 and 1; give a mask of one structure.")
        return dict(data)
