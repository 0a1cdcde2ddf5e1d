"""Losses that MONAI lacks."""

from .ctsunet import TwoStageLoss, border_labels
from .hybrid import HybridLoss
from .layers import LayerLoss
from .tanimoto import TanimotoCoefficient, TanimotoLoss, contour_weights, contour_window, tanimoto_coefficient

__all__ = [
    "HybridLoss",
    "LayerLoss",
    "TanimotoCoefficient",
    "TanimotoLoss",
    "TwoStageLoss",
    "border_labels",
    "contour_weights",
    "contour_window",
    "tanimoto_coefficient",
]
