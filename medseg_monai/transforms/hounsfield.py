"""A guard against a CT whose values are not Hounsfield units."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping

import torch
from monai.transforms import MapTransform

from .same_size import file_name

__all__ = ["CheckHounsfieldd"]

_LOGGER = logging.getLogger(__name__)

# from fat (-100) to muscle (50) alone it is 150, and every scan has noise in addition
_SMALLEST_RANGE = 100.0


class CheckHounsfieldd(MapTransform):
    """Refuse or doubt a CT that is not in Hounsfield units; place it directly after loading.

    DICOM states its units, but NIfTI, MetaImage and NRRD do not. A CT in Hounsfield units has fat and mostly air, which
    are negative, and spans more than 100 HU. Values that span less, such as those scaled to 0..1 or -1..1, are refused,
    since no mask of them could be right. Values without any negative one, such as stored values without their offset,
    are taken with a warning, since a volume that was cut to a single organ may have none.

    Args:
        keys: CT volumes ``[C, X, Y, Z]``.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import CheckHounsfieldd
        >>> check = CheckHounsfieldd("image")
        >>> _ = check({"image": torch.tensor([-1000.0, 40.0])})
        >>> check({"image": torch.tensor([0.0, 0.7])})
        Traceback (most recent call last):
        ...
        ValueError: image: values from 0 to 0.7 are not Hounsfield units; give the CT as the scanner scales it.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Look at the range of the values.

        Args:
            data: item with loaded volumes.

        Returns:
            the item as it was.

        Raises:
            ValueError: the values span less than 100.
        """
        for key in self.key_iterator(dict(data)):
            low, high = (float(end) for end in torch.aminmax(torch.as_tensor(data[key])))
            found = f"{file_name(data[key], key)}: values from {low:.4g} to {high:.4g}"
            if high - low < _SMALLEST_RANGE:
                raise ValueError(f"{found} are not Hounsfield units; give the CT as the scanner scales it.")
            if low >= 0:
                _LOGGER.warning("%s, so neither air nor fat; check that they are Hounsfield units.", found)
        return dict(data)
