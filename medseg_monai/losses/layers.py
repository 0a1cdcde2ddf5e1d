"""The loss of CE-Net for several classes, of labels with columns that nobody has drawn."""

from __future__ import annotations

import torch
from monai.losses import MaskedDiceLoss
from monai.networks import one_hot
from monai.utils import convert_to_tensor
from torch import nn
from torch.nn import functional

__all__ = ["LayerLoss"]


class LayerLoss(nn.Module):
    """Soft Dice loss as the mean over all classes, cross-entropy, or a sum of both; pixels of 255 do not count.

    With ``p`` the probability of a class (softmax) and ``y`` its label, the Dice loss is CE-Net's Eq. 2 with the weight
    ``1 / K`` for each of the K classes: ``1 - 1/K sum_k 2 sum p_k y_k / (sum p_k^2 + sum y_k^2)``, the inner sums over
    all pixels of the batch. The cross-entropy is the mean over the pixels that count.

    The Dice loss is MONAI's (:class:`monai.losses.MaskedDiceLoss`). It is given the classes as channels: from a label
    map it would make the background of masked pixels, and expect the network to find it there. Both are computed in
    float32.

    Args:
        lambda_dice: weight of the Dice loss, 0 or more.
        lambda_ce: weight of the cross-entropy, 0 or more.
        ignored: label of the pixels that do not count.

    Raises:
        ValueError: a weight is negative, or both are 0.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import LayerLoss
        >>> label = torch.tensor([[0, 255], [1, 255]]).reshape(1, 1, 2, 2)
        >>> logits = torch.zeros(1, 2, 2, 2)  # p = 0.5: each class has 2 * 0.5 / (2 * 0.25 + 1) in the first column
        >>> round(LayerLoss()(logits, label).item(), 3)
        0.333
        >>> round(LayerLoss(lambda_dice=0, lambda_ce=1)(logits, label).item(), 3)
        0.693

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Eq. 2 and Table V ("CE-Net w/ Dice", "CE-Net w/ CE").
    """

    def __init__(self, *, lambda_dice: float = 1.0, lambda_ce: float = 0.0, ignored: int = 255) -> None:
        super().__init__()
        if min(lambda_dice, lambda_ce) < 0 or lambda_dice == lambda_ce == 0:
            raise ValueError(
                f"lambda_dice and lambda_ce must be 0 or more and not both 0, got {lambda_dice} and {lambda_ce}."
            )
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce
        self.ignored = ignored
        self.dice = MaskedDiceLoss(softmax=True, squared_pred=True, batch=True, include_background=True)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare a batch with its label.

        Args:
            input: logits ``[B, K, *spatial]``.
            target: classes ``[B, 1, *spatial]``, and 255 for pixels that do not count.

        Returns:
            the loss, a scalar; 0 if no pixel counts.

        Raises:
            ValueError: the shapes do not fit.
        """
        logits = convert_to_tensor(input, track_meta=False).float()
        truth = convert_to_tensor(target, track_meta=False)
        if truth.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(
                f"label has shape {tuple(truth.shape)}, but the network returned {tuple(logits.shape)}; give one map "
                "of classes of the same size."
            )
        counts = truth != self.ignored
        classes = torch.where(counts, truth, 0).long()
        loss = logits.new_zeros(())
        if self.lambda_dice:
            channels = one_hot(classes, num_classes=logits.shape[1], dtype=logits.dtype)
            loss = loss + self.lambda_dice * self.dice(logits, channels, mask=counts.to(logits.dtype))
        if self.lambda_ce:
            each = functional.cross_entropy(logits, classes[:, 0], reduction="none")
            weights = counts[:, 0].to(each.dtype)
            loss = loss + self.lambda_ce * (each * weights).sum() / weights.sum().clamp(min=1)
        return loss
