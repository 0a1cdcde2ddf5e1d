"""Metrics that MONAI has not in the form that a table of results needs."""

from .segmentation import (
    COUNT_METRICS,
    METRICS,
    count_scores,
    count_voxels,
    metrics_from_counts,
    roc_auc,
    roc_auc_from_counts,
)

__all__ = [
    "COUNT_METRICS",
    "METRICS",
    "count_scores",
    "count_voxels",
    "metrics_from_counts",
    "roc_auc",
    "roc_auc_from_counts",
]
