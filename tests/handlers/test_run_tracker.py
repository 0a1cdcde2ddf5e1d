"""MLflow runs of a training, in a database of SQLite: complete, interrupted, resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy
import torch
from ignite.engine import Events
from mlflow.entities import Run
from monai.handlers import from_engine

from medseg_monai.files import file_sha256
from medseg_monai.handlers import MODEL_NAME, RunTracker

from .toy import HEIGHT, WIDTH, TinyNet, Toy, make_toy


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take their time to be made."""
    path = tmp_path_factory.mktemp("mlflow") / "mlruns.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_database: Path) -> None:
    """No address from outside, and an empty database in each folder that a test uses."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_database, tmp_path / name)


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlruns.db'}"


def tracked(folder: Path, *, max_epochs: int, resume: bool = False, **kwargs: Any) -> tuple[Toy, RunTracker]:
    """A training with its run, whose configured artifact is one file."""
    (folder / "config.json").write_text("{}")
    tracker = RunTracker(
        output_dir=folder,
        network_def=TinyNet(),
        input_shape=(1, 1, HEIGHT, WIDTH),
        tracking_uri=address(folder),
        experiment_name="toys",
        run_name="toy",
        experiment_param={"seed": "7", "bundle": "toy"},
        artifacts=str(folder / "config.json"),
        tag_name="train_loss",
        output_transform=from_engine(["loss"], first=True),
        close_on_complete=True,
        **kwargs,
    )
    return make_toy(folder, max_epochs=max_epochs, resume=resume, handlers=[tracker]), tracker


def client(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=address(folder))


def only_run(folder: Path) -> Run:
    experiment = client(folder).get_experiment_by_name("toys")
    (run,) = client(folder).search_runs([experiment.experiment_id])
    return run


def killed_after(toy: Toy, *, epoch: int) -> None:
    """End the training when ``epoch`` is saved, without a chance for its handlers to tidy up."""

    def stop(engine: Any) -> None:
        if engine.state.epoch == epoch:
            raise SystemExit

    toy.trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)


def record_statuses(tracker: RunTracker) -> list[str]:
    """What ``tracker`` sets the run's status to, one after the other."""
    statuses: list[str] = []
    set_terminated, update_run = tracker.client.set_terminated, tracker.client.update_run

    def terminated(run_id: str, status: str) -> None:
        statuses.append(status)
        set_terminated(run_id, status)

    def updated(run_id: str, status: str) -> None:
        statuses.append(status)
        update_run(run_id, status=status)

    tracker.client.set_terminated, tracker.client.update_run = terminated, updated
    return statuses


def test_a_complete_run_has_parameters_losses_artifacts_overlays_and_a_model(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=2)
    (folder / "overlays").mkdir()
    (folder / "overlays" / "eye_epoch0001.png").write_bytes(b"png")
    toy.trainer.run()
    run = only_run(folder)
    assert run.info.run_id == tracker.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "7", "bundle": "toy", "max_epochs": "2", "epoch_length": "3"}
    losses = client(folder).get_metric_history(tracker.run_id, "train_loss")
    assert [entry.step for entry in losses] == [1, 2, 3, 4, 5, 6]
    assert {artifact.path for artifact in client(folder).list_artifacts(tracker.run_id)} >= {"config.json", "overlays"}
    (overlay,) = client(folder).list_artifacts(tracker.run_id, "overlays")
    assert overlay.path == "overlays/eye_epoch0001.png"
    (output,) = run.outputs.model_outputs
    model = client(folder).get_logged_model(output.model_id)
    assert model.name == "model"
    signature = mlflow.models.Model.load(model.artifact_location.removeprefix("file://")).signature
    assert signature.inputs.inputs[0].shape == (-1, 1, HEIGHT, WIDTH)
    assert signature.outputs.inputs[0].shape == (-1, 1, HEIGHT, WIDTH)


