"""Two at work in one folder, a training interrupted before its first checkpoint, a server that is not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from sqlalchemy.exc import OperationalError

from medseg_monai.bundle import BundleError, build_workflow, evaluate, find_bundle, train
from medseg_monai.bundle.tracking import check_server
from medseg_monai.cli import main
from medseg_monai.errors import explain
from medseg_monai.files import LOCK_NAME, atomic_path, locked_folder
from medseg_monai.handlers import RunTracker, TrainingState
from medseg_monai.phantoms import write_chest_xray_phantoms
from tests.apps.processes import free_port
from tests.bundles.tiny import tiny_training

BUNDLE = "lung_cxr_rescrnet"


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chest_xray_phantoms(
        tmp_path_factory.mktemp("data"), counts={"training": 2, "validation": 1, "test": 1}, size=(64, 80), seed=0
    )


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def values(datalist: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    return {
        **tiny_training(BUNDLE),
        "max_epochs": 2,
        "datalist": str(datalist),
        "output_dir": str(folder),
        **changed,
    }


@contextmanager
def somebody_else_in(folder: Path) -> Iterator[None]:
    """A thread has the folder, as another process would."""
    is_in, is_over = threading.Event(), threading.Event()

    def work() -> None:
        with locked_folder(folder, "a training"):
            is_in.set()
            is_over.wait(300)

    thread = threading.Thread(target=work)
    thread.start()
    assert is_in.wait(30)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(BUNDLE, overrides=values(datalist, folder, max_epochs=1), track=False)
    return folder


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_a_folder_names_the_first_and_changes_nothing(resume, datalist, trained, tmp_path):
    folder = trained if resume else tmp_path / "run"
    with somebody_else_in(folder):
        before = contents(folder)
        with pytest.raises(BlockingIOError, match=rf": in use by a training \(process {os.getpid()} on ") as error:
            train(BUNDLE, overrides=values(datalist, folder), resume=resume)
        assert contents(folder) == before
    assert "\n" not in str(error.value)


def test_the_training_of_monai_bundle_run_has_its_folder_alone_too(datalist, tmp_path):
    workflow = build_workflow(
        BUNDLE, ["train"], workflow_type="train", overrides=values(datalist, tmp_path, max_epochs=1)
    )
    workflow.initialize()
    with somebody_else_in(tmp_path), pytest.raises(RuntimeError) as error:
        workflow.run()
    assert f"{tmp_path}: in use by a training (process " in explain(error.value)
    assert os.listdir(tmp_path) == []


def test_a_second_evaluation_into_a_folder_is_refused(datalist, trained):
    overrides = {"datalist": str(datalist), "output_dir": str(trained)}
    with somebody_else_in(trained / "evaluation"):
        before = contents(trained)
        with pytest.raises(BlockingIOError, match="evaluation: in use by a training"):
            evaluate(BUNDLE, overrides=overrides)
        assert contents(trained) == before


def test_what_a_killed_training_was_writing_is_removed_by_the_next_one(datalist, tmp_path):
    (tmp_path / "overlays").mkdir()
    for name in ("checkpoint.pt", "overlays/a.png"):
        atomic_path(tmp_path / name).__enter__().touch()
    (tmp_path / ".checkpoint.mine.pt").touch()
    with pytest.raises(RuntimeError, match="load_datalist"):
        train(BUNDLE, overrides=values(tmp_path / "gone.json", tmp_path), track=False)
    assert contents(tmp_path).keys() == {".checkpoint.mine.pt"}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take their time to be made."""
    path = tmp_path_factory.mktemp("mlflow") / "mlruns.db"
    check_server(f"sqlite:///{path}")
    assert [entry.name for entry in path.parent.iterdir()] == ["mlruns.db"]
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    """A folder with an empty database."""
    (tmp_path / "run").mkdir()
    shutil.copy(empty_database, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def interrupted(datalist: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that was killed when it was about to save its first checkpoint."""

    def stop(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", stop)
        patch.setattr(RunTracker, "terminate", lambda self, _: self._log.wait(30))
        with pytest.raises(SystemExit):
            train(BUNDLE, overrides=values(datalist, folder))
    assert json.loads((folder / "run.json").read_text())["saved"] is False
    return folder


def statuses(folder: Path) -> list[str]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    runs = client.search_runs([client.get_experiment_by_name(BUNDLE).experiment_id], order_by=["start_time ASC"])
    return [run.info.status for run in runs]


def test_a_training_without_a_checkpoint_yet_is_resumed_from_the_beginning_in_its_run(interrupted):
    assert statuses(interrupted) == ["RUNNING"]
    result = train(BUNDLE, overrides={"output_dir": str(interrupted)}, resume=True)
    assert result.epochs == 2
    assert statuses(interrupted) == ["FINISHED"]
    client = mlflow.MlflowClient(result.tracking_uri)
    for key in ("train_loss", "val_dice"):
        assert [point.step for point in client.get_metric_history(result.run_id, key)] == [1, 2]
    assert json.loads((interrupted / "run.json").read_text())["saved"] is True


def test_a_training_without_a_checkpoint_yet_may_be_started_anew_and_its_run_is_marked_as_killed(interrupted, datalist):
    result = train(BUNDLE, overrides=values(datalist, interrupted, max_epochs=1))
    assert result.epochs == 1
    assert statuses(interrupted) == ["KILLED", "FINISHED"]


def test_a_training_whose_checkpoint_is_gone_is_not_resumed_from_the_beginning(datalist, trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "model.pt", "model.json"):
        (folder / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(BundleError, match="no training to resume here"):
        train(BUNDLE, overrides=values(datalist, folder), resume=True, track=False)
    assert (folder / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"overrides": [], "configs": []}',
        '{"overrides": {}, "configs": "train"}',
        '{"overrides": {}, "configs": []}',
        '{"overrides": {}, "configs": ["train"], "run_id": 7}',
        '{"overrides": {}, "configs": ["train"], "replaced_runs": null}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_of_a_training_is_named(content, trained, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BundleError, match=r"run\.json: damaged; start a new training from the beginning in another"):
        train(BUNDLE, overrides={"output_dir": str(tmp_path)}, resume=True)


def test_a_record_with_a_setting_that_the_bundle_does_not_take_is_named(trained, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    (tmp_path / "run.json").write_text('{"overrides": {"max_epochs": "abc"}, "configs": ["train"]}')
    with pytest.raises(BundleError, match=r"run\.json: max_epochs: expected a whole number"):
        train(BUNDLE, overrides={"output_dir": str(tmp_path)}, resume=True)


def test_a_training_is_not_resumed_by_another_bundle(trained, tmp_path):
    other = tmp_path / "another_bundle"
    shutil.copytree(find_bundle(BUNDLE), other)
    config = json.loads((other / "configs" / "train.json").read_text())
    (other / "configs" / "train.json").write_text(
        json.dumps({**config, "settings": {**config["settings"], "bundle": "another_bundle"}})
    )
    folder = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(RuntimeError) as caught:
        train(other, overrides={"output_dir": str(folder), "max_epochs": 3}, resume=True, track=False)
    assert re.search(rf"checkpoint\.pt: weights of {BUNDLE}, not of another_bundle", explain(caught.value))


def test_a_resumed_training_says_which_config_it_does_not_take(trained, tmp_path, caplog):
    (tmp_path / "overlay.json").write_text('{"dropout": 0.9}')
    folder = shutil.copytree(trained, tmp_path / "run")
    configs = ["train", str(tmp_path / "overlay.json")]
    train(BUNDLE, configs=configs, overrides={"output_dir": str(folder)}, resume=True, track=False)
    (warning,) = [record.message for record in caplog.records if "not taken" in record.message]
    assert warning.startswith(f"--config {tmp_path / 'overlay.json'}: not taken: a resumed training keeps the configs")


def test_a_folder_whose_name_is_not_utf8_is_named_where_mlflow_cannot_use_it(datalist, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(OSError, match="the MLflow database cannot be used") as caught:
        train(BUNDLE, overrides=values(datalist, folder))
    assert str(folder) in str(caught.value)
    result = train(
        BUNDLE, overrides=values(datalist, folder, max_epochs=1), tracking_uri=f"sqlite:///{tmp_path / 'runs.db'}"
    )
    assert result.missing is None
    assert result.model.is_file()


def test_a_server_that_is_not_there_is_told_before_anything_is_read_or_written(datalist, tmp_path, capfd):
    address = f"http://127.0.0.1:{free_port()}"
    pairs = [word for key, value in tiny_training(BUNDLE).items() for word in ("--set", f"{key}={value}")]
    arguments = ["--datalist", str(datalist), "-o", str(tmp_path / "run"), "--tracking-uri", address, *pairs]
    assert main(["train", BUNDLE, *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == (
        f"medseg: {address}: the MLflow server does not answer as it should (Connection refused); see to it, name "
        "another (--tracking-uri), or train without (--no-tracking)."
    )
    assert not any("Traceback" in line for line in lines)
    assert not (tmp_path / "run").exists()


def test_a_disc_without_room_for_the_database_is_told_in_one_line(datalist, tmp_path, monkeypatch):
    def full(path: str, *_: Any) -> None:
        raise OperationalError("CREATE TABLE x", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr("medseg_monai.bundle.tracking.SqlAlchemyStore", full)
    with pytest.raises(OSError, match=r"mlruns\.db: the MLflow database cannot be used \(.*disk is full\); ") as error:
        train(BUNDLE, overrides=values(datalist, tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("registers", "code"), [(True, 1), (False, 0)])
def test_a_training_that_loses_its_server_says_so_and_fails_only_if_it_was_to_register(
    registers, code, datalist, folder, monkeypatch, capfd
):
    def away(*_: Any) -> None:
        raise mlflow.MlflowException("the server is away")

    monkeypatch.setattr("medseg_monai.handlers.run_tracker._PATIENCE_S", 0.2)
    monkeypatch.setattr(RunTracker, "_send", away)
    settings = {**tiny_training(BUNDLE), "max_epochs": 1}
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    arguments = [
        "--datalist",
        str(datalist),
        "-o",
        str(folder),
        *pairs,
        *(["--register", "lungs"] if registers else []),
    ]
    assert main(["train", BUNDLE, *arguments]) == code
    last = capfd.readouterr().err.splitlines()[-1]
    what = "registered as lungs" if registers else "logged in full"
    assert last.startswith(
        f"medseg: sqlite:///{folder}/mlruns.db: MLflow does not answer, so this training is not {what}"
    )
    assert json.loads((folder / "run.json").read_text())["missing_in_mlflow"] == last.removeprefix("medseg: ")
    assert (folder / "model.pt").is_file()

    if registers:
        monkeypatch.undo()
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result = train(BUNDLE, overrides={"output_dir": str(folder)}, resume=True)
        assert (result.registered, result.missing) == ("models:/lungs/1", None)
        assert "missing_in_mlflow" not in json.loads((folder / "run.json").read_text())
        assert statuses(folder) == ["FINISHED"]


def test_a_folder_in_use_is_in_use_until_the_training_has_ended(datalist, tmp_path, monkeypatch):
    seen = []
    save = TrainingState.save

    def look(self: TrainingState, engine: Any) -> None:
        save(self, engine)
        seen.append((tmp_path / LOCK_NAME).read_text())

    monkeypatch.setattr(TrainingState, "save", look)
    train(BUNDLE, overrides=values(datalist, tmp_path), track=False)
    assert [text.startswith(f"a training (process {os.getpid()} on ") for text in seen] == [True, True]
    assert not (tmp_path / LOCK_NAME).exists()
