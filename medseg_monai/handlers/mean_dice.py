"""The mean Dice coefficient and the mean IoU of a validation as ignite metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.handlers import IgniteMetricHandler

from medseg_monai.metrics import LabelDice, LabelIoU

__all__ = ["MeanDice", "MeanIoU"]


class MeanDice(IgniteMetricHandler):
    """MONAI's ``MeanDice`` by the convention of :class:`medseg_monai.metrics.LabelDice`, that of all our tables.

    Args:
        labels: number of labels in the masks.
        output_transform: takes prediction and label from the engine's output.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import MeanDice
        >>> engine = Engine(lambda engine, batch: batch)
        >>> MeanDice().attach(engine, "val_dice")
        >>> invented = torch.ones(1, 1, 4), torch.zeros(1, 1, 4)
        >>> right = torch.ones(1, 1, 4), torch.ones(1, 1, 4)
        >>> engine.run([invented, right]).metrics["val_dice"]
        0.5
    """

    def __init__(self, labels: int = 1, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        super().__init__(metric_fn=LabelDice(labels), output_transform=output_transform)


class MeanIoU(IgniteMetricHandler):
    """MONAI's ``MeanIoUHandler`` by the convention of :class:`medseg_monai.metrics.LabelIoU`, that of all our tables.

    Args:
        labels: number of labels in the masks.
        output_transform: takes prediction and label from the engine's output.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import MeanIoU
        >>> engine = Engine(lambda engine, batch: batch)
        >>> MeanIoU().attach(engine, "val_iou")
        >>> engine.run([(torch.tensor([[[1, 1, 1, 0]]]), torch.tensor([[[0, 0, 1, 1]]]))]).metrics["val_iou"]
        0.25
    """

    def __init__(self, labels: int = 1, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        super().__init__(metric_fn=LabelIoU(labels), output_transform=output_transform)
