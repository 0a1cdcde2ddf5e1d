"""ImageNet weights for the ResNet-34 encoder: a local file, the cache, and no internet."""

from __future__ import annotations

import hashlib
import io
import pickle
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from medseg_monai.networks.nets import CENet
from medseg_monai.networks.weights import resnet34
from medseg_monai.networks.weights.resnet34 import RESNET34_URL, load_resnet34_encoder, resnet34_cache_path
from tests.networks.nets.cenet_authors import author_shapes


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's ``resnet34().state_dict()``."""
    encoder = {
        key.replace("firstconv", "conv1").replace("firstbn", "bn1").replace("encoder", "layer"): shape
        for key, shape in author_shapes().items()
        if key.startswith(("firstconv", "firstbn", "encoder"))
    }
    return {**encoder, "fc.weight": (1000, 512), "fc.bias": (1000,)}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.rand(shape, generator=generator)
        for key, shape in torchvision_shapes().items()
    }


@pytest.fixture(scope="module")
def local_file(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of torch.hub, and no internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def no_internet(url, dst, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_internet)
    assert resnet34_cache_path().is_relative_to(tmp_path)
    return resnet34_cache_path()


@pytest.fixture
def meta_encoder() -> nn.Module:
    with torch.device("meta"):
        return CENet().encoder


def test_a_local_file_with_the_names_of_torchvision_fills_the_whole_encoder(local_file, state):
    loaded = CENet(pretrained=local_file).encoder.state_dict()
    assert loaded.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_file_without_batch_counters_fits_too(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    loaded = CENet(pretrained=str(tmp_path / "old.pth")).encoder.state_dict()
    assert torch.equal(loaded["layer4.2.conv2.weight"], state["layer4.2.conv2.weight"])
    assert loaded["bn1.num_batches_tracked"] == 0


def test_building_without_pretrained_weights_downloads_nothing(cache):
    with torch.device("meta"):
        CENet()
    assert not cache.parent.exists()


def test_without_internet_the_error_names_the_address_and_the_place_of_a_copy(cache):
    with pytest.raises(OSError, match="copy the file to") as error:
        CENet(pretrained=True)
    assert RESNET34_URL in str(error.value)
    assert str(cache) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cached_file_with_another_checksum_is_refused(cache, meta_encoder):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"half a download")
    digest = hashlib.sha256(b"half a download").hexdigest()[:8]
    with pytest.raises(ValueError, match=f"SHA-256 starts with {digest}, expected b627a593") as error:
        load_resnet34_encoder(meta_encoder)
    assert str(cache) in str(error.value)
    assert RESNET34_URL in str(error.value)


def test_a_cached_file_with_the_right_checksum_is_used_without_internet(cache, local_file, state, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.symlink_to(local_file)
    digest = hashlib.sha256(local_file.read_bytes()).hexdigest()
    monkeypatch.setattr(resnet34, "RESNET34_SHA256_PREFIX", digest[:8])
    loaded = CENet(pretrained=True).encoder.state_dict()
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"])


def test_the_download_is_checked_against_the_documented_checksum(cache, local_file, monkeypatch, meta_encoder):
    asked = {}

    def download(url, dst, **kwargs):
        asked.update(kwargs, url=url, dst=dst)
        raise URLError("stop here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(OSError, match="stop here"):
        load_resnet34_encoder(meta_encoder)
    assert asked["url"] == RESNET34_URL
    assert asked["dst"] == str(cache)
    assert asked["hash_prefix"] == "b627a593"


def test_keys_of_another_network_are_refused_by_name(tmp_path, meta_encoder):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"linear\.pth: fits a ResNet-34 .*unknown 2: \['weight', 'bias'\]"):
        load_resnet34_encoder(meta_encoder, tmp_path / "linear.pth")


def test_tensors_of_another_shape_are_refused_by_name(tmp_path, state, meta_encoder):
    small = {key: value[:1] if value.ndim == 4 else value for key, value in state.items()}
    torch.save(small, tmp_path / "thin.pth")
    with pytest.raises(ValueError, match=r"other shape 36: \['conv1\.weight is \(1,"):
        load_resnet34_encoder(meta_encoder, tmp_path / "thin.pth")


def test_a_missing_file_is_named(tmp_path, meta_encoder):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file"):
        load_resnet34_encoder(meta_encoder, tmp_path / "gone.pth")


def test_one_input_channel_cannot_take_pretrained_weights(local_file):
    with pytest.raises(ValueError, match="3 input channels, got in_channels=1"):
        CENet(in_channels=1, pretrained=local_file)


def test_a_damaged_download_ends_in_one_line_that_names_the_address(cache, monkeypatch, meta_encoder):
    class Response(io.BytesIO):
        def info(self):
            return Message()

    monkeypatch.undo()  # the download itself, but without its network
    monkeypatch.setattr(torch.hub, "_hub_dir", str(cache.parents[1]))
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Response(b"half of the file"))
    with pytest.raises(OSError, match="the download is damaged") as error:
        load_resnet34_encoder(meta_encoder)
    assert RESNET34_URL in str(error.value)
    assert "pretrained=" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(cache.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 no more of it", pickle.dumps({"conv1.weight": print})]
)
def test_a_file_that_is_none_of_pytorch_ends_in_one_line_that_names_it(content, tmp_path, meta_encoder):
    (tmp_path / "resnet34.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet34\.pth: cannot be read as weights: it is damaged") as error:
        load_resnet34_encoder(meta_encoder, tmp_path / "resnet34.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path, meta_encoder):
    torch.save(content, tmp_path / "resnet34.pth")
    with pytest.raises(ValueError, match=r"resnet34\.pth: (holds no state dict|these entries are not tensors)"):
        load_resnet34_encoder(meta_encoder, tmp_path / "resnet34.pth")
