"""Training and evaluation of a bundle: building the workflow, tracking it, ending it properly, and resuming it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.handlers import ProgressBar
from monai.bundle import ConfigParser, ConfigWorkflow

from medseg_monai.files import locked_folder, refuse_given, remove_leftovers
from medseg_monai.handlers import CHECKPOINT_NAME, MODEL_NAME, TABLES, RunTracker, TrainingState
from medseg_monai.handlers.run_tracker import UNSENT_NAME, impatient
from medseg_monai.networks.weights.model_file import settings_file

from .distributed import is_first_process
from .given import refuse_folders_of_inputs
from .loader import (
    BundleError,
    build_workflow,
    check_overrides,
    check_values,
    example_input_shape,
    find_bundle,
    merged_config,
    read_metadata,
)
from .overrides import as_it_is
from .run_record import MISSING, RUN_NAME, SAVED, left_behind, read_run, remember_run, write_run
from .tracking import check_server, default_tracking_uri, run_parameters, tracking_settings
from .training_data import check_evaluation_data, check_training_data

_LOGGER = logging.getLogger(__name__)

__all__ = ["TrainingResult", "evaluate", "train"]

#: the overlay by which earlier versions started from weights
_EARLIER_OVERLAY = "fine_tune.json"

_CONFIG_NAME = "config.json"
_WRITTEN = (MODEL_NAME, str(settings_file(MODEL_NAME)), CHECKPOINT_NAME, RUN_NAME, _CONFIG_NAME, UNSENT_NAME)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        output_dir: folder of the run.
        model: weights for prediction.
        epochs: total number of epochs.
        best_metric: key metric of ``model`` on the validation data; ``None`` without validation.
        best_epoch: epoch of ``model``.
        tracking_uri: MLflow address; ``None`` if the run was not tracked.
        run_id: MLflow run; ``None`` if it was not tracked.
        registers: name under which the model was to be registered; ``None`` if nobody asked for it.
        registered: address of the model in MLflow's registry, ``models:/NAME/VERSION``; ``None`` if it is not there.
        missing: what MLflow lacks, since it does not answer or has refused it, in one line; ``None`` if it has all.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.bundle import TrainingResult
        >>> run = Path("runs/lungs")
        >>> result = TrainingResult(run, run / "model.pt", 40, 0.96, best_epoch=35, tracking_uri=None, run_id=None)
        >>> result.model.name, result.best_epoch
        ('model.pt', 35)
    """

    output_dir: Path
    model: Path
    epochs: int
    best_metric: float | None
    best_epoch: int
    tracking_uri: str | None
    run_id: str | None
    registers: str | None = None
    registered: str | None = None
    missing: str | None = None


