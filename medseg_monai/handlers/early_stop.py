"""Early stopping that a resumed training continues where it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import Evaluator

__all__ = ["EarlyStop"]


class EarlyStop:
    """End a training whose key metric has not risen for a number of validations.

    As in Keras, the training ends with the ``patience``-th validation in a row that is not better than the best one
    before; any improvement counts, however small. An undefined metric is never better.

    :class:`~medseg_monai.handlers.TrainingState` attaches this handler after the handler that validates, and saves its
    state.

    MONAI's ``EarlyStopHandler`` has no state, so a resumed training would start to count again. As a handler of the
    validation it also needs the trainer, which a config cannot give it, since the trainer is made from the validation.

    Args:
        validator: evaluator whose key metric is watched (larger is better).
        patience: number of validations.

    Raises:
        ValueError: the patience is below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> from ignite.engine import Engine, Events
        >>> from medseg_monai.handlers import EarlyStop
        >>> state = SimpleNamespace(epoch=0, key_metric_name="dice", metrics={})
        >>> validator = SimpleNamespace(state=state)  # stands for MONAI's SupervisedEvaluator
        >>> def validate(trainer):
        ...     state.epoch = trainer.state.epoch
        ...     state.metrics["dice"] = [0.5, 0.7, 0.6, 0.7, 0.9][trainer.state.epoch - 1]
        >>> trainer = Engine(lambda engine, batch: None)
        >>> _ = trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
        >>> EarlyStop(validator, patience=2).attach(trainer)
        >>> trainer.run([0], max_epochs=5).epoch  # the validations of epochs 3 and 4 are not better than 0.7
        4
    """

    def __init__(self, validator: Evaluator, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience must be positive, got {patience}.")
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: trainer to end.
        """
        self.stopping = EarlyStopping(self.patience, lambda _: self._score(), engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Count the validation of the epoch that ended, if there was one.

        Args:
            engine: trainer.
        """
        if self.validator.state.epoch == engine.state.epoch:
            self.stopping(engine)

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric and the number of validations since."""
        return dict(self.stopping.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; a training whose patience is used up ends at once.

        Args:
            state: state that :meth:`state_dict` returned.
        """
        self.stopping.load_state_dict(state)
        if self.stopping.counter >= self.patience:
            self.stopping.trainer.terminate()

    def _score(self) -> float:
        state = self.validator.state
        score = float(state.metrics[state.key_metric_name])
        return -math.inf if math.isnan(score) else score
