"""MONAI's own doors on a copy of each bundle, as a hub gives it: load, run, exports and verifications."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import monai.bundle
import numpy as np
import onnx
import pytest
import torch
from monai.bundle import ConfigParser

from medseg_monai.networks.weights import copy_model, write_model

from .conftest import Phantoms, Trained
from .formats import format_of

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")


@pytest.fixture(scope="session")
def hub_copy(bundle: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with weights of its own, which are not those of the package."""
    copy = tmp_path_factory.mktemp("hub") / bundle.name
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("model*.pt", "model*.json"))
    copy_model(trained.model, copy / "models" / "model.pt")
    return copy


def run_monai(command: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", *command.split(), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def files_of(copy: Path, config: str = "inference") -> dict[str, str]:
    configs = copy / "configs"
    return {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / f"{config}.json")}


def test_load_gives_the_network_with_the_weights_of_the_copy(hub_copy: Path, trained: Trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = monai.bundle.load(hub_copy.name, bundle_dir=str(hub_copy.parent), workflow_type="inference", device="cpu")
    expected = torch.load(trained.model, weights_only=True)
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_load_by_default_builds_the_network_that_the_weights_are_for(
    hub_copy: Path, trained: Trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    network = monai.bundle.load(hub_copy.name, bundle_dir=str(hub_copy.parent), device="cpu")
    expected = torch.load(trained.model, weights_only=True)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_load_as_monai_does_by_default_gives_the_weights_of_the_papers_network(hub_copy: Path, tmp_path, monkeypatch):
    """By default ``load`` takes the network of ``train.json``, which is the paper's."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "hub" / hub_copy.name
    shutil.copytree(hub_copy, copy, ignore=shutil.ignore_patterns("model*"))
    parser = ConfigParser()
    parser.read_config(str(copy / "configs" / "train.json"))
    torch.manual_seed(4)
    state = parser.get_parsed_content("network_def").state_dict()
    write_model(copy / "models" / "model.pt", state)
    network = monai.bundle.load(copy.name, bundle_dir=str(copy.parent), device="cpu")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_run_takes_the_weights_of_the_copy_from_whatever_folder(
    bundle: Path, hub_copy: Path, phantoms: Phantoms, trained: Trained, tmp_path: Path
):
    images = tmp_path / "images"
    images.mkdir()
    image = phantoms.items("test")[0]["image"]
    os.symlink(image, images / Path(image).name)
    files = format_of(bundle)
    masks = {}
    for name, weights in (("copy", {}), ("named", {"checkpoint": trained.model})):
        options = {"dataset_dir": images, "output_dir": tmp_path / name, **files_of(hub_copy), **weights}
        result = run_monai("run", tmp_path, **options)
        assert result.returncode == 0, result.stderr[-2000:]
        masks[name] = files.read(files.mask_of(tmp_path / name, image))
    np.testing.assert_array_equal(masks["copy"], masks["named"])


def test_the_metadata_and_the_network_are_verified(hub_copy: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monai.bundle.verify_metadata(meta_file=files_of(hub_copy)["meta_file"], filepath=str(SCHEMA))
    monai.bundle.verify_net_in_out(net_id="network_def", device="cpu", **files_of(hub_copy))


def test_ckpt_export_writes_the_network_with_the_weights_of_the_copy(hub_copy: Path, trained: Trained, tmp_path: Path):
    out = tmp_path / "model.ts"
    weights = hub_copy / "models" / "model.pt"
    result = run_monai("ckpt_export network_def", tmp_path, filepath=out, ckpt_file=weights, **files_of(hub_copy))
    assert result.returncode == 0, result.stderr[-2000:]
    exported = torch.jit.load(out).state_dict()
    expected = torch.load(trained.model, weights_only=True)
    assert all(torch.equal(exported[key].contiguous(), value) for key, value in expected.items())


def test_onnx_export_writes_the_network(hub_copy: Path, tmp_path: Path):
    out = tmp_path / "model.onnx"
    weights = hub_copy / "models" / "model.pt"
    result = run_monai("onnx_export network_def", tmp_path, filepath=out, ckpt_file=weights, **files_of(hub_copy))
    assert result.returncode == 0, result.stderr[-2000:]
    model = onnx.load(out)
    onnx.checker.check_model(model)
    data_format = json.loads((hub_copy / "configs" / "metadata.json").read_text())["network_data_format"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[1].dim_value == data_format["inputs"]["image"]["num_channels"]
