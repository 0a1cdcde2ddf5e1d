"""The sizes of images that a network takes."""

from __future__ import annotations

import pytest
import torch

from medseg_monai.networks.blocks.input_size import check_size


@pytest.mark.parametrize("size", [[16], [16, 48], [32, 16, 160]])
def test_multiples_of_the_step_pass(size):
    check_size(size, 16, "Net")


@pytest.mark.parametrize(
    ("size", "fitting"), [([0, 16], "16x16"), ([17, 16], "32x16"), ([16, 15, 33], "16x16x48"), ([1], "16")]
)
def test_another_size_is_refused_with_the_next_one_that_fits(size, fitting):
    got = "x".join(map(str, size))
    message = rf"^Net takes sizes that are multiples of 16, got {got}: pad or resize to {fitting}\.$"
    with pytest.raises(ValueError, match=message):
        check_size(size, 16, "Net")


def test_a_multiple_that_is_too_short_is_refused_with_the_shortest():
    check_size([32, 64], 16, "Net", smallest=32)
    message = r"^Net takes sizes that are multiples of 16 and at least 32, got 16x64: pad to 32x64\.$"
    with pytest.raises(ValueError, match=message):
        check_size([16, 64], 16, "Net", smallest=32, remedy="pad")


def test_torchscript_compiles_the_check():
    def forward(x: torch.Tensor) -> torch.Tensor:
        check_size(list(x.shape[2:]), 4, "Net", smallest=8)
        return x

    scripted = torch.jit.script(forward)
    assert scripted(torch.zeros(1, 1, 8, 12)).shape == (1, 1, 8, 12)
    with pytest.raises(torch.jit.Error, match=r"multiples of 4 and at least 8, got 8x4: pad or resize to 8x8\."):
        scripted(torch.zeros(1, 1, 8, 4))
