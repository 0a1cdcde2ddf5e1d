"""Exponential moving average of the weights of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Average the weights, and the statistics of batch norms, over the steps of a training.

    After each step of the optimizer ``average = decay * average + (1 - decay) * weights``; the first step sets it.
    Ignite's ``EMAHandler`` counts iterations, which are no steps where gradients are accumulated.

    Args:
        network: network in training; a ``DistributedDataParallel`` wrapper is removed.
        optimizer: its optimizer.
        decay: share of the average that a step keeps, e.g. 0.999.

    Attributes:
        network: a network of its own with the averaged weights.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import WeightAverage
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        >>> average = WeightAverage(network, optimizer, decay=0.75)
        >>> average.attach(Engine(lambda engine, batch: None))
        >>> for value in (1.0, 5.0):
        ...     _ = network.weight.data.fill_(value)
        ...     optimizer.step()
        >>> average.network.weight.item()
        2.0
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self._trained: nn.Module = getattr(network, "module", network)
        self._average = AveragedModel(self._trained, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.optimizer = optimizer
        self.network: nn.Module = self._average.module

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: the trainer; the handler waits for the optimizer's steps, not for its events.
        """
        self.optimizer.register_step_post_hook(self._update)

    def state_dict(self) -> dict[str, Any]:
        """The average, and the number of steps in it."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an average.

        Args:
            state: of :meth:`state_dict`.
        """
        self._average.load_state_dict(state)

    def _update(self, *_: Any) -> None:
        self._average.update_parameters(self._trained)
