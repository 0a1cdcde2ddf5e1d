"""``run.json``: the facts about a training that are needed to resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events

from medseg_monai.files import write_json
from medseg_monai.handlers import CHECKPOINT_NAME, MODEL_NAME, RunTracker

from .loader import BundleError

__all__ = ["MISSING", "RUN_NAME", "SAVED", "TRACKED", "left_behind", "read_run", "remember_run", "write_run"]

RUN_NAME = "run.json"
#: key for whether there has been a checkpoint
SAVED = "saved"
#: and for the precision in which it computes
PRECISION = "precision"
#: and for what MLflow lacks of a complete training
MISSING = "missing_in_mlflow"
#: keys for what MLflow is told, which MONAI reads as a config
TRACKED = ("run_name", "run_id", "experiment_name", "tracking_uri", "registered_model_name", "replaced_runs")


def read_run(output_dir: Path) -> dict[str, Any]:
    """Read the record of a training that can be resumed.

    Args:
        output_dir: folder of the training.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    path = output_dir / RUN_NAME
    has_checkpoint = (output_dir / CHECKPOINT_NAME).is_file()
    none = f"{output_dir}: no training to resume here ({RUN_NAME} and {CHECKPOINT_NAME} are needed)."
    if not path.is_file():
        raise BundleError(none)
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        run = None
    if not _is_run(run):
        remedy = f"{MODEL_NAME} (--checkpoint)" if (output_dir / MODEL_NAME).is_file() else "the beginning"
        raise BundleError(f"{path}: damaged; start a new training from {remedy} in another folder.")
    # what was saved once and is gone was not interrupted; earlier versions did not note it
    if not has_checkpoint and run.get(SAVED, (output_dir / MODEL_NAME).is_file()):
        raise BundleError(none)
    content: dict[str, Any] = run
    return content


def _is_run(content: Any) -> bool:
    """Whether the values of :data:`RUN_NAME` have the kinds with which they are written."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("overrides"), dict)
        and bool(content.get("configs"))
        and all(_are_texts(content.get(name, [])) for name in ("configs", "replaced_runs"))
        and all(isinstance(content.get(name), (str, type(None))) for name in TRACKED if name != "replaced_runs")
    )


def _are_texts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(one, str) for one in content)


def left_behind(output_dir: Path) -> list[str]:
    """The names of MLflow runs of trainings that were killed in this folder before their first checkpoint.

    Args:
        output_dir: folder of a training that begins.
    """
    try:
        before = json.loads((output_dir / RUN_NAME).read_text(encoding="utf-8"))
        return [*before.get("replaced_runs", []), *filter(None, [before.get("run_name")])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def remember_run(trainer: Any, tracker: RunTracker | None, run: dict[str, Any], output_dir: Path) -> None:
    """Write ``run.json`` when the training has started, with its number in MLflow; a refused one leaves it alone.

    A new one is written before MLflow is asked for a run, so that a kill in between leaves the name to find it by.

    Args:
        trainer: trainer, not yet started.
        tracker: its handler for MLflow, if it is tracked.
        run: the record; it gets what is found out later.
        output_dir: folder of the training.
    """

    def write() -> None:
        if tracker is not None:
            run["run_id"] = tracker.run_id
        write_run(run, output_dir)

    def note_checkpoint() -> None:
        found = {SAVED: True, PRECISION: getattr(trainer.state, "precision", None)}
        if not found.items() <= run.items():
            run.update(found)
            write_run(run, output_dir)

    if not run["overrides"]["resume"]:
        write_run(run, output_dir)
    trainer.add_event_handler(Events.STARTED, write)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, note_checkpoint)


def write_run(run: Mapping[str, Any], output_dir: Path) -> None:
    """Write the record of a training.

    Args:
        run: the record.
        output_dir: folder of the training.
    """
    write_json(output_dir / RUN_NAME, run)
