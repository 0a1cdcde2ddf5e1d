"""A real MLflow server that dies or hangs during a training, and is back later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import mlflow
import pytest
from ignite.engine import Events
from monai.handlers import from_engine

from medseg_monai.handlers import RunTracker
from medseg_monai.handlers.run_tracker import UNSENT_NAME
from tests.apps.processes import free_port

from .toy import HEIGHT, WIDTH, TinyNet, Toy, make_toy

EPOCHS, ITERATIONS = 3, 3


class Server:
    """MLflow on loopback, which keeps its port and its database when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self.folder / "artifacts")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while not self.answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/health", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    def send(self, how: signal.Signals) -> None:
        os.killpg(self.process.pid, how)
        if how == signal.SIGKILL:
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.send(signal.SIGKILL)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``medseg train``, but a test does not wait ten seconds for a server that hangs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("medseg_monai.handlers.run_tracker._PATIENCE_S", 1)


def tracked(
    folder: Path, server: Server, *, resume: bool = False, registers: str | None = None, run_id: str | None = None
) -> tuple[Toy, RunTracker]:
    tracker = RunTracker(
        output_dir=folder,
        network_def=TinyNet(),
        input_shape=(1, 1, HEIGHT, WIDTH),
        run_id=run_id,
        registered_model_name=registers,
        tracking_uri=server.url,
        experiment_name=folder.name,
        run_name="toy",
        tag_name="train_loss",
        output_transform=from_engine(["loss"], first=True),
        close_on_complete=True,
    )
    return make_toy(folder, max_epochs=EPOCHS, resume=resume, handlers=[tracker]), tracker


def in_epoch(toy: Toy, epoch: int, act: Callable[[], Any]) -> None:
    """Do something when an epoch has ended."""
    toy.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epoch), act)


def check_complete(folder: Path, server: Server, *, registered: str | None = None) -> None:
    client = mlflow.MlflowClient(server.url)
    (run,) = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in losses] == list(range(1, EPOCHS * ITERATIONS + 1))
    assert [point.timestamp for point in losses] == sorted(point.timestamp for point in losses)
    assert len(run.outputs.model_outputs) == 1
    if registered:
        assert len(client.search_model_versions(f"name='{registered}'")) == 1
    assert not (folder / UNSENT_NAME).exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_training_goes_on_without_its_server_and_gives_it_everything_when_resumed(how, server, tmp_path, caplog):
    folder = tmp_path / f"without_{how.name.lower()}"
    toy, tracker = tracked(folder, server, registers=folder.name)
    in_epoch(toy, 1, lambda: server.send(how))
    toy.trainer.run()
    assert toy.trainer.state.epoch == EPOCHS
    assert (folder / "model.pt").is_file()
    assert f"this training is not registered as {folder.name}; its files in {folder} are complete" in tracker.missing
    assert "\n" not in tracker.missing
    assert (folder / UNSENT_NAME).read_text()
    assert sum("the training goes on" in message for message in caplog.messages) == 1

    if how == signal.SIGSTOP:
        server.send(signal.SIGCONT)
    else:
        server.start()
    resumed, second = tracked(folder, server, resume=True, run_id=tracker.run_id, registers=folder.name)
    resumed.trainer.run()
    assert second.missing == ""
    assert second.registered == f"models:/{folder.name}/1"
    check_complete(folder, server, registered=folder.name)


def test_a_server_that_hangs_for_a_while_has_everything_at_the_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("medseg_monai.handlers.run_tracker._PATIENCE_S", 60)
    folder = tmp_path / "hangs"
    toy, tracker = tracked(folder, server)
    in_epoch(toy, 1, lambda: server.send(signal.SIGSTOP))
    in_epoch(toy, EPOCHS, lambda: server.send(signal.SIGCONT))
    toy.trainer.run()
    assert tracker.missing == ""
    check_complete(folder, server)
