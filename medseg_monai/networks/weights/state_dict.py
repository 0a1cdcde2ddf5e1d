"""Files of weights: read safely, compared with a network, written all or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from medseg_monai.files import atomic_path, one_line

__all__ = ["as_state_dict", "check_fits", "kernel_sizes", "read_tensors", "rename_tensors", "save_atomically"]

NAMED_IN_ERRORS = 3


def read_tensors(file: str | os.PathLike[str] | BinaryIO, *, source: str | os.PathLike[str] | None = None) -> Any:
    """Read what ``torch.save`` wrote, on the CPU; pickled objects other than tensors and plain containers never run.

    Args:
        file: file to read, or a stream at its start.
        source: what to call a stream in a message.

    Returns:
        what the file holds, be it a state dict or what wraps one.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, no file of PyTorch, or holds objects that only running their code could restore.
    """
    message = (
        f"{source or file}: cannot be read as weights: damaged, or it pickles objects other than tensors; "
        "fetch it anew, or have its authors save it with torch.save(model.state_dict(), path)."
    )
    with one_line(message, passing=(OSError, MemoryError)):
        content = torch.load(file, map_location="cpu", weights_only=True)
    return content


def as_state_dict(content: Any, source: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Make sure that the content of a file is a state dict.

    Args:
        content: what :func:`read_tensors` returned, unwrapped.
        source: the file, for the message.

    Returns:
        names and tensors.

    Raises:
        ValueError: it is no mapping, an empty one, or holds entries that are no tensors.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source}: holds no state dict but {type(content).__name__}: save model.state_dict().")
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"{source}: these entries are no tensors: {others[:NAMED_IN_ERRORS]}; save model.state_dict() alone."
        )
    return {str(key): value for key, value in content.items()}


def rename_tensors(
    state: Mapping[str, torch.Tensor], prefixes: Mapping[str, str], *, network: str
) -> dict[str, torch.Tensor]:
    """Give the tensors of an authors' checkpoint a network's own names.

    Args:
        state: tensors under the authors' names.
        prefixes: for how the authors' names begin how the network's own do; the first that fits a name counts.
        network: what to call the network in the message.

    Returns:
        the same tensors under the network's names, in the same order.

    Raises:
        ValueError: no prefix fits some name; names the first such names.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import rename_tensors
        >>> list(rename_tensors({"firstconv.weight": torch.zeros(1)}, {"firstconv.": "conv1."}, network="CE-Net"))
        ['conv1.weight']
    """
    converted: dict[str, torch.Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            unknown.append(name)
        else:
            converted[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    if unknown:
        found = f"{len(unknown)} keys are none of the authors' {network}"
        raise ValueError(f"{found}, the first: {unknown[:NAMED_IN_ERRORS]}.")
    return converted


def kernel_sizes(
    state: Mapping[str, torch.Tensor], sources: Mapping[str, tuple[str, int]], *, dims: int
) -> dict[str, int]:
    """Read sizes off the kernels of convolutions.

    Args:
        state: a state dict, whole or in part.
        sources: for each name the key of a kernel and the axis whose length is meant.
        dims: dimensions of a kernel, 4 in 2D and 5 in 3D; a tensor of others tells nothing.

    Returns:
        the sizes whose kernels are there.
    """
    return {
        name: state[key].shape[axis]
        for name, (key, axis) in sources.items()
        if key in state and state[key].ndim == dims
    }


def check_fits(
    state: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    *,
    network: str,
    source: str | os.PathLike[str],
) -> None:
    """Make sure that a state dict fits a network whole: the same names, each with the same shape.

    Args:
        state: tensors under the network's names.
        expected: the network's own state dict.
        network: what to call the network in the message.
        source: the file that ``state`` is from, for the message.

    Raises:
        ValueError: it fits only in part; counts what does not and names the first of each kind.
    """
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    reshaped = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    differences = {"missing": missing, "unknown": unknown, "other shape": reshaped}
    if any(differences.values()):
        found = ", ".join(f"{what} {len(keys)}: {keys[:NAMED_IN_ERRORS]}" for what, keys in differences.items())
        raise ValueError(
            f"{source}: fits {network} only in part (in its names, {found}): "
            "give the whole, unchanged weights of this network."
        )


def save_atomically(content: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save`` under a temporary name in the same folder, then rename: never half a file under ``path``.

    Args:
        content: what to save.
        path: file to write or to replace; its folder is made.

    Raises:
        OSError: it cannot be written; what ``path`` held before is still there.
    """
    target = Path(path)
    try:
        with atomic_path(target) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:  # PyTorch puts an error of its own over the system's
        raise OSError(f"{target}: cannot be written: {error.__context__ or error}") from error
