"""The batch of CTSU-Net's training step: the network needs the label to choose its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import default_prepare_batch

__all__ = ["prepare_two_stage_batch"]


def prepare_two_stage_batch(
    batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, Any]]:
    """Give the network the label beside the image; for ``prepare_batch`` of MONAI's ``SupervisedTrainer``.

    Args:
        batch: items collated, with ``image`` and ``label``.
        device: where to put them.
        non_blocking: whether the copy may overlap with other work.
        kwargs: further options of :meth:`torch.Tensor.to`.

    Returns:
        image, target of the loss, the network's further arguments, and its keyword arguments.

    Raises:
        ValueError: a batch without label.
    """
    if "label" not in batch:
        raise ValueError("Training CTSU-Net needs labels: give every item of the data list's section a 'label'.")
    image, label = default_prepare_batch(batch, device, non_blocking, **kwargs)
    return image, label, (label,), {}
