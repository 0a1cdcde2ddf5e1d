"""The loss of CTSU-Net, a cascade of two networks that find lobes and their borders."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.losses import GeneralizedDiceLoss
from monai.utils import Weight, convert_to_tensor
from torch import nn
from torch.nn import functional

__all__ = ["TwoStageLoss", "border_labels"]

_LOGITS = ("stage1_lobes", "stage1_border", "stage2_lobes", "stage2_border")


def border_labels(label: torch.Tensor) -> torch.Tensor:
    """Mark the borders of a label map: voxels with another label among their 3x3x3 neighbours.

    The border is two voxels thick, one on each side, between two lobes as well as between a lobe and the background.
    The edge of the image is not a border.

    Args:
        label: ``[B, 1, D, H, W]``, one number for each voxel.

    Returns:
        float32 of the same shape, 1 on a border and 0 elsewhere.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import border_labels
        >>> border_labels(torch.tensor([0, 0, 0, 2, 2, 2]).reshape(1, 1, 1, 1, 6)).flatten()
        tensor([0., 0., 1., 1., 0., 0.])

    Source: Xie et al., "CTSU-Net", IEEE TMI 2020, Section III-E: "pre-computed from the lobe reference by detecting
    object boundaries". The paper does not say how; this is the support of the morphological gradient.
    """
    values = _plain(label)
    highest = functional.max_pool3d(values, kernel_size=3, stride=1, padding=1)
    lowest = -functional.max_pool3d(-values, kernel_size=3, stride=1, padding=1)
    return (highest != lowest).float()


class _PresentLabelsDiceLoss(GeneralizedDiceLoss):
    """MONAI's loss, in which a label that the batch lacks has weight 0 instead of the largest weight."""

    def w_func(self, grnd: torch.Tensor) -> torch.Tensor:
        """Compute the weights of the labels from their numbers of voxels."""
        return torch.where(grnd > 0, super().w_func(grnd), 0.0)


