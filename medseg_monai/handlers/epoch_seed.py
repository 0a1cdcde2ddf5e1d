"""Seeding that makes every epoch depend only on the seed and on the number of the epoch."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import set_rnd
from torch.utils.data.distributed import DistributedSampler

__all__ = ["EpochSeed"]


class EpochSeed:
    """Seed Python, NumPy, PyTorch and the data set's random transforms at the start of every epoch.

    Shuffling, augmentation and dropout of epoch ``n`` then depend only on ``seed`` and ``n``. A training that is
    resumed after epoch ``n - 1`` therefore sees exactly the same data as an uninterrupted one, without saving the state
    of any generator. This also holds with data loader workers, whose base seed is drawn from PyTorch's generator. The
    processes of a distributed training draw different numbers, and their common sampler is told the epoch.

    Args:
        seed: seed of the training.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai.data import DataLoader, Dataset
        >>> from medseg_monai.handlers import EpochSeed
        >>> def order(seed):
        ...     seen = []
        ...     trainer = Engine(lambda engine, batch: seen.extend(batch.tolist()))
        ...     EpochSeed(seed).attach(trainer)
        ...     _ = trainer.run(DataLoader(Dataset(range(100)), batch_size=10, shuffle=True))
        ...     return seen
        >>> order(seed=0) == order(seed=0), order(seed=0) == order(seed=1)
        (True, False)
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: trainer whose epochs are seeded.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the generators for the epoch that starts."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        sequence = np.random.SeedSequence([self.seed, rank, engine.state.epoch])
        value = int(sequence.generate_state(1)[0])
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002 - third-party transforms draw from the global generator
        torch.manual_seed(value)
        loader = engine.state.dataloader
        set_rnd(loader.dataset, seed=value)
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(engine.state.epoch)
