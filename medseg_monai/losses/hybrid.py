"""The hybrid loss of ANU-Net: soft Dice and focal cross-entropy, summed over all heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DeepSupervisionLoss, DiceFocalLoss
from monai.utils import convert_to_tensor
from torch import nn

__all__ = ["HybridLoss"]


class HybridLoss(nn.Module):
    """Soft Dice loss and focal cross-entropy, summed over the heads of a deeply supervised network.

    Let ``p`` be a head's probability of the structure and ``y`` the label, ``p_t = p`` and ``alpha_t = alpha`` where
    ``y = 1``, and ``p_t = 1 - p`` and ``alpha_t = 1 - alpha`` where ``y = 0``. The loss is

    ``sum over heads [1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s) - mean(alpha_t (1 - p_t)^gamma log p_t)]``

    with ``p`` and ``y`` in place of their squares if ``squared_pred`` is ``False``. The sums run over the pixels of one
    image and class, the mean over all pixels; the first part is averaged over images and classes.

    Derivation. The paper prints Eq. 8 with ``Y`` for ``p`` and ``Y'`` for ``y``, and without sums over pixels:

    ``sum over heads (1 - [alpha Y' log Y / |Y - 0.5|^gamma + (2 Y Y' + s) / (Y^2 + Y'^2 + s)])``

    1. The second fraction is Eq. 5 with smoothing; with the sums that its text describes it is the soft Dice
       coefficient.
    2. The first fraction "combines with focal loss and binary cross entropy loss". ``Y' log Y`` is the half of the
       cross-entropy (Eq. 6) where the label is 1. The text asks for "different weights" for both kinds of samples, one
       ``alpha`` where ``Y'`` is 1 and one where it is 0, so the other half belongs to the loss too:
       ``-alpha_t log p_t``.
    3. The text expects ``1 / |Y - 0.5|^gamma`` to be "so small that the loss of the simple samples will decrease
       significantly" where ``Y`` is close to 0 or 1. In fact it is ``2^gamma`` there and infinite at 0.5. The factor
       that does what the text says (small for a simple sample, large at 0.5, best with the ``gamma = 2`` of Lin et al.)
       is the one of Lin et al. in Eq. 7: ``(1 - p_t)^gamma``. For a sample on its label's side of 0.5 it is
       ``(0.5 - |Y - 0.5|)^gamma``, the printed distance with its direction corrected. On the other side the printed
       distance would treat a sample that is certainly wrong as simple and remove its cross-entropy; Eq. 7 has
       ``(0.5 + |Y - 0.5|)^gamma`` there, which keeps it.
    4. Both losses are therefore one term, and ``gamma = 0`` leaves the cross-entropy. With ``gamma = 0`` and
       ``alpha = 0.5`` the total is ``0.5 BCE + (1 - Dice)`` for each head, as in the authors' code (which has a second
       sigmoid in the BCE, no squares in Dice, and a smoothing of 1e-5).

    The paper does not state ``alpha`` or ``s``. Its text lowers the weight of the more frequent kind and raises the
    weight of the other, which means an ``alpha`` above 0.5 for an organ. ``s`` decides the cost of an image without the
    structure: below one pixel, the first few wrong pixels cost everything, and further ones cost nothing.

    The terms are MONAI's (:class:`monai.losses.DiceFocalLoss`), and so is the sum over
    heads (:class:`monai.losses.DeepSupervisionLoss`, with all weights 1). They are computed in float32.

    Args:
        alpha: weight of the pixels of the structure, 0 to 1; the others have ``1 - alpha``.
        gamma: focusing exponent, 0 or more; 0 gives the plain cross-entropy.
        smooth: ``s`` in pixels, above 0.
        batch: whether to sum the Dice coefficient over the images of the batch too, so that images without the
            structure do not count on their own.
        squared_pred: whether the denominator of the Dice coefficient has squares, as in Eq. 8.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import HybridLoss
        >>> label = torch.zeros(1, 1, 2, 2)  # no structure
        >>> logits = torch.zeros(1, 1, 2, 2)  # p = 0.5: 1 - Dice is 0.5, the cross-entropy 0.5 * 0.5^2 * log 2
        >>> round(HybridLoss()(logits, label).item(), 4)
        0.5866
        >>> round(HybridLoss()([logits, logits], label).item(), 4)  # two heads
        1.1733

    Source: Li et al., "ANU-Net", Computers & Graphics 90, 2020, Section 3.4, Eq. 5 to 8; Lin et al., "Focal loss for
    dense object detection", ICCV 2017.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        gamma: float = 2.0,
        smooth: float = 1.0,
        batch: bool = False,
        squared_pred: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or gamma < 0 or smooth <= 0:
            raise ValueError(
                f"alpha must be from 0 to 1, gamma 0 or more and smooth above 0, got {alpha}, {gamma} and {smooth}."
            )
        one_head = DiceFocalLoss(
            sigmoid=True,
            squared_pred=squared_pred,
            smooth_nr=smooth,
            smooth_dr=smooth,
            batch=batch,
            gamma=gamma,
            alpha=alpha,
        )
        self.loss = DeepSupervisionLoss(one_head, weight_mode="same")

    def forward(self, input: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Compare a batch with its label.

        Args:
            input: logits ``[B, C, *spatial]``, or a sequence with those of each head.
            target: 0 or 1, of the same shape.

        Returns:
            the loss, a scalar.

        Raises:
            ValueError: there is no head, or a head and the label have different shapes.
        """
        heads = [convert_to_tensor(head, track_meta=False) for head in ([input] if torch.is_tensor(input) else input)]
        truth = convert_to_tensor(target, track_meta=False).float()
        if not heads:
            raise ValueError("the network returned an empty list: no head to compute the loss of.")
        for head in heads:
            if head.shape != truth.shape:
                raise ValueError(
                    f"label has shape {tuple(truth.shape)}, but an output has shape {tuple(head.shape)}: "
                    "both must be the same."
                )
        loss: torch.Tensor = self.loss(heads, truth)
        return loss
