"""Weights of a bundle's network: loaded completely or refused."""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from medseg_monai.networks.blocks.channels_last_norm import use_exact_batch_norms
from medseg_monai.networks.fast import make_fast
from medseg_monai.networks.weights import ModelFile
from medseg_monai.networks.weights.resnet34 import resnet34_cache_path
from medseg_monai.networks.weights.state_dict import check_fits

from .loader import BundleError, merged_config

__all__ = ["choose_pretrained", "load_initial_weights", "load_network", "place_network"]

_LOGGER = logging.getLogger(__name__)

#: recorded of a model, but not a setting that it is predicted with
_BESIDE = {"pruning"}


def load_network(
    network_def: nn.Module,
    checkpoint: ModelFile | str | os.PathLike[str],
    device: torch.device | str,
    *,
    fast: bool = True,
) -> nn.Module:
    """Load weights into a network and make it ready to predict.

    Args:
        network_def: network as its bundle defines it; changed in place.
        checkpoint: the weights.
        device: device for the network.
        fast: use the fastest form that stays exact to 1e-4 (see :mod:`medseg_monai.networks.fast`).

    Returns:
        the network in eval mode on ``device``.

    Raises:
        BundleError: the file is missing or unreadable, or fits the network only in part.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.bundle import load_network
        >>> from medseg_monai.networks.weights import write_model
        >>> network = torch.nn.Conv2d(1, 1, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model(f"{folder}/model.pt", network.state_dict())
        ...     load_network(network, f"{folder}/model.pt", "cpu", fast=False).training
        False
    """
    model = checkpoint if isinstance(checkpoint, ModelFile) else ModelFile(checkpoint)
    if not model.exists:
        raise BundleError(
            f"{model.path}: no weights here; train the bundle, or give a file: checkpoint=FILE or medseg's "
            "--checkpoint FILE."
        )
    _refuse_foreign_settings(model)
    _load(network_def, model)
    network = network_def.to(device).eval()
    return make_fast(network) if fast else network


def choose_pretrained(pretrained: bool | str, model: ModelFile) -> bool | str:
    """Choose what a new network's encoder starts from.

    Args:
        pretrained: ``True`` for ImageNet weights, which are downloaded if need be; the path of such weights; ``False``
            for random ones; ``"auto"`` for ImageNet weights if they are in PyTorch's cache. If they are not, the log
            says that the training starts from random ones.
        model: the weights that a training starts from or goes on with. If it names a file, all weights come from there.

    Returns:
        what the network takes as its ``pretrained``.

    Example:
        >>> from medseg_monai.bundle import choose_pretrained
        >>> from medseg_monai.networks.weights import ModelFile
        >>> choose_pretrained(True, ModelFile(None)), choose_pretrained(True, ModelFile("runs/drive/model.pt"))
        (True, False)
    """
    if model.path is not None:
        return False
    if pretrained != "auto":
        return pretrained
    is_there = resnet34_cache_path().is_file()
    if not is_there:
        _LOGGER.warning(
            "The encoder starts from random weights, unlike the paper's: there are no ImageNet weights in PyTorch's "
            "cache. pretrained=true downloads them (87 MB), pretrained=FILE takes a copy, and --config "
            "train_from_scratch is the recipe without them."
        )
    return is_there


def load_initial_weights(network_def: nn.Module, model: ModelFile, *, required: bool = False) -> nn.Module:
    """Load the weights that a training starts from, if there are any.

    Args:
        network_def: network as its bundle defines it; changed in place.
        model: the weights; a model file without a path leaves the network unchanged.
        required: refuse a model file without a path.

    Returns:
        the network, in the mode that it had.

    Raises:
        BundleError: the file is missing or unreadable, or fits the network only in part.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.bundle import load_initial_weights
        >>> from medseg_monai.networks.weights import ModelFile, write_model
        >>> trained, network = torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model(f"{folder}/model.pt", trained.state_dict())
        ...     network = load_initial_weights(network, ModelFile(f"{folder}/model.pt"))
        >>> torch.equal(network.weight, trained.weight)
        True
    """
    if model.path is None and required:
        raise BundleError("initial_weights: this recipe starts from weights; name them with --checkpoint FILE.")
    if model.path is None:
        return network_def
    if not model.exists:
        raise BundleError(f"{model.path}: no weights to start from; name the model.pt of a training.")
    _load(network_def, model)
    return network_def


def place_network(network: nn.Module, device: torch.device | str, *, channels_last: bool) -> nn.Module:
    """Move a network that is to be trained to its device, in the memory layout in which it is faster.

    Args:
        network: the network; changed in place.
        device: device for the network.
        channels_last: keep weights, and with them images, with the channels innermost. Convolutions are faster so;
            the numbers are the same but for rounding.

    Returns:
        the same network.

    Example:
        >>> import torch
        >>> from medseg_monai.bundle import place_network
        >>> network = place_network(torch.nn.Conv2d(2, 4, kernel_size=3), "cpu", channels_last=True)
        >>> network(torch.zeros(1, 2, 8, 9)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    if channels_last:
        has_volumes = any(weight.ndim == 5 for weight in network.parameters())
        layout = torch.channels_last_3d if has_volumes else torch.channels_last
        network = use_exact_batch_norms(network).to(memory_format=layout)  # type: ignore[call-overload]
    return network.to(device)


def _refuse_foreign_settings(model: ModelFile) -> None:
    """Refuse weights that name no bundle, as earlier versions wrote them, and have settings that are another's."""
    if not model.bundle or "bundle" in model.settings:
        return
    try:
        known = merged_config(model.bundle, ["train"])["settings"]
    except BundleError:  # a copy somewhere
        return
    if others := sorted(set(model.settings) - set(known) - _BESIDE):
        raise BundleError(
            f"{model.path}: has settings that {model.bundle} does not have ({', '.join(others)}), so it is of another "
            "bundle; give this bundle's weights, or take them as they are with weights_of=null."
        )


def _load(network: nn.Module, model: ModelFile) -> None:
    remembered = ""
    try:
        state = model.state_dict()
        remembered = _remembered(model)
        check_fits(state, network.state_dict(), network=type(network).__name__, source=str(model.path))
    except ValueError as error:
        raise BundleError(f"{error}{remembered}") from error
    network.load_state_dict(state)


def _remembered(model: ModelFile) -> str:
    """The end of a message: what the weights were trained with, which a key may contradict."""
    kept = [f"{key}={value}" for key, value in model.settings.items() if key not in _BESIDE | {"bundle"}]
    return f" They were trained with {', '.join(kept)}; leave out keys that say otherwise." if kept else ""