def train(
    bundle: str | os.PathLike[str],
    *,
    configs: Sequence[str] = ("train",),
    overrides: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    allow_expressions: bool = False,
    track: bool = True,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    registered_model_name: str | None = None,
) -> TrainingResult:
    """Train a bundle with the workflow that ``python -m monai.bundle run`` would run.

    Args:
        bundle: name or path.
        configs: ``train`` and overlays.
        overrides: flat keys and their values. A resumed training uses the overrides that it was started with, updated
            with these.
        checkpoint: weights to start from (the flat key ``initial_weights``), with the settings that they were trained
            with unless ``overrides`` state others; by default the weights are initialised at random.
        resume: continue after the last completed epoch in ``output_dir``, in the same MLflow run. A training that was
            killed before its first checkpoint starts again from the beginning; a complete one only gives MLflow what
            it lacks.
        allow_expressions: take values from ``run.json`` that MONAI would run as code when ``resume`` is set.
        track: log to MLflow.
        tracking_uri: MLflow address; by default ``MLFLOW_TRACKING_URI``, or else a SQLite database in ``output_dir``.
        experiment_name: MLflow experiment; by default the bundle's name.
        registered_model_name: name for the model in MLflow's registry when the training has ended; by default the model
            is not registered.

    Returns:
        the path of the model and its score.

    Raises:
        BundleError: unknown bundle, config or override; nothing to resume; a folder that holds another training;
            weights that are missing or do not fit; a name for the registry although the training is not tracked.
        ValueError: what the training writes would replace ``checkpoint`` or the data list; the data list has items
            without a label, only empty labels in a section, or one image or patient in two sections.
        OSError: MLflow does not answer at the start, or another training is at work in the folder.
        KeyboardInterrupt: the training was interrupted; the MLflow run is marked as killed.

    Example:
        One epoch on three phantoms, with a network and images that are far too small to learn anything:

        >>> import sys
        >>> import tempfile
        >>> from contextlib import redirect_stdout
        >>> from medseg_monai.bundle import train
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> tiny = {"image_size": [40, 52], "filters": 4, "num_blocks": 1, "batch_size": 2, "max_epochs": 1}
        >>> counts = {"training": 2, "validation": 1}
        >>> with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # for MONAI's log
        ...     datalist = write_chest_xray_phantoms(f"{folder}/data", counts=counts, size=(64, 80), seed=0)
        ...     overrides = {"datalist": str(datalist), "output_dir": f"{folder}/run", **tiny}
        ...     result = train("lung_cxr_rescrnet", overrides=overrides, track=False)
        >>> result.epochs, result.model.name
        (1, 'model.pt')
    """
    root = find_bundle(bundle)
    values = dict(overrides or {})
    output_dir = Path(values.get("output_dir") or merged_config(root, configs)["output_dir"])
    start = _start(checkpoint, values)
    if registered_model_name and not track:
        raise BundleError(f"{registered_model_name}: MLflow registers only the model of a run that it tracks.")
    with _terminate_as_interrupt(), _owned(output_dir, "a training", "overlays"):
        if resume:
            run = _resumed(root, configs, values, output_dir, start, allow_expressions)
        else:
            run = _new(root, configs, values, output_dir, start)
        check_overrides(root, run["configs"], run["overrides"])
        settings = None
        with _without_tracking_variable() as variable, impatient():
            if track:
                run.setdefault("run_name", f"{root.name}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:4]}")
                run["experiment_name"] = experiment_name or run.get("experiment_name") or root.name
                given = tracking_uri or run.get("tracking_uri") or variable
                run["tracking_uri"] = given or default_tracking_uri(output_dir)
                run["registered_model_name"] = registered_model_name or run.get("registered_model_name")
            if track and is_first_process():
                settings = _tracking(root, run)
                check_server(run["tracking_uri"])
            workflow = build_workflow(
                root, run["configs"], workflow_type="train", overrides=run["overrides"], tracking=settings
            )
            return _run_training(workflow, run, output_dir)


def _resumed(
    root: Path,
    configs: Sequence[str],
    values: Mapping[str, Any],
    output_dir: Path,
    start: str,
    allow_expressions: bool,
) -> dict[str, Any]:
    """What :data:`RUN_NAME` says about the training in a folder, with the changes that it takes."""
    if start:
        raise BundleError(f"{start}: a resumed training uses its own weights; leave --checkpoint out.")
    run = read_run(output_dir)
    if not allow_expressions:
        check_values(run["overrides"], f"{output_dir / RUN_NAME}:")
        _check_configs(root, run["configs"], configs)
    resume = (output_dir / CHECKPOINT_NAME).exists()
    if resume:  # earlier versions loaded their start by an overlay; the checkpoint has the weights by now
        run["configs"] = [name for name in run["configs"] if Path(name).name != _EARLIER_OVERLAY]
    else:
        _LOGGER.info("%s: was interrupted before its first checkpoint; it starts again from the beginning.", output_dir)
    changes = _what_resuming_takes(root, run["configs"], run["overrides"], values)
    run["overrides"] = {**run["overrides"], **changes, "output_dir": str(output_dir), "resume": resume}
    return {**run, "bundle": root.name}


def _new(root: Path, configs: Sequence[str], values: Mapping[str, Any], output_dir: Path, start: str) -> dict[str, Any]:
    """What :data:`RUN_NAME` is to say about a training that begins."""
    if (output_dir / CHECKPOINT_NAME).exists():
        raise BundleError(f"{output_dir}: already holds a training; add --resume, or give another --output-dir.")
    overrides = {**values, "output_dir": str(output_dir), "resume": False}
    if start:
        _check_starts_from_weights(root, configs)
        overrides["initial_weights"] = _existing_weights(start)
    written = [output_dir / name for name in _WRITTEN]
    refuse_given(written, [start, values.get("datalist")], "give another --output-dir")
    run = {"bundle": root.name, "configs": list(configs), "overrides": overrides, SAVED: False}
    return {**run, "replaced_runs": left_behind(output_dir)}


