"""Early stopping that a resumed training takes up where it was."""

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

    As in Keras, the training ends with the ``patience``-th validation in a row that is no better than the best before,
    by however little. An undefined metric is none that is better.

    :class:`~medseg_monai.handlers.TrainingState` attaches it, behind the handler that validates, and saves its state.

    MONAI's ``EarlyStopHandler`` has no state, so that a resumed training would wait anew; and as a handler of the
    validation it has to be told the trainer, which a config cannot: the trainer is made from the validation.

    Args:
        validator: evaluator whose key metric is watched (larger is better).
        patience: number of validations.

    Raises:
        ValueError: for a patience below 1.
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
        """The best metric, and the number of validations since."""
        return dict(self.stopping.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; a training that had waited long enough is ended at once.

        Args:
            state: what :meth:`state_dict` returned.
        """
        self.stopping.load_state_dict(state)
        if self.stopping.counter >= self.patience:
            self.stopping.trainer.terminate()

    def _score(self) -> float:
        state = self.validator.state
        score = float(state.metrics[state.key_metric_name])
        return -math.inf if math.isnan(score) else score
