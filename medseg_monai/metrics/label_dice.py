"""Dice coefficient and IoU of a validation, by the convention of the tables of results."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction

from .segmentation import count_voxels, metrics_from_counts

__all__ = ["LabelDice", "LabelIoU"]


class LabelDice(CumulativeIterationMetric):
    """Dice coefficient of each label of each case, from the same counts as the tables of an evaluation.

    A label that neither the prediction nor the reference has is undefined and left out; one that only one of them has
    counts 0. MONAI's ``DiceMetric`` leaves out every label that the reference lacks, so that a structure invented where
    there is none costs nothing, or counts 1 where both lack it (``ignore_empty=False``).

    Args:
        labels: number of labels; the masks ``[B, 1, *spatial]`` hold 0 to that number.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import LabelDice
        >>> dice = LabelDice(labels=3)
        >>> dice(y_pred=torch.tensor([[[0, 1, 1, 3]]]), y=torch.tensor([[[0, 0, 1, 0]]]))  # 2 is nowhere, 3 invented
        tensor([[0.6667,    nan, 0.0000]])
        >>> round(float(dice.aggregate()), 4)
        0.3333
    """

    #: name among :data:`medseg_monai.metrics.COUNT_METRICS`
    value = "dice"

    def __init__(self, labels: int = 1) -> None:
        super().__init__()
        self.labels = range(1, labels + 1)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is None:
            raise ValueError(f"{type(self).__name__} compares a prediction with a reference; give both.")
        return torch.tensor([self._of_case(mask, truth) for mask, truth in zip(y_pred, y, strict=True)])

    def aggregate(self) -> torch.Tensor:
        """The mean over the cases of the mean over a case's labels, leaving out what is undefined; 0 if all is."""
        mean: torch.Tensor = do_metric_reduction(self.get_buffer(), "mean")[0]
        return mean

    def _of_case(self, mask: torch.Tensor, truth: torch.Tensor) -> list[float]:
        counts = (count_voxels(mask == label, truth == label) for label in self.labels)
        return [metrics_from_counts(one, [self.value])[self.value] for one in counts]


class LabelIoU(LabelDice):
    """Intersection over union of each label of each case, by the convention of :class:`LabelDice`.

    Args:
        labels: number of labels; the masks ``[B, 1, *spatial]`` hold 0 to that number.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import LabelIoU
        >>> iou = LabelIoU(labels=3)
        >>> iou(y_pred=torch.tensor([[[0, 1, 1, 3]]]), y=torch.tensor([[[0, 0, 1, 0]]]))  # 2 is nowhere, 3 invented
        tensor([[0.5000,    nan, 0.0000]])
    """

    value = "iou"
