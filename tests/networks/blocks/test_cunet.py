"""CU-Net: sizes, skip connections, and how far its outputs see; parity with the authors is in ``nets/``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg_monai.networks.blocks import CrissCrossAttention3d, CUNet

FEATURES = (4, 4, 4, 5, 5, 6, 6, 8, 6, 6, 5, 5, 4, 4)


def small(*, padded: bool, seed: int = 2, **kwargs) -> CUNet:
    torch.manual_seed(seed)
    return CUNet(2, 6, FEATURES, padded=padded, embedding_channels=4, **kwargs).eval()


def grid(*voxels: int, batch: int = 1) -> list[torch.Tensor]:
    return [torch.linspace(-0.5, 0.5, edge).expand(batch, -1) for edge in voxels]


def test_with_padding_the_size_stays():
    with torch.no_grad():
        lobes, border = small(padded=True)(torch.randn(2, 2, 16, 24, 32), grid(2, 3, 4, batch=2))
    assert lobes.shape == (2, 6, 16, 24, 32)
    assert border.shape == (2, 1, 16, 24, 32)


def test_valid_convolutions_take_44_voxels_off_each_side():
    with torch.no_grad():
        lobes, border = small(padded=False)(torch.randn(1, 2, 92, 100, 108), grid(4, 5, 6))
    assert lobes.shape == (1, 6, 4, 12, 20)
    assert border.shape == (1, 1, 4, 12, 20)


@pytest.mark.parametrize("features", [FEATURES[:-1], (*FEATURES, 4)])
def test_another_number_of_features_than_14_is_refused(features):
    with pytest.raises(ValueError, match="A CU-Net has 14 convolutions: give the features of each"):
        CUNet(1, 6, features, padded=True)


def test_the_features_are_the_widths_of_the_convolutions_in_their_order():
    convolutions = [m for m in small(padded=True, non_local=False).modules() if isinstance(m, nn.Conv3d)]
    assert tuple(m.out_channels for m in convolutions) == (*FEATURES, 6, 1)
    assert all(m.bias is None for m in convolutions[:14])


def test_kernels_start_after_he():
    torch.manual_seed(1)
    net = CUNet(1, 6, [32] * 14, padded=True)
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 20_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


def test_both_heads_look_at_the_same_features():
    net = small(padded=True, non_local=False)
    with torch.no_grad():
        net.border.weight.copy_(net.lobes.weight[2:3])
        net.border.bias.copy_(net.lobes.bias[2:3])
        lobes, border = net(torch.randn(1, 2, 16, 16, 24), grid(2, 2, 3))
    torch.testing.assert_close(lobes[:, 2:3], border)
    assert not torch.allclose(lobes[:, 1:2], border)


def test_the_first_skip_connection_keeps_voxels_in_their_place():
    # with nothing from below, what is left are four convolutions of 3x3x3
    net = small(padded=False)
    with torch.no_grad():
        net.up3[0].conv.weight[:, : FEATURES[11]] = 0
    x = torch.randn(1, 2, 92, 92, 100, requires_grad=True)
    lobes, _ = net(x, grid(4, 4, 5))
    (gradient,) = torch.autograd.grad(lobes[0, :, 1, 2, 9].sum(), x)
    places = gradient.abs().sum(dim=(0, 1)).nonzero()
    # the centre is voxel 44 + (1, 2, 9), seen 4 voxels to each side
    assert places.amin(dim=0).tolist() == [41, 42, 49]
    assert places.amax(dim=0).tolist() == [49, 50, 57]


# --- how far an output sees (Fig. 3) ----------------------------------------------------------------------------------


def blocks_seen(net: CUNet) -> torch.Tensor:
    """Which blocks of 8x8x8 voxels, each a voxel of the bridge, the corner of a long input's output depends on."""
    net = net.double()
    x = torch.randn(1, 2, 16, 16, 176, dtype=torch.float64, requires_grad=True)
    lobes, _ = net(x, [axis.double() for axis in grid(2, 2, 22)])
    (gradient,) = torch.autograd.grad(lobes[0, :, 0, 0, 0].square().sum(), x)
    return nn.functional.max_pool3d(gradient.abs().sum(dim=1), 8)[0] > 0


def test_an_output_sees_the_whole_scan_with_attention():
    assert blocks_seen(small(padded=True)).all()


def test_an_output_sees_only_its_surroundings_without_attention():
    net = small(padded=True, non_local=False)
    assert not any(isinstance(m, CrissCrossAttention3d) for m in net.modules())
    seen = blocks_seen(net)
    # the convolutions alone reach 44 voxels, pooling and interpolation a little further
    assert seen[..., :5].all()
    assert not seen[..., 7:].any()
