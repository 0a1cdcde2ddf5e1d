"""A guard against labels of several structures where one is learnt."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from .same_size import file_name

__all__ = ["CheckBinaryd"]


class CheckBinaryd(MapTransform):
    """Refuse a mask with other values than 0 and 1; to be placed right behind loading.

    A loss of one structure would take label 2, such as a tumour beside its organ, for twice the structure.

    Args:
        keys: masks.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Look at every value.

        Args:
            data: item with loaded masks.

        Returns:
            the item as it is.

        Raises:
            ValueError: a mask with another value; names the file and the value.
        """
        for key in self.key_iterator(dict(data)):
            other = (data[key] != 0) & (data[key] != 1)
            if other.any():
                name, value = file_name(data[key], key), float(data[key][other][0])
                raise ValueError(f"{name}: value {value:g}, expected 0 and 1; give a mask of one structure.")
        return dict(data)
