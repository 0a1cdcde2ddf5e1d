"""Losses that MONAI lacks."""

from .hybrid import HybridLoss
from .tanimoto import TanimotoLoss, contour_weights, contour_window, tanimoto_coefficient
from .two_stage import TwoStageLoss, border_labels

__all__ = [
    "HybridLoss",
    "TanimotoLoss",
    "TwoStageLoss",
    "border_labels",
    "contour_weights",
    "contour_window",
    "tanimoto_coefficient",
]
