"""Checkpoints of a training, written atomically and resumed exactly."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from medseg_monai.files import locked_folder, one_line
from medseg_monai.networks.weights import write_model
from medseg_monai.networks.weights.model_file import check_settings_file, restore_settings
from medseg_monai.networks.weights.state_dict import (
    as_state_dict,
    check_finite,
    check_fits,
    read_tensors,
    save_atomically,
)

from .early_stop import EarlyStop
from .training_precision import TrainingPrecision
from .weight_average import WeightAverage

__all__ = ["CHECKPOINT_NAME", "MODEL_NAME", "TrainingState"]

#: file with everything that a resumed training needs; it is overwritten each epoch
CHECKPOINT_NAME = "checkpoint.pt"
#: file with the weights to predict with: the best on the validation data, or the latest if nothing was validated yet
MODEL_NAME = "model.pt"

logger = logging.getLogger(__name__)

# what every version has written into a checkpoint
_ALWAYS = ("network", "optimizer", "lr_scheduler", "epoch", "iteration", "best_metric", "best_epoch")


class TrainingState:
    """Save the state of a training after each epoch, keep the best model, and restore the state on request.

    ``checkpoint.pt`` holds the network, the optimizer, the learning rate scheduler, the scale of mixed precision, the
    trainer's counters and metrics, the best metric, the count of early stopping, the precision, the average of the
    weights and the settings. With :class:`~medseg_monai.handlers.EpochSeed` no random state has to be kept.
    ``model.pt`` is written by :func:`medseg_monai.networks.weights.write_model`.

    In a distributed training every process restores the state, and the first one saves it. It has the folder for itself
    until the training has completed or :meth:`release` is called.

    MONAI's ``CheckpointSaver`` writes in place (``atomic=False``), so a kill during the write loses the training.

    Args:
        output_dir: folder of the run.
        network: network in training; a ``DistributedDataParallel`` wrapper is removed.
        optimizer: its optimizer.
        lr_scheduler: its learning rate scheduler.
        validator: evaluator whose key metric decides which model is kept (larger is better). ``None`` keeps the latest,
            and so do the epochs before the first validation.
        early_stop: handler that ends the training early; it is attached together with this handler and must not be
            among those of the trainer.
        precision: handler that chooses the precision, which a resumed training keeps; attached in the same way.
        average: handler whose averaged weights are the ones to predict with; attached in the same way.
        settings: values that prediction needs to treat images as training did, saved beside the weights.
        resume: whether to restore ``checkpoint.pt`` before the first epoch.

    Raises:
        BlockingIOError: at the start, if another training is at work in the folder.
        FileNotFoundError: at the start, if ``resume`` is set and there is no checkpoint.
        ValueError: at the start, if ``resume`` is set and the checkpoint is damaged or belongs to another network.
        FileExistsError: at the start, if ``resume`` is not set and the folder already holds a training.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ignite.engine import Engine, Events
        >>> from medseg_monai.handlers import TrainingState
        >>> from medseg_monai.networks.weights import ModelFile
        >>> network = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(network.parameters())
        >>> scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        >>> def train(folder, epochs, resume):
        ...     trainer = Engine(lambda engine, batch: None)  # stands for MONAI's SupervisedTrainer
        ...     state = TrainingState(folder, network, optimizer, scheduler, settings={"size": 96}, resume=resume)
        ...     state.attach(trainer)
        ...     trainer.add_event_handler(Events.EPOCH_STARTED, lambda: print("epoch", trainer.state.epoch))
        ...     trainer.run([0], max_epochs=epochs)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train(folder, epochs=2, resume=False)
        ...     train(folder, epochs=3, resume=True)
        ...     ModelFile(f"{folder}/model.pt").settings
        epoch 1
        epoch 2
        epoch 3
        {'size': 96}
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        *,
        validator: Evaluator | None = None,
        early_stop: EarlyStop | None = None,
        precision: TrainingPrecision | None = None,
        average: WeightAverage | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.network: nn.Module = getattr(network, "module", network)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.validator = validator
        self.early_stop = early_stop
        self.precision = precision
        self.average = average
        self.settings = dict(settings or {})
        self.resume = resume
        self.best_metric: float | None = None
        self.best_epoch = 0
        self._owned = ExitStack()

    def attach(self, engine: Engine) -> None:
        """Register the handler; this must be done after the handlers that validate and that step the scheduler.

        Args:
            engine: trainer.
        """
        engine.add_event_handler(Events.STARTED, self.restore)
        # before saving, so that the epoch that ends the training is saved as the last
        for handler in (self.precision, self.average, self.early_stop):
            if handler is not None:
                handler.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.release)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def release(self) -> None:
        """Let others write into the folder."""
        self._owned.close()

    def _fail(self, error: Exception) -> None:
        self.release()
        raise error  # which the engine leaves to its handlers

    def restore(self, engine: Engine) -> None:
        """Load ``checkpoint.pt`` into the objects of this training if ``resume`` is set.

        Args:
            engine: trainer whose epoch and iteration counters are set.
        """
        if _is_first():
            self._owned.enter_context(locked_folder(self.output_dir, "a training"))
        path = self.output_dir / CHECKPOINT_NAME
        if not self.resume:
            if path.exists():
                raise FileExistsError(f"{path}: a training was run here; resume it, or choose another output_dir.")
            check_settings_file(self.output_dir / MODEL_NAME)
            return
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no checkpoint to resume from.")
        state = _read_checkpoint(path)
        check_fits(state["network"], self.network.state_dict(), network=type(self.network).__name__, source=path)
        with one_line(f"{path}: the checkpoint of another training, or damaged; resume from a copy, or train anew."):
            self._load(state, engine)
        if (self.output_dir / MODEL_NAME).is_file() and state.get("settings"):
            restore_settings(self.output_dir / MODEL_NAME, state["settings"])
        logger.info("Resumed %s after epoch %d.", path, state["epoch"])

    def _load(self, state: Mapping[str, Any], engine: Engine) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if state.get("scaler") and getattr(engine, "scaler", None):
            engine.scaler.load_state_dict(state["scaler"])
        if self.early_stop is not None and state.get("early_stop"):
            self.early_stop.load_state_dict(state["early_stop"])
        if self.precision is not None:
            self.precision.load_state_dict(state.get("precision", {}))
        if self.average is not None and state.get("average"):
            self.average.load_state_dict(state["average"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        engine.state.metrics.update(state.get("metrics", {}))
        self.best_metric = state["best_metric"]
        self.best_epoch = state["best_epoch"]

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of the epoch that has ended, and the model if it is the best so far.

        Args:
            engine: trainer.
        """
        if not _is_first():
            return
        epoch = engine.state.epoch
        if self._improved(epoch):
            self.best_epoch = epoch
            predicting = self.network if self.average is None else self.average.network
            write_model(self.output_dir / MODEL_NAME, predicting.state_dict(), self.settings)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": engine.scaler.state_dict() if getattr(engine, "scaler", None) else {},
            "early_stop": self.early_stop.state_dict() if self.early_stop is not None else {},
            "precision": self.precision.state_dict() if self.precision is not None else {},
            "average": self.average.state_dict() if self.average is not None else {},
            "epoch": epoch,
            "iteration": engine.state.iteration,
            "metrics": {name: value for name, value in engine.state.metrics.items() if isinstance(value, (int, float))},
            "best_metric": self.best_metric,
            "best_epoch": self.best_epoch,
            "settings": self.settings,
        }
        save_atomically(state, self.output_dir / CHECKPOINT_NAME)

    def _improved(self, epoch: int) -> bool:
        if self.validator is None:
            return True
        unvalidated = self.best_metric is None
        validation = self.validator.state
        if validation.epoch != epoch or validation.key_metric_name not in validation.metrics:
            return unvalidated
        metric = float(validation.metrics[validation.key_metric_name])
        if math.isnan(metric):
            return unvalidated
        if self.best_metric is not None and metric <= self.best_metric:
            return False
        self.best_metric = metric
        return True


def _is_first() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and refuse one that no training can go on from."""
    content = read_tensors(path)
    absent = [key for key in _ALWAYS if not isinstance(content, Mapping) or key not in content]
    if absent:
        raise ValueError(
            f"{path}: not the checkpoint of a training (no {', '.join(absent)}); resume from a copy of it."
        )
    check_finite(_tensors_in(content["optimizer"], "optimizer"), path)
    return {**content, "network": as_state_dict(content["network"], path)}


def _tensors_in(content: Any, name: str) -> dict[str, torch.Tensor]:
    """The tensors in nested mappings and lists, by their places."""
    if isinstance(content, torch.Tensor):
        return {name: content}
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content if isinstance(content, list) else [])
    return {place: tensor for key, one in pairs for place, tensor in _tensors_in(one, f"{name}.{key}").items()}
