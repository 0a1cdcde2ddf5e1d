"""Settings for experiment tracking with MONAI's ``tracking`` mechanism."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from medseg_monai import __version__
from medseg_monai.files import atomic_path, file_sha256
from medseg_monai.handlers.run_tracker import answering

__all__ = ["check_server", "default_tracking_uri", "run_parameters", "tracking_settings"]

MAX_PARAMETER_LENGTH = 250

_SQLITE = "sqlite:///"


def default_tracking_uri(output_dir: Path) -> str:
    """Address of MLflow's SQLite database in the folder of a run.

    Args:
        output_dir: folder of the run.
    """
    return f"sqlite:///{(output_dir / 'mlruns.db').absolute()}"


def check_server(uri: str) -> None:
    """Make sure before the data are read that MLflow answers; a new database is made, whole or not at all.

    Args:
        uri: address of the server or the database.

    Raises:
        OSError: the server does not answer or refuses, or the database cannot be used; one line.
    """
    path = Path(uri.removeprefix(_SQLITE))
    with answering(uri):
        if uri.startswith(_SQLITE) and not path.exists():
            # a kill in the middle of MLflow's migrations would leave a database that MLflow refuses
            with atomic_path(path) as temporary:
                SqlAlchemyStore(f"{_SQLITE}{temporary}", str(path.parent / "mlruns")).engine.dispose()
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _git_revision(folder: Path) -> str:
    """Git revision of the checkout around ``folder``, with ``-dirty`` if it was changed; ``"none"`` without one."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return result.stdout.strip()


def run_parameters(root: Path, version: str, config: Mapping[str, Any], datalist: Path) -> dict[str, str]:
    """The facts that are needed to repeat a run: bundle, versions, revision, data list and every flat key.

    Args:
        root: folder of the bundle.
        version: the bundle's version.
        config: merged config with the overrides applied, and the values of its settings.
        datalist: the data list, whose SHA-256 is recorded.

    Returns:
        names and values. Long values are cut to the length that every MLflow server accepts, and ``#`` and ``::`` in a
        nested key become a dot. Expressions and references are left out, since only their results would be meaningful.

    Raises:
        FileNotFoundError: there is no data list.
    """
    if not datalist.is_file():
        raise FileNotFoundError(
            f"{datalist}: no such data list; give the folder that has one (dataset_dir, or medseg's --dataset-dir) "
            "or the file itself (datalist), or write one with 'medseg data'."
        )
    parameters = {
        "bundle": root.name,
        "bundle_version": version,
        "medseg_monai_version": __version__,
        "git_revision": _git_revision(root),
        "datalist_sha256": file_sha256(datalist),
    }
    for key, value in config.items():
        is_scalar = isinstance(value, (int, float, str, bool)) and not str(value).startswith(("$", "@"))
        is_scalar_list = isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
        if is_scalar or is_scalar_list:
            parameters[key.replace("::", "#").replace("#", ".")] = str(value)
    return {key: value[:MAX_PARAMETER_LENGTH] for key, value in parameters.items()}


def tracking_settings(
    *,
    output_dir: Path,
    tracking_uri: str,
    experiment_name: str,
    run_name: str,
    run_id: str | None,
    parameters: Mapping[str, str],
    config_file: Path,
    input_shape: list[int],
    replaced_runs: Sequence[str] = (),
    registered_model_name: str | None = None,
) -> dict[str, Any]:
    """Settings for the ``tracking`` argument of MONAI's ``ConfigWorkflow``.

    Args:
        output_dir: folder of the training.
        tracking_uri: address of the MLflow server, or of a database.
        experiment_name: MLflow experiment.
        run_name: name of the run; it must be unique, since MONAI continues an unfinished run of the same name.
        run_id: run to continue, or ``None``.
        parameters: parameters to log.
        config_file: file to which MONAI writes the executed config, which is then logged.
        input_shape: shape of the example input for the model's signature.
        replaced_runs: names of runs that were left behind, see :class:`~medseg_monai.handlers.RunTracker`.
        registered_model_name: name of the model in MLflow's registry; ``None`` does not register it.
    """
    return {
        "handlers_id": {
            "trainer": {"id": "train#trainer", "handlers": "train#handlers"},
        },
        "configs": {
            "tracking_uri": tracking_uri,
            "experiment_name": experiment_name,
            "run_name": run_name,
            # a literal path: MONAI would log the text of an expression as a file name, and there is no such file
            "save_execute_config": str(config_file),
            "trainer": {
                "_target_": "medseg_monai.handlers.RunTracker",
                "_disabled_": "$not @is_main",
                "tracking_uri": "@tracking_uri",
                "experiment_name": "@experiment_name",
                "run_name": "@run_name",
                "output_dir": str(output_dir),
                "validator": "@validate#evaluator",
                "network_def": "@network_def",
                "input_shape": input_shape,
                "run_id": run_id,
                "replaced_runs": list(replaced_runs),
                "registered_model_name": registered_model_name,
                "experiment_param": dict(parameters),
                "artifacts": "@save_execute_config",
                "iteration_log": True,
                "epoch_log": True,
                "tag_name": "train_loss",
                "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
                "close_on_complete": True,
            },
        },
    }
