"""Weights of a bundle: loaded whole or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from medseg_monai.networks.fast import optimize_for_inference
from medseg_monai.networks.state_dict import as_state_dict, check_fits, file_sha256, read_tensors

from .loader import BundleError

__all__ = ["file_sha256", "load_network", "read_state_dict"]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the state dict of a model file.

    Args:
        path: ``{"model": state dict, …}``, as ``medseg train`` and MONAI write it, or a plain state dict.

    Raises:
        BundleError: the file is missing, or holds something else.
    """
    if not Path(path).is_file():
        raise BundleError(
            f"{path}: no weights here; train the bundle, or give a file: checkpoint=FILE or medseg's --checkpoint FILE."
        )
    try:
        content = read_tensors(path)
        return as_state_dict(content.get("model", content) if isinstance(content, Mapping) else content, path)
    except ValueError as error:
        raise BundleError(str(error)) from error


def load_network(
    network_def: nn.Module,
    checkpoint: str | os.PathLike[str],
    device: torch.device | str,
    *,
    fast: bool = True,
) -> nn.Module:
    """Load weights into a network and make it ready to predict.

    Args:
        network_def: network as its bundle defines it; changed in place.
        checkpoint: file that :func:`read_state_dict` reads.
        device: where to put the network.
        fast: use the fastest form that stays exact to 1e-4 (see :mod:`medseg_monai.networks.fast`).

    Returns:
        the network in eval mode on ``device``.

    Raises:
        BundleError: the file is missing or unreadable, or fits the network only in part.
    """
    state = read_state_dict(checkpoint)
    try:
        check_fits(state, network_def.state_dict(), network=type(network_def).__name__, source=checkpoint)
    except ValueError as error:
        raise BundleError(str(error)) from error
    network_def.load_state_dict(state)
    network = network_def.to(device).eval()
    return optimize_for_inference(network) if fast else network
