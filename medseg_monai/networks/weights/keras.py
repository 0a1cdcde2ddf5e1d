"""Weights of networks whose authors worked with Keras 2: read from its HDF5 files, sorted for PyTorch.

Keras names a layer after its kind and numbers the layers of a kind in the order of their creation: ``conv2d``,
``conv2d_1``, … (the stand-alone Keras starts at 1, and a session that built other models before starts anywhere). A
file, however, lists its layers by their depth in the model, which tangles the branches of a block; the numbers restore
the order in which the authors' code creates them. So an importer counts the layers of each kind and needs to know no
names.
"""

from __future__ import annotations

import math
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

# the group of weights that belong to the model but to none of its layers
_TOP_LEVEL = "top_level_model_weights"
# groups at the root of the files that Keras 3 writes as .weights.h5 (Keras 2.12 and later write the second one)
_KERAS_3_GROUPS = ("layers", "_layer_checkpoint_dependencies")
_PYTORCH_ROLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


#: bytes of an attribute in HDF5; Keras spreads a longer list over several
_LONGEST_LIST = 2**16


class _RefusedError(Exception):
    """The file is intact, but it does not hold weights of Keras 2."""


def _text(group: h5py.Group, attribute: str) -> list[str]:
    """Read an attribute that lists names; Keras writes an empty list as numbers."""
    stored = group.attrs.get_id(attribute)
    if 0 in stored.shape:
        return []
    if math.prod(stored.shape) * stored.dtype.itemsize > _LONGEST_LIST:  # damage can declare any number and length
        raise TypeError(f"{attribute} holds {stored.shape} names of type {stored.dtype}")
    if h5py.check_string_dtype(stored.dtype) is None:  # HDF5's library crashes on some types that damage produces
        raise TypeError(f"{attribute} holds {stored.dtype}, not names")
    names = np.asarray(group.attrs[attribute]).ravel().tolist()
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]


def _names(group: h5py.Group, attribute: str) -> list[str] | None:
    """Read a list of names; Keras spreads a long list over ``attribute0``, ``attribute1``, …."""
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
    """Find the role of a weight in its layer: ``kernel`` for ``conv2d_3/kernel:0`` in ``conv2d_3``.

    The prefix may have another number than the layer (TensorFlow 1) or follow the model's name (Keras 3).
    """
    parts = weight.split(":")[0].split("/")
    own = [index for index, part in enumerate(parts[:-1]) if _without_number(part) == _without_number(layer)]
    return "/".join(parts[own[0] + 1 :] if own else parts)


def _read_layer(group: h5py.Group, layer: str, room: int) -> dict[str, torch.Tensor]:
    """Read the weights of a layer, which hold at most ``room`` bytes."""
    weights: dict[str, torch.Tensor] = {}
    for name in _names(group, "weight_names") or []:
        key = f"{layer}/{_role(layer, name)}"
        room -= group[name].nbytes
        if room < 0:  # a short file can declare any size, and Keras packs nothing
            raise _RefusedError("its weights are larger than the file: save them again with model.save_weights.")
        values = np.asarray(group[name][()])
        if values.dtype.kind not in "iuf":
            raise _RefusedError(f"{key} holds {values.dtype}, not numbers: give a weights file of Keras 2.")
        if key in weights:
            raise _RefusedError(f"the layer {layer} has two weights named {key}: save the model without nesting.")
        weights[key] = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    return weights


def _read_file(file: h5py.File, size: int) -> dict[str, torch.Tensor]:
    root = file.get("model_weights", file)
    layers = _names(root, "layer_names")
    if layers is None:
        if any(name in file for name in _KERAS_3_GROUPS):
            raise _RefusedError(
                "this is a weights file of Keras 3, which does not keep the order of layers: load it in Keras and "
                "write the whole model with model.save('model.h5')."
            )
        raise _RefusedError("this HDF5 file is not a weights file of Keras: give a file of model.save_weights.")
    if _TOP_LEVEL in root and _TOP_LEVEL not in layers:
        layers = [*layers, _TOP_LEVEL]
    weights: dict[str, torch.Tensor] = {}
    for layer in layers:
        read = sum(tensor.nbytes for tensor in weights.values())
        weights |= _read_layer(root[layer], layer, room=size - read)
    if not weights:
        raise _RefusedError("this weights file of Keras is empty: save it after the model is built.")
    return weights


