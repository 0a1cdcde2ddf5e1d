"""A guard against a mask that does not belong to its image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

__all__ = ["CheckSameSized", "file_name"]

_ORIENTATION = "exif_orientation"  # the key of medseg_monai.data.readers, which this room does not import


class CheckSameSized(MapTransform):
    """Refuse an item whose images differ in spatial size or in EXIF orientation; place it directly after loading.

    Most pipelines continue with resizing, which would make a mask of another size fit without a warning. Images are
    read upright, by their EXIF orientation. A mask that has another one than its image may have been drawn upright or
    on the stored pixels: its size cannot tell if it is square or the image is upside down.

    Args:
        keys: images to compare, each ``[C, *spatial]``; the first one sets the size.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import CheckSameSized
        >>> check = CheckSameSized(keys=["image", "label"])
        >>> _ = check({"image": torch.zeros(3, 20, 30), "label": torch.zeros(1, 20, 30)})
        >>> check({"image": torch.zeros(3, 20, 30), "label": torch.zeros(1, 30, 20)})
        Traceback (most recent call last):
        ValueError: label: size (30, 20) (rows first), but its image image has (20, 30); replace the wrong file.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Compare the sizes.

        Args:
            data: item with loaded images.

        Returns:
            the unchanged item.

        Raises:
            ValueError: an image has another orientation or size than the first; the message names both files and both
                orientations or sizes.
        """
        present = list(self.key_iterator(dict(data)))
        first = data[present[0]]
        for key in present[1:]:
            own, of_first = _orientation(data[key]), _orientation(first)
            if own != of_first:
                raise ValueError(
                    f"{file_name(data[key], key)}: EXIF orientation {own}, but its image "
                    f"{file_name(first, present[0])} has {of_first}; save both upright, without the tag."
                )
            if data[key].shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"{file_name(data[key], key)}: size {tuple(data[key].shape[1:])} (rows first), but its image "
                    f"{file_name(first, present[0])} has {tuple(first.shape[1:])}; replace the wrong file."
                )
        return dict(data)


def _orientation(image: torch.Tensor) -> int:
    """The EXIF orientation of the file; 1, which is upright, if it has none."""
    return int(getattr(image, "meta", {}).get(_ORIENTATION, 1))


def file_name(image: torch.Tensor, key: Hashable) -> str:
    """Name an image in a message by its file, or by its key if it has no file.

    Args:
        image: the image.
        key: its key.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.transforms.same_size import file_name
        >>> file_name(MetaTensor(torch.zeros(1), meta={"filename_or_obj": "scan.nii"}), "image")
        'scan.nii'
        >>> file_name(torch.zeros(1), "image")
        'image'
    """
    meta = getattr(image, "meta", {})
    return str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, key))
