import copy

import pytest
import torch

from medseg_monai.networks.blocks.cunet import CUNet
from medseg_monai.networks.blocks.valid_windows import crop_zero_padded
from medseg_monai.networks.fast import make_fast
from medseg_monai.networks.fast.cunet import FastCUNet, fold_batch_norms
from medseg_monai.networks.nets import CTSUNet
from tests.networks.fast.test_form import randomise, relative_error

TINY = (4, 6, 6, 8, 8, 8, 8, 12, 8, 8, 8, 6, 6, 4)
WIDE = (8, 16, 16, 24, 20, 24, 24, 32, 24, 24, 20, 24, 18, 20)  # enough channels for the transform, at every level
CENTERS = torch.linspace(-0.4, 0.3, 20)


def valid_network(features=WIDE, **options) -> CUNet:
    torch.manual_seed(0)
    return randomise(CUNet(8, 6, features, padded=False, embedding_channels=4, **options))


def centers_of(size: list[int]) -> list[torch.Tensor]:
    return [CENTERS[None, : (edge - 60) // 8] for edge in size]


def both(network: CUNet, scan: torch.Tensor, start: list[int], size: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the plain network and of its fast form, both heads together."""
    with torch.no_grad():
        expected = torch.cat(network(crop_zero_padded(scan, start, size), centers_of(size)), dim=1)
    slices = torch.cat(list(FastCUNet(network)(scan, start, size, centers_of(size))))
    return expected, slices.transpose(0, 1)[None]


@pytest.mark.parametrize("features", [TINY, WIDE])
@pytest.mark.parametrize("size", [[92, 100, 108], [108, 92, 92], [116, 92, 100]])
def test_it_equals_the_plain_network_on_windows_that_are_no_cubes(features, size):
    expected, actual = both(valid_network(features), torch.rand(1, 8, *size), [0, 0, 0], size)
    assert actual.shape == expected.shape == (1, 7, *(edge - 88 for edge in size))
    assert relative_error(actual, expected) < 1e-4


@pytest.mark.parametrize("options", [{"non_local": False}, {"geometric": False}, {"similarity_norm": "voxel"}])
def test_it_equals_the_plain_network_with_any_attention(options):
    size = [100, 92, 100]
    expected, actual = both(valid_network(**options), torch.rand(1, 8, *size), [0, 0, 0], size)
    assert relative_error(actual, expected) < 1e-4


@pytest.mark.parametrize(
    ("scan", "start"),
    [
        ((20, 23, 31), (-44, -44, -44)),  # smaller than the window all round
        ((60, 200, 64), (-21, 35, -3)),  # odd places; one axis inside
        ((61, 70, 97), (7, -35, -41)),
    ],
)
def test_windows_that_reach_beyond_the_scan_see_zeros_there(scan, start):
    expected, actual = both(valid_network(), torch.rand(1, 8, *scan), list(start), [100, 92, 108])
    assert relative_error(actual, expected) < 1e-4


def test_logits_come_a_few_slices_at_a_time():
    size = [132, 92, 92]
    form = FastCUNet(valid_network(TINY))
    depths = [stack.shape[0] for stack in form(torch.rand(1, 8, *size), [0, 0, 0], size, centers_of(size))]
    assert sum(depths) == 44
    assert max(depths) <= 6


def test_folding_leaves_the_original_as_it_was():
    network = valid_network(TINY).train()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norms(network)
    assert network.training
    assert not folded.training
    assert not any("running_mean" in key for key in folded.state_dict() if not key.startswith("attention"))
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def network() -> CTSUNet:
    torch.manual_seed(0)
    return randomise(CTSUNet(stage1_features=TINY, stage2_features=TINY, embedding_channels=4))


def test_the_form_of_ctsunet_equals_it_for_a_batch(network):
    scans = torch.rand(2, 1, 32, 48, 32)
    form = network.fast_form()
    with torch.no_grad():
        expected = network(scans)
    assert relative_error(form(scans), expected) < 1e-4


def test_the_form_has_the_same_methods(network):
    form = network.fast_form()
    context = torch.rand(2, 8, 40, 52, 36)
    corners = [[[0, 4, 8], [3, 3, 3]], [[20, 40, 11], [36, 0, 35]]]
    with torch.no_grad():
        for expected, actual in zip(
            network.window_logits(context, corners, [4, 12, 4]),
            form.window_logits(context, corners, [4, 12, 4]),
            strict=True,
        ):
            assert actual.shape == expected.shape
            assert relative_error(actual, expected) < 1e-4
        box = ([3, 5, 0], [21, 41, 17], [12, 36, 20])  # tiles overlap along one axis; along another one is cut off
        expected = network.second_stage(context, *box)
    assert relative_error(form.second_stage(context, *box), expected) < 1e-4


def test_the_form_is_for_prediction_only(network):
    form = network.fast_form()
    assert isinstance(form, CTSUNet)
    assert not form.training
    assert not any(parameter.requires_grad for parameter in form.parameters())
    assert not form(torch.rand(1, 1, 32, 32, 32, requires_grad=True)).requires_grad
    with pytest.raises(RuntimeError, match="train the network it was made from"):
        form.train()
    assert not form.eval().training


def test_the_original_stays_as_it_was(network):
    trained = copy.deepcopy(network).train()
    before = copy.deepcopy(trained.state_dict())
    form = trained.fast_form()
    form(torch.rand(1, 1, 32, 32, 32))
    assert trained.training
    assert all(parameter.requires_grad for parameter in trained.parameters())
    torch.testing.assert_close(trained.state_dict(), before, rtol=0, atol=0)


def test_prediction_uses_the_form(network):
    assert type(make_fast(network)) is type(network.fast_form())
    assert network.fast_form().max_window_voxels > network.max_window_voxels
