"""Metrics in the form that a table of results needs and that MONAI lacks: for each case, and pooled over cases."""

from .contours import CONTOUR_METRICS, CellScores, contour_scores, score_cells, thin_contours
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
    "CONTOUR_METRICS",
    "COUNT_METRICS",
    "DICE_CONVENTION",
    "METRICS",
    "BoundaryError",
    "CellScores",
    "LabelDice",
    "LabelIoU",
    "LayerDice",
    "boundary_distances",
    "contour_scores",
    "count_scores",
    "count_voxels",
    "metrics_from_counts",
    "roc_auc",
    "roc_auc_from_counts",
    "score_cells",
    "thin_contours",
]
