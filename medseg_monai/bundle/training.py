"""Training and evaluation of a bundle: build the workflow, track it, end it properly, resume it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser, ConfigWorkflow

from medseg_monai.files import refuse_given, write_json
from medseg_monai.handlers import CHECKPOINT_NAME, MODEL_NAME, TABLES, RunTracker, TrainingState

from .given import refuse_folders_of_inputs
from .loader import (
    BundleError,
    build_workflow,
    check_overrides,
    example_input_shape,
    find_bundle,
    merged_config,
    read_metadata,
)
from .tracking import default_tracking_uri, run_parameters, tracking_settings

__all__ = ["RUN_NAME", "TrainingResult", "evaluate", "train"]

#: what a resumed training has to know of the one it goes on with
RUN_NAME = "run.json"


@dataclass(frozen=True)
class TrainingResult:
    """Where a training left its model.

    Attributes:
        output_dir: folder of the run.
        model: weights to predict with.
        epochs: epochs that were run in all.
        best_metric: key metric of ``model`` on the validation data; ``None`` without validation.
        best_epoch: epoch that ``model`` is from.
        tracking_uri: MLflow address; ``None`` if the run was not tracked.
        run_id: MLflow run; ``None`` if it was not tracked.
    """

    output_dir: Path
    model: Path
    epochs: int
    best_metric: float | None
    best_epoch: int
    tracking_uri: str | None
    run_id: str | None


def train(
    bundle: str | os.PathLike[str],
    *,
    configs: Sequence[str] = ("train",),
    overrides: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    track: bool = True,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    registered_model_name: str | None = None,
) -> TrainingResult:
    """Train a bundle by the workflow that ``python -m monai.bundle run`` would run.

    Args:
        bundle: name or path.
        configs: ``train`` and overlays.
        overrides: flat keys and their values. A resumed training takes those it was started with, and these on top.
        checkpoint: weights to start from (the flat key ``initial_weights``), with the settings that these were trained
            with where ``overrides`` name no others; by default the training starts at random.
        resume: go on after the last completed epoch of ``output_dir``, in the same MLflow run.
        track: log to MLflow.
        tracking_uri: MLflow address; by default ``MLFLOW_TRACKING_URI``, else a SQLite database in ``output_dir``.
        experiment_name: MLflow experiment; by default the bundle's name.
        registered_model_name: name under which MLflow's registry gets the model when the training has ended; by default
            it is not registered.

    Returns:
        where the model lies and how good it is.

    Raises:
        BundleError: unknown bundle, config or override; nothing to resume; a folder that holds another training;
            weights that are missing or do not fit; a name for the registry of a training that is not tracked.
        ValueError: the training's model would replace ``checkpoint``.
        KeyboardInterrupt: the training was interrupted; the MLflow run is marked as killed.
    """
    root = find_bundle(bundle)
    values = dict(overrides or {})
    output_dir = Path(values.get("output_dir") or merged_config(root, configs)["output_dir"])
    run: dict[str, Any] = {}
    if resume:
        if checkpoint is not None:
            raise BundleError(f"{checkpoint}: a resumed training goes on with its own weights; leave --checkpoint out.")
        run = _read_run(output_dir)
        values = {**run["overrides"], **values}
        configs = run["configs"]
    elif (output_dir / CHECKPOINT_NAME).exists():
        raise BundleError(f"{output_dir}: holds a training already; go on with --resume, or give another --output-dir.")
    elif checkpoint is not None:
        _check_starts_from_weights(root, configs)
        values["initial_weights"] = _existing_weights(checkpoint)
        refuse_given([output_dir / MODEL_NAME], [checkpoint], "give another --output-dir")
    values |= {"output_dir": str(output_dir), "resume": resume}
    check_overrides(root, configs, values)
    run |= {"bundle": root.name, "configs": list(configs), "overrides": values}
    settings = None
    if registered_model_name and not track:
        raise BundleError(f"{registered_model_name}: MLflow registers only the model of a run that it tracks.")
    if track:
        run.setdefault("run_name", f"{root.name}_{time.strftime('%Y%m%d_%H%M%S')}")
        run["experiment_name"] = experiment_name or run.get("experiment_name") or root.name
        run["tracking_uri"] = _tracking_uri(tracking_uri or run.get("tracking_uri"), output_dir)
        run["registered_model_name"] = registered_model_name or run.get("registered_model_name")
        settings = _tracking(root, run)
    workflow = build_workflow(root, configs, workflow_type="train", overrides=values, tracking=settings)
    with _without_tracking_variable():
        return _run_training(workflow, run, output_dir)


def _check_starts_from_weights(root: Path, configs: Sequence[str]) -> None:
    if "initial_weights" not in merged_config(root, configs):
        raise BundleError(
            f"{root}: has no initial_weights, the key for weights to start from, so it is from an earlier version; "
            "copy the bundle anew."
        )


def _existing_weights(checkpoint: str | os.PathLike[str]) -> str:
    path = Path(checkpoint).absolute()
    if not path.is_file():
        raise BundleError(f"{path}: no weights to start from; name the model.pt of a training.")
    return str(path)


def _run_training(workflow: ConfigWorkflow, run: dict[str, Any], output_dir: Path) -> TrainingResult:
    tracker: RunTracker | None = None
    with _terminate_as_interrupt():
        try:
            workflow.initialize()
            trainer = workflow.parser.get_parsed_content("train#trainer")
            handlers = workflow.parser.get_parsed_content("train#handlers")
            tracker = next((handler for handler in handlers if isinstance(handler, RunTracker)), None)
            state = next(handler for handler in handlers if isinstance(handler, TrainingState))
            if tracker is not None:
                _remember_run(trainer, tracker, run, output_dir)
            else:
                _write_run(run, output_dir)
            _attach_progress(trainer, "training")
            workflow.run()
            workflow.finalize()
        except BaseException as error:
            if tracker is not None:
                tracker.terminate("KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED")
            raise
    return TrainingResult(
        output_dir=output_dir,
        model=output_dir / MODEL_NAME,
        epochs=trainer.state.epoch,
        best_metric=state.best_metric,
        best_epoch=state.best_epoch,
        tracking_uri=run.get("tracking_uri"),
        run_id=run.get("run_id"),
    )


def evaluate(
    bundle: str | os.PathLike[str],
    *,
    configs: Sequence[str] = ("train", "evaluate"),
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle on a section of a data list: the ``evaluate`` overlay of its training.

    Args:
        bundle: name or path.
        configs: the training's configs and the ``evaluate`` overlay.
        overrides: flat keys and their values.

    Returns:
        the summary that was written to ``<output_dir>/evaluation/summary.json``, and the folder as ``"output_dir"``.

    Raises:
        BundleError: unknown bundle, config or override; weights that are missing or do not fit.
        ValueError: the folder for tables and overlays holds something that was given.
    """
    workflow = build_workflow(bundle, configs, workflow_type="train", overrides=overrides)
    workflow.initialize()
    folder = Path(workflow.parser.get_parsed_content("output_dir")) / "evaluation"
    _refuse_inputs(workflow.parser, folder)
    _attach_progress(workflow.parser.get_parsed_content("validate#evaluator"), "evaluating")
    workflow.run()
    workflow.finalize()
    return {"output_dir": str(folder), **json.loads((folder / "summary.json").read_text())}


