"""The share of the scan on which the second stage is trained, epoch by epoch."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medseg_monai.handlers import CoverageSchedule


class Mining(nn.Module):
    """A network whose training has a coverage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.coverage = 0.5


class Wrapper(nn.Module):
    """What a distributed training makes of a network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def coverages(network: Mining, handler: CoverageSchedule, *, epochs: int, done: int = 0) -> list[float]:
    """The coverage in each epoch's iterations, after ``done`` epochs of an earlier run."""
    seen: list[float] = []
    engine = Engine(lambda *_: seen.append(network.coverage))
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", done))
    handler.attach(engine)
    engine.run([0], max_epochs=epochs)
    return seen


def test_it_falls_linearly_from_the_first_to_the_last_epoch():
    network = Mining()
    assert coverages(network, CoverageSchedule(network, 5), epochs=5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_ends_are_those_asked_for_and_the_last_one_stays():
    network = Mining()
    handler = CoverageSchedule(network, 3, start=0.9, end=0.5)
    assert coverages(network, handler, epochs=5) == pytest.approx([0.9, 0.7, 0.5, 0.5, 0.5])


def test_a_resumed_training_goes_on_where_it_was():
    network = Mining()
    assert coverages(network, CoverageSchedule(network, 5), epochs=5, done=3) == pytest.approx([0.4, 0.2])


def test_a_training_of_one_epoch_covers_what_the_first_one_does():
    network = Mining()
    assert coverages(network, CoverageSchedule(network, 1), epochs=1) == [1.0]


def test_the_network_below_a_wrapper_is_set():
    network = Mining()
    wrapper = Wrapper(network)
    assert coverages(network, CoverageSchedule(wrapper, 2), epochs=2) == pytest.approx([1.0, 0.2])
    assert not hasattr(wrapper, "coverage")


def test_a_network_without_coverage_and_wrong_options_are_refused():
    with pytest.raises(ValueError, match="Linear has no coverage to set"):
        CoverageSchedule(nn.Linear(1, 1), 3)
    with pytest.raises(ValueError, match="epochs must be positive, got 0"):
        CoverageSchedule(Mining(), 0)
    for shares in ({"start": 1.1}, {"end": 0.0}):
        with pytest.raises(ValueError, match="start and end must be above 0 and at most 1"):
            CoverageSchedule(Mining(), 3, **shares)
