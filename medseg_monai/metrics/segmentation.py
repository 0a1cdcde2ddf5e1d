"""Metrics of one segmentation, per case and pooled over cases, from the same counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_confusion_matrix_metric, get_confusion_matrix
from sklearn.metrics import roc_auc_score

__all__ = ["COUNT_METRICS", "METRICS", "count_voxels", "metrics_from_counts", "roc_auc"]

#: our names -> MONAI's names of confusion matrix metrics
COUNT_METRICS = {
    "dice": "f1 score",
    "iou": "threat score",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "accuracy": "accuracy",
}
#: all metrics: those of the counts, the overlap error of CE-Net's Eq. 4, and the area under the ROC curve
METRICS = (*COUNT_METRICS, "overlap_error", "auc")


def count_voxels(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Count true and false positives and negatives of a binary mask.

    Args:
        prediction: 0 or 1, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        ``[tp, fp, tn, fn]`` as float64.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(prediction, label)
    # numbers: MONAI finds true positives where the two sum up to 2, which the sum of two booleans never is
    masks = [(mask.reshape(1, 1, -1) > 0).byte() for mask in (prediction, label)]
    counts: torch.Tensor = get_confusion_matrix(*masks)
    return counts[0, 0].double()


def metrics_from_counts(counts: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    """Metrics of one confusion matrix, be it one case's or the sum over cases.

    Dice is ``2 tp / (2 tp + fp + fn)``; IoU ``tp / (tp + fp + fn)``; sensitivity ``tp / (tp + fn)`` (CE-Net Eq. 5);
    specificity ``tn / (tn + fp)``; precision ``tp / (tp + fp)``; accuracy ``(tp + tn) / all`` (Eq. 6); the overlap
    error is ``1 - IoU`` (Eq. 4). A metric whose denominator is zero is ``nan``.

    Args:
        counts: ``[tp, fp, tn, fn]``.
        names: names from :data:`METRICS` except ``"auc"``.

    Raises:
        ValueError: an unknown name.
    """
    values = {}
    for name in names:
        if name == "overlap_error":
            values[name] = 1.0 - float(compute_confusion_matrix_metric(COUNT_METRICS["iou"], counts))
        elif name in COUNT_METRICS:
            values[name] = float(compute_confusion_matrix_metric(COUNT_METRICS[name], counts))
        else:
            raise ValueError(f"{name}: no such metric; there are {', '.join(METRICS)}.")
    return values


def roc_auc(probability: torch.Tensor, label: torch.Tensor) -> float:
    """Area under the receiver operating characteristic curve.

    MONAI's ``compute_roc_auc`` walks through the values in Python, which takes minutes for the pixels of one image.

    Args:
        probability: scores, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        the area, or ``nan`` if the label has one class only.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(probability, label)
    truth = label.reshape(-1).cpu().numpy() > 0
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, probability.reshape(-1).cpu().numpy()))


def _check_shapes(prediction: torch.Tensor, label: torch.Tensor) -> None:
    if prediction.shape != label.shape:
        raise ValueError(f"A prediction of shape {tuple(prediction.shape)} has a label of shape {tuple(label.shape)}.")