def read_keras_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a weights file of Keras 2; only numbers and names are read, and nothing in the file is run.

    Args:
        path: HDF5 file (``.h5``, ``.hdf5``) of ``model.save_weights``, or of ``model.save``, whose optimizer is left
            out.

    Returns:
        tensors in Keras' own layout (kernels ``[height, width, in, out]``), in the file's order, under
        ``"<layer>/<role>"``: ``conv2d_3/kernel``, ``batch_normalization/moving_mean``,
        ``bidirectional/forward_lstm/kernel``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, is not a weights file of Keras, or is one of Keras 3.

    Example:
        >>> import tempfile
        >>> import h5py
        >>> from medseg_monai.networks.weights.keras import read_keras_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with h5py.File(f"{folder}/model.h5", "w") as file:
        ...         file.attrs["layer_names"] = ["conv2d_3"]
        ...         file.create_group("conv2d_3").attrs["weight_names"] = ["conv2d_3/kernel:0"]
        ...         file["conv2d_3/conv2d_3/kernel:0"] = [[[[1.0, 2.0]]]]
        ...     {name: tuple(tensor.shape) for name, tensor in read_keras_weights(f"{folder}/model.h5").items()}
        {'conv2d_3/kernel': (1, 1, 1, 2)}
    """
    path = Path(path)
    with path.open("rb") as stream:
        try:
            with h5py.File(stream, "r") as file:
                return _read_file(file, path.stat().st_size)
        except _RefusedError as error:
            raise ValueError(f"{path}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes can raise almost anything
            raise ValueError(
                f"{path}: cannot be read as HDF5: it is damaged or has another format; download it again."
            ) from error


def keras_layers(state: Mapping[str, torch.Tensor]) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Group Keras' weights by kind of layer, in the order in which the authors' code creates the layers.

    Args:
        state: tensors as :func:`read_keras_weights` names them, in any order.

    Returns:
        the layers of each kind (``"conv2d"``, ``"separable_conv2d"``, ``"batch_normalization"``, ``"bidirectional"``,
        …) by ascending number, where no number counts as 0; each layer maps roles to tensors. The numbers of layers
        inside a layer are dropped: the role is ``forward_conv_lstm2d/kernel`` even if the file has
        ``forward_conv_lstm2d_1``. A layer that is not part of the model leaves a gap in the numbers but no entry.

    Raises:
        ValueError: a name is not ``"<layer>/<role>"``, or two weights of a layer have the same role.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.keras import keras_layers
        >>> state = {"conv2d_10/bias": torch.tensor([2.0]), "conv2d_9/bias": torch.tensor([1.0])}
        >>> keras_layers(state)
        {'conv2d': [{'bias': tensor([1.])}, {'bias': tensor([2.])}]}
    """
    strange = [key for key in state if not re.fullmatch(r"[^/]+(/[^/]+)+", key)]
    if strange:
        raise ValueError(
            f"names that Keras does not give to weights: {len(strange)}, the first: {strange[:NAMED_IN_ERRORS]}."
        )
    layers: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name, *inner, last = key.split("/")
        kind, _, number = name.rpartition("_")
        place = (kind, int(number)) if kind and number.isdecimal() else (name, 0)
        role = "/".join([*map(_without_number, inner), last])
        layer = layers.setdefault(place, {})
        if role in layer:
            raise ValueError(f"{key}: the layer {name} has two weights with the role {role}.")
        layer[role] = tensor
    kinds: dict[str, list[dict[str, torch.Tensor]]] = {}
    for place in sorted(layers):
        kinds.setdefault(place[0], []).append(layers[place])
    return kinds


def pytorch_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Convert the kernel of a convolution from Keras' layout to PyTorch's.

    Args:
        kernel: ``[height, width, in, out]``.

    Returns:
        ``[out, in, height, width]``.
    """
    return kernel.permute(3, 2, 0, 1).contiguous()


def pytorch_layer(layer: Layer) -> dict[str, torch.Tensor]:
    """Convert the tensors of one convolution or batch normalisation to PyTorch's names and layout.

    Args:
        layer: tensors by role: ``kernel`` and ``bias``, or ``gamma``, ``beta``, ``moving_mean``, ``moving_variance``.

    Returns:
        ``weight``, ``bias``, ``running_mean`` and ``running_var``, if the layer has them; kernels are
        ``[out, in, height, width]``.

    Raises:
        ValueError: the layer has another role.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.keras import pytorch_layer
        >>> layer = pytorch_layer({"kernel": torch.zeros(3, 5, 1, 8), "bias": torch.zeros(8)})
        >>> {name: tuple(tensor.shape) for name, tensor in layer.items()}
        {'weight': (8, 1, 3, 5), 'bias': (8,)}
    """
    unknown = [role for role in layer if role not in _PYTORCH_ROLES]
    if unknown:
        raise ValueError(f"{unknown[:NAMED_IN_ERRORS]}: a convolution or batch normalisation has no such tensors.")
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
    """Convert the layers of an authors' network, counted by kind, to a network's own names and layout.

    Args:
        layers: the layers of each kind in the order of their creation, as :func:`keras_layers` sorts them.
        names: the network's own names of the layers of each kind, in the same order.
        network: name of the authors' network, for error messages.
        converters: functions that convert a layer of some kind, for kinds that :func:`pytorch_layer` cannot convert.

    Returns:
        the tensors under the network's own names, by kind and in the order of ``names``.

    Raises:
        ValueError: ``names`` has no layers of some kind, or another number of them, or a layer has other tensors than
            its kind.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.weights.keras import rename_layers
        >>> layers = {"conv2d": [{"kernel": torch.zeros(3, 3, 1, 8)}]}
        >>> rename_layers(layers, {"conv2d": ["stem"]}, network="DEFU-Net")["stem.weight"].shape
        torch.Size([8, 1, 3, 3])
    """
    unknown = [kind for kind in layers if kind not in names]
    if unknown:
        raise ValueError(f"the authors' {network} has no layers of the kinds {unknown[:NAMED_IN_ERRORS]}.")
    converted: dict[str, torch.Tensor] = {}
    for kind, expected in names.items():
        found = layers.get(kind, [])
        if len(found) != len(expected):
            raise ValueError(f"{len(found)} layers {kind}, but the authors' {network} has {len(expected)}.")
        convert = (converters or {}).get(kind, pytorch_layer)
        for name, layer in zip(expected, found, strict=True):
            converted |= {f"{name}.{key}": tensor for key, tensor in convert(layer).items()}
    return converted
