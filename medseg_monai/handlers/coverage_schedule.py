"""Online hard example mining that narrows from the whole scan to its hardest part."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["CoverageSchedule"]


class CoverageSchedule:
    """Lower the share of the scan on which the second stage is trained, linearly over the epochs.

    Sets ``network.coverage`` at the start of every epoch: ``start`` in the first and ``end`` in the last, and from then
    on. It depends on the number of the epoch alone, so that a resumed training goes on where it was.

    Args:
        network: network with an attribute ``coverage``; a ``DistributedDataParallel`` wrapper is taken off.
        epochs: number of epochs of the training.
        start: share of the patches in the first epoch.
        end: share of the patches in the last epoch.

    Raises:
        ValueError: a network without the attribute, no epoch, or a share that is not above 0 and at most 1.

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
            raise ValueError(f"start and end must lie above 0 and not above 1, got {start} and {end}.")
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
