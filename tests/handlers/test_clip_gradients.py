"""Clipping happens once a step, over what was accumulated."""

from __future__ import annotations

from pathlib import Path

import torch

from .toy import Toy, make_toy


def norms_at_steps(toy: Toy) -> list[float]:
    """Run a training; the norm of all gradients when the optimizer makes a step."""
    found: list[float] = []

    def note(*_: object) -> None:
        found.append(float(torch.nn.utils.get_total_norm([one.grad for one in toy.network.parameters()])))

    toy.optimizer.register_step_pre_hook(note)
    toy.trainer.run()
    return found


def test_no_step_has_a_larger_norm(tmp_path: Path):
    free = norms_at_steps(make_toy(tmp_path / "free", max_epochs=1))
    clipped = norms_at_steps(make_toy(tmp_path / "clipped", max_epochs=1, max_grad_norm=0.01))
    assert min(free) > 0.02
    assert max(clipped) <= 0.0101


def test_accumulated_gradients_are_clipped_together(tmp_path: Path):
    """Three batches an epoch: a step after the second, and one at the end of the epoch."""
    toy = make_toy(tmp_path, max_epochs=2, max_grad_norm=0.01, accumulation_steps=2)
    norms = norms_at_steps(toy)
    assert len(norms) == 4
    assert all(0.0099 < norm <= 0.0101 for norm in norms)
