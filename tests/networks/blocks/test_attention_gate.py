"""The attention gate: Eq. 1 to 3 term by term, and MONAI's block; ``nets/`` has the authors' weights."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionBlock
from torch import nn

from medseg_monai.networks.blocks import AttentionGate


@pytest.fixture
def gate() -> AttentionGate:
    """A gate whose normalisations have learnt something."""
    torch.manual_seed(2)
    gate = AttentionGate(2, f_int=3, f_g=4, f_l=5)
    for norm in gate.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.uniform_(0.3, 1.5)
    return gate.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Gating signal and features of two images."""
    torch.manual_seed(3)
    return torch.randn(2, 4, 6, 9), torch.randn(2, 5, 6, 9)


def affine(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution and a normalisation by its statistics, written out."""
    conv, norm = layers[0].conv, layers[1]
    y = torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], x) + conv.bias[:, None, None]
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_the_gate_follows_equations_1_to_3(gate, inputs):
    g, f = inputs
    with torch.no_grad():
        joined = torch.clamp(affine(gate.W_g, g) + affine(gate.W_x, f), min=0)
        alpha = 1 / (1 + torch.exp(-affine(gate.psi, joined)))
        torch.testing.assert_close(gate.coefficients(g, f), alpha)
        torch.testing.assert_close(gate(g, f), f * alpha)
    assert alpha.shape == (2, 1, 6, 9)
    assert alpha.std() > 0.01


def test_the_gate_is_monais_with_the_same_weights_to_the_last_bit(gate, inputs):
    block = AttentionBlock(2, f_int=3, f_g=4, f_l=5).eval()
    block.load_state_dict(gate.state_dict(), strict=True)
    assert torch.equal(block(*inputs), gate(*inputs))
    assert torch.equal(torch.jit.script(gate)(*inputs), gate(*inputs))


def test_a_closed_gate_lets_nothing_through_and_an_open_one_everything(gate, inputs):
    gate.psi[1].bias.data.fill_(-200)
    assert not gate(*inputs).any()
    gate.psi[1].bias.data.fill_(200)
    assert torch.equal(gate(*inputs), inputs[1])


def test_the_gate_of_a_volume_has_one_coefficient_for_each_voxel():
    gate = AttentionGate(3, f_int=2, f_g=3, f_l=3).eval()
    x = torch.randn(1, 3, 2, 3, 4)
    assert gate.coefficients(x, x).shape == (1, 1, 2, 3, 4)