def test_the_logged_model_computes_what_the_best_weights_compute_for_any_batch(tmp_path):
    folder = tmp_path / "run"
    toy, _ = tracked(folder, max_epochs=2)
    toy.trainer.run()
    (output,) = only_run(folder).outputs.model_outputs
    logged = mlflow.pytorch.load_model(client(folder).get_logged_model(output.model_id).artifact_location)
    best = TinyNet().eval()
    best.load_state_dict(torch.load(folder / MODEL_NAME, weights_only=True))
    for batch_size in (1, 3):
        x = torch.rand(batch_size, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(logged(x), best(x))


def test_a_resumed_training_goes_on_in_the_same_run_and_marks_that_it_was_killed(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=4)
    killed_after(toy, epoch=2)
    with pytest.raises(SystemExit):
        toy.trainer.run()
    run = only_run(folder)
    assert run.info.status == "RUNNING"  # as kill -9 leaves it

    resumed, second = tracked(folder, max_epochs=4, resume=True, run_id=tracker.run_id)
    statuses = record_statuses(second)
    resumed.trainer.run()
    run = only_run(folder)
    assert run.info.run_id == tracker.run_id
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["interrupted"] == "killed"
    assert run.data.tags["resumed_after_epoch"] == "2"
    losses = client(folder).get_metric_history(tracker.run_id, "train_loss")
    assert [entry.step for entry in losses] == list(range(1, 13))


def test_a_run_that_ended_by_itself_is_resumed_without_being_called_killed(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1)
    toy.trainer.run()
    resumed, _ = tracked(folder, max_epochs=2, resume=True, run_id=tracker.run_id)
    resumed.trainer.run()
    run = only_run(folder)
    assert run.info.status == "FINISHED"
    assert "interrupted" not in run.data.tags
    assert run.data.params["max_epochs"] == "1"  # a parameter keeps its first value, as MLflow demands


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_run_that_does_not_complete_is_marked(status, tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=3)
    killed_after(toy, epoch=1)
    with pytest.raises(SystemExit):
        toy.trainer.run()
    tracker.terminate(status)
    run = only_run(folder)
    assert run.info.status == status
    assert run.data.tags["interrupted"] == status.lower()


def test_terminating_before_the_start_does_nothing(tmp_path):
    _, tracker = tracked(tmp_path / "run", max_epochs=1)
    tracker.terminate("FAILED")
    assert client(tmp_path / "run").get_experiment_by_name("toys") is None


def test_a_second_training_of_the_process_is_tracked_where_it_says(tmp_path):
    for name in ("run", "other"):
        toy, _ = tracked(tmp_path / name, max_epochs=1)
        toy.trainer.run()
        assert "MLFLOW_TRACKING_URI" not in os.environ
    assert only_run(tmp_path / "run").info.run_id != only_run(tmp_path / "other").info.run_id


def test_the_logged_model_carries_the_file_that_the_bundle_predicts_with_and_its_hash(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1)
    toy.trainer.run()
    (output,) = only_run(folder).outputs.model_outputs
    location = Path(client(folder).get_logged_model(output.model_id).artifact_location.removeprefix("file://"))
    assert (location / "extra_files" / MODEL_NAME).read_bytes() == (folder / MODEL_NAME).read_bytes()
    assert mlflow.models.Model.load(location).metadata == {
        "model_sha256": file_sha256(folder / MODEL_NAME),
        "settings_sha256": file_sha256((folder / MODEL_NAME).with_suffix(".json")),
    }
    assert client(folder).search_registered_models() == []  # nobody asked for it
    assert tracker.registered_model_name is None


def test_each_training_that_is_asked_to_registers_a_version_of_its_model(tmp_path, caplog):
    caplog.set_level("INFO", logger="medseg_monai")
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1, registered_model_name="toys of today")
    toy.trainer.run()
    resumed, _ = tracked(
        folder, max_epochs=2, resume=True, run_id=tracker.run_id, registered_model_name="toys of today"
    )
    resumed.trainer.run()
    versions = client(folder).search_model_versions("name='toys of today'")
    assert sorted((int(version.version), version.run_id) for version in versions) == [
        (1, tracker.run_id),
        (2, tracker.run_id),
    ]
    assert "Registered models:/toys of today/2." in caplog.messages


def test_a_name_that_the_registry_does_not_take_is_refused_before_the_first_epoch(tmp_path):
    folder = tmp_path / "run"
    toy, _ = tracked(folder, max_epochs=1, registered_model_name="toys/today")
    with pytest.raises(
        ValueError, match=r"^toys/today: MLflow's registry does not accept a model of this name"
    ) as error:
        toy.trainer.run()
    assert "\n" not in str(error.value)
    assert not (folder / MODEL_NAME).exists()


def test_a_name_for_the_registry_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="registered_model_name=toys: give network_def"):
        RunTracker(output_dir=tmp_path, tracking_uri=address(tmp_path), registered_model_name="toys")


def test_without_a_network_no_model_is_logged(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1)
    tracker.network_def = None
    toy.trainer.run()
    assert not only_run(folder).outputs.model_outputs


