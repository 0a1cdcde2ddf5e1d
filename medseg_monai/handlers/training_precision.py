"""Mixed precision of a training on a CPU and on CUDA, chosen by the time of a step."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.utils import apply_to_tensor

__all__ = ["TrainingPrecision"]

_LOGGER = logging.getLogger(__name__)

#: part of float32's time that a step in bfloat16 may take and be worth the digits that it loses
_WORTH = 0.9
_TIMED_STEPS = 2


class TrainingPrecision:
    """Run the network of a MONAI trainer in bfloat16, always, never, or where that is faster.

    MONAI's ``amp`` is float16 on CUDA and nothing on a CPU. bfloat16 has the exponents of float32, so that no gradient
    has to be scaled. The weights, the loss and the optimizer stay in float32: the outputs of the network are converted
    before the loss sees them. On a card without bfloat16, ``amp=True`` is MONAI's float16 with its scaler.

    ``"auto"`` times steps (forward and backward) of a copy of the network in both precisions on the first batch, and
    changes nothing else: neither the weights nor the random numbers that follow. The processes of a distributed
    training all do as the first. A resumed training keeps the precision that it began with.

    Args:
        amp: ``True``, ``False`` or ``"auto"``.

    Attributes:
        used: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``None`` before the first step. The trainer's state has it
            too, as ``precision``.

    Raises:
        ValueError: ``amp`` is something else.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedTrainer
        >>> from medseg_monai.handlers import TrainingPrecision
        >>> network = torch.nn.Conv2d(1, 2, kernel_size=1)
        >>> precision = TrainingPrecision(amp=True)
        >>> trainer = SupervisedTrainer(
        ...     device=torch.device("cpu"),
        ...     max_epochs=1,
        ...     train_data_loader=[{"image": torch.ones(1, 1, 6, 8), "label": torch.zeros(1, 2, 6, 8)}],
        ...     network=network,
        ...     optimizer=torch.optim.SGD(network.parameters()),
        ...     loss_function=torch.nn.MSELoss(),
        ...     train_handlers=[precision],
        ... )
        >>> trainer.run()
        >>> precision.used, trainer.state.output[0]["pred"].dtype
        ('bfloat16', torch.float32)
    """

    def __init__(self, amp: bool | str = "auto") -> None:
        if amp not in (True, False, "auto"):
            raise ValueError(f"amp={amp!r}: expected true, false or auto.")
        self.amp = amp
        self.used: str | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: MONAI's ``SupervisedTrainer``.
        """
        device = engine.state.device
        if self.amp is True and device.type == "cuda" and not _has_bfloat16(device):
            engine.amp = True  # before the engine runs, since that is when MONAI makes the scaler of the gradients
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)

    def state_dict(self) -> dict[str, str | None]:
        """What a resumed training must know."""
        return {"used": self.used}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        """Take over the precision of the training that is resumed, unless ``amp`` states one.

        Args:
            state: of :meth:`state_dict`; empty for a training from before this handler, which was in float32.
        """
        if self.amp == "auto":
            self.used = state.get("used") or "float32"

    def _begin(self, engine: Engine) -> None:
        if hasattr(engine.state, "precision"):  # set before the first step; a resumed training's is another number
            return
        if engine.amp:
            self.used = "float16"
        elif self.amp != "auto":
            self.used = "bfloat16" if self.amp else "float32"
        elif self.used is None:
            self.used = "bfloat16" if _is_worth_it(engine) else "float32"
        if self.used == "bfloat16":
            engine.inferer = _InBfloat16(engine.inferer, engine.state.device)
        engine.state.precision = self.used
        _LOGGER.info("Training in %s.", self.used)


class _InBfloat16:
    """An inferer under autocast, with outputs in float32."""

    def __init__(self, inferer: Callable[..., Any], device: torch.device) -> None:
        self.inferer = inferer
        self.device_type = device.type

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            outputs = self.inferer(*args, **kwargs)
        return apply_to_tensor(outputs, lambda output: output.float() if output.is_floating_point() else output)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than converts each value."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_worth_it(engine: Engine) -> bool:
    """Whether a step in bfloat16 is faster; all processes get the answer of the first."""
    ratio = _ratio_of_times(engine) if _has_bfloat16(engine.state.device) else math.inf
    ratio = float(idist.broadcast(ratio, src=0)) if idist.get_world_size() > 1 else ratio
    return ratio < _WORTH


def _ratio_of_times(engine: Engine) -> float:
    """Time of a step in bfloat16 over that in float32."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    network = copy.deepcopy(getattr(engine.network, "module", engine.network)).train()
    with _same_random_numbers(engine.state.device):
        for _ in range(1 + _TIMED_STEPS):  # the first ones prepare kernels and memory
            for lower, taken in seconds.items():
                taken.append(_step_seconds(engine, network, lower=lower))
    ratio = min(seconds[True][1:]) / min(seconds[False][1:])
    _LOGGER.info("A step in bfloat16 takes %.2f of the time in float32.", ratio)
    return ratio


def _step_seconds(engine: Engine, network: torch.nn.Module, *, lower: bool) -> float:
    """Time of a forward and a backward pass; on a processor that of its own work, whatever else the machine does."""
    device = engine.state.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    inferer = _InBfloat16(engine.inferer, device) if lower else engine.inferer
    inputs, targets, *further = engine.prepare_batch(
        engine.state.batch, device, engine.non_blocking, **engine.to_kwargs
    )
    args, kwargs = further or ((), {})
    network.zero_grad()
    start = clock()
    engine.loss_function(inferer(inputs, network, *args, **kwargs), targets).mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _same_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
