"""Mixed precision: what is chosen, what stays in float32, and that choosing changes nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from medseg_monai.handlers import CHECKPOINT_NAME, TrainingPrecision
from medseg_monai.handlers import training_precision as module

from .toy import make_toy


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[bool, float]:
    """Seconds of a step in bfloat16 (``True``) and in float32, which the clock then says."""
    seconds = {True: 1.0, False: 1.0}
    step = module._step_seconds
    monkeypatch.setattr(module, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(module, "_step_seconds", lambda *args, lower: (step(*args, lower=lower), seconds[lower])[1])
    return seconds


@pytest.mark.parametrize(("lower", "used"), [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_auto_takes_what_is_clearly_faster(tmp_path: Path, timed: dict[bool, float], lower: float, used: str):
    timed[True] = lower
    toy = make_toy(tmp_path, max_epochs=1, amp="auto")
    toy.trainer.run()
    assert toy.state.precision.used == used


def test_a_step_is_timed_by_the_work_of_the_processor_not_by_the_clock_on_the_wall(tmp_path: Path):
    toy = make_toy(tmp_path, max_epochs=1, amp=False)
    taken: list[float] = []

    def wait(inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        time.sleep(0.5)  # as if the machine did something else
        return network(inputs)

    def time_a_step(engine: Engine) -> None:
        engine.inferer = wait
        taken.append(module._step_seconds(engine, engine.network, lower=False))
        engine.terminate()

    toy.trainer.add_event_handler(Events.ITERATION_STARTED, time_a_step)
    toy.trainer.run()
    assert taken[0] < 0.4


def test_auto_is_float32_where_no_bfloat16_is(tmp_path: Path, timed: dict[bool, float], monkeypatch):
    timed[True] = 0.1
    monkeypatch.setattr(module, "_has_bfloat16", lambda device: False)
    toy = make_toy(tmp_path, max_epochs=1, amp="auto")
    toy.trainer.run()
    assert toy.state.precision.used == "float32"


@pytest.mark.parametrize("amp", [True, False])
def test_choosing_changes_neither_weights_nor_random_numbers(tmp_path: Path, timed: dict[bool, float], amp: bool):
    timed[True] = 0.5 if amp else 2.0
    told = make_toy(tmp_path / "told", max_epochs=2, amp=amp)
    chosen = make_toy(tmp_path / "chosen", max_epochs=2, amp="auto")
    told.trainer.run()
    chosen.trainer.run()
    for name, value in told.network.state_dict().items():
        assert torch.equal(value, chosen.network.state_dict()[name]), name


def test_in_bfloat16_weights_outputs_and_gradients_stay_in_float32(tmp_path: Path):
    toy = make_toy(tmp_path, max_epochs=1, amp=True)
    in_the_network: list[torch.dtype] = []
    toy.network.body[0].register_forward_hook(lambda layer, _, output: in_the_network.append(output.dtype))
    outputs: list[torch.dtype] = []
    toy.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: outputs.extend(one["pred"].dtype for one in engine.state.output)
    )
    toy.trainer.run()
    assert in_the_network[0] == torch.bfloat16
    assert set(outputs) == {torch.float32}
    assert {one.dtype for one in toy.network.parameters()} == {torch.float32}
    assert {one.grad.dtype for one in toy.network.parameters()} == {torch.float32}


def test_a_resumed_training_keeps_what_was_chosen(tmp_path: Path, timed: dict[bool, float]):
    timed[True] = 0.5
    make_toy(tmp_path, max_epochs=1, amp="auto").trainer.run()
    timed[True] = 2.0
    toy = make_toy(tmp_path, max_epochs=2, amp="auto", resume=True)
    toy.trainer.run()
    assert toy.state.precision.used == "bfloat16"


def test_a_training_from_before_stays_in_float32(tmp_path: Path, timed: dict[bool, float]):
    timed[True] = 0.5
    make_toy(tmp_path, max_epochs=1).trainer.run()
    state = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    del state["precision"], state["average"]
    torch.save(state, tmp_path / CHECKPOINT_NAME)
    toy = make_toy(tmp_path, max_epochs=2, amp="auto", resume=True)
    toy.trainer.run()
    assert toy.state.precision.used == "float32"


def test_a_value_that_is_none_of_three_is_refused():
    with pytest.raises(ValueError, match="amp='fast': expected true, false or auto"):
        TrainingPrecision("fast")
