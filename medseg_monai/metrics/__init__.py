"""Metrics in the form that a table of results needs and that MONAI lacks: for each case, and pooled over cases."""

from .label_dice import LabelDice, LabelIoU
from .layers import BoundaryError, LayerDice, boundary_distances
from .segmentation import (
    COUNT_METRICS,
    DICE_CONVENTION,
    METRICS,
    count_scores,
    count_voxels,
    metrics_from_counts,
    roc_auc,
    roc_auc_from_counts,
)

__all__ = [
    "COUNT_METRICS",
    "DICE_CONVENTION",
    "METRICS",
    "BoundaryError",
    "LabelDice",
    "LabelIoU",
    "LayerDice",
    "boundary_distances",
    "count_scores",
    "count_voxels",
    "metrics_from_counts",
    "roc_auc",
    "roc_auc_from_counts",
]