def test_mlflow_reports_nothing_to_its_makers(tmp_path: Path):
    """In an environment without the variables by which MLflow knows a test."""
    program = """
import monai.bundle, mlflow.telemetry
print(mlflow.telemetry.get_telemetry_client())
import medseg_monai.handlers
print(mlflow.telemetry.get_telemetry_client())
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    before, after = result.stdout.splitlines()[-2:]
    assert "TelemetryClient" in before
    assert after == "None"


def points(folder: Path, run_id: str, key: str = "train_loss") -> list[int]:
    return [point.step for point in client(folder).get_metric_history(run_id, key)]


def test_the_validations_metrics_are_logged_to_the_run_by_epoch(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=2)
    tracker.validator = toy.validator
    toy.validator.add_event_handler(Events.EPOCH_COMPLETED, tracker.epoch_completed)
    toy.trainer.run()
    assert points(folder, tracker.run_id, "val_dice") == [1, 2]


def test_points_of_an_epoch_that_a_kill_has_cut_off_are_not_logged_twice(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=3)

    def stop() -> None:
        assert tracker._log.wait(patience=20)
        raise SystemExit

    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), stop)
    with pytest.raises(SystemExit):
        toy.trainer.run()
    resumed, _ = tracked(folder, max_epochs=3, resume=True, run_id=tracker.run_id)
    resumed.trainer.run()
    assert points(folder, tracker.run_id) == list(range(1, 10))


def test_points_that_a_kill_has_left_unsent_are_sent_by_the_resumed_training(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=2)
    killed_after(toy, epoch=1)
    log_batch = tracker.client.log_batch

    def parameters_alone(run_id: str, metrics: Any = (), **kwargs: Any) -> None:
        if metrics:
            raise mlflow.MlflowException("the server is away")
        log_batch(run_id, metrics=metrics, **kwargs)

    tracker.client.log_batch = parameters_alone
    with pytest.raises(SystemExit):
        toy.trainer.run()
    assert client(folder).get_metric_history(tracker.run_id, "train_loss") == []
    resumed, _ = tracked(folder, max_epochs=2, resume=True, run_id=tracker.run_id)
    resumed.trainer.run()
    assert points(folder, tracker.run_id) == list(range(1, 7))


def test_resuming_a_complete_training_registers_no_second_version_and_logs_no_second_model(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1, registered_model_name="toys of today")
    toy.trainer.run()
    resumed, second = tracked(
        folder, max_epochs=1, resume=True, run_id=tracker.run_id, registered_model_name="toys of today"
    )
    resumed.trainer.run()
    assert second.registered == "models:/toys of today/1"
    assert len(client(folder).search_model_versions("name='toys of today'")) == 1
    assert len(only_run(folder).outputs.model_outputs) == 1
    assert only_run(folder).info.status == "FINISHED"


def test_a_complete_training_is_registered_later_with_the_model_that_it_has_logged(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=1)
    toy.trainer.run()
    resumed, second = tracked(folder, max_epochs=1, resume=True, run_id=tracker.run_id, registered_model_name="toys")
    resumed.trainer.run()
    (version,) = client(folder).search_model_versions("name='toys'")
    (output,) = only_run(folder).outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    assert second.registered == "models:/toys/1"


def test_runs_that_were_left_behind_are_marked_as_killed_and_no_others(tmp_path):
    folder = tmp_path / "run"
    experiment = client(folder).create_experiment("toys")
    runs = {name: client(folder).create_run(experiment, run_name=name).info.run_id for name in ("left", "another's")}
    toy, _ = tracked(folder, max_epochs=1, replaced_runs=["left", "never there"])
    toy.trainer.run()
    statuses = {name: client(folder).get_run(run_id).info.status for name, run_id in runs.items()}
    assert statuses == {"left": "KILLED", "another's": "RUNNING"}


def test_a_signal_while_the_database_is_written_ends_the_run_as_killed(tmp_path):
    folder = tmp_path / "run"
    toy, tracker = tracked(folder, max_epochs=300)  # far more than the thread that writes needs to begin
    interrupted = []

    def interrupt(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        """Between two statements of a transaction, which would leave the database locked if it were broken off."""
        if statement.startswith("SELECT") and toy.trainer.state.iteration > 2 and not interrupted:
            interrupted.append(statement)
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)  # the main thread has it before the transaction ends

    sqlalchemy.event.listen(tracker.client._tracking_client.store.engine, "after_cursor_execute", interrupt)
    try:
        toy.trainer.run()
        pytest.fail("the training was not interrupted")
    except KeyboardInterrupt:
        tracker.terminate("KILLED")
    assert interrupted
    assert only_run(folder).info.status == "KILLED"