class TwoStageLoss(nn.Module):
    """Sum of four generalised Dice losses: lobes and borders, in the whole scan and in the crops of the second stage.

    Each is ``GLD = 1 - 2 (sum_l w_l sum_n r_ln p_ln) / (sum_l w_l sum_n (r_ln + p_ln))`` with
    ``w_l = 1 / (sum_n r_ln)^2``. For the lobes ``p`` is the softmax over the lobes and the background; for the border
    it is the sigmoid and its complement. Decisions where the paper is silent:

    - ``n`` runs over the whole batch; for the second stage it runs over all crops, most of which lack some label. A
      label that the whole batch lacks would have an infinite weight, so it is left out; voxels that are wrongly
      assigned to it count as missing in their true label. (MONAI gives such a label the largest weight of the others.
      Most crops lack most lobes, and a second stage that is trained in this way learns to predict no lobes.)
    - There is no smoothing term, since some label is always present. The 0.1 of the authors' settings would outweigh
      sums that are of the order of ``1 / (voxels of a label)``.
    - The border's sum runs over two labels, border and no border, as in Sudre et al. The authors' settings name the
      plain Dice loss of the border alone. A network that knows nothing yet minimises that loss by calling every voxel
      border; at a learning rate for short trainings the sigmoid saturates there, and no border is ever learned.
    - The first stage's targets are the nearest voxels of the scan's label, with corner voxels on corner voxels, as the
      network's first stage sees the scan; their border is found at that resolution. The second stage's borders are
      those of the whole scan, so that a crop takes its surroundings into account.
    - The top-K cross-entropy is added to each of the four losses, over the voxels of the whole batch. (The authors'
      settings add it to the lobes' loss alone.)

    The loss is computed in float32 even under mixed precision, where sums over voxels would overflow.

    Args:
        top_k: share of the voxels, those with the largest cross-entropy, whose mean cross-entropy is added; 0 adds
            none. The paper retrains with 0.3.
        w_type: weights ``w_l`` under MONAI's names: ``"square"`` as in the paper, ``"simple"`` (the inverse of the
            number of voxels) or ``"uniform"`` (all 1). With squares a sliver of a lobe, 50 voxels in a crop of a
            million, outweighs all other lobes, so that a short training learns little else.

    Raises:
        ValueError: the share is not from 0 to 1, or the weights are unknown.

    Example:
        >>> import torch
        >>> from medseg_monai.losses import TwoStageLoss
        >>> label = torch.zeros(1, 1, 8, 8, 8)
        >>> label[..., 4:] = 1  # one lobe
        >>> outputs = {
        ...     "stage1_lobes": torch.zeros(1, 2, 4, 4, 4),  # the scan at half size
        ...     "stage1_border": torch.zeros(1, 1, 4, 4, 4),
        ...     "stage2_lobes": torch.zeros(2, 2, 4, 4, 4),  # two crops
        ...     "stage2_border": torch.zeros(2, 1, 4, 4, 4),
        ...     "starts": torch.tensor([[[0, 0, 2], [4, 4, 2]]]),
        ... }
        >>> round(TwoStageLoss()(outputs, label).item(), 4)  # with probabilities of 0.5, each term is 0.5
        2.0

    Source: Xie et al., "CTSU-Net", IEEE TMI 2020, Sections III-E and IV-A; Sudre et al., DLMIA 2017.
    """

    def __init__(self, top_k: float = 0.0, w_type: Weight | str = Weight.SQUARE) -> None:
        super().__init__()
        if not 0 <= top_k <= 1:
            raise ValueError(f"top_k must be from 0 to 1, got {top_k}.")
        self.top_k = top_k
        self.dice_loss = _PresentLabelsDiceLoss(
            to_onehot_y=True, softmax=True, w_type=w_type, smooth_nr=0.0, smooth_dr=0.0, batch=True
        )

    def forward(self, outputs: Mapping[str, torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        """Compare the outputs of both stages with the label of the scan.

        Args:
            outputs: logits of the network in training mode: ``"stage1_lobes"`` ``[B, L, d, h, w]``, ``"stage1_border"``
                ``[B, 1, d, h, w]``, ``"stage2_lobes"`` ``[B * P, L, o, o, o]``, ``"stage2_border"``
                ``[B * P, 1, o, o, o]``; and ``"starts"`` ``[B, P, 3]``, the first voxel of each crop in the scan. The
                outputs for crop ``p`` of scan ``b`` are in row ``b * P + p``.
            label: ``[B, 1, D, H, W]``, 0 (background) to ``L - 1``.

        Returns:
            the loss, a scalar.

        Raises:
            ValueError: the shapes do not fit together, a crop reaches beyond the scan, or the label has classes that
                the network does not have.
        """
        truth = _plain(label)
        logits = {name: _plain(outputs[name]) for name in _LOGITS}
        starts = convert_to_tensor(outputs["starts"], track_meta=False)
        _check(logits, starts, truth)
        coarse = _nearest(truth, logits["stage1_lobes"].shape[2:])
        size = logits["stage2_lobes"].shape[2:]
        targets = {
            "stage1_lobes": coarse,
            "stage1_border": border_labels(coarse),
            "stage2_lobes": _crops(truth, starts, size),
            "stage2_border": _border_crops(truth, starts, size),
        }
        total = torch.zeros((), device=truth.device)
        for name in _LOGITS:
            values = _with_complement(logits[name]) if name.endswith("border") else logits[name]
            total = total + self.dice_loss(values, targets[name])
            if self.top_k > 0:
                total = total + _top_k_cross_entropy(values, targets[name], self.top_k)
        return total


def _plain(values: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = convert_to_tensor(values, track_meta=False).float()
    return result


def _with_complement(border: torch.Tensor) -> torch.Tensor:
    """Compute logits of no border and of border whose softmax equals the sigmoid of the border's logits."""
    return torch.cat([torch.zeros_like(border), border], dim=1)


def _nearest(label: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Sample the label at the nearest voxels of a coarser grid with the same corner voxels."""
    z, y, x = (
        torch.linspace(0, fine - 1, coarse, device=label.device).round().long()
        for fine, coarse in zip(label.shape[2:], size, strict=True)
    )
    return label[:, :, z[:, None, None], y[:, None], x]


def _crops(volume: torch.Tensor, starts: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Cut boxes ``[B * P, 1, *size]`` out of ``[B, 1, D, H, W]``."""
    boxes = [
        volume[scan, :, z : z + size[0], y : y + size[1], x : x + size[2]]
        for scan, places in enumerate(starts.tolist())
        for z, y, x in places
    ]
    return torch.stack(boxes)


def _border_crops(label: torch.Tensor, starts: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Crop :func:`border_labels`, computed from each crop and the voxels around it, not from the whole scan."""
    padded = functional.pad(label, [1] * 6, mode="replicate")  # repeated voxels add no border at the scan's edge
    around = _crops(padded, starts, torch.Size(edge + 2 for edge in size))
    return border_labels(around)[:, :, 1:-1, 1:-1, 1:-1]


def _top_k_cross_entropy(logits: torch.Tensor, target: torch.Tensor, share: float) -> torch.Tensor:
    """Average the largest cross-entropies, at least that of one voxel."""
    losses = functional.cross_entropy(logits, target[:, 0].long(), reduction="none").flatten()
    if share == 1:
        return losses.mean()  # this needs no sorting
    return losses.topk(max(1, round(share * losses.numel()))).values.mean()


def _check(logits: Mapping[str, torch.Tensor], starts: torch.Tensor, label: torch.Tensor) -> None:
    scan = label.shape[2:]
    if label.ndim != 5 or label.shape[1] != 1:
        raise ValueError(f"label has shape {tuple(label.shape)}; give [B, 1, D, H, W].")
    if starts.ndim != 3 or starts.shape[0] != label.shape[0] or starts.shape[2] != 3:
        raise ValueError(f"starts has shape {tuple(starts.shape)}; give [{label.shape[0]}, P, 3].")
    classes = logits["stage1_lobes"].shape[1]
    batches = {"stage1": label.shape[0], "stage2": starts.shape[0] * starts.shape[1]}
    for name, values in logits.items():
        stage, branch = name.split("_")
        size = logits[f"{stage}_lobes"].shape[2:]
        expected = (batches[stage], classes if branch == "lobes" else 1, *size)
        if len(size) != 3 or tuple(values.shape) != expected:
            raise ValueError(f"{name} has shape {tuple(values.shape)}, which does not fit {expected}.")
    limits = torch.tensor(scan, device=starts.device) - torch.tensor(logits["stage2_lobes"].shape[2:]).to(starts)
    if bool((starts < 0).any()) or bool((starts > limits).any()):
        raise ValueError(
            f"starts must be from 0 to {limits.tolist()}: a crop reaches beyond the scan of size {tuple(scan)}."
        )
    if float(label.max()) >= classes or float(label.min()) < 0:
        raise ValueError(
            f"label has values {float(label.min()):g} to {float(label.max()):g}; the network has 0 to {classes - 1}."
        )
