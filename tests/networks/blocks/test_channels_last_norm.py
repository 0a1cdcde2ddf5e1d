"""Batch norms in channels-last memory: as exact as in the default layout, and the same module in all else."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medseg_monai.networks.blocks.channels_last_norm import use_exact_batch_norms

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
#: a map of images and one of volumes, neither of them square, each with more values than float32 adds up exactly
SHAPES = [(3, 5, 210, 330), (2, 3, 40, 61, 53)]


def norm_for(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm3d)(shape[1], momentum=0.2)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm


def values(shape: tuple[int, ...]) -> torch.Tensor:
    """Far from 0, as behind a convolution with a bias."""
    torch.manual_seed(1)
    return 30 + torch.randn(shape)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=LAYOUTS[x.ndim])


@pytest.mark.parametrize("shape", SHAPES, ids=["images", "volumes"])
def test_values_gradients_and_running_statistics_are_those_of_float64(shape: tuple[int, ...]):
    norm = norm_for(shape)
    exact = copy.deepcopy(norm).double()
    ours = use_exact_batch_norms(norm)
    x, weights = channels_last(values(shape)), torch.randn(shape)
    mine, theirs = x.requires_grad_(), values(shape).double().requires_grad_()
    (ours(mine) * weights).sum().backward()
    (exact(theirs) * weights.double()).sum().backward()
    torch.testing.assert_close(ours(x), exact(theirs).float(), rtol=0, atol=2e-5)
    torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=0, atol=1e-4)
    for name, tensor in exact.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].double(), tensor.double(), rtol=1e-5, atol=1e-5)
    assert ours.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, exact.weight.grad.float(), rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("shape", SHAPES, ids=["images", "volumes"])
def test_in_eval_mode_and_in_the_default_layout_nothing_changes(shape: tuple[int, ...]):
    norm = norm_for(shape)
    ours = use_exact_batch_norms(copy.deepcopy(norm))
    assert torch.equal(ours(values(shape)), norm(values(shape)))
    assert torch.equal(ours.eval()(channels_last(values(shape))), norm.eval()(channels_last(values(shape))))


def test_names_and_weights_stay_as_they_are():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.InstanceNorm2d(3))
    before = copy.deepcopy(network.state_dict())
    after = use_exact_batch_norms(network).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_tensor_with_metadata_is_normalised_like_another():
    norm = use_exact_batch_norms(norm_for(SHAPES[0]))
    x = channels_last(values(SHAPES[0]))
    assert torch.equal(torch.as_tensor(norm(MetaTensor(x))), norm(x))
