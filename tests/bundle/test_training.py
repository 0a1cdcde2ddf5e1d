"""Training as a user runs it: interrupted, killed, resumed, tracked on a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import mlflow
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import BundleError, train
from medseg_monai.networks.nets import CENet

from .conftest import BUNDLE, SMALL


def command(phantoms: Path, output_dir: Path, *options: str, **settings: Any) -> list[str]:
    pairs = [f"{key}={json.dumps(value)}" for key, value in {**SMALL, **settings}.items()]
    return [
        *(sys.executable, "-m", "medseg_monai.cli", "train", BUNDLE),
        *("--datalist", str(phantoms), "-o", str(output_dir), *options),
        *(part for pair in pairs for part in ("--set", pair)),
    ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=900, check=False)


def wait_for(condition: Any, what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.1)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_equal_state(first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_state(first[key], second[key])
    else:
        assert first == second


@pytest.fixture(scope="module")
def straight(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs without a break."""
    output_dir = tmp_path_factory.mktemp("straight")
    result = run(*command(phantoms, output_dir, max_epochs=3))
    assert result.returncode == 0, result.stderr
    return output_dir


@pytest.fixture(scope="module")
def killed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same three epochs, killed with SIGKILL after the first and not yet resumed."""
    output_dir = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(command(phantoms, output_dir, max_epochs=3), stdout=subprocess.DEVNULL)
    wait_for((output_dir / "checkpoint.pt").exists, "checkpoint")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load(output_dir / "checkpoint.pt")["epoch"] < 3
    return output_dir


def test_a_killed_training_resumes_to_the_same_weights_and_the_same_mlflow_run(straight: Path, killed: Path):
    before = json.loads((killed / "run.json").read_text())
    result = run(sys.executable, "-m", "medseg_monai.cli", "train", BUNDLE, "-o", str(killed), "--resume")
    assert result.returncode == 0, result.stderr
    assert_equal_state(load(straight / "checkpoint.pt"), load(killed / "checkpoint.pt"))
    assert_equal_state(load(straight / "model.pt"), load(killed / "model.pt"))
    client = mlflow.MlflowClient(before["tracking_uri"])
    mlflow_run = client.get_run(before["run_id"])
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.tags["interrupted"] == "killed"
    steps = {metric.step for metric in client.get_metric_history(before["run_id"], "val_dice")}
    assert steps == {1, 2, 3}
    assert len(client.search_runs([mlflow_run.info.experiment_id])) == 1


def test_a_terminated_training_marks_its_run_as_killed(phantoms: Path, tmp_path: Path):
    process = subprocess.Popen(
        command(phantoms, tmp_path, max_epochs=50), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "checkpoint.pt").exists, "checkpoint")
    process.terminate()
    _, errors = process.communicate(timeout=120)
    # an interrupt inside a config's "run" expression makes Python end by SIGINT itself; a shell shows 130 for both
    assert process.returncode in (130, -signal.SIGINT)
    assert errors.strip().splitlines()[-1] == "medseg: interrupted"
    record = json.loads((tmp_path / "run.json").read_text())
    assert mlflow.MlflowClient(record["tracking_uri"]).get_run(record["run_id"]).info.status == "KILLED"


def test_a_second_training_into_the_same_folder_is_refused(phantoms: Path, straight: Path):
    with pytest.raises(BundleError, match="already holds a training"):
        train(BUNDLE, overrides={"datalist": str(phantoms), "output_dir": str(straight)})


def test_resuming_where_nothing_was_trained_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="no training to resume"):
        train(BUNDLE, overrides={"output_dir": str(tmp_path)}, resume=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on loopback."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urlopen(f"{address}/health", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    try:
        wait_for(answers, "MLflow server")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def test_a_training_is_read_back_from_an_mlflow_server(
    phantoms: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the address that is given comes first
    result = train(
        BUNDLE,
        overrides={
            **SMALL,
            "datalist": str(phantoms),
            "output_dir": str(tmp_path),
            "max_epochs": 1,
            "overlay_interval": 1,
        },
        tracking_uri=server,
        experiment_name="phantoms",
    )
    client = mlflow.MlflowClient(server)
    mlflow_run = client.get_run(result.run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert client.get_experiment(mlflow_run.info.experiment_id).name == "phantoms"
    parameters = mlflow_run.data.params
    assert parameters["bundle"] == BUNDLE
    assert parameters["learning_rate"] == "0.004"
    assert parameters["seed"] == "0"
    assert len(parameters["datalist_sha256"]) == 64
    assert parameters["git_revision"]
    assert {"train_loss", "val_dice"} <= mlflow_run.data.metrics.keys()
    artifacts = {artifact.path for artifact in client.list_artifacts(result.run_id)}
    assert {"config.json", "overlays"} <= artifacts
    assert client.list_artifacts(result.run_id, "overlays")
    mlflow.set_tracking_uri(server)
    (logged,) = client.search_logged_models([mlflow_run.info.experiment_id])
    model = mlflow.pytorch.load_model(logged.model_uri)
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert signature.inputs.inputs[0].shape[1] == 3
    network = CENet().eval()
    network.load_state_dict(load(result.model))
    image = torch.rand(1, *signature.inputs.inputs[0].shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(model(image), network(image), rtol=1e-4, atol=1e-4)


def test_a_mask_of_another_size_is_refused_before_training(phantoms: Path, tmp_path: Path):
    items = json.loads(phantoms.read_text())
    wrong = tmp_path / "wrong.png"
    Image.new("L", (50, 40)).save(wrong)
    for section in items.values():
        if isinstance(section, list):
            for item in section:
                item["image"] = str((phantoms.parent / item["image"]).resolve())
                item["label"] = str((phantoms.parent / item["label"]).resolve())
                item.pop("fov", None)
    items["training"][2]["label"] = str(wrong)
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps(items))
    output_dir = tmp_path / "run"
    result = run(*command(datalist, output_dir, "--no-tracking", max_epochs=1))
    assert result.returncode == 2
    assert "wrong.png" in result.stderr.strip().splitlines()[-1]
    assert not (output_dir / "checkpoint.pt").exists()
