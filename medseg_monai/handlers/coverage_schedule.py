"""Online hard example mining that narrows from the whole scan to its hardest part."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["CoverageSchedule"]


class CoverageSchedule:
    """Lower the share of the scan that the second stage is trained on, linearly over the epochs.

    The handler sets ``network.coverage`` at the start of every epoch: to ``start`` in the first, and to ``end`` in the
    last and any later ones. The value depends only on the number of the epoch, so a resumed training continues where it
    was.

    Args:
        network: network with an attribute ``coverage``; a ``DistributedDataParallel`` wrapper is removed.
        epochs: number of epochs of the training.
        start: share of the patches in the first epoch.
        end: share of the patches in the last epoch.

    Raises:
        ValueError: the network has no such attribute, there are no epochs, or a share is not above 0 and at most 1.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine, Events
        >>> from medseg_monai.handlers import CoverageSchedule
        >>> network = torch.nn.Identity()
        >>> network.coverage = 1.0  # as in CTSUNet
        >>> trainer = Engine(lambda engine, batch: None)  # stands for MONAI's SupervisedTrainer
        >>> CoverageSchedule(network, epochs=5).attach(trainer)
        >>> shares = []
        >>> _ = trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: shares.append(round(network.coverage, 2)))
        >>> _ = trainer.run([0], max_epochs=5)
        >>> shares
        [1.0, 0.8, 0.6, 0.4, 0.2]

    Source: Xie et al., "CTSU-Net", IEEE TMI 2020, Section III-D: "K is set to 1.0 such that all patches are used to
    train at the beginning and continuously reduced until it reaches a coverage of only approximately 20% of the scan".
    The paper does not say along which curve.
    """

    def __init__(self, network: nn.Module, epochs: int, *, start: float = 1.0, end: float = 0.2) -> None:
        self.network: nn.Module = getattr(network, "module", network)
        if not hasattr(self.network, "coverage"):
            raise ValueError(f"{type(self.network).__name__} has no coverage to set; leave CoverageSchedule out.")
        if epochs < 1:
            raise ValueError(f"epochs must be positive, got {epochs}.")
        if not (0 < start <= 1 and 0 < end <= 1):
            raise ValueError(f"start and end must be above 0 and at most 1, got {start} and {end}.")
        self.epochs = epochs
        self.start = start
        self.end = end

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: trainer of the network.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the coverage of the epoch that starts."""
        done = min(1.0, (engine.state.epoch - 1) / max(1, self.epochs - 1))
        self.network.coverage = self.start + (self.end - self.start) * done
