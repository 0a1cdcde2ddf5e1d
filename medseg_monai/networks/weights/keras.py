"""Weights of networks whose authors worked with Keras 2: read from its HDF5 files, sorted for PyTorch.

Keras names a layer after its kind and numbers the kinds in the order in which the layers were created: ``conv2d``,
``conv2d_1``, … (since 1 in the stand-alone Keras, since anything in a session that built other models before). A file
lists its layers by their depth in the model instead, which tangles the branches of a block; the numbers bring back the
order in which the authors' code makes them. So an importer counts layers of a kind, and no name needs to be known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from .state_dict import NAMED_IN_ERRORS

__all__ = ["keras_layers", "pytorch_kernel", "pytorch_layer", "read_keras_weights", "rename_layers"]

Layer = Mapping[str, torch.Tensor]

# weights that belong to the model and to none of its layers
_TOP_LEVEL = "top_level_model_weights"
# the groups at the root of the files that Keras 3 writes as .weights.h5 (Keras 2.12 and later: the second name)
_KERAS_3_GROUPS = ("layers", "_layer_checkpoint_dependencies")
_PYTORCH_ROLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class _RefusedError(Exception):
    """What the file holds is whole and no weights of Keras 2."""


def _text(group: h5py.Group, attribute: str) -> list[str]:
    """Read one attribute of names; Keras writes an empty list as numbers."""
    stored = group.attrs.get_id(attribute)
    if 0 in stored.shape:
        return []
    if h5py.check_string_dtype(stored.dtype) is None:  # HDF5's library crashes on some types that damage makes
        raise TypeError(f"{attribute} holds {stored.dtype}, not names")
    names = np.asarray(group.attrs[attribute]).ravel().tolist()
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]


def _names(group: h5py.Group, attribute: str) -> list[str] | None:
    """Read a list of names, which Keras spreads over ``attribute0``, ``attribute1``, … if it is long."""
    if attribute in group.attrs:
        chunks = [attribute]
    else:
        chunks = []
        while f"{attribute}{len(chunks)}" in group.attrs:
            chunks.append(f"{attribute}{len(chunks)}")
    if not chunks:
        return None
    return [name for chunk in chunks for name in _text(group, chunk)]


def _without_number(name: str) -> str:
    return re.sub(r"(_\d+)+$", "", name)


def _role(layer: str, weight: str) -> str:
    """What a weight is to its layer: ``kernel`` for ``conv2d_3/kernel:0`` in ``conv2d_3``.

    The prefix may have another number than the layer (TensorFlow 1) or stand behind the model's name (Keras 3).
    """
    parts = weight.split(":")[0].split("/")
    own = [index for index, part in enumerate(parts[:-1]) if _without_number(part) == _without_number(layer)]
    return "/".join(parts[own[0] + 1 :] if own else parts)


def _read_layer(group: h5py.Group, layer: str) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for name in _names(group, "weight_names") or []:
        key = f"{layer}/{_role(layer, name)}"
        values = np.asarray(group[name][()])
        if values.dtype.kind not in "iuf":
            raise _RefusedError(f"{key} holds {values.dtype}, not numbers: give a weights file of Keras 2.")
        if key in weights:
            raise _RefusedError(f"two weights of the layer {layer} are named {key}: save the model without nesting.")
        weights[key] = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    return weights


def _read_file(file: h5py.File) -> dict[str, torch.Tensor]:
    root = file.get("model_weights", file)
    layers = _names(root, "layer_names")
    if layers is None:
        if any(name in file for name in _KERAS_3_GROUPS):
            raise _RefusedError(
                "a weights file of Keras 3, which keeps no order of layers: load it in Keras and write the "
                "whole model with model.save('model.h5')."
            )
        raise _RefusedError("HDF5, but no weights file of Keras: give what model.save_weights wrote.")
    if _TOP_LEVEL in root and _TOP_LEVEL not in layers:
        layers = [*layers, _TOP_LEVEL]
    weights: dict[str, torch.Tensor] = {}
    for layer in layers:
        weights |= _read_layer(root[layer], layer)
    if not weights:
        raise _RefusedError("a weights file of Keras without weights: save it once the model is built.")
    return weights


def read_keras_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a weights file of Keras 2; it holds numbers and names only, nothing in it is run.

    Args:
        path: HDF5 file (``.h5``, ``.hdf5``) of ``model.save_weights`` or of ``model.save``, whose optimizer is left
            out.

    Returns:
        tensors in Keras' own layout (kernels ``[height, width, in, out]``), in the file's order, under
        ``"<layer>/<role>"``: ``conv2d_3/kernel``, ``batch_normalization/moving_mean``,
        ``bidirectional/forward_lstm/kernel``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, no HDF5, no weights file of Keras, or one of Keras 3.
    """
    path = Path(path)
    with path.open("rb") as stream:
        try:
            with h5py.File(stream, "r") as file:
                return _read_file(file)
        except _RefusedError as error:
            raise ValueError(f"{path}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes raise whatever their place in the file makes of them
            raise ValueError(f"{path}: cannot be read as HDF5: damaged or another format; fetch it anew.") from error


def keras_layers(state: Mapping[str, torch.Tensor]) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Sort Keras' weights into layers, kind by kind, in the order in which the authors' code makes them.

    Args:
        state: tensors as :func:`read_keras_weights` names them, in any order.

    Returns:
        for each kind of layer (``"conv2d"``, ``"separable_conv2d"``, ``"batch_normalization"``, ``"bidirectional"``, …)
        its layers by ascending number, none counting as 0, each a mapping from role to tensor. The numbers of layers
        inside a layer are left out: ``forward_conv_lstm2d/kernel`` also where the file has ``forward_conv_lstm2d_1``.
        A layer that is not part of the model leaves a gap in the numbers and no entry.

    Raises:
        ValueError: a name is not ``"<layer>/<role>"``, or two weights of a layer have one role.
    """
    strange = [key for key in state if not re.fullmatch(r"[^/]+(/[^/]+)+", key)]
    if strange:
        raise ValueError(f"{len(strange)} names are no Keras weights, the first: {strange[:NAMED_IN_ERRORS]}.")
    layers: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name, *inner, last = key.split("/")
        kind, _, number = name.rpartition("_")
        place = (kind, int(number)) if kind and number.isdecimal() else (name, 0)
        role = "/".join([*map(_without_number, inner), last])
        layer = layers.setdefault(place, {})
        if role in layer:
            raise ValueError(f"{key}: the layer {name} has two weights of the role {role}.")
        layer[role] = tensor
    kinds: dict[str, list[dict[str, torch.Tensor]]] = {}
    for place in sorted(layers):
        kinds.setdefault(place[0], []).append(layers[place])
    return kinds


def pytorch_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Bring the kernel of a convolution from Keras' layout to PyTorch's.

    Args:
        kernel: ``[height, width, in, out]``.

    Returns:
        ``[out, in, height, width]``.
    """
    return kernel.permute(3, 2, 0, 1).contiguous()


def pytorch_layer(layer: Layer) -> dict[str, torch.Tensor]:
    """Give the tensors of one convolution or batch normalisation PyTorch's names and layout.

    Args:
        layer: tensors by role: ``kernel`` and ``bias``, or ``gamma``, ``beta``, ``moving_mean``, ``moving_variance``.

    Returns:
        ``weight``, ``bias``, ``running_mean`` and ``running_var``, as far as the layer has them; kernels as
        ``[out, in, height, width]``.

    Raises:
        ValueError: a role is none of these.
    """
    unknown = [role for role in layer if role not in _PYTORCH_ROLES]
    if unknown:
        raise ValueError(f"{unknown[:NAMED_IN_ERRORS]}: no part of a convolution or a batch normalisation.")
    return {
        _PYTORCH_ROLES[role]: pytorch_kernel(tensor) if tensor.ndim == 4 else tensor for role, tensor in layer.items()
    }


def rename_layers(
    layers: Mapping[str, Sequence[Layer]],
    names: Mapping[str, Sequence[str]],
    *,
    network: str,
    converters: Mapping[str, Callable[[Layer], dict[str, torch.Tensor]]] | None = None,
) -> dict[str, torch.Tensor]:
    """Give the layers of an authors' network, counted kind by kind, a network's own names.

    Args:
        layers: for each kind its layers in the order of their creation, as :func:`keras_layers` sorts them.
        names: for each kind that the authors' network has the names of its layers in that order.
        network: what to call the authors' network in a message.
        converters: what gives a layer of a kind PyTorch's names and layout, where :func:`pytorch_layer` does not.

    Returns:
        the tensors under the network's names, kind by kind in the order of ``names``.

    Raises:
        ValueError: a layer is of another kind, one is missing or too many, or a layer holds what its kind does not.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.keras import rename_layers
        >>> layers = {"conv2d": [{"kernel": torch.zeros(3, 3, 1, 8)}]}
        >>> rename_layers(layers, {"conv2d": ["stem"]}, network="DEFU-Net")["stem.weight"].shape
        torch.Size([8, 1, 3, 3])
    """
    unknown = [kind for kind in layers if kind not in names]
    if unknown:
        raise ValueError(f"the authors' {network} has no layers {unknown[:NAMED_IN_ERRORS]}.")
    converted: dict[str, torch.Tensor] = {}
    for kind, expected in names.items():
        found = layers.get(kind, [])
        if len(found) != len(expected):
            raise ValueError(f"{len(found)} layers {kind}, where the authors' {network} has {len(expected)}.")
        convert = (converters or {}).get(kind, pytorch_layer)
        for name, layer in zip(expected, found, strict=True):
            converted |= {f"{name}.{key}": tensor for key, tensor in convert(layer).items()}
    return converted
