"""Checkpoints: resumed bit for bit, kept by the key metric, never half written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from medseg_monai.handlers import CHECKPOINT_NAME, MODEL_NAME, TrainingState
from medseg_monai.handlers import training_state as module
from medseg_monai.networks.weights import ModelFile

from .toy import HEIGHT, WIDTH, Metric, Toy, make_toy


def run(toy: Toy) -> Toy:
    toy.trainer.run()
    return toy


def assert_equal(first: Any, second: Any) -> None:
    """The same nested content, tensors bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


class KeepWeights:
    """The network's weights after each epoch."""

    def __init__(self, toy: Toy) -> None:
        self.epochs: dict[int, dict[str, torch.Tensor]] = {}
        toy.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.keep, toy)

    def keep(self, engine: Any, toy: Toy) -> None:
        self.epochs[engine.state.epoch] = copy.deepcopy(toy.network.state_dict())


ALL_OPTIONS = {"amp": True, "accumulation_steps": 2, "max_grad_norm": 0.1, "ema_decay": 0.9}


@pytest.mark.parametrize("options", [{}, ALL_OPTIONS], ids=["plain", "all options"])
def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, options: dict[str, Any]):
    straight = run(make_toy(tmp_path / "straight", max_epochs=4, **options))
    run(make_toy(tmp_path / "parts", max_epochs=2, **options))
    halfway = load(tmp_path / "parts" / CHECKPOINT_NAME)
    assert halfway["epoch"] == 2
    resumed = run(make_toy(tmp_path / "parts", max_epochs=4, resume=True, **options))
    assert_equal(dict(resumed.network.state_dict()), dict(straight.network.state_dict()))
    assert_equal(resumed.optimizer.state_dict(), straight.optimizer.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == straight.optimizer.param_groups[0]["lr"] < 0.3
    assert resumed.lr_scheduler.last_epoch == straight.lr_scheduler.last_epoch == resumed.trainer.state.iteration
    assert resumed.trainer.state.iteration == straight.trainer.state.iteration
    assert (resumed.state.best_metric, resumed.state.best_epoch) == (
        straight.state.best_metric,
        straight.state.best_epoch,
    )
    for name in (CHECKPOINT_NAME, MODEL_NAME):
        assert_equal(load(tmp_path / "parts" / name), load(tmp_path / "straight" / name))
    changed = load(tmp_path / "parts" / CHECKPOINT_NAME)["network"]["head.weight"]
    assert not torch.equal(changed, halfway["network"]["head.weight"])


def test_the_model_has_the_averaged_weights_and_the_checkpoint_both(tmp_path):
    toy = run(make_toy(tmp_path, max_epochs=1, ema_decay=0.5))
    model, checkpoint = load(tmp_path / MODEL_NAME), load(tmp_path / CHECKPOINT_NAME)
    assert_equal(dict(model), dict(toy.state.average.network.state_dict()))
    assert_equal(dict(checkpoint["network"]), dict(toy.network.state_dict()))
    assert not torch.equal(model["head.weight"], checkpoint["network"]["head.weight"])


def test_a_training_resumed_with_an_average_begins_it_then(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    toy = make_toy(tmp_path, max_epochs=2, resume=True, ema_decay=0.9)
    steps: list[torch.Tensor] = []
    toy.optimizer.register_step_post_hook(lambda *_: steps.append(toy.network.head.weight.detach().clone()))
    run(toy)
    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(load(tmp_path / MODEL_NAME)["head.weight"], expected)


def test_a_training_resumed_on_a_plateau_lowers_its_rate_and_stops_as_an_uninterrupted_one(tmp_path):
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    toys = [
        make_toy(tmp_path / "straight", max_epochs=6, patience=4),
        make_toy(tmp_path / "parts", max_epochs=2, patience=4),
        make_toy(tmp_path / "parts", max_epochs=6, patience=4, resume=True),
    ]
    for toy in toys:
        Metric(toy, values)
        run(toy)
    straight, _, resumed = toys
    assert resumed.trainer.state.epoch == straight.trainer.state.epoch == 5
    assert resumed.optimizer.param_groups[0]["lr"] == straight.optimizer.param_groups[0]["lr"]
    assert straight.optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 0.2**2)
    for name in (CHECKPOINT_NAME, MODEL_NAME):
        assert_equal(load(tmp_path / "parts" / name), load(tmp_path / "straight" / name))


def test_a_checkpoint_from_before_early_stopping_is_resumed_with_an_unused_patience(tmp_path):
    run(make_toy(tmp_path, max_epochs=1, patience=2))
    state = load(tmp_path / CHECKPOINT_NAME)
    del state["early_stop"]
    torch.save(state, tmp_path / CHECKPOINT_NAME)
    toy = make_toy(tmp_path, max_epochs=4, patience=2, resume=True)
    Metric(toy, [0.9, 0.1, 0.1, 0.1])
    assert run(toy).trainer.state.epoch == 4


def test_a_finished_training_resumed_trains_no_further(tmp_path):
    run(make_toy(tmp_path, max_epochs=2))
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    toy = run(make_toy(tmp_path, max_epochs=2, resume=True))
    assert toy.trainer.state.epoch == 2
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_the_model_is_the_best_epochs_and_a_worse_one_does_not_replace_it(tmp_path):
    toy = make_toy(tmp_path, max_epochs=4)
    Metric(toy, [0.4, 0.7, 0.7, 0.5])
    kept = KeepWeights(toy)
    run(toy)
    assert (toy.state.best_metric, toy.state.best_epoch) == (0.7, 2)
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[2]))
    assert_equal(dict(load(tmp_path / CHECKPOINT_NAME)["network"]), dict(kept.epochs[4]))


