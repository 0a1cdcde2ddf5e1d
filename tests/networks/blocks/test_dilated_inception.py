"""The inception block with dilation of DEFU-Net, above all its padding; its network is tested in ``nets/``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg_monai.networks.blocks import DilatedInceptionBlock
from medseg_monai.networks.weights.keras import pytorch_layer
from tests.networks.nets.defunet_authors import author_layers, inception_shapes
from tests.networks.reference import load_vectors

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "defunet.json").read_text(encoding="utf-8"))
LAYERS = ("branch_a", "branch_b1", "branch_b2", "branch_c", "branch_d1", "branch_d2", "branch_d3")


def as_authors() -> DilatedInceptionBlock:
    """A block from 8 to 16 channels with the rule-made weights of the authors'."""
    layers = author_layers(dict(inception_shapes("incep0", 8, 4)))
    state = {}
    for name, layer in zip(LAYERS, layers.values(), strict=True):
        tensors = pytorch_layer({role: torch.from_numpy(values) for role, values in layer.items()})
        state |= {f"{name}.conv.{key}": tensor for key, tensor in tensors.items()}
    block = DilatedInceptionBlock(8, 16)
    block.load_state_dict(state, strict=True)
    return block.eval()


def run(block: DilatedInceptionBlock, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output, the average that branch c starts from, and the branches."""
    found: dict[str, torch.Tensor] = {}

    def keep_input(module: Any, args: tuple[torch.Tensor]) -> None:
        found["avgpool"] = args[0]

    hook = block.branch_c.register_forward_pre_hook(keep_input)
    with torch.no_grad():
        found["out"] = block(x)
    hook.remove()
    return found | dict(zip("abcd", found["out"].chunk(4, dim=1), strict=True))


@pytest.mark.parametrize("name", ["incep", "incep_odd"])
def test_a_block_gives_the_stored_outputs_of_the_authors(name):
    stored = STORED[name]
    x = np.random.default_rng(stored["seed"]).standard_normal(stored["input_shape"]).astype(np.float32)
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    output = run(as_authors(), x[:, :, :9, :11] if name == "incep_odd" else x)["out"]
    assert list(output.shape) == stored["shape"]
    values = output.flatten()[torch.tensor(stored["indices"])]
    torch.testing.assert_close(values, torch.tensor(stored["values"]), rtol=1e-4, atol=1e-4)


def test_a_block_equals_the_reference_branch_by_branch():
    vectors = load_vectors("defu_net", "incep_io.npz")
    found = run(as_authors(), vectors["input"].permute(0, 3, 1, 2))
    for name in ("a", "b", "avgpool", "c", "d", "out"):
        torch.testing.assert_close(found[name], vectors[name].permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_a_block_equals_the_reference_at_an_odd_size():
    vectors = load_vectors("defu_net", "incep_io.npz")
    output = run(as_authors(), vectors["input_odd"].permute(0, 3, 1, 2))["out"]
    torch.testing.assert_close(output, vectors["out_odd"].permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_the_rule_makes_the_weights_of_the_reference():
    layers = author_layers(dict(inception_shapes("incep0", 8, 4)))
    ours = {f"{layer}.{role}": values for layer, roles in layers.items() for role, values in roles.items()}
    theirs = load_vectors("defu_net", "incep.weights.npz")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], values.numpy()) for key, values in theirs.items())


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (6, 9), (7, 4)])
def test_the_padding_does_not_count_in_the_average(size):
    found = run(DilatedInceptionBlock(3, 4), torch.ones(1, 3, *size))
    half = tuple((edge + 1) // 2 for edge in size)
    torch.testing.assert_close(found["avgpool"], torch.ones(1, 3, *half))
    assert found["out"].shape == (1, 4, *half)


def test_an_output_of_an_even_size_starts_at_the_first_pixel_and_one_of_an_odd_size_before_it():
    # with kernels of ones branch b counts the pixels that its window has inside the image
    block = DilatedInceptionBlock(1, 4)
    for layer in (block.branch_b1, block.branch_b2):
        torch.nn.init.ones_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
    assert run(block, torch.ones(1, 1, 4, 6))["b"][0, 0].tolist() == [[9, 9, 6], [6, 6, 4]]
    assert run(block, torch.ones(1, 1, 5, 3))["b"][0, 0].tolist() == [[4, 4], [6, 6], [4, 4]]


def test_the_dilations_reach_in_width_in_branch_c_and_in_height_in_branch_d():
    block = DilatedInceptionBlock(1, 4)
    for layer in block.children():
        torch.nn.init.ones_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
    reach = {}
    for number, branch in enumerate("abcd"):
        x = torch.ones(1, 1, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x)[0, number, 8, 8], x)
        places = gradient[0, 0].nonzero()
        reach[branch] = (places.amax(dim=0) - places.amin(dim=0) + 1).tolist()
    # c: a 3x3 window of stride 2 around taps (1, 2) apart; d: a 3x3 window around taps (3, 1) apart
    assert reach == {"a": [1, 1], "b": [3, 3], "c": [7, 11], "d": [9, 5]}


@pytest.mark.parametrize("out_channels", [6, 3])
def test_a_width_that_four_branches_cannot_share_is_refused(out_channels):
    with pytest.raises(ValueError, match=f"{out_channels} is not a multiple of 4"):
        DilatedInceptionBlock(8, out_channels)


TRAINING = """
import torch
from medseg_monai.networks.blocks import DilatedInceptionBlock
torch.set_num_threads(1)
block = DilatedInceptionBlock(4, 4).to(memory_format=torch.channels_last)
for _ in range(15):
    x = torch.randn(2, 4, 64, 96, requires_grad=True).contiguous(memory_format=torch.channels_last)
    block(x).square().mean().backward()
    kept = [torch.randn(length, 33) for length in range(1, 120)]
"""


def test_narrow_features_with_channels_last_spoil_no_memory():
    """In a process of its own, which a gradient written beyond its end kills."""
    result = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-500:]
