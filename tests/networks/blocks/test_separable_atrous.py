"""The separable atrous convolution and its fast form, and the residual block of Res-CR-Net."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medseg_monai.networks.blocks import ResidualAtrousBlock, SeparableAtrousConv2d
from medseg_monai.networks.blocks import separable_atrous as module_under_test
from medseg_monai.networks.blocks.separable_atrous import PointwiseConv2d, he_normal_

KERNELS = [(3, 1), (5, 3), (7, 5), (3, 3), (9, 2), (1, 2)]


def randomised(conv: SeparableAtrousConv2d, dtype: torch.dtype = torch.float64) -> SeparableAtrousConv2d:
    """A convolution whose bias is not zero."""
    nn.init.normal_(conv.pointwise.bias)
    return conv.to(dtype)


def plain(conv: SeparableAtrousConv2d, x: torch.Tensor) -> torch.Tensor:
    """The two convolutions as torch does them."""
    return F.conv2d(conv.depthwise(x), conv.pointwise.weight, conv.pointwise.bias)


def gradients(output: torch.Tensor, conv: SeparableAtrousConv2d, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * weights).sum(), [x, *conv.parameters()])


# --- the fast form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel_size", "dilation"), KERNELS)
@pytest.mark.parametrize("shape", [(2, 4, 30, 45), (3, 4, 17, 22), (1, 4, 2, 3), (1, 4, 1, 1), (2, 1, 19, 8)])
def test_output_and_every_gradient_are_those_of_the_plain_convolutions(kernel_size, dilation, shape):
    torch.manual_seed(0)
    conv = randomised(SeparableAtrousConv2d(shape[1], 3, kernel_size, dilation))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    output, expected = conv(x), plain(conv, x)
    torch.testing.assert_close(output, expected)
    for ours, theirs in zip(gradients(output, conv, x), gradients(expected, conv, x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("numbers", [1, 2000])
def test_many_tiles_give_the_same_as_one(numbers, monkeypatch):
    torch.manual_seed(0)
    conv = randomised(SeparableAtrousConv2d(4, 3, 5, 3))
    x = torch.randn(5, 4, 17, 22, dtype=torch.float64, requires_grad=True)
    one_tile = conv(x)
    expected = gradients(one_tile, conv, x)
    monkeypatch.setattr(module_under_test._tile_shape, "__defaults__", (numbers,))
    assert module_under_test._tile_shape(x.permute(0, 2, 3, 1), 3, 0)[0] == (1 if numbers == 1 else 3)
    output = conv(x)
    torch.testing.assert_close(output, one_tile)
    for ours, theirs in zip(gradients(output, conv, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_float32_is_as_exact_as_the_plain_convolutions_in_either_memory_format(memory_format):
    torch.manual_seed(0)
    conv = randomised(SeparableAtrousConv2d(16, 8, 7, 5), torch.float32)
    x = torch.randn(2, 16, 33, 41).contiguous(memory_format=memory_format).requires_grad_()
    output, expected = conv(x), plain(conv, x)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(output, conv, x), gradients(expected, conv, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_scripted_it_gives_the_same_at_every_size_and_has_a_gradient():
    torch.manual_seed(0)
    conv = randomised(SeparableAtrousConv2d(4, 3, 5, 3))
    scripted = torch.jit.script(conv)
    for size in ((30, 45), (17, 22), (2, 3)):
        x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(scripted(x), plain(conv, x))
    for ours, theirs in zip(gradients(scripted(x), conv, x), gradients(plain(conv, x), conv, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_input_that_needs_no_gradient_gets_none():
    conv, x = SeparableAtrousConv2d(2, 3, 5, 3), torch.randn(1, 2, 9, 12)
    conv(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None and p.grad.any() for p in conv.parameters())


def test_it_keeps_its_input_and_its_weights_for_the_backward_pass_and_nothing_else():
    conv = SeparableAtrousConv2d(4, 3, 5, 3)
    x = torch.randn(1, 4, 30, 45, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        conv(x)
    large = [tensor for tensor in kept if tensor.numel() > 1000]
    assert [tensor.data_ptr() for tensor in large] == [x.data_ptr()]


def test_under_autocast_output_and_gradients_are_those_without_it():
    """At a size at which oneDNN's own gradient in the lower precision ends the process."""
    conv, x = SeparableAtrousConv2d(16, 16, 7, 5), torch.randn(4, 16, 300, 340).to(memory_format=torch.channels_last)
    expected = plain(conv, x)
    gradients = torch.autograd.grad(expected.square().mean(), list(conv.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(x.to(torch.bfloat16))
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    output.square().mean().backward()
    for parameter, gradient in zip(conv.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0.02, atol=1e-3)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd kernel sizes, got 4"):
        SeparableAtrousConv2d(2, 2, 4, 1)


def test_the_depthwise_kernel_has_no_bias_and_the_pointwise_one_has():
    assert {name: p.shape for name, p in SeparableAtrousConv2d(6, 5, 7, 5).named_parameters()} == {
        "depthwise.weight": (6, 1, 7, 7),
        "pointwise.weight": (5, 6, 1, 1),
        "pointwise.bias": (5,),
    }


def test_a_pointwise_convolution_gives_channels_last_whatever_it_takes():
    torch.manual_seed(0)
    conv, x = PointwiseConv2d(1, 5), torch.randn(2, 1, 6, 7)
    nn.init.normal_(conv.bias)
    output = conv(x)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, F.conv2d(x, conv.weight, conv.bias))


# --- what it starts from ----------------------------------------------------------------------------------------------


def test_kernels_start_as_in_keras():
    torch.manual_seed(0)
    weight = torch.empty(100_000)
    he_normal_(weight, fan_in=50)
    assert weight.mean().abs() < 0.002
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.01)
    assert 2.2 < weight.abs().max().item() / math.sqrt(2 / 50) < 2.28  # cut off at 2 / 0.8796
    conv = SeparableAtrousConv2d(300, 200, 7, 5)
    # Keras' fan_in of a depthwise kernel counts all channels
    assert conv.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / (49 * 300)), rel=0.03)
    assert conv.pointwise.weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.03)
    assert not conv.pointwise.bias.any()