def _refuse_inputs(parser: ConfigParser, folder: Path) -> None:
    """Refuse a folder in which the evaluation's tables or overlays could replace something that was given."""
    refuse_folders_of_inputs([folder, folder / "overlays"], parser.get_parsed_content("validate#dataset#data"))
    given = [parser.get_parsed_content(key) for key in ("datalist", "checkpoint")]
    refuse_given([folder / name for name in TABLES], given, "give another --output-dir")


def _attach_progress(engine: Any, what: str) -> None:
    """Show a bar on a terminal; a log file or a pipe gets none."""
    ProgressBar(desc=what, persist=False, disable=None if sys.stderr.isatty() else True).attach(engine)


def _read_run(output_dir: Path) -> dict[str, Any]:
    path = output_dir / RUN_NAME
    if not path.is_file() or not (output_dir / CHECKPOINT_NAME).is_file():
        raise BundleError(f"{output_dir}: no training to resume here ({RUN_NAME} and {CHECKPOINT_NAME} are needed).")
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return run


def _write_run(run: Mapping[str, Any], output_dir: Path) -> None:
    write_json(output_dir / RUN_NAME, run)


def _remember_run(trainer: Any, tracker: RunTracker, run: dict[str, Any], output_dir: Path) -> None:
    """Write ``run.json`` as soon as MLflow has given the run its number, so that a kill at any time can be resumed."""

    def write() -> None:
        run["run_id"] = tracker.run_id
        _write_run(run, output_dir)

    trainer.add_event_handler(Events.STARTED, write)


def _tracking_uri(given: str | None, output_dir: Path) -> str:
    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(output_dir)


def _tracking(root: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    config = merged_config(root, run["configs"])
    config.update(run["overrides"])
    parser = ConfigParser({**config, "bundle_root": str(root)})
    output_dir = Path(run["overrides"]["output_dir"])
    metadata = read_metadata(root)
    return tracking_settings(
        output_dir=output_dir,
        tracking_uri=run["tracking_uri"],
        experiment_name=run["experiment_name"],
        run_name=run["run_name"],
        run_id=run.get("run_id"),
        parameters=run_parameters(
            root,
            metadata["version"],
            {**config, **parser.get_parsed_content("settings")},
            Path(parser.get_parsed_content("datalist")),
        ),
        config_file=output_dir / "config.json",
        input_shape=example_input_shape(metadata),
        registered_model_name=run["registered_model_name"],
    )


@contextmanager
def _without_tracking_variable() -> Iterator[None]:
    """Hide ``MLFLOW_TRACKING_URI``, weighed by ``_tracking_uri`` already: MONAI prefers it to what it is given."""
    value = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield
    finally:
        if value is not None:
            os.environ["MLFLOW_TRACKING_URI"] = value


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the training as Ctrl-C does, so that the run is marked before the process ends."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"signal {signum}")

    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
