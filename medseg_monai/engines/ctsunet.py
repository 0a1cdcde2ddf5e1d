"""The batch of a training step of CTSU-Net, which needs the label to choose its patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import default_prepare_batch

__all__ = ["prepare_two_stage_batch"]


def prepare_two_stage_batch(
    batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, Any]]:
    """Pass the label to the network together with the image; for ``prepare_batch`` of MONAI's ``SupervisedTrainer``.

    Args:
        batch: collated items with ``image`` and ``label``.
        device: device to move them to.
        non_blocking: whether the copy may overlap with other work.
        kwargs: further options of :meth:`torch.Tensor.to`.

    Returns:
        the image, the target of the loss, the network's further arguments, and its keyword arguments.

    Raises:
        ValueError: the batch has no label.

    Example:
        >>> import torch
        >>> from medseg_monai.engines import prepare_two_stage_batch
        >>> batch = {"image": torch.zeros(1, 1, 32, 48, 32), "label": torch.ones(1, 1, 32, 48, 32)}
        >>> image, target, arguments, keywords = prepare_two_stage_batch(batch)
        >>> arguments[0] is target, keywords  # the trainer calls network(image, *arguments, **keywords)
        (True, {})
    """
    if "label" not in batch:
        raise ValueError("Training CTSU-Net needs labels: give every item of the data list's section a 'label'.")
    image, label = default_prepare_batch(batch, device, non_blocking, **kwargs)
    return image, label, (label,), {}
