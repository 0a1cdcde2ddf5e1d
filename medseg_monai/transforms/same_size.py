"""A guard against a mask that does not belong to its image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

__all__ = ["CheckSameSized", "file_name"]


class CheckSameSized(MapTransform):
    """Refuse an item whose images differ in spatial size; to be placed right behind loading.

    Resizing follows in most pipelines, and would make a mask of another size fit without a word.

    Args:
        keys: images to compare, each ``[C, *spatial]``; the first one sets the size.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Compare the sizes.

        Args:
            data: item with loaded images.

        Returns:
            the item as it is.

        Raises:
            ValueError: an image of another size than the first; names both files and both sizes.
        """
        present = list(self.key_iterator(dict(data)))
        first = data[present[0]]
        for key in present[1:]:
            if data[key].shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{file_name(data[key], key)}: size {tuple(data[key].shape[1:])} (rows first), but its image "
                    f"{file_name(first, present[0])} has {tuple(first.shape[1:])}; replace the file that is wrong."
                )
        return dict(data)


def file_name(image: torch.Tensor, key: Hashable) -> str:
    """What to call an image in a message: its file, or the key of one that knows none."""
    meta = getattr(image, "meta", {})
    return str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, key))
