"""Export of a bundle's network: what the file computes, what it tells, and when there is none."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import load_net_with_metadata

from medseg_monai.bundle import BundleError, export, find_bundle
from medseg_monai.bundle.export import export_network
from medseg_monai.networks.nets import CENet

SIZE = (192, 224)


@pytest.fixture(scope="module")
def network() -> CENet:
    torch.manual_seed(3)
    return CENet().eval()


@pytest.fixture(scope="module")
def bundle(network: CENet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the vessel bundle with random weights, its example input small and not square."""
    root = tmp_path_factory.mktemp("bundles") / "copy"
    shutil.copytree(find_bundle("retinal_vessel_fundus_cenet"), root)
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"] = {"image": {"num_channels": 3, "spatial_shape": list(SIZE)}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    settings = {"image_size": [736, 704]}
    torch.save({"model": network.state_dict(), "settings": settings}, root / "models" / "model.pt")
    return root


def inputs_of_another_size() -> torch.Tensor:
    return torch.rand(2, 3, 224, 192, generator=torch.Generator().manual_seed(1)) * 3.2 - 1.6


def assert_close(exported: torch.Tensor, expected: torch.Tensor) -> None:
    assert exported.shape == expected.shape
    assert (exported - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_torchscript_computes_the_same_at_other_sizes_and_tells_what_it_is(bundle, network, tmp_path):
    output = tmp_path / "new" / "vessels"
    report = export_network(bundle, output, export_format="torchscript")
    assert json.loads(json.dumps(report)) == report
    difference = report.pop("max_difference")
    assert 0 <= difference <= 1e-4
    assert report == {
        "bundle": "retinal_vessel_fundus_cenet",
        "format": "torchscript",
        "file": str(output),
        "checkpoint": str(bundle / "models" / "model.pt"),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
        "input_shape": [1, 3, *SIZE],
    }
    assert [path.name for path in output.parent.iterdir()] == ["vessels"]
    loaded, metadata, _ = load_net_with_metadata(str(output))
    assert metadata["name"] == "retinal_vessel_fundus_cenet"
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == list(SIZE)
    assert metadata["trained_with"] == {"image_size": [736, 704]}
    x = inputs_of_another_size()
    with torch.no_grad():
        assert_close(loaded(x), network(x))


def test_onnx_computes_the_same_at_other_sizes_and_batches(bundle, network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    report = export_network(bundle, tmp_path / "vessels.onnx", export_format="onnx")
    assert report["max_difference"] <= 1e-4
    assert report["format"] == "onnx"
    assert [path.name for path in tmp_path.iterdir()] == ["vessels.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "vessels.onnx", providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape[1]) for entry in session.get_inputs()] == [("image", 3)]
    x = inputs_of_another_size()
    with torch.no_grad():
        assert_close(torch.from_numpy(session.run(["pred"], {"image": x.numpy()})[0]), network(x))


def test_the_checkpoint_that_is_given_replaces_the_bundles(bundle, tmp_path):
    torch.manual_seed(4)
    other = CENet().eval()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    report = export_network(
        bundle, tmp_path / "other.ts", export_format="torchscript", checkpoint=tmp_path / "other.pt"
    )
    assert report["checkpoint"] == str(tmp_path / "other.pt")
    head = torch.jit.load(tmp_path / "other.ts").head.weight
    assert torch.equal(head, other.head.weight)


def test_a_file_that_computes_something_else_is_not_kept(bundle, tmp_path, monkeypatch):
    (tmp_path / "vessels.ts").write_bytes(b"the one before")
    written = export._FORMATS["torchscript"].write

    def write_another(network: Any, example: torch.Tensor, file: Path, metadata: dict[str, Any]) -> None:
        with torch.no_grad():
            network.head.weight.mul_(1.01)
        written(network, example, file, metadata)

    monkeypatch.setitem(export._FORMATS, "torchscript", export._Format(write_another, export._run_torchscript))
    with pytest.raises(RuntimeError, match=r"vessels\.ts: not written: .* differ from PyTorch's by") as error:
        export_network(bundle, tmp_path / "vessels.ts", export_format="torchscript")
    assert "\n" not in str(error.value)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("vessels.ts", b"the one before")]


@pytest.mark.parametrize(
    "exported", [torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 2.001]])]
)
def test_a_difference_is_relative_to_the_largest_logit_and_never_overlooked(exported):
    assert export._relative_difference(exported, torch.tensor([[1.0, 2.0]])) > export.TOLERANCE


def test_without_its_packages_onnx_is_refused_with_how_to_install_them(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "optional_import", lambda name: (None, name != "onnxruntime"))
    with pytest.raises(ValueError, match="onnx: needs the package onnxruntime: pip install") as error:
        export_network(bundle, tmp_path / "vessels.onnx", export_format="onnx")
    assert str(error.value).endswith("pip install medseg-monai[export].")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused_with_the_known_ones(bundle, tmp_path):
    with pytest.raises(ValueError, match="tflite: no such export format; there are torchscript, onnx"):
        export_network(bundle, tmp_path / "vessels", export_format="tflite")


def test_missing_weights_are_refused_before_anything_is_written(bundle, tmp_path):
    with pytest.raises(BundleError, match=r"gone\.pt: no weights here"):
        export_network(bundle, tmp_path / "a.ts", export_format="torchscript", checkpoint=tmp_path / "gone.pt")
    assert list(tmp_path.iterdir()) == []


def test_the_onnx_file_of_a_tiling_network_takes_its_example_size_only(lobe_model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    file = tmp_path / "lobes.onnx"
    report = export_network("lung_lobe_ct_ctsunet", file, export_format="onnx", checkpoint=lobe_model)
    assert report["input_shape"] == [1, 1, 32, 32, 32]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 1, 32, 32, 32]
