"""MLflow on PostgreSQL: a training logs to it, its model goes through the registry, and predicts the same masks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.models import Model
from PIL import Image

from medseg_monai.cli import main
from medseg_monai.phantoms import write_chest_xray_phantoms
from tests.bundles.tiny import tiny_training

from .conftest import PASSWORDS, Started, without_mlflow

pytestmark = pytest.mark.label

BUNDLE = "lung_cxr_rescrnet"


@dataclass(frozen=True)
class Trained:
    """A training that has logged to the server.

    Attributes:
        model: its own ``model.pt``.
        image: an image that it has not seen.
        mask: what ``model`` predicts for it.
        output: what the training has said.
    """

    model: Path
    image: Path
    mask: np.ndarray
    output: str


def predict(checkpoint: str | Path, image: Path, folder: Path) -> int:
    return main(["predict", BUNDLE, str(image), "--checkpoint", str(checkpoint), "-o", str(folder)])


def mask_of(folder: Path) -> np.ndarray:
    (mask,) = folder.glob("*.png")
    return np.asarray(Image.open(mask))


@pytest.fixture
def named(mlflow_server: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server is named in the environment, and nothing of it lies here; the folder of what is fetched."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "medseg-monai" / "models"


@pytest.fixture(scope="module")
def trained(mlflow_server: Started, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("training")
    write_chest_xray_phantoms(
        folder / "data", counts={"training": 2, "validation": 1, "test": 1}, size=(150, 181), seed=0
    )
    settings = [f"{key}={value}" for key, value in tiny_training(BUNDLE).items()]
    arguments = [word for setting in [*settings, "max_epochs=2"] for word in ("--set", setting)]
    arguments += ["--dataset-dir", str(folder / "data"), "-o", str(folder / "run"), "--register", "lungs"]
    result = subprocess.run(
        [sys.executable, "-m", "medseg_monai.cli", "train", BUNDLE, *arguments],
        env={
            **without_mlflow(),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "MLFLOW_TRACKING_URI": mlflow_server.url,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    image = sorted((folder / "data" / "images").glob("*.png"))[-1]
    model = folder / "run" / "model.pt"
    assert predict(model, image, folder / "masks") == 0
    return Trained(model, image, mask_of(folder / "masks"), result.stdout + result.stderr)


def test_the_training_lies_in_postgresql_and_its_files_lie_with_the_server(
    trained: Trained, mlflow_server: Started, postgres: Started
):
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=postgres.port,
        user="mlflow",
        password=PASSWORDS["POSTGRES_PASSWORD"],
        dbname="mlflow",
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("FINISHED",)]
        cursor.execute("SELECT value FROM params WHERE key = 'bundle'")
        assert cursor.fetchall() == [(BUNDLE,)]
        cursor.execute("SELECT count(*) FROM metrics WHERE key = 'train_loss'")
        assert cursor.fetchone()[0] >= 2
    connection.close()
    (stored,) = mlflow_server.folder.glob("artifacts/**/extra_files/model.pt")
    assert stored.read_bytes() == trained.model.read_bytes()
    assert list(mlflow_server.folder.glob("artifacts/**/artifacts/config.json"))
    assert "Registered models:/lungs/1." in trained.output
    assert not list(trained.model.parent.glob("ml*"))  # no database of its own beside it


def test_the_model_from_the_registry_predicts_the_mask_of_the_training_s_own(
    trained: Trained, mlflow_server: Started, named: Path, tmp_path: Path
):
    mlflow.MlflowClient(tracking_uri=mlflow_server.url).set_registered_model_alias("lungs", "deployed", "1")
    assert 0 < (trained.mask > 0).mean() < 1  # a mask that says something
    for number, name in enumerate(("models:/lungs/1", "models:/lungs@deployed")):
        assert not list(named.glob("*/*.pt"))
        assert predict(name, trained.image, tmp_path / str(number)) == 0
        np.testing.assert_array_equal(mask_of(tmp_path / str(number)), trained.mask)
        (kept,) = named.glob("*/*.pt")
        assert kept.read_bytes() == trained.model.read_bytes()
        kept.unlink()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("models:/lungs/9", "not in the registry of MLFLOW_TRACKING_URI: "),
        ("models:/liver/1", "not in the registry of MLFLOW_TRACKING_URI: "),
        ("models:/lungs@nobody", "not in the registry of MLFLOW_TRACKING_URI: "),
        ("models:/strangers/1", "holds no model.pt of 'medseg train'"),
        ("models:/damaged/1", "is not the one that was registered"),
        ("models:/lungs", "write models:/NAME/VERSION or models:/NAME@ALIAS"),
    ],
)
@pytest.mark.usefixtures("others")
def test_a_model_that_cannot_be_had_is_told_in_one_line(
    name: str, remedy: str, trained: Trained, named: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert predict(name, trained.image, tmp_path / "masks") == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith(f"medseg: {name}: ")
    assert remedy in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not named.exists()
    assert not (tmp_path / "masks").exists()


@pytest.fixture(scope="module")
def others(trained: Trained, mlflow_server: Started, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A registered model of another program, and one of ours whose file was changed afterwards."""
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.url)
    experiment = client.create_experiment("others")
    for name, sha256 in (("strangers", None), ("damaged", "0" * 64)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "extra_files").mkdir()
        (folder / "extra_files" / "model.pt").write_bytes(trained.model.read_bytes())
        Model(metadata={"model_sha256": sha256} if sha256 else None).save(str(folder / "MLmodel"))
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(folder), "model")
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)


def test_without_a_server_the_setting_is_named(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert predict("models:/lungs/1", trained.image, tmp_path / "masks") == 2
    assert capfd.readouterr().err.startswith("medseg: models:/lungs/1: set MLFLOW_TRACKING_URI")


@pytest.mark.usefixtures("named")
def test_a_name_that_the_registry_does_not_take_is_told_before_the_training(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["--dataset-dir", str(trained.image.parents[1]), "-o", str(tmp_path / "run"), "--register", "a/b"]
    assert main(["train", BUNDLE, *arguments]) == 2
    assert "medseg: a/b: MLflow's registry does not accept a model of this name" in capfd.readouterr().err
    assert not (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize(("host", "status"), [("mlflow:5000", 200), ("localhost:5000", 200), ("elsewhere.org", 403)])
def test_the_server_answers_to_its_own_names_alone(host: str, status: int, mlflow_server: Started):
    """A page from elsewhere may have its own name point to this machine."""
    connection = HTTPConnection("127.0.0.1", mlflow_server.port, timeout=30)
    connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host})
    assert connection.getresponse().status == status
    connection.close()
