"""Colour jitter in HSV space."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor

__all__ = ["RandHSVJitterd"]

_FULL_CIRCLE = 180.0  # hue in OpenCV's 8-bit units
_WHITE = 255.0


class RandHSVJitterd(RandomizableTransform, MapTransform):
    """Add a random amount to the hue, the saturation and the value of an RGB image.

    Each of the three amounts is drawn uniformly from ``[-limit, limit]``, once for the whole image and all keys. Hue
    wraps around; saturation and value are clipped. The image is ``[3, H, W]`` with values from 0 to 255 (others are
    clipped), and so is the result, as float32; metadata is kept.

    Args:
        keys: images to change in the same way.
        prob: probability of the change.
        hue: limit in OpenCV's 8-bit units; the full circle has 180 of them, so that 30 is 60 degrees.
        saturation: limit, where 255 is full saturation.
        value: limit, where 255 is white.
        allow_missing_keys: whether a key may be missing.

    Raises:
        ValueError: a limit is negative.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import RandHSVJitterd
        >>> jitter = RandHSVJitterd(keys="image", prob=1.0, hue=0.0, saturation=0.0, value=15.0)
        >>> jitter = jitter.set_random_state(seed=0)
        >>> image = torch.full((3, 2, 2), 100.0)
        >>> brighter = jitter({"image": image})["image"]
        >>> brighter.shape, bool((brighter - image).abs().max() <= 15)
        (torch.Size([3, 2, 2]), True)

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section III-A ("color jittering in HSV color space"). The paper has no
    figures; the defaults are those of the authors' published code (``randomHueSaturationValue``), whose hue, however,
    overflows at 256 instead of wrapping at 180.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        prob: float = 0.5,
        hue: float = 30.0,
        saturation: float = 5.0,
        value: float = 15.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if min(hue, saturation, value) < 0:
            raise ValueError(f"Limits must not be negative, got {hue=}, {saturation=}, {value=}.")
        self.limits = np.asarray((hue, saturation, value), dtype=np.float64)
        self.shifts = np.zeros(3)

    def randomize(self, data: object = None) -> None:
        """Decide whether to change the next image, and draw the three shifts."""
        super().randomize(data)
        if self._do_transform:
            self.shifts = self.R.uniform(-self.limits, self.limits)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of ``keys``.

        Raises:
            ValueError: an image does not have three channels.
        """
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            image = convert_to_tensor(d[key], track_meta=get_track_meta())
            if image.shape[0] != 3:
                raise ValueError(f"'{key}' has {image.shape[0]} channels; RandHSVJitterd needs RGB images [3, H, W].")
            d[key] = self._shift(image) if self._do_transform else image
        return d

    def _shift(self, image: torch.Tensor) -> torch.Tensor:
        hue, saturation, value = (float(shift) for shift in self.shifts)
        plain = convert_to_tensor(image, track_meta=False, dtype=torch.float32)
        h, s, v = _rgb_to_hsv(plain.clamp(0, _WHITE))
        h = h + hue * 6 / _FULL_CIRCLE
        s = (s + saturation / _WHITE).clamp_(0, 1)
        v = (v + value).clamp_(0, _WHITE)
        return convert_to_dst_type(_hsv_to_rgb(h, s, v), dst=image, dtype=torch.float32)[0]


def _rgb_to_hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hue in sixths of a circle (-1 to 5), saturation in 0 to 1 and value in 0 to 255, each ``[H, W]``."""
    red, green, blue = rgb
    value = rgb.amax(dim=0)
    chroma = value - rgb.amin(dim=0)
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue)
    saturation = chroma / torch.where(value > 0, value, 1)
    return hue, saturation, value


def _hsv_to_rgb(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Invert :func:`_rgb_to_hsv`: ``v - v s max(0, min(k, 4 - k, 1))`` with ``k = (n + hue) mod 6``, n = 5, 3, 1."""
    offsets = torch.tensor((5.0, 3.0, 1.0), device=hue.device)[:, None, None]
    k = (offsets + hue).remainder_(6)
    weight = torch.minimum(k, 4 - k).clamp_(0, 1)
    return value - value * saturation * weight
