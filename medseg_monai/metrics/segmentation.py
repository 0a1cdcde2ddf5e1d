"""Metrics of a segmentation, computed from the same counts for each case and pooled over cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_confusion_matrix_metric
from sklearn.metrics import roc_auc_score

__all__ = [
    "COUNT_METRICS",
    "DICE_CONVENTION",
    "METRICS",
    "count_scores",
    "count_voxels",
    "metrics_from_counts",
    "roc_auc",
    "roc_auc_from_counts",
]

#: our names -> MONAI's names of confusion matrix metrics; papers use two names for two of them
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
#: all metrics: the ones above, the overlap error of CE-Net's Eq. 4, and the area under the ROC curve
METRICS = (*COUNT_METRICS, "overlap_error", "auc")

#: what every Dice coefficient of this package does where a structure is absent; all tables state it
DICE_CONVENTION = (
    "A structure that neither the prediction nor the label has is undefined: left out of every mean, and counted. "
    "One that only one of them has counts as Dice 0."
)

# the bin of a score is its float32 bit pattern without the last bits of the fraction; above 0.5, that of 1 - score
_DROPPED_BITS = 11
_BINS_BELOW_HALF = 0x3F000000 >> _DROPPED_BITS  # 0x3F000000 is 0.5


def count_voxels(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Count true and false positives and negatives of a binary mask.

    Args:
        prediction: 0 or 1, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        ``[tp, fp, tn, fn]`` as int64: MONAI's ``get_confusion_matrix`` counts in float32, which is exact to 2**24,
        fewer than the voxels of a scan.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import count_voxels
        >>> count_voxels(torch.tensor([1, 1, 1, 0, 0]), torch.tensor([1, 1, 0, 1, 0])).tolist()
        [2, 1, 1, 1]
    """
    _check_shapes(prediction, label)
    predicted, true = prediction > 0, label > 0
    positives, trues, both = predicted.sum(), true.sum(), (predicted & true).sum()
    return torch.stack([both, positives - both, label.numel() - positives - trues + both, trues - both])


def metrics_from_counts(counts: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    """Compute metrics from one confusion matrix, of a single case or summed over cases.

    Dice is ``2 tp / (2 tp + fp + fn)``; IoU is ``tp / (tp + fp + fn)``; sensitivity is ``tp / (tp + fn)`` (CE-Net
    Eq. 5); specificity is ``tn / (tn + fp)``; precision is ``tp / (tp + fp)``; accuracy is ``(tp + tn) / all`` (Eq. 6);
    the overlap error is ``1 - IoU`` (Eq. 4). A metric whose denominator is zero is ``nan``.

    DEFU-Net's Eq. 3 to 8 are the same: recall is the sensitivity, and F1, the harmonic mean of precision and recall, is
    the Dice coefficient. Its Dice and IoU add 1 to numerator and denominator. That is not done here; with the thousands
    of pixels of a lung it does not change the printed digits.

    Args:
        counts: ``[tp, fp, tn, fn]``.
        names: names from :data:`METRICS` except ``"auc"``.

    Raises:
        ValueError: a name is unknown.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import metrics_from_counts
        >>> first, second = torch.tensor([1, 1, 6, 0]), torch.tensor([2, 0, 6, 0])
        >>> metrics_from_counts(first, ["iou", "precision", "recall"])
        {'iou': 0.5, 'precision': 0.5, 'recall': 1.0}
        >>> metrics_from_counts(first + second, ["iou"])  # pooled over both cases
        {'iou': 0.75}
    """
    values = {}
    exact = counts.double()  # divided as integers, they would become float32
    for name in names:
        if name == "overlap_error":
            values[name] = 1.0 - float(compute_confusion_matrix_metric(COUNT_METRICS["iou"], exact))
        elif name in COUNT_METRICS:
            values[name] = float(compute_confusion_matrix_metric(COUNT_METRICS[name], exact))
        else:
            raise ValueError(f"{name}: no such metric; known metrics: {', '.join(METRICS)}.")
    return values


def roc_auc(probability: torch.Tensor, label: torch.Tensor) -> float:
    """Compute the area under the receiver operating characteristic curve.

    MONAI's ``compute_roc_auc`` loops over the values in Python, which takes minutes for the pixels of one image.

    Args:
        probability: scores, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        the area, or ``nan`` if the label has only one class.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import roc_auc
        >>> roc_auc(torch.tensor([0.9, 0.6, 0.7, 0.2]), torch.tensor([1, 1, 0, 0]))  # 3 of 4 pairs are in order
        0.75
    """
    _check_shapes(probability, label)
    truth = label.reshape(-1).cpu().numpy() > 0
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, probability.reshape(-1).cpu().numpy()))


def count_scores(probability: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Count the scores of background and foreground in bins, to compute the area under the ROC curve of many cases.

    With these histograms the scores of all pixels of a test set need not fit into memory. There are a million bins, and
    they are narrow where scores crowd: a bin is at most 1/4096 as wide as its distance to 0 or 1, so that the area is
    exact to about 1e-5.

    Args:
        probability: scores from 0 to 1, any shape.
        label: 0 or 1, of the same shape.

    Returns:
        int64 ``[2, bins]``, background first; the histograms of several cases can be added.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import count_scores
        >>> counts = count_scores(torch.tensor([0.9, 0.6, 0.7, 0.2, 0.1]), torch.tensor([1, 1, 0, 0, 0]))
        >>> counts.sum(dim=1)
        tensor([3, 2])
    """
    _check_shapes(probability, label)
    scores = probability.reshape(-1).float().clamp(0, 1).abs()  # the sign bit of a negative zero is a large number
    above = scores > 0.5
    bins = torch.where(above, 1 - scores, scores).view(torch.int32) >> _DROPPED_BITS
    bins = torch.where(above, 2 * _BINS_BELOW_HALF - bins, bins)
    foreground = label.reshape(-1) > 0
    return torch.stack(
        [torch.bincount(bins[part], minlength=2 * _BINS_BELOW_HALF + 1) for part in (~foreground, foreground)]
    )


def roc_auc_from_counts(counts: torch.Tensor) -> float:
    """Compute the area under the receiver operating characteristic curve from histograms of the scores.

    Args:
        counts: histograms of :func:`count_scores`, or a sum of several.

    Returns:
        the area, or ``nan`` if one class has no pixels.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import count_scores, roc_auc_from_counts
        >>> first = count_scores(torch.tensor([0.9, 0.7]), torch.tensor([1, 0]))
        >>> second = count_scores(torch.tensor([0.6, 0.2]), torch.tensor([1, 0]))
        >>> roc_auc_from_counts(first + second)  # 3 of 4 pairs are in order, over the pixels of both cases
        0.75
    """
    background, foreground = counts.double()
    pairs = background.sum() * foreground.sum()
    if not pairs:
        return float("nan")
    ranked_below = background.cumsum(0) - background / 2  # equal scores count half
    return float((foreground * ranked_below).sum() / pairs)


def _check_shapes(prediction: torch.Tensor, label: torch.Tensor) -> None:
    if prediction.shape != label.shape:
        raise ValueError(
            f"A prediction of shape {tuple(prediction.shape)} has a label of shape {tuple(label.shape)}: "
            "both must be the same."
        )
