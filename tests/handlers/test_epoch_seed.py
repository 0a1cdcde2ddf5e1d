"""Every epoch is a function of the seed and of its number."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, DistributedSampler

from medseg_monai.handlers import EpochSeed

from .toy import CASES, cases, loader

Batches = list[list[torch.Tensor]]


def record(epochs: int, *, seed: int = 3, num_workers: int = 0, done: int = 0) -> Batches:
    """The images of each epoch as the trainer sees them, from epoch ``done + 1`` on, after another history."""
    torch.manual_seed(100 + done)
    np.random.seed(100 + done)  # noqa: NPY002 - what ran before must not matter
    seen: Batches = []
    batches = loader(num_workers=num_workers)

    def iterate(engine: Engine, batch: dict[str, torch.Tensor]) -> None:
        seen[-1].append(batch["image"].as_tensor())

    engine = Engine(iterate)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", done))
    EpochSeed(seed).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda _: seen.append([]))
    engine.run(batches, max_epochs=epochs)
    return seen


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_resumed_at_an_epoch_sees_what_an_uninterrupted_one_sees(num_workers):
    straight = record(3, num_workers=num_workers)
    resumed = record(3, num_workers=num_workers, done=2)
    assert len(resumed) == 1
    assert same(resumed[0], straight[2])


def by_case(epoch: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """The drawn images by the case that each is nearest to, flipped or not, in the order of the epoch."""
    drawn: dict[int, torch.Tensor] = {}
    for image in torch.cat(epoch):
        distances = [
            min(float((image - view).square().mean()) for view in (case["image"], case["image"].flip(2)))
            for case in cases()
        ]
        drawn[int(torch.tensor(distances).argmin())] = image
    return drawn


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_differ_in_their_order_and_in_their_random_transforms(num_workers):
    epochs = [by_case(epoch) for epoch in record(4, num_workers=num_workers)]
    assert all(set(epoch) == set(range(CASES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    for case in range(CASES):
        assert len({tuple(epoch[case].flatten().tolist()) for epoch in epochs}) > 1


def test_another_seed_gives_another_epoch():
    assert not same(record(1)[0], record(1, seed=4)[0])


def test_the_same_seed_gives_the_same_epochs():
    assert all(same(a, b) for a, b in zip(record(2), record(2), strict=True))


def draws_at(epoch: int) -> tuple[float, float, float]:
    engine = Engine(lambda *_: None)
    engine.state.dataloader = loader()
    engine.state.epoch = epoch
    EpochSeed(3)(engine)
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - the global generator


def test_python_numpy_and_pytorch_draw_by_the_epoch():
    first = draws_at(5)
    assert draws_at(5) == first
    assert all(a != b for a, b in zip(draws_at(6), first, strict=True))


def test_the_processes_of_a_distributed_training_draw_differently_from_a_common_order(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    draws, orders = [], []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        data = Dataset(list(range(6)))
        sampler = DistributedSampler(data, shuffle=True, num_replicas=2, rank=rank)
        engine = Engine(lambda *_: None)
        engine.state.dataloader = DataLoader(data, sampler=sampler)
        epochs = []
        for epoch in (1, 2):
            engine.state.epoch = epoch
            EpochSeed(3)(engine)
            draws.append(float(torch.rand(())))
            epochs.append(list(sampler))
        orders.append(epochs)
    assert len(set(draws)) == 4
    for epoch in (0, 1):
        assert sorted(orders[0][epoch] + orders[1][epoch]) == list(range(6))
    assert orders[0][0] != orders[0][1]
