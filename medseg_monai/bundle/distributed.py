"""Training in several processes: a process group that leaves no thread behind."""

from __future__ import annotations

import gc

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["end_process_group", "start_process_group"]


def start_process_group(backend: str) -> None:
    """Join the processes that ``torchrun`` started; see :func:`end_process_group`.

    Args:
        backend: ``"nccl"`` or ``"gloo"``.
    """
    # some of its modules keep the group of all processes, if there is one, as the default of an argument, and
    # DistributedDataParallel imports it
    import torch._dynamo

    torch.distributed.init_process_group(backend)


def end_process_group(network: DistributedDataParallel) -> None:
    """Leave the processes together, and end the group's threads before Python ends.

    A thread of gloo that frees a tensor when Python is ending is stopped by Python in the middle of C++ code, which
    aborts the process ("terminate called without an active exception") after all its work was done; ``torchrun`` then
    kills the others. ``destroy_process_group`` ends the threads only if nothing refers to the group any more, so the
    network's references go first.

    Args:
        network: the wrapped network; it cannot be used afterwards.

    Source: pytorch/pytorch#179291, a proposal that was abandoned.
    """
    torch.distributed.barrier()
    for name in ("reducer", "logger", "process_group"):
        delattr(network, name)
    torch.distributed.destroy_process_group()
    gc.collect()
