"""Inferers that MONAI lacks; each is a :class:`monai.inferers.Inferer`."""

from .flip_tta import FlipTTAInferer
from .two_stage import TwoStageInferer

__all__ = ["FlipTTAInferer", "TwoStageInferer"]
