"""The hybrid loss of ANU-Net: soft Dice and focal cross-entropy, over all heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DeepSupervisionLoss, DiceFocalLoss
from monai.utils import convert_to_tensor
from torch import nn

__all__ = ["HybridLoss"]


class HybridLoss(nn.Module):
    """Soft Dice loss and focal cross-entropy, summed over the heads of a deeply supervised network.

    With ``p`` a head's probability of the structure, ``y`` the label, ``p_t = p`` and ``alpha_t = alpha`` where
    ``y = 1``, ``p_t = 1 - p`` and ``alpha_t = 1 - alpha`` where ``y = 0``:

    ``sum over heads [1 - (2 sum p y + s) / (sum p^2 + sum y^2 + s) - mean(alpha_t (1 - p_t)^gamma log p_t)]``

    The sums run over the pixels of an image and class, the mean over all of them; the first part is averaged over
    images and classes.

    Derivation. The paper prints (Eq. 8), ``Y`` for ``p`` and ``Y'`` for ``y``, without sums over pixels:

    ``sum over heads (1 - [alpha Y' log Y / |Y - 0.5|^gamma + (2 Y Y' + s) / (Y^2 + Y'^2 + s)])``

    1. The second fraction is Eq. 5 with smoothing; with the sums of its text it is the soft Dice coefficient.
    2. The first fraction "combines with focal loss and binary cross entropy loss". ``Y' log Y`` is the half of the
       cross-entropy (Eq. 6) where the label is 1. The text wants "different weights" for both kinds of samples, one
       ``alpha`` where ``Y'`` is 1 and one where it is 0, so the other half belongs to it: ``-alpha_t log p_t``.
    3. The text wants ``1 / |Y - 0.5|^gamma`` to be "so small that the loss of the simple samples will decrease
       significantly" where ``Y`` is close to 0 or 1. There it is ``2^gamma``, and at 0.5 infinite. The factor that is
       as the text says, small for a simple sample, large at 0.5, and best with the ``gamma = 2`` of Lin et al., is
       theirs, of Eq. 7: ``(1 - p_t)^gamma``. For a sample on its label's side of 0.5 it is
       ``(0.5 - |Y - 0.5|)^gamma``, the printed distance with its sense put right. On the other side that distance would
       call a sample simple that is surely wrong, and take its cross-entropy away; ``(0.5 + |Y - 0.5|)^gamma``, which
       Eq. 7 has there, keeps it.
    4. So both losses are one term: the cross-entropy is what ``gamma = 0`` leaves. With that and ``alpha = 0.5`` the
       whole is ``0.5 BCE + (1 - Dice)`` for each head, which the authors' code has (with a second sigmoid in the BCE).

    The paper gives no ``alpha`` and no ``s``. Its text lowers the weight of the more frequent kind and raises that of
    the other: that is an ``alpha`` above 0.5 for an organ. ``s`` decides what an image without the structure costs:
    with less than a pixel the first few wrong ones cost all, and a further one nothing.

    The terms are MONAI's (:class:`monai.losses.DiceFocalLoss`, with squares in the denominator), and so is the sum over
    heads (:class:`monai.losses.DeepSupervisionLoss`, all weights 1). They are computed in float32.

    Args:
        alpha: weight of the pixels of the structure, 0 to 1; the others have ``1 - alpha``.
        gamma: focusing exponent, 0 or more; 0 gives the plain cross-entropy.
        smooth: ``s``, in pixels, above 0.
        batch: sum the Dice coefficient over the images of the batch too, so that ones without the structure do not
            count alone.

    Raises:
        ValueError: an argument out of its range.

    Source: Li et al., "ANU-Net", Computers & Graphics 90, 2020, Section 3.4, Eq. 5 to 8; Lin et al., "Focal loss for
    dense object detection", ICCV 2017.
    """

    def __init__(self, *, alpha: float = 0.5, gamma: float = 2.0, smooth: float = 1.0, batch: bool = False) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or gamma < 0 or smooth <= 0:
            raise ValueError(
                f"alpha has to be from 0 to 1, gamma 0 or more and smooth above 0, got {alpha}, {gamma} and {smooth}."
            )
        one_head = DiceFocalLoss(
            sigmoid=True, squared_pred=True, smooth_nr=smooth, smooth_dr=smooth, batch=batch, gamma=gamma, alpha=alpha
        )
        self.loss = DeepSupervisionLoss(one_head, weight_mode="same")

    def forward(self, input: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Compare a batch with its label.

        Args:
            input: logits ``[B, C, *spatial]``, or those of each head.
            target: 0 or 1, of the same shape.

        Returns:
            the loss, a scalar.

        Raises:
            ValueError: no head, or a label of another shape than a head's.
        """
        heads = [convert_to_tensor(head, track_meta=False) for head in ([input] if torch.is_tensor(input) else input)]
        truth = convert_to_tensor(target, track_meta=False).float()
        if not heads:
            raise ValueError("the network gave the logits of no head.")
        for head in heads:
            if head.shape != truth.shape:
                raise ValueError(
                    f"label has shape {tuple(truth.shape)}, an output of {tuple(head.shape)} needs the same."
                )
        loss: torch.Tensor = self.loss(heads, truth)
        return loss
