"""Files of weights: read safely, compared with a network, written as a whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch

from medseg_monai.files import atomic_path, one_line

__all__ = [
    "as_state_dict",
    "check_finite",
    "check_fits",
    "kernel_sizes",
    "read_tensors",
    "rename_tensors",
    "save_atomically",
    "save_tensors",
]

NAMED_IN_ERRORS = 3

_ZIP = b"PK\x03\x04"
_CHUNK = 2**20


def read_tensors(file: str | os.PathLike[str] | BinaryIO, *, source: str | os.PathLike[str] | None = None) -> Any:
    """Read a file of ``torch.save`` on the CPU; only tensors and plain containers are loaded, and no code runs.

    Args:
        file: file to read, or a stream at its start.
        source: name of the stream, for error messages.

    Returns:
        the content of the file, a state dict or something that wraps one.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged (the checksum of each part is compared, which PyTorch does not do), is packed,
            is not a PyTorch file, or holds objects that only their own code could restore.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import read_tensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3, "net": {"weight": torch.zeros(2)}}, f"{folder}/a.pth")
        ...     read_tensors(f"{folder}/a.pth")
        {'epoch': 3, 'net': {'weight': tensor([0., 0.])}}
    """
    name = source or file
    message = (
        f"{name}: cannot be read as weights: it is damaged, or it pickles objects other than tensors; "
        "take another copy of it, or ask its authors to save it with torch.save(model.state_dict(), path)."
    )
    with ExitStack() as opened:
        stream = opened.enter_context(Path(file).open("rb")) if isinstance(file, (str, os.PathLike)) else file
        with one_line(message):
            is_packed = _is_packed(stream)
        if is_packed:
            raise ValueError(f"{name}: a packed archive, which torch.save never writes; save it again unpacked.")
        with one_line(message):
            content = torch.load(stream, map_location="cpu", weights_only=True)
    return content


def _is_packed(stream: BinaryIO) -> bool:
    """Whether a file would unpack to more than it holds; raises what zipfile does if a part has another checksum.

    PyTorch stores its tensors unpacked, but unpacks whatever it is given, and compares no checksum. Files from before
    PyTorch 1.6 are no archives and have none.
    """
    is_archive = stream.read(len(_ZIP)) == _ZIP
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if not is_archive:
        return False
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
            return True
        for part in parts:
            with archive.open(part) as content:
                while content.read(_CHUNK):
                    pass
    stream.seek(0)
    return False


def as_state_dict(content: Any, source: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Make sure that the content of a file is a state dict.

    Args:
        content: content as :func:`read_tensors` returned it, unwrapped.
        source: the file, for error messages.

    Returns:
        names and tensors.

    Raises:
        ValueError: the content is not a mapping, is empty, has entries that are not tensors, or values that are not
            finite.

    Example:
        >>> from medseg_monai.networks.weights.state_dict import as_state_dict
        >>> as_state_dict({"epoch": 3}, "a.pth")
        Traceback (most recent call last):
        ValueError: a.pth: these entries are not tensors: ['epoch']; save model.state_dict() alone.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source}: holds no state dict (found {type(content).__name__}): save model.state_dict().")
    others = [str(key) for key, value in content.items() if not _is_plain_tensor(value)]
    if others:
        raise ValueError(
            f"{source}: these entries are not tensors: {others[:NAMED_IN_ERRORS]}; save model.state_dict() alone."
        )
    state = {str(key): value for key, value in content.items()}
    check_finite(state, source)
    return state


def _is_plain_tensor(value: Any) -> bool:
    """Whether a value is a tensor with numbers of its own: a short file can declare any size for one that has none."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def check_finite(state: Mapping[str, torch.Tensor], source: str | os.PathLike[str]) -> None:
    """Refuse tensors with values that are not finite: a network with a single one predicts nothing or nonsense.

    Args:
        state: names and tensors.
        source: the file that they come from, for error messages.

    Raises:
        ValueError: the message names the first such tensor.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import check_finite
        >>> check_finite({"bias": torch.tensor([0.5, float("nan")])}, "a.pth")
        Traceback (most recent call last):
        ValueError: a.pth: bias has values that are not finite: damaged, or its training diverged; use others.
    """
    for name, values in state.items():
        numbers = values.float() if values.element_size() == 1 else values  # of 8 bits, few operations are known
        if not torch.isfinite(numbers).all():
            raise ValueError(
                f"{source}: {name} has values that are not finite: damaged, or its training diverged; use others."
            )


def rename_tensors(
    state: Mapping[str, torch.Tensor], prefixes: Mapping[str, str], *, network: str
) -> dict[str, torch.Tensor]:
    """Rename the tensors of an authors' checkpoint to a network's own names.

    Args:
        state: tensors under the authors' names.
        prefixes: the start of the authors' names -> the start of the network's own; the first match is used.
        network: name of the authors' network, for error messages.

    Returns:
        the same tensors under the network's own names, in the same order.

    Raises:
        ValueError: some names start with none of the prefixes; the message counts them and gives the first.

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
        found = f"{len(unknown)}, the first: {unknown[:NAMED_IN_ERRORS]}"
        raise ValueError(f"keys that the authors' {network} does not have: {found}.")
    return converted


def kernel_sizes(
    state: Mapping[str, torch.Tensor], sources: Mapping[str, tuple[str, int]], *, dims: int
) -> dict[str, int]:
    """Read sizes from the shapes of convolution kernels.

    Args:
        state: a state dict or a part of one.
        sources: for each name the key of a kernel and the axis whose length to read.
        dims: number of dimensions of a kernel, 4 in 2D and 5 in 3D; tensors with another number are ignored.

    Returns:
        the sizes whose kernels are there.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import kernel_sizes
        >>> state = {"head.weight": torch.zeros(2, 16, 1, 1)}
        >>> kernel_sizes(state, {"out_channels": ("head.weight", 0), "in_channels": ("stem.weight", 1)}, dims=4)
        {'out_channels': 2}
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
    """Make sure that a state dict fits a network completely: the same names, each with the same shape.

    Args:
        state: tensors under the network's names.
        expected: the network's own state dict.
        network: name of the network, for error messages.
        source: the file that ``state`` comes from, for error messages.

    Raises:
        ValueError: it fits only in part; the message counts the differences and names the first of each kind.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import check_fits
        >>> network = torch.nn.Linear(2, 1)
        >>> check_fits(network.state_dict(), network.state_dict(), network="Linear", source="a.pth")
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
            f"{source}: fits {network} only in part (in the network's own names, {found}): "
            "give the complete, unchanged weights of this network."
        )


def save_atomically(content: Any, path: str | os.PathLike[str]) -> None:
    """Save under a temporary name in the same folder, then rename, so that ``path`` never holds half a file.

    Args:
        content: content to pass to ``torch.save``.
        path: file to write or to replace; its folder is created if it does not exist.

    Raises:
        OSError: the file cannot be written; an earlier file under ``path`` is still there.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights.state_dict import read_tensors, save_atomically
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_atomically({"weight": torch.ones(2)}, f"{folder}/new/a.pth")
        ...     read_tensors(f"{folder}/new/a.pth")
        {'weight': tensor([1., 1.])}
    """
    with atomic_path(path) as temporary:
        save_tensors(content, temporary, target=path)


def save_tensors(content: Any, path: Path, *, target: str | os.PathLike[str]) -> None:
    """``torch.save`` with the system's own error where it fails.

    Args:
        content: what to save.
        path: file to write.
        target: what to call it in a message.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with path.open("wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:  # PyTorch raises an error of its own over the system's
        raise OSError(f"{target}: cannot be written: {error.__context__ or error}") from error
