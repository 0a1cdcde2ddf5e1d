"""Clipping of gradients before each step of the optimizer."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine

__all__ = ["ClipGradients"]


class ClipGradients:
    """Scale the gradients down to a largest norm, over all parameters, before the optimizer makes a step.

    MONAI has an event for the end of a backward pass, but with accumulated gradients several of these make a step.

    Args:
        optimizer: the optimizer.
        max_norm: largest Euclidean norm of all gradients together.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import ClipGradients
        >>> weight = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> ClipGradients(optimizer, max_norm=1.0).attach(Engine(lambda engine, batch: None))
        >>> weight.grad = torch.tensor([30.0, 40.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.6000, -0.8000])
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        self.optimizer = optimizer
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: the trainer; the handler waits for the optimizer's steps, not for its events.
        """
        self.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
