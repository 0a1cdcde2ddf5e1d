"""Weights of a bundle: loaded whole, or refused with a remedy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg_monai.bundle import BundleError, file_sha256, load_initial_weights, load_network
from medseg_monai.networks.weights import ModelFile, write_model


class Net(nn.Module):
    def __init__(self, out_channels: int = 2) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.body(x))))


@pytest.fixture
def trained() -> Net:
    torch.manual_seed(6)
    net = Net()
    net(torch.rand(3, 1, 5, 8))  # gives the batch norm statistics
    return net.eval()


def refusal(path: Path, network: nn.Module | None = None) -> str:
    """Loading has to fail with one line that starts with the file, and to leave the network as it was."""
    network = Net() if network is None else network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(BundleError) as error:
        load_network(network, path, "cpu")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plain_and_a_wrapped_state_dict_are_taken(wrapped, fast, tmp_path, trained):
    state = trained.state_dict()
    torch.save({"model": state, "settings": {"image_size": [4, 6]}} if wrapped else state, tmp_path / "model.pt")
    network = load_network(Net(), tmp_path / "model.pt", "cpu", fast=fast)
    assert not network.training
    x = torch.rand(2, 1, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), trained(x), rtol=1e-4, atol=1e-5)


def test_missing_weights_are_refused_with_the_remedy(tmp_path):
    message = refusal(tmp_path / "gone.pt")
    assert "train the bundle" in message
    assert "--checkpoint FILE" in message


def test_a_pickled_object_is_never_loaded(tmp_path, trained):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({"model": trained.state_dict(), "payload": Payload()}, tmp_path / "model.pt")
    assert "pickles objects other than tensors" in refusal(tmp_path / "model.pt")
    assert not marker.exists()


def test_a_whole_pickled_network_is_refused(tmp_path, trained):
    torch.save(trained, tmp_path / "model.pt")
    assert "torch.save(model.state_dict(), path)" in refusal(tmp_path / "model.pt")


def test_a_damaged_file_is_refused(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[:-100])
    assert "damaged" in refusal(tmp_path / "model.pt")


def test_weights_that_are_not_finite_neither_predict_nor_start_a_training(tmp_path, trained):
    trained.head.bias.data[1] = torch.nan
    write_model(tmp_path / "model.pt", trained.state_dict())
    assert "head.bias has values that are not finite" in refusal(tmp_path / "model.pt")
    with pytest.raises(BundleError, match=r"model\.pt: head\.bias has values that are not finite"):
        load_initial_weights(Net(), ModelFile(tmp_path / "model.pt"))


def test_weights_that_fit_in_part_are_refused_with_what_does_not(tmp_path, trained):
    state = trained.state_dict()
    del state["norm.running_mean"]
    torch.save({"model": {**state, "tail.bias": torch.zeros(1)}}, tmp_path / "model.pt")
    message = refusal(tmp_path / "model.pt", Net(out_channels=3))
    assert "fits Net only in part" in message
    assert "missing 1: ['norm.running_mean']" in message
    assert "unknown 1: ['tail.bias']" in message
    assert "head.weight is (2, 4, 1, 1), not (3, 4, 1, 1)" in message


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}, {"model": {"a": "text"}}, {}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    message = refusal(tmp_path / "model.pt")
    assert "holds no state dict" in message or "are not tensors" in message


def test_a_network_with_a_part_called_model_is_read_as_it_is(tmp_path):
    state = nn.ModuleDict({"model": nn.Linear(2, 1)}).state_dict()
    torch.save(state, tmp_path / "model.pt")
    assert ModelFile(tmp_path / "model.pt").state_dict().keys() == {"model.weight", "model.bias"}


def test_the_sha256_is_that_of_the_file(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    assert file_sha256(tmp_path / "model.pt") == hashlib.sha256(b"weights").hexdigest()
