"""Inferers that MONAI lacks; each is a :class:`monai.inferers.Inferer`."""

from .cpu_autocast import CPUAutocastInferer
from .ctsunet import TwoStageInferer
from .flip_tta import FlipTTAInferer
from .slice_by_slice import SliceBySliceInferer

__all__ = ["CPUAutocastInferer", "FlipTTAInferer", "SliceBySliceInferer", "TwoStageInferer"]
