"""Inferers that MONAI lacks; each is a :class:`monai.inferers.Inferer`."""

from .bscans import BScanInferer
from .cpu_autocast import CPUAutocastInferer
from .ctsunet import TwoStageInferer
from .flip_tta import FlipTTAInferer

__all__ = ["BScanInferer", "CPUAutocastInferer", "FlipTTAInferer", "TwoStageInferer"]