def _start(checkpoint: str | os.PathLike[str] | None, values: Mapping[str, Any]) -> str:
    """The weights to start from, however they were named; empty if there are none."""
    named = values.get("initial_weights")
    if checkpoint is not None and named and Path(checkpoint).absolute() != Path(str(named)).absolute():
        raise BundleError(f"{checkpoint} and initial_weights={named}: two starts for one training; name one of them.")
    return str(checkpoint or named or "")


def _check_configs(root: Path, recorded: Sequence[str], named: Sequence[str]) -> None:
    """Refuse config files of a run's record that the user did not name: what they say is run."""
    for name in recorded:
        is_own = (root / "configs" / f"{name}.json").is_file() and Path(name).name == name
        if not is_own and name not in named and Path(name).name != _EARLIER_OVERLAY:
            raise BundleError(
                f"{RUN_NAME}: config {name} is run as code; name it again (--config {name}), or --allow-expressions if "
                "you trust it."
            )


def _check_starts_from_weights(root: Path, configs: Sequence[str]) -> None:
    if "initial_weights" not in merged_config(root, configs):
        raise BundleError(
            f"{root}: has no initial_weights, the key for weights to start from, so it is from an earlier version; "
            "copy the bundle again."
        )


def _what_resuming_takes(
    root: Path, configs: Sequence[str], before: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The changes that have an effect on a resumed training; the log names the others.

    Optimizer and schedule of the learning rate are restored as they were, with the numbers that they began with.
    """
    config = merged_config(root, configs)
    used = {key: _users(config, key) for key in values}
    without = [key for key in values if used[key] and used[key] <= {"optimizer", "lr_scheduler"}]
    for key in without:
        began = before.get(key, config[key])
        if values[key] != began:
            _LOGGER.warning(
                "%s=%s: not taken: a resumed training keeps its optimizer and schedule, which began with %s; start a "
                "new one from its weights (--checkpoint) to change it.",
                key,
                values[key],
                began,
            )
    taken = {key: value for key, value in values.items() if key not in without}
    changed = {key: value for key, value in taken.items() if key in config and value != before.get(key, config[key])}
    if changed:
        _LOGGER.info("Resuming with %s.", ", ".join(f"{key}={value}" for key, value in changed.items()))
    return taken


def _users(config: Mapping[str, Any], key: str) -> set[str]:
    """The entries of a config that refer to a key."""
    reference = re.compile(rf"@{re.escape(key)}\b(?!#)")
    return {name for name, entry in config.items() if reference.search(json.dumps(entry))}


def _existing_weights(checkpoint: str | os.PathLike[str]) -> str:
    path = Path(checkpoint).absolute()
    if not path.is_file():
        raise BundleError(f"{path}: no weights to start from; name the model.pt of a training.")
    return str(path)


def _run_training(workflow: ConfigWorkflow, run: dict[str, Any], output_dir: Path) -> TrainingResult:
    tracker: RunTracker | None = None
    state: TrainingState | None = None
    try:
        workflow.initialize()
        check_training_data(workflow.parser)
        trainer = workflow.parser.get_parsed_content("train#trainer")
        handlers = workflow.parser.get_parsed_content("train#handlers")
        tracker = next((handler for handler in handlers if isinstance(handler, RunTracker)), None)
        state = next(handler for handler in handlers if isinstance(handler, TrainingState))
        if is_first_process():
            remember_run(trainer, tracker, run, output_dir)
        _attach_progress(trainer, "training")
        workflow.run()
        workflow.finalize()
    except BaseException as error:
        if tracker is not None:
            tracker.terminate("KILLED" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "FAILED")
        raise
    finally:
        if state is not None:
            state.release()
    missing = tracker.missing if tracker is not None else ""
    if tracker is not None and missing != run.pop(MISSING, ""):
        write_run({**run, MISSING: missing} if missing else run, output_dir)
    return TrainingResult(
        output_dir=output_dir,
        model=output_dir / MODEL_NAME,
        epochs=trainer.state.epoch,
        best_metric=state.best_metric,
        best_epoch=state.best_epoch,
        tracking_uri=run.get("tracking_uri"),
        run_id=run.get("run_id"),
        registers=run.get("registered_model_name"),
        registered=tracker.registered if tracker is not None else None,
        missing=missing or None,
    )


def evaluate(
    bundle: str | os.PathLike[str],
    *,
    configs: Sequence[str] = ("train", "evaluate"),
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a bundle on a section of a data list, with the ``evaluate`` overlay of its training.

    Args:
        bundle: name or path.
        configs: the configs of the training and the ``evaluate`` overlay.
        overrides: flat keys and their values.

    Returns:
        the summary that was written to ``<output_dir>/evaluation/summary.json``, and the folder as ``"output_dir"``.

    Raises:
        BundleError: unknown bundle, config or override; weights that are missing or do not fit.
        ValueError: the folder for tables and overlays holds something that was given; the data list has items without
            a label, only empty labels, or a mask that the bundle does not read.

    Example:
        >>> import sys
        >>> import tempfile
        >>> from contextlib import redirect_stdout
        >>> from medseg_monai.bundle import evaluate, find_bundle
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> weights = str(find_bundle("lung_cxr_rescrnet") / "models" / "model.pt")
        >>> with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # for MONAI's log
        ...     datalist = write_chest_xray_phantoms(f"{folder}/data", counts={"test": 1}, size=(64, 80), seed=0)
        ...     overrides = {"datalist": str(datalist), "output_dir": f"{folder}/run", "checkpoint": weights}
        ...     summary = evaluate("lung_cxr_rescrnet", overrides=overrides)
        >>> summary["cases"], 0 <= summary["pooled"]["dice"] <= 1
        (1, True)
    """
    workflow = build_workflow(bundle, configs, workflow_type="train", overrides=overrides)
    workflow.initialize()
    folder = Path(workflow.parser.get_parsed_content("output_dir")) / "evaluation"
    _refuse_inputs(workflow.parser, folder)
    with _owned(folder, "an evaluation", "overlays"):
        check_evaluation_data(workflow.parser)
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
    """Show a progress bar on a terminal, but not in a log file or a pipe."""
    ProgressBar(desc=what, persist=False, disable=None if sys.stderr.isatty() else True).attach(engine)


@contextmanager
def _owned(folder: Path, work: str, *parts: str) -> Iterator[None]:
    """Have a folder and its parts for one piece of work alone, which several processes may share."""
    if not is_first_process():
        yield
        return
    with locked_folder(folder, work):
        for part in parts:
            remove_leftovers(folder / part)
        yield


def _tracking(root: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    config = merged_config(root, run["configs"])
    config.update(as_it_is(run["overrides"]))
    parser = ConfigParser({**config, "bundle_root": str(root)})
    output_dir = Path(run["overrides"]["output_dir"])
    metadata = read_metadata(root)
    return tracking_settings(
        output_dir=output_dir,
        tracking_uri=run["tracking_uri"],
        experiment_name=run["experiment_name"],
        run_name=run["run_name"],
        run_id=run.get("run_id"),
        replaced_runs=run.get("replaced_runs", []),
        parameters=run_parameters(
            root,
            metadata["version"],
            {**config, **parser.get_parsed_content("settings")},
            Path(parser.get_parsed_content("datalist")),
        ),
        config_file=output_dir / _CONFIG_NAME,
        input_shape=example_input_shape(metadata),
        registered_model_name=run["registered_model_name"],
    )


@contextmanager
def _without_tracking_variable() -> Iterator[str | None]:
    """Hide ``MLFLOW_TRACKING_URI``, and provide its value: MONAI would prefer it to the given address."""
    value = os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        yield value
    finally:
        if value is not None:
            os.environ["MLFLOW_TRACKING_URI"] = value


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the training like Ctrl-C, so that the run is marked before the process ends."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"signal {signum}")

    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
