"""Training in several processes, with a process group that leaves no thread behind."""

from __future__ import annotations

import gc
import os

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["end_process_group", "is_first_process", "start_process_group"]


def is_first_process() -> bool:
    """Whether this process is the only one of a training or the first of those that ``torchrun`` started.

    Other than ``torch.distributed``, it knows before the processes have joined.
    """
    return os.environ.get("RANK", "0") == "0"


def start_process_group(backend: str) -> None:
    """Join the processes that ``torchrun`` started; see :func:`end_process_group`.

    Args:
        backend: ``"nccl"`` or ``"gloo"``.

    Example:
        In a script that ``torchrun`` starts, as a bundle's ``multi_gpu_train.json`` does:

        >>> from medseg_monai.bundle import start_process_group
        >>> start_process_group("nccl")  # doctest: +SKIP
    """
    # some of its modules store the group of all processes, if there is one, as the default of an argument, and
    # DistributedDataParallel imports it
    import torch._dynamo

    torch.distributed.init_process_group(backend)


def end_process_group(network: DistributedDataParallel) -> None:
    """Wait for the other processes, leave the group, and end its threads before Python ends.

    If a thread of gloo frees a tensor while Python is ending, Python stops the thread in the middle of C++ code. This
    aborts the process ("terminate called without an active exception") although all its work was done, and ``torchrun``
    then kills the other processes. ``destroy_process_group`` ends the threads only if nothing refers to the group any
    more, so the references of the network are deleted first.

    Args:
        network: the wrapped network; it cannot be used afterwards.

    Example:
        At the end of a script that ``torchrun`` started:

        >>> from medseg_monai.bundle import end_process_group
        >>> end_process_group(network)  # doctest: +SKIP

    Source: pytorch/pytorch#179291, a proposal that was abandoned.
    """
    torch.distributed.barrier()
    for name in ("reducer", "logger", "process_group"):
        delattr(network, name)
    torch.distributed.destroy_process_group()
    gc.collect()
