"""Metrics of one segmentation, per case and pooled over cases, from the same counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_confusion_matrix_metric, get_confusion_matrix
from sklearn.metrics import roc_auc_score

__all__ = [
    "COUNT_METRICS",
    "METRICS",
    "count_scores",
    "count_voxels",
    "metrics_from_counts",
    "roc_auc",
    "roc_auc_from_counts",
]

#: our names -> MONAI's names of confusion matrix metrics; papers have two names for two of them
COUNT_METRICS = {
    "dice": "f1 score",
    "f1": "f1 score",
    "iou": "threat score",
    "sensitivity": "sensitivity",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "accuracy": "accuracy",
}
#: all metrics: those of the counts, the overlap error of CE-Net's Eq. 4, and the area under the ROC curve
METRICS = (*COUNT_METRICS, "overlap_error", "auc")

# a score's bin is its float32 number, or above a half that of 1 minus it, without the last bits of the fraction
_DROPPED_BITS = 11
_BINS_BELOW_HALF = 0x3F000000 >> _DROPPED_BITS  # 0x3F000000 is 0.5


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

    DEFU-Net's Eq. 3 to 8 are the same: recall is the sensitivity, and F1, the harmonic mean of precision and recall, is
    the Dice coefficient. Its Dice and IoU add 1 to numerator and denominator, which is not done here: with the
    thousands of pixels of a lung it changes nothing that is printed.

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


def count_scores(probability: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Histogram of the scores of background and foreground, from which the area of many cases' pixels follows.

    The scores of all pixels of a test set need not fit into memory. The bins, a million, are narrow where scores crowd:
    their width is 1/4096 of the distance to 0 or 1 or less, so that the area is exact to about 1e-5.

    Args:
        probability: scores from 0 to 1, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        int64 ``[2, bins]``, background first; those of several cases are added up.

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(probability, label)
    scores = probability.reshape(-1).float().clamp(0, 1).abs()  # the sign of a negative zero would be a large number
    above = scores > 0.5
    bins = torch.where(above, 1 - scores, scores).view(torch.int32) >> _DROPPED_BITS
    bins = torch.where(above, 2 * _BINS_BELOW_HALF - bins, bins)
    foreground = label.reshape(-1) > 0
    return torch.stack(
        [torch.bincount(bins[part], minlength=2 * _BINS_BELOW_HALF + 1) for part in (~foreground, foreground)]
    )


def roc_auc_from_counts(counts: torch.Tensor) -> float:
    """Area under the receiver operating characteristic curve, of a histogram of scores.

    Args:
        counts: what :func:`count_scores` returns, or a sum of such.

    Returns:
        the area, or ``nan`` if one class has no pixel.
    """
    background, foreground = counts.double()
    pairs = background.sum() * foreground.sum()
    if not pairs:
        return float("nan")
    ranked_below = background.cumsum(0) - background / 2  # of equal scores a half
    return float((foreground * ranked_below).sum() / pairs)


def _check_shapes(prediction: torch.Tensor, label: torch.Tensor) -> None:
    if prediction.shape != label.shape:
        raise ValueError(f"A prediction of shape {tuple(prediction.shape)} has a label of shape {tuple(label.shape)}.")
