"""The import of checkpoints, with a tiny network in place of a real one; CE-Net's own is in ``nets/test_cenet.py``."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping

import pytest
import torch
from monai.utils import ComponentStore
from torch import nn

from medseg_monai.networks import NETWORKS
from medseg_monai.networks.weights import ModelFile
from medseg_monai.networks.weights.authors import import_weights


class TinyNet(nn.Module):
    def __init__(self, spatial_dims: int = 2, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, 4, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, out_channels, kernel_size=1)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = {"first": "body", "bn": "norm", "last": "head"}
        unknown = [key for key in state if key.split(".")[0] not in names]
        if unknown:
            raise ValueError(f"unknown keys: {unknown}")
        return {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in state.items()}

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
        return {"out_channels": state["head.weight"].shape[0]} if "head.weight" in state else {}


class SizedNet(TinyNet):
    """One more argument, a setting that no tensor tells, and a tensor that the authors never use."""

    author_settings = {"norm": "odd"}

    def __init__(self, *, width: int = 4, **kwargs: int) -> None:
        super().__init__(**kwargs)

    @staticmethod
    def author_unused(key: str) -> str | None:
        return "never used" if key == "old.weight" else None

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        used = {key: value for key, value in state.items() if SizedNet.author_unused(key) is None}
        return TinyNet.convert_author_state(used)

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
        return {**TinyNet.infer_arguments(state), "width": state["body.weight"].shape[0]}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(NETWORKS.components, "tiny", ComponentStore._Component("a tiny network", TinyNet))
    monkeypatch.setitem(NETWORKS.components, "sized", ComponentStore._Component("a tiny network", SizedNet))
    monkeypatch.setitem(NETWORKS.components, "unpublished", ComponentStore._Component("no weights", nn.Identity))


@pytest.fixture
def net() -> TinyNet:
    torch.manual_seed(3)
    return TinyNet(out_channels=5)


@pytest.fixture
def authors(net) -> dict[str, torch.Tensor]:
    names = {"body": "first", "norm": "bn", "head": "last"}
    return {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value.clone() for key, value in net.state_dict().items()}


def assert_same_state(state: Mapping[str, torch.Tensor], net: nn.Module) -> None:
    expected = net.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".PTH"])
def test_a_plain_state_dict_is_renamed_and_reported(suffix, tmp_path, net, authors):
    source = tmp_path / f"authors{suffix}"
    torch.save(authors, source)
    report = import_weights("tiny", source)
    assert_same_state(report.state_dict, net)
    assert report.summary() == {
        "network": "tiny",
        "source": str(source),
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "arguments": {"out_channels": 5},
        "settings": {},
        "tensors": 9,
        "dropped": {},
        "added": {},
    }
    assert json.loads(json.dumps(report.summary())) == report.summary()


def test_the_weights_go_into_the_network_that_the_report_describes(tmp_path, net, authors):
    torch.save(authors, tmp_path / "a.pth")
    report = import_weights("tiny", tmp_path / "a.pth")
    twin = NETWORKS[report.network](**report.arguments)
    twin.load_state_dict(report.state_dict, strict=True)
    assert_same_state(twin.state_dict(), net)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net", "network"])
def test_a_wrapped_state_dict_is_found_and_what_lies_beside_it_is_reported(wrapper, tmp_path, net, authors):
    torch.save({wrapper: authors, "epoch": 7, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    report = import_weights("tiny", tmp_path / "a.pth")
    assert_same_state(report.state_dict, net)
    assert set(report.dropped) == {"epoch", "optimizer"}
    assert all(wrapper in reason for reason in report.dropped.values())


def test_the_prefix_of_dataparallel_is_taken_off(tmp_path, net, authors):
    torch.save({"net": {f"module.{key}": value for key, value in authors.items()}}, tmp_path / "a.pth")
    assert_same_state(import_weights("tiny", tmp_path / "a.pth").state_dict, net)


def test_safetensors_are_read(tmp_path, net, authors):
    safetensors = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")
    safetensors.save_file(authors, tmp_path / "a.safetensors")
    assert_same_state(import_weights("tiny", tmp_path / "a.safetensors").state_dict, net)


def test_batch_counters_that_old_files_lack_are_added_and_reported(tmp_path, net, authors):
    del authors["bn.num_batches_tracked"]
    torch.save(authors, tmp_path / "a.pth")
    report = import_weights("tiny", tmp_path / "a.pth")
    assert_same_state(report.state_dict, net)
    assert list(report.added) == ["norm.num_batches_tracked"]


def test_out_holds_the_weights_as_a_bundle_takes_them_and_nothing_temporary_stays(tmp_path, net, authors):
    torch.save(authors, tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    import_weights("tiny", tmp_path / "a.pth", out=tmp_path / "out" / "model.pt")
    written = ModelFile(tmp_path / "out" / "model.pt")
    assert written.settings == {}
    assert_same_state(written.state_dict(), net)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.pt"]


def test_the_settings_of_the_authors_are_written_beside_the_weights(tmp_path, authors, monkeypatch):
    monkeypatch.setattr(TinyNet, "author_settings", {"channel_order": "BGR"}, raising=False)
    torch.save(authors, tmp_path / "a.pth")
    report = import_weights("tiny", tmp_path / "a.pth", out=tmp_path / "model.pt")
    assert report.summary()["settings"] == {"channel_order": "BGR"}
    assert ModelFile(tmp_path / "model.pt").setting("channel_order", "RGB") == "BGR"


def test_a_network_may_have_weights_of_bundles_with_different_settings(tmp_path, authors, monkeypatch):
    def adapt(settings, arguments):
        return {**settings, "classes": arguments["out_channels"]}

    monkeypatch.setattr(TinyNet, "adapt_settings", staticmethod(adapt), raising=False)
    torch.save(authors, tmp_path / "a.pth")
    assert import_weights("tiny", tmp_path / "a.pth").settings == {"classes": 5}


def test_weights_of_one_channel_are_of_photographs_and_those_of_several_of_layers():
    settings = NETWORKS["cenet"].author_settings
    assert NETWORKS["cenet"].adapt_settings(settings, {"out_channels": 1}) == {"channel_order": "BGR"}
    assert NETWORKS["cenet"].adapt_settings(settings, {"out_channels": 12}) == {"out_channels": 12}


def test_the_arguments_other_than_the_channels_are_settings(tmp_path, authors):
    torch.save(authors, tmp_path / "a.pth")
    report = import_weights("sized", tmp_path / "a.pth", out=tmp_path / "model.pt")
    assert report.arguments == {"out_channels": 5, "width": 4}
    assert report.settings == {"width": 4, "norm": "odd"}
    assert ModelFile(tmp_path / "model.pt").settings == report.settings


def test_what_the_authors_never_use_is_left_out_and_reported(tmp_path, net, authors):
    torch.save({"net": {**authors, "old.weight": torch.zeros(1)}, "epoch": 7}, tmp_path / "a.pth")
    report = import_weights("sized", tmp_path / "a.pth")
    assert report.dropped == {"epoch": "lies beside 'net'", "old.weight": "never used"}
    assert report.tensors == 9
    assert_same_state(report.state_dict, net)


def test_nothing_else_is_left_out(tmp_path, authors):
    torch.save({**authors, "old.weight": torch.zeros(1), "old.bias": torch.zeros(1)}, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth", name="sized")
    assert "old.bias" in message
    assert "old.weight" not in message


def test_the_authors_of_cenet_read_their_images_with_blue_first():
    assert NETWORKS["cenet"].author_settings == {"channel_order": "BGR"}


def test_the_authors_of_ctsunet_predict_in_windows_of_132_voxels():
    assert NETWORKS["ctsunet"].author_settings == {"similarity_norm": "voxel", "window": 132}


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, authors, monkeypatch):
    torch.save(authors, tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "model.pt"
    out.write_bytes(b"old")

    def disc_is_full(obj, stream):
        stream.write(b"half a f")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disc_is_full)
    with pytest.raises(OSError, match="No space left"):
        import_weights("tiny", tmp_path / "a.pth", out=out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in out.parent.iterdir()] == ["model.pt"]


def test_a_missing_output_folder_is_named(tmp_path, authors):
    torch.save(authors, tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder to write model\.pt"):
        import_weights("tiny", tmp_path / "a.pth", out=tmp_path / "nowhere" / "model.pt")


def refusal(source, *, name="tiny", out=None) -> str:
    """Import has to fail with one line, which starts with the file's path, and to write nothing."""
    with pytest.raises(ValueError, match=r".") as error:
        import_weights(name, source, out=out)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(source))
    return message