def test_a_resumed_training_does_not_forget_its_best_epoch(tmp_path):
    toy = make_toy(tmp_path, max_epochs=2)
    Metric(toy, [0.9, 0.2])
    kept = KeepWeights(toy)
    run(toy)
    toy = make_toy(tmp_path, max_epochs=4, resume=True)
    Metric(toy, [0.0, 0.0, 0.8, 0.3])
    run(toy)
    assert (toy.state.best_metric, toy.state.best_epoch) == (0.9, 1)
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[1]))


def test_an_undefined_metric_never_replaces_a_model_that_was_validated(tmp_path):
    toy = make_toy(tmp_path, max_epochs=3)
    Metric(toy, [float("nan"), 0.3, float("nan")])
    kept = KeepWeights(toy)
    run(toy)
    assert (toy.state.best_metric, toy.state.best_epoch) == (0.3, 2)
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[2]))


def test_a_training_too_short_for_a_validation_leaves_its_latest_weights(tmp_path):
    toy = make_toy(tmp_path, max_epochs=2, val_interval=5)
    kept = KeepWeights(toy)
    run(toy)
    assert (toy.state.best_metric, toy.state.best_epoch) == (None, 2)
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[2]))


def test_epochs_between_validations_do_not_replace_the_model(tmp_path):
    toy = make_toy(tmp_path, max_epochs=3, val_interval=2)
    kept = KeepWeights(toy)
    run(toy)
    assert toy.state.best_epoch == 2
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[2]))


def test_without_a_validator_the_latest_weights_are_kept(tmp_path):
    toy = make_toy(tmp_path, max_epochs=2)
    toy.state.validator = None
    kept = KeepWeights(toy)
    run(toy)
    assert_equal(dict(load(tmp_path / MODEL_NAME)), dict(kept.epochs[2]))


