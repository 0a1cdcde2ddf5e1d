"""Inferers that MONAI lacks; each is a :class:`monai.inferers.Inferer`."""

from .flip_tta import FlipTTAInferer

__all__ = ["FlipTTAInferer"]
