"""What the tests of every network against its authors' code share: import, intermediate features, the weights' rule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from medseg_monai.networks import NETWORKS
from medseg_monai.networks.weights.authors import ImportReport, import_weights

from .keras_file import Layers
from .reference import reference_file

__all__ = ["Imported", "assert_rule_makes", "import_network", "keras_tensors", "recorded"]


class Imported(NamedTuple):
    """A network in eval mode with the weights of a file under the authors' names, and what the import said."""

    net: Any
    report: ImportReport


def import_network(name: str, source: Path) -> Imported:
    """Import the file, which is removed then: the tests of a module share one network and no file."""
    report = import_weights(name, source)
    source.unlink()
    net = NETWORKS[name](**report.arguments)
    net.load_state_dict(report.state_dict, strict=True)
    return Imported(net.eval(), report)


@contextmanager
def recorded(
    net: nn.Module, outputs: Mapping[str, str], inputs: Mapping[str, str] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Without gradients, keep what modules give (or take), by the reference's names for the modules' paths."""
    features: dict[str, torch.Tensor] = {}

    def keep_output(name: str) -> Any:
        return lambda module, args, output: features.__setitem__(name, output)

    def keep_input(name: str) -> Any:
        return lambda module, args: features.__setitem__(name, args[0])

    hooks = [net.get_submodule(path).register_forward_hook(keep_output(name)) for name, path in outputs.items()]
    hooks += [
        net.get_submodule(path).register_forward_pre_hook(keep_input(name)) for name, path in (inputs or {}).items()
    ]
    try:
        with torch.no_grad():
            yield features
    finally:
        for hook in hooks:
            hook.remove()


def keras_tensors(layers: Layers) -> dict[str, np.ndarray]:
    """A Keras file's arrays under the names of the manifests."""
    return {f"{layer}/{role}": values for layer, roles in layers.items() for role, values in roles.items()}


def assert_rule_makes(network: str, manifest: str, tensors: Mapping[str, Any]) -> None:
    """The rule-made weights are those that the reference vectors were computed with: names, order, shapes, sums."""
    entries = json.loads(reference_file(network, manifest).read_text(encoding="utf-8"))["tensors"]
    assert [entry["key"] for entry in entries] == list(tensors)
    for entry in entries:
        values = np.asarray(tensors[entry["key"]], dtype=np.float64)
        assert list(values.shape) == entry["shape"], entry["key"]
        assert values.sum() == pytest.approx(entry["sum"], rel=1e-6, abs=1e-6), entry["key"]
        assert np.abs(values).sum() == pytest.approx(entry["abs_sum"], rel=1e-6), entry["key"]
