"""Inferers that MONAI lacks; each is a :class:`monai.inferers.Inferer`."""

from .cpu_autocast import CPUAutocastInferer
from .flip_tta import FlipTTAInferer
from .two_stage import TwoStageInferer

__all__ = ["CPUAutocastInferer", "FlipTTAInferer", "TwoStageInferer"]