def test_a_second_training_in_the_same_folder_is_refused_and_changes_nothing(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"checkpoint\.pt: a training was run here; resume it, or choose"):
        run(make_toy(tmp_path, max_epochs=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resuming_where_nothing_was_trained_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt: no checkpoint to resume from"):
        run(make_toy(tmp_path / "none", max_epochs=1, resume=True))


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    whole = (tmp_path / CHECKPOINT_NAME).read_bytes()
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read"):
        run(make_toy(tmp_path, max_epochs=2, resume=True))


def test_a_checkpoint_with_flipped_bytes_is_not_resumed_from(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    whole = bytearray((tmp_path / CHECKPOINT_NAME).read_bytes())
    weights = whole.index(load(tmp_path / CHECKPOINT_NAME)["network"]["body.0.weight"].numpy().tobytes())
    whole[weights + 3] ^= 0x08
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read as weights: it is damaged"):
        run(make_toy(tmp_path, max_epochs=2, resume=True))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state["network"]["head.bias"].fill_(torch.nan), r"head\.bias has values that are not finite"),
        (
            lambda state: state["optimizer"]["state"][0]["momentum_buffer"].fill_(torch.inf),
            r"optimizer\.state\.0\.momentum_buffer has values that are not finite",
        ),
        (lambda state: state.pop("iteration"), r"not the checkpoint of a training \(no iteration\)"),
        (lambda state: state.update(optimizer={"state": 3}), "the checkpoint of another training, or damaged"),
        (lambda state: state.update(network=[]), "holds no state dict"),
    ],
)
def test_a_checkpoint_that_no_training_can_go_on_from_is_refused_in_one_line(spoil, named, tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    state = load(tmp_path / CHECKPOINT_NAME)
    spoil(state)
    torch.save(state, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ValueError, match=rf"checkpoint\.pt: {named}") as error:
        run(make_toy(tmp_path, max_epochs=2, resume=True))
    assert "\n" not in str(error.value)


def test_the_checkpoint_of_another_network_is_refused_in_one_line(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    toy = make_toy(tmp_path, max_epochs=2, resume=True)
    toy.state.network = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: fits Linear only in part") as error:
        run(toy)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    run(make_toy(tmp_path, max_epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {CHECKPOINT_NAME, MODEL_NAME, "model.json"}

    def disc_is_full(content, stream):
        stream.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disc_is_full)
    with pytest.raises(OSError, match="No space left"):
        run(make_toy(tmp_path, max_epochs=2, resume=True))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_the_first_process_of_a_distributed_training_writes(tmp_path, monkeypatch):
    toy = make_toy(tmp_path, max_epochs=1)
    monkeypatch.setattr(module.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(module.torch.distributed, "get_rank", lambda: 1)
    toy.state.save(toy.trainer)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module.torch.distributed, "get_rank", lambda: 0)
    toy.state.save(toy.trainer)
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT_NAME, MODEL_NAME, "model.json"}


def test_the_scale_of_mixed_precision_is_restored(tmp_path):
    class Scaler:
        """A ``GradScaler``, which is off where there is no GPU."""

        def __init__(self, scale: float) -> None:
            self.scale = scale

        def state_dict(self) -> dict[str, float]:
            return {"scale": self.scale}

        def load_state_dict(self, state: dict[str, float]) -> None:
            self.scale = state["scale"]

    first, second = make_toy(tmp_path, max_epochs=1), make_toy(tmp_path, max_epochs=2, resume=True)
    first.trainer.scaler, second.trainer.scaler = Scaler(1024.0), Scaler(65536.0)
    first.state.save(first.trainer)
    second.state.restore(second.trainer)
    assert second.trainer.scaler.scale == 1024.0


def test_the_wrapper_of_a_distributed_network_is_taken_off(tmp_path):
    toy = make_toy(tmp_path, max_epochs=1)
    wrapped = torch.nn.DataParallel(toy.network)
    assert TrainingState(tmp_path, wrapped, toy.optimizer, toy.lr_scheduler).network is toy.network


def test_the_settings_stand_beside_the_model_and_in_the_checkpoint(tmp_path):
    run(make_toy(tmp_path, max_epochs=1))
    for name in (MODEL_NAME, CHECKPOINT_NAME):
        assert ModelFile(tmp_path / name).settings == {"image_size": [HEIGHT, WIDTH]}
