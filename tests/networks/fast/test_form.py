import copy

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet
from torch import nn

from medseg_monai.networks import NETWORKS
from medseg_monai.networks.fast.form import FastForm, make_fast
from tests.networks.cases import CASES

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def randomise(network: nn.Module) -> nn.Module:
    """Statistics of a trained network, so that a batch norm left out or folded wrongly shows."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def plain_logits(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


class Toy(nn.Module):
    """Convolution and batch norm; takes even heights only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 2 != 0:
            raise ValueError("Toy takes even heights: pad by one row.")
        return torch.relu(self.norm(self.conv(x)))


class Unscriptable(Toy):
    def forward(self, x, *args, **kwargs):
        return super().forward(x)


class NeedsPlainLayout(Toy):
    """``view`` over the channels fails when they lie last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x.view(x.shape[0], -1).view(x.shape)


@pytest.mark.parametrize("name", sorted(name for name, _ in NETWORKS))
def test_every_network_keeps_its_logits_at_any_size(name):
    case = CASES[name]
    network = randomise(NETWORKS[name](**case.kwargs))
    fast = make_fast(network)
    for shape in case.in_shapes:
        x = torch.randn(shape)
        expected, actual = plain_logits(network, x), fast(x)
        assert actual.shape == expected.shape
        assert actual.is_contiguous()
        assert relative_error(actual, expected) < 1e-4
    own = hasattr(network, "fast_form")
    assert isinstance(fast, NETWORKS[name] if own else FastForm)
    assert own or fast.is_frozen, "not scriptable: its prediction takes the plain form's time"


def test_the_original_keeps_its_weights_layout_and_mode():
    network = randomise(Toy()).train()
    before = copy.deepcopy(network.state_dict())
    fast = make_fast(network)
    fast(torch.randn(2, 3, 6, 8))
    assert network.training
    assert network.conv.weight.is_contiguous()
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_later_changes_of_the_original_do_not_reach_the_form():
    network = randomise(Toy())
    fast, x = make_fast(network), torch.randn(1, 3, 6, 8)
    before = fast(x)
    nn.init.zeros_(network.conv.weight)
    assert torch.equal(fast(x), before)


def test_batch_norms_are_folded():
    fast = FastForm(randomise(Toy()))
    assert "batch_norm" not in str(fast._frozen.inlined_graph)


def test_an_unscriptable_network_predicts_in_its_plain_form():
    network, x = randomise(Unscriptable()), torch.randn(1, 3, 6, 8)
    fast = make_fast(network)
    assert not fast.is_frozen
    assert torch.equal(fast(x), plain_logits(network, x))


def test_a_network_that_fails_channels_last_falls_back_with_a_warning(caplog):
    network, x = randomise(NeedsPlainLayout()), torch.randn(1, 3, 6, 8)
    fast = make_fast(network)
    assert fast.is_frozen
    assert torch.equal(fast(x), plain_logits(network, x))
    assert not fast.is_frozen
    assert "falls back to its plain form" in caplog.text


def test_a_size_the_network_refuses_raises_its_own_error_and_keeps_the_form():
    fast = make_fast(randomise(Toy()))
    with pytest.raises(ValueError, match=r"^Toy takes even heights: pad by one row\.$"):
        fast(torch.randn(1, 3, 7, 8))
    assert fast.is_frozen


def test_a_meta_tensor_hands_its_metadata_on():
    network = randomise(Toy())
    x = MetaTensor(torch.randn(1, 3, 6, 8), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])), meta={"name": "eye"})
    logits = make_fast(network)(x)
    assert isinstance(logits, MetaTensor)
    assert logits.meta["name"] == "eye"
    assert torch.equal(logits.affine, x.affine)
    assert relative_error(logits.as_tensor(), plain_logits(network, x.as_tensor())) < 1e-4


def test_loaded_weights_are_used():
    network, other, x = randomise(Toy()), Toy().eval(), torch.randn(1, 3, 6, 8)
    fast = make_fast(other)
    fast.load_state_dict({f"network.{key}": value for key, value in network.state_dict().items()})
    assert fast.is_frozen
    assert relative_error(fast(x), plain_logits(network, x)) < 1e-4


def test_a_change_of_precision_reaches_the_frozen_form():
    network, x = randomise(Toy()), torch.randn(1, 3, 6, 8, dtype=torch.float64)
    fast = make_fast(network).double()
    assert fast.is_frozen
    assert relative_error(fast(x), plain_logits(copy.deepcopy(network).double(), x)) < 1e-12


def test_it_cannot_be_trained():
    fast = make_fast(Toy())
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast.train()
    assert not fast.training
    assert not fast(torch.randn(1, 3, 6, 8)).requires_grad


def test_instance_norms_keep_the_default_layout():
    with_instance_norm = FastForm(BasicUNet(spatial_dims=2, features=(4, 4, 4, 4, 4, 4)))
    assert with_instance_norm.memory_format is torch.contiguous_format
    assert FastForm(Toy()).memory_format is torch.channels_last