def test_a_checkpoint_that_lacks_a_tensor_is_refused_and_not_written(tmp_path, authors):
    del authors["bn.weight"]
    torch.save(authors, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth", out=tmp_path / "model.pt")
    assert "missing 1: ['norm.weight']" in message
    assert not (tmp_path / "model.pt").exists()


def test_a_checkpoint_without_its_head_is_refused(tmp_path, authors):
    del authors["last.weight"]
    torch.save(authors, tmp_path / "a.pth")
    assert "'head.weight'" in refusal(tmp_path / "a.pth")


def test_an_unknown_key_is_refused_by_its_name_in_the_file(tmp_path, authors):
    torch.save({**authors, "middle.weight": torch.zeros(1)}, tmp_path / "a.pth")
    assert "middle.weight" in refusal(tmp_path / "a.pth")


def test_a_key_that_converts_to_nothing_in_the_network_is_refused(tmp_path, authors):
    torch.save({**authors, "first.gain": torch.zeros(1)}, tmp_path / "a.pth")
    assert "unknown 1: ['body.gain']" in refusal(tmp_path / "a.pth")


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path, authors):
    torch.save({**authors, "bn.weight": torch.zeros(6)}, tmp_path / "a.pth")
    assert "norm.weight is (6,), not (4,)" in refusal(tmp_path / "a.pth")


