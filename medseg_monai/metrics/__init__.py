"""Metrics that MONAI has not in the form that a table of results needs."""

from .segmentation import COUNT_METRICS, METRICS, count_voxels, metrics_from_counts, roc_auc

__all__ = ["COUNT_METRICS", "METRICS", "count_voxels", "metrics_from_counts", "roc_auc"]
