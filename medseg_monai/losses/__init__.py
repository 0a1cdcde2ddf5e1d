"""Losses that MONAI lacks."""

from .tanimoto import TanimotoLoss, contour_weights, contour_window, tanimoto_coefficient
from .two_stage import TwoStageLoss, border_labels

__all__ = [
    "TanimotoLoss",
    "TwoStageLoss",
    "border_labels",
    "contour_weights",
    "contour_window",
    "tanimoto_coefficient",
]