def test_the_weights_of_another_network_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    assert "not the authors' checkpoint of cenet" in refusal(tmp_path / "a.pth", name="cenet")


def test_entries_that_are_no_tensors_are_refused_by_name(tmp_path, authors):
    torch.save({**authors, "epoch": 3}, tmp_path / "a.pth")
    assert "['epoch']" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    assert "holds no state dict" in refusal(tmp_path / "a.pth")


def test_a_pickled_object_is_never_loaded(tmp_path, authors):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({"state_dict": authors, "payload": Payload()}, tmp_path / "a.pth")
    assert "torch.save(model.state_dict(), path)" in refusal(tmp_path / "a.pth")
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(damage, suffix, tmp_path, authors):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    torch.save(authors, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    content = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"<html>404</html>" * 9,
        "pickle": pickle.dumps(1),
    }
    source = tmp_path / f"a{suffix}"
    source.write_bytes(content[damage])
    assert "damaged" in refusal(source) or "no state dict" in refusal(source)


def test_weights_that_are_not_finite_are_refused_by_their_name_in_the_file(tmp_path, authors):
    name = list(authors)[1]
    torch.save({**authors, name: torch.full_like(authors[name], torch.nan)}, tmp_path / "a.pth")
    assert f"{name} has values that are not finite" in refusal(tmp_path / "a.pth")


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"x")
    assert ".pt, .pth, .th, .safetensors" in refusal(tmp_path / "a.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file"):
        import_weights("tiny", tmp_path / "gone.pth")


def test_an_unknown_network_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="unet: no such network; known networks: anunet, cenet"):
        import_weights("unet", tmp_path / "a.pth")


def test_a_network_without_published_weights_says_so(tmp_path):
    with pytest.raises(ValueError, match="unpublished: no checkpoint format of its authors"):
        import_weights("unpublished", tmp_path / "a.pth")
