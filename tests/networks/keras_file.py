"""Weights files as Keras 2 writes them, made without Keras."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import h5py
import numpy as np

__all__ = ["Layers", "automatic_names", "write_keras_weights"]

Layers = dict[str, dict[str, np.ndarray]]


def automatic_names(layers: Mapping[str, dict[str, np.ndarray]], *, first: Mapping[str, int]) -> Layers:
    """Name layers as Keras does by itself: kind and number.

    Args:
        layers: in order of creation, by role: ``dcrc0_conv3``, ``stem0_sep1``; ``conv``, ``bn``, ``sep`` or ``bilstm``
            tells the kind.
        first: for each kind (``conv2d``, …) the number of its first layer; 0 has no number.
    """
    kinds = {"conv": "conv2d", "bn": "batch_normalization", "sep": "separable_conv2d", "bilstm": "bidirectional"}
    numbers = dict(first)
    named: Layers = {}
    for name, weights in layers.items():
        kind = kinds[re.fullmatch(r".*_([a-z]+)\d+", name)[1]]
        number = numbers[kind]
        numbers[kind] += 1
        named[f"{kind}_{number}" if number else kind] = weights
    return named


def _write_names(group: h5py.Group, attribute: str, names: list[str], chunks: int) -> None:
    encoded = [name.encode() for name in names]
    if chunks == 1:
        group.attrs[attribute] = encoded
        return
    for number, chunk in enumerate(np.array_split(np.array(encoded), chunks)):
        group.attrs[f"{attribute}{number}"] = chunk


def write_keras_weights(
    path: str | os.PathLike[str],
    layers: Mapping[str, Mapping[str, np.ndarray]],
    *,
    whole_model: bool = False,
    chunks: int = 1,
) -> None:
    """Write what ``model.save_weights(path)`` writes, or ``model.save(path)``.

    Args:
        path: file to write.
        layers: for each layer, in the file's order, its weights by role.
        whole_model: write the model's description and its optimizer too.
        chunks: number of attributes over which the names of the layers are spread.
    """
    with h5py.File(path, "w") as file:
        root = file
        if whole_model:
            file.attrs["model_config"] = "{}"
            root = file.create_group("model_weights")
            optimizer = file.create_group("optimizer_weights")
            optimizer["Adam/m/kernel:0"] = np.zeros(3, np.float32)
            _write_names(optimizer, "weight_names", ["Adam/m/kernel:0"], 1)
        root.attrs["backend"] = "tensorflow"
        root.attrs["keras_version"] = "2.15.0"
        _write_names(root, "layer_names", list(layers), chunks)
        for layer in sorted(layers):
            group = root.create_group(layer)
            names = {f"{layer}/{role}:0": values for role, values in layers[layer].items()}
            _write_names(group, "weight_names", list(names), 1)
            for name, values in names.items():
                group[name] = values
        _write_names(root.create_group("top_level_model_weights"), "weight_names", [], 1)
