"""Import of the weights that a network's authors published: read, rename, check, write.

The details of a network are kept in its class. A class whose authors' weights can be imported has two static methods:

- ``convert_author_state(state)`` takes tensors under the authors' names and returns them under the class's own names,
  in the class's own layout; it raises ``ValueError`` for a name that it does not know;
- ``infer_arguments(state)`` takes the converted tensors and returns the constructor arguments that they need.

The class may also have

- a static method ``author_unused(key)``, which returns the reason why a tensor is left out if the authors' network
  holds it but never uses it, and ``None`` for any other name; ``convert_author_state`` leaves out exactly these;
- a class attribute ``author_settings`` with the choices of the authors that cannot be inferred from any tensor and that
  a bundle must follow, for its images or for its network, under the names of the bundle's config;
- a static method ``adapt_settings(settings, arguments)``, if the authors' networks belong to bundles with different
  settings; it returns those of the bundle that the arguments tell.

The settings written beside the weights are ``author_settings`` and the constructor arguments other than the channels,
so that a bundle builds a network that the weights fit.

:func:`.state_dict.rename_tensors` converts names that differ only in how they begin, and :func:`.keras.rename_layers`
converts the layers of Keras, which are counted by kind.

Each file format has a reader in :data:`_READERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import

from medseg_monai.files import file_sha256
from medseg_monai.networks import NETWORKS

from .keras import read_keras_weights
from .model_file import write_model
from .state_dict import as_state_dict, check_fits, read_tensors

__all__ = ["ImportReport", "import_weights"]

# the keys under which training scripts put the weights in a checkpoint that also holds other things
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
# the arguments that the config of every bundle fixes
_CHANNELS = ("in_channels", "out_channels")


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Report on an import: the weights, and the file that they came from.

    Attributes:
        network: name in ``NETWORKS``.
        source: the file that was read.
        sha256: SHA-256 of that file, 64 hexadecimal digits.
        arguments: constructor arguments that the weights need; the others keep their defaults.
        settings: settings that a bundle needs for these weights: ``arguments`` without the channels, which its config
            fixes, and the class's ``author_settings``.
        tensors: number of tensors in ``state_dict``.
        dropped: everything else in the file that was left out, with the reason.
        added: tensors of the network that old files lack, with the reason why nothing is lost.
        state_dict: the weights under the network's own names.
    """

    network: str
    source: Path
    sha256: str
    arguments: dict[str, Any]
    settings: dict[str, Any]
    tensors: int
    dropped: dict[str, str]
    added: dict[str, str]
    state_dict: dict[str, torch.Tensor] = field(repr=False, compare=False)

    def summary(self) -> dict[str, Any]:
        """Return everything except the weights, ready for JSON."""
        return {
            "network": self.network,
            "source": str(self.source),
            "sha256": self.sha256,
            "arguments": self.arguments,
            "settings": self.settings,
            "tensors": self.tensors,
            "dropped": self.dropped,
            "added": self.added,
        }


def _read_safetensors(path: Path) -> Any:
    safetensors, installed = optional_import("safetensors")
    load_file, _ = optional_import("safetensors.torch", name="load_file")
    if not installed:
        raise ValueError(f"{path}: reading this file needs the package safetensors: pip install safetensors.")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors: it is damaged; download it again.") from error


# a reader returns the content of the file: a mapping of tensors, or one that wraps it
_READERS: dict[str, Callable[[Path], Any]] = {
    ".pt": read_tensors,
    ".pth": read_tensors,
    ".th": read_tensors,
    ".safetensors": _read_safetensors,
    ".h5": read_keras_weights,
    ".hdf5": read_keras_weights,
}