# --- the residual block -----------------------------------------------------------------------------------------------


def settled(block: ResidualAtrousBlock) -> ResidualAtrousBlock:
    """The block in eval mode with statistics, scales and biases that are not the initial ones."""
    torch.manual_seed(0)
    for layer in block.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
        elif isinstance(layer, PointwiseConv2d):
            nn.init.normal_(layer.bias)
    return block.eval()


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.1 * x)


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("merge", ["concat", "add"])
def test_the_branches_see_the_activated_input_and_the_shortcut_the_raw_one(stem, merge):
    block = settled(ResidualAtrousBlock(5, 2, stem=stem, merge=merge))
    x = torch.randn(2, 5, 13, 11)
    with torch.no_grad():
        active = x if stem else leaky_relu(block.before[0](x))
        parts = []
        for branch, (size, dilation) in zip(block.branches, ((3, 1), (5, 3), (7, 5)), strict=True):
            middle = leaky_relu(branch.norm(plain(branch.conv1, active)))
            parts.append(plain(branch.conv2, middle))
            assert branch.conv1.depthwise.kernel_size == branch.conv2.depthwise.kernel_size == (size, size)
            assert branch.conv1.dilation == branch.conv2.dilation == dilation
        expected = block.shortcut_norm(F.conv2d(x, block.shortcut.weight, block.shortcut.bias))
        expected = expected + (torch.cat(parts, dim=1) if merge == "concat" else parts[0] + parts[1] + parts[2])
        before = x.clone()
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert block.out_channels == expected.shape[1] == (6 if merge == "concat" else 2)


def test_another_merge_is_refused():
    with pytest.raises(ValueError, match='"concat" or "add", got \'mean\''):
        ResidualAtrousBlock(3, 2, merge="mean")


def test_in_train_mode_a_block_learns_as_with_plain_convolutions():
    torch.manual_seed(0)
    block = ResidualAtrousBlock(6, 2).double()
    x = torch.randn(2, 6, 17, 13, dtype=torch.float64, requires_grad=True)
    output = block(x)
    ours = torch.autograd.grad(output.square().sum(), [x, *block.parameters()])
    for branch in block.branches:
        branch.conv1.forward = lambda x, conv=branch.conv1: plain(conv, x)
        branch.conv2.forward = lambda x, conv=branch.conv2: plain(conv, x)
    expected = block(x)
    torch.testing.assert_close(output, expected)
    theirs = torch.autograd.grad(expected.square().sum(), [x, *block.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
