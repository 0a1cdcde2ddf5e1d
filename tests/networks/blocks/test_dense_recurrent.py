"""The densely connected recurrent block of DEFU-Net; its network is tested in ``nets/``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg_monai.networks.blocks import DenseRecurrentConvBlock
from medseg_monai.networks.weights.keras import pytorch_layer
from tests.networks.nets.defunet_authors import author_layers, recurrent_shapes
from tests.networks.reference import load_vectors

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "defunet.json").read_text(encoding="utf-8"))
CONVS = ("unit1.conv1", "unit1.conv2", "unit1.conv3", "merge1", "unit2.conv1", "unit2.conv2", "unit2.conv3")


def as_authors() -> DenseRecurrentConvBlock:
    """A block of 8 channels with the rule-made weights of the authors'."""
    layers = author_layers(dict(recurrent_shapes("dcrc0", 8, 8)))
    norms = [f"{name}.adn.N" for name in CONVS if name.startswith("unit")]
    convs = [f"{name}.conv" for name in (*CONVS, "merge2", "merge")]
    state = {}
    for kind, names in (("conv", convs), ("bn", norms)):
        for number, name in enumerate(names):
            layer = {role: torch.from_numpy(values) for role, values in layers[f"dcrc0_{kind}{number}"].items()}
            state |= {f"{name}.{key}": tensor for key, tensor in pytorch_layer(layer).items()}
    block = DenseRecurrentConvBlock(8, 8)
    missing = block.load_state_dict(state, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return block.eval()


def test_a_block_gives_the_stored_outputs_of_the_authors():
    stored = STORED["dcrc_same"]
    x = np.random.default_rng(stored["seed"]).standard_normal(stored["input_shape"]).astype(np.float32)
    with torch.no_grad():
        output = as_authors()(torch.from_numpy(x).permute(0, 3, 1, 2))
    assert list(output.shape) == stored["shape"]
    values = output.flatten()[torch.tensor(stored["indices"])]
    torch.testing.assert_close(values, torch.tensor(stored["values"]), rtol=1e-4, atol=1e-4)


def test_a_block_equals_the_reference():
    vectors = load_vectors("defu_net", "dcrc_same_io.npz")
    with torch.no_grad():
        output = as_authors()(vectors["input"].permute(0, 3, 1, 2))
    torch.testing.assert_close(output, vectors["output"].permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_the_rule_makes_the_weights_of_the_reference():
    layers = author_layers(dict(recurrent_shapes("dcrc0", 8, 8)))
    ours = {f"{layer}.{role}": values for layer, roles in layers.items() for role, values in roles.items()}
    theirs = load_vectors("defu_net", "dcrc_same.weights.npz")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], values.numpy()) for key, values in theirs.items())


def test_an_input_of_another_width_is_projected_before_all_else():
    torch.manual_seed(4)
    block, same = DenseRecurrentConvBlock(6, 8).eval(), as_authors()
    block.load_state_dict(same.state_dict(), strict=False)
    assert isinstance(same.project, nn.Identity)
    x = torch.randn(2, 6, 7, 5)
    with torch.no_grad():
        projected = torch.einsum("oi,bihw->bohw", block.project.weight[..., 0, 0], x)
        torch.testing.assert_close(block(x), same(projected + block.project.bias[:, None, None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "count"), [((64, 64), 251_200), ((1024, 256), 4_265_472)])
def test_the_unfolded_steps_share_no_weights(channels, count):
    # six 3x3 convolutions with their norms; 1x1 convolutions of the projection, the two mergers and the last one
    with torch.device("meta"):
        block = DenseRecurrentConvBlock(*channels)
    assert sum(p.numel() for p in block.parameters()) == count
