"""Losses that MONAI lacks."""

from .ctsunet import TwoStageLoss, border_labels
from .hybrid import HybridLoss
from .tanimoto import TanimotoCoefficient, TanimotoLoss, contour_weights, contour_window, tanimoto_coefficient

__all__ = [
    "HybridLoss",
    "TanimotoCoefficient",
    "TanimotoLoss",
    "TwoStageLoss",
    "border_labels",
    "contour_weights",
    "contour_window",
    "tanimoto_coefficient",
]
