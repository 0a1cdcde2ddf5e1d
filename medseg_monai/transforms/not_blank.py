"""A guard against an image without content."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

import torch
from monai.transforms import MapTransform

from medseg_monai.errors import shorten

from .same_size import file_name

__all__ = ["CheckNotBlankd"]

_LOGGER = logging.getLogger(__name__)


class CheckNotBlankd(MapTransform):
    """Refuse an image whose pixels all have the same value; place it directly after loading.

    A network finds something in such an image too, and equalising its histogram is not defined. A stack may have blank
    pages where sections were lost; a warning names them.

    Args:
        keys: images to check, each ``[C, H, W]``, or ``[C, pages, H, W]``. A channel may have one value if another
            channel has several.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import CheckNotBlankd
        >>> check = CheckNotBlankd(keys="image")
        >>> _ = check({"image": torch.arange(6.0).reshape(1, 2, 3)})
        >>> check({"image": torch.full((1, 2, 3), 77.0)})
        Traceback (most recent call last):
        ValueError: image: a blank image, all its pixels have the same value; replace the file, or leave it out.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Look at the images.

        Args:
            data: item with loaded images.

        Returns:
            the unchanged item.

        Raises:
            ValueError: a blank image; the message names its file.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            pages = item[key].flatten(-2).unsqueeze(1) if item[key].ndim == 3 else item[key].flatten(2)
            is_blank = (pages == pages[..., :1]).all(dim=-1).all(dim=0)
            if bool(is_blank.all()):
                raise ValueError(
                    f"{file_name(item[key], key)}: a blank image, all its pixels have the same value; replace the "
                    "file, or leave it out."
                )
            if bool(is_blank.any()):
                blank = shorten(str(page + 1) for page in is_blank.nonzero().flatten().tolist())
                _LOGGER.warning(
                    "%s: blank pages: %s; nothing in their masks means anything.", file_name(item[key], key), blank
                )
        return item