def _unwrap(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Find the weights in ``content``; return them and a list of everything else."""
    dropped: dict[str, str] = {}
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                dropped = {str(key): f"lies beside {wrapper!r}" for key in content if key != wrapper}
                content = content[wrapper]
                break
    state = as_state_dict(content, path)
    if all(key.startswith("module.") for key in state):  # the prefix of DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, dropped


def _add_batch_counters(state: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Add to ``state``, in place, the batch counters that it lacks; return what was added."""
    counters = [key for key in expected if key.endswith(".num_batches_tracked") and key not in state]
    state.update({key: torch.zeros((), dtype=torch.long) for key in counters})
    return dict.fromkeys(counters, "Keras and PyTorch before 0.4.1 have none; the forward pass does not use it")


def _unused_by_authors(network_class: Any, author_state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """List the tensors that the authors' own network never uses, with the reason."""
    if not hasattr(network_class, "author_unused"):
        return {}
    reasons = {key: network_class.author_unused(key) for key in author_state}
    return {key: reason for key, reason in reasons.items() if reason is not None}


def import_weights(
    name: str, source: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None
) -> ImportReport:
    """Read the authors' checkpoint of a network and rename its tensors to the network's own names.

    Except for tensors that the authors' own network never uses, every tensor of the file must have a place in the
    network, and every tensor of the network must be in the file with the same shape; a checkpoint that fits only in
    part is refused. Pickled objects are never loaded.

    Args:
        name: name of the network in ``NETWORKS``, e.g. ``"cenet"``.
        source: ``.pth``, ``.pt``, ``.th`` or ``.safetensors`` file with the authors' names: a plain state dict, or one
            under ``state_dict``, ``model_state_dict``, ``model``, ``net`` or ``network``, with or without
            DataParallel's ``module.`` before each name; or a weights file of Keras 2, ``.h5`` or ``.hdf5``.
        out: model file to write, which a bundle takes as its ``checkpoint``; it is written as a whole or not at all.
            ``None`` writes none.

    Returns:
        the report, with the weights in ``state_dict``. ``NETWORKS[name](**report.arguments)`` takes them; ``settings``
        holds everything else that the class needs to compute the same as the authors' network.

    Raises:
        FileNotFoundError: ``source`` or the folder of ``out`` does not exist.
        ValueError: the network is unknown or has no published weights, the suffix is unknown, or the file cannot be
            read or fits only in part.

    Example:
        >>> from medseg_monai.networks.weights.authors import import_weights
        >>> import_weights("cenet", "downloads/best.pth", out="model.pt").summary()
        Traceback (most recent call last):
        FileNotFoundError: downloads/best.pth: no such file with weights of cenet.
    """
    if name not in NETWORKS:
        raise ValueError(f"{name}: no such network; known networks: {', '.join(NETWORKS.names)}.")
    network_class = NETWORKS[name]
    if not hasattr(network_class, "convert_author_state"):
        raise ValueError(f"{name}: no checkpoint format of its authors is known: use torch.load and load_state_dict.")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file with weights of {name}.")
    if out is not None and not Path(out).parent.is_dir():
        raise FileNotFoundError(f"{Path(out).parent}: no such folder to write {Path(out).name} into: make it first.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; known suffixes: {', '.join(_READERS)}.")
    author_state, dropped = _unwrap(reader(path), path)
    try:
        state: dict[str, torch.Tensor] = network_class.convert_author_state(author_state)
    except ValueError as error:
        raise ValueError(f"{path}: not the authors' checkpoint of {name}: {error}") from error
    dropped |= _unused_by_authors(network_class, author_state)
    arguments = network_class.infer_arguments(state)
    with torch.device("meta"):  # names and shapes, without the memory
        expected = network_class(**arguments).state_dict()
    added = _add_batch_counters(state, expected)
    check_fits(state, expected, network=name, source=path)
    settings = {key: value for key, value in arguments.items() if key not in _CHANNELS}
    settings |= getattr(network_class, "author_settings", {})
    if hasattr(network_class, "adapt_settings"):
        settings = network_class.adapt_settings(settings, arguments)
    if out is not None:
        write_model(out, state, settings)
    return ImportReport(
        network=name,
        source=path,
        sha256=file_sha256(path),
        arguments=arguments,
        settings=settings,
        tensors=len(state),
        dropped=dropped,
        added=added,
        state_dict=state,
    )
