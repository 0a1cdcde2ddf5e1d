"""Mixed precision on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg_monai.inferers import CPUAutocastInferer


def network() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, kernel_size=3)


def test_the_network_computes_in_bfloat16_and_its_weights_stay_in_float32():
    net = network()
    output = CPUAutocastInferer()(torch.ones(1, 2, 8, 9), net)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert net.weight.dtype == torch.float32
    assert net.weight.grad is not None
    assert net.weight.grad.dtype == torch.float32


def test_the_result_is_that_of_float32_to_the_digits_that_bfloat16_has():
    net, image = network(), torch.rand(1, 2, 8, 9)
    torch.testing.assert_close(CPUAutocastInferer()(image, net).float(), net(image), rtol=2e-2, atol=2e-2)


def test_a_disabled_one_changes_nothing():
    net, image = network(), torch.rand(1, 2, 8, 9)
    output = CPUAutocastInferer(enabled=False)(image, net)
    assert output.dtype == torch.float32
    assert torch.equal(output, net(image))


def test_precision_returns_to_float32_after_the_network_has_failed():
    with pytest.raises(RuntimeError):
        CPUAutocastInferer()(torch.ones(1, 5, 8, 9), network())
    assert not torch.is_autocast_enabled("cpu")


def test_further_arguments_reach_the_network():
    received = []
    CPUAutocastInferer()(torch.ones(1), lambda x, *args, **kwargs: received.append((args, kwargs)), 1, key=2)
    assert received == [((1,), {"key": 2})]
