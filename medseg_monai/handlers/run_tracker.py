"""MLflow tracking of a training beyond MONAI's handler: overlays, the model, and a run that can be resumed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import torch
from ignite.engine import Engine, Events
from mlflow.entities import LoggedModelStatus, Metric, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.telemetry import set_telemetry_client
from monai.handlers import MLFlowHandler
from monai.utils import flatten_dict
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from medseg_monai.files import file_sha256
from medseg_monai.networks.weights import ModelFile, settings_file

from .run_log import NoAnswerError, RunLog, is_refusal, why
from .training_state import MODEL_NAME

__all__ = ["MODEL_SHA256", "UNSENT_NAME", "RunTracker", "answering", "impatient"]

MLFLOW_TRACKING_URI = "MLFLOW_TRACKING_URI"
#: key in a logged model's metadata for the SHA-256 of its ``model.pt``
MODEL_SHA256 = "model_sha256"
#: and under this one that of the ``model.json`` with its settings; earlier versions have them in ``model.pt``
SETTINGS_SHA256 = "settings_sha256"
#: file with what MLflow does not have yet
UNSENT_NAME = "mlflow_unsent.jsonl"

_RUNNING = RunStatus.to_string(RunStatus.RUNNING)
#: how long MLflow may be silent when a training has ended; how long its last points and its mark may take when killed
_PATIENCE_S, _LAST_WORDS_S, _END_S = 15.0, 5.0, 20.0
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "8", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

logger = logging.getLogger(__name__)

# By default MLflow reports each run to its makers, but a hospital's machine must not contact anybody. MONAI imports
# MLflow before this package is imported, so the client already exists and must be set again.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
set_telemetry_client()


class RunTracker(MLFlowHandler):
    """MONAI's ``MLFlowHandler`` for a trainer, with overlays, the best model with its signature, and resuming.

    Only the start waits for the server. From then on a :class:`~medseg_monai.handlers.run_log.RunLog` keeps what is to
    be logged in ``mlflow_unsent.jsonl`` and sends it, so that a server that dies or hangs neither ends the training nor
    holds it up. What the server does not have when the training has ended is sent when the training is resumed, be it
    complete or not. A point is logged once, however often a training is killed and resumed.

    Args:
        output_dir: folder of the training; new files in its ``overlays`` are logged after each epoch, its
            ``model.pt`` at the end.
        validator: evaluator of the trainer whose metrics are logged too; ``None`` if there is none.
        network_def: network that ``model.pt`` is loaded into when the training has ended; ``None`` logs no model.
        input_shape: shape ``[B, C, *spatial]`` of the example that the model's signature is taken from.
        run_id: run to continue; ``None`` starts a new one.
        replaced_runs: names of runs of the same experiment that trainings in this folder have left behind without a
            checkpoint; they are marked as killed.
        registered_model_name: name under which the model is added to MLflow's registry as a new version, unless it is
            there; ``None`` does not register it.
        kwargs: arguments of :class:`monai.handlers.MLFlowHandler`.

    Attributes:
        missing: what MLflow lacks at the end of the training and why, in one line; empty if it has everything.
        registered: address of the registered model, ``models:/NAME/VERSION``; ``None`` as long as there is none.

    Raises:
        ValueError: a name for the registry is given without a network, or, at the start, the registry does not accept
            the name.
        OSError: at the start, the server does not answer or the database cannot be used.
    """

    def __init__(
        self,
        *,
        output_dir: str | os.PathLike[str],
        validator: Engine | None = None,
        network_def: nn.Module | None = None,
        input_shape: tuple[int, ...] = (),
        run_id: str | None = None,
        replaced_runs: Sequence[str] = (),
        registered_model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if registered_model_name is not None and network_def is None:
            raise ValueError(f"registered_model_name={registered_model_name}: give network_def, the model to register.")
        super().__init__(**kwargs)
        self.output_dir = Path(output_dir)
        self.validator = validator
        self.network_def = network_def
        self.input_shape = tuple(input_shape)
        self.run_id = run_id
        self.replaced_runs = tuple(replaced_runs)
        self.registered_model_name = registered_model_name
        self.registered: str | None = None
        self.missing = ""
        self.cur_run: Any = None
        self._log = RunLog(self.output_dir / UNSENT_NAME, self.client.tracking_uri, self._send)
        self._has_started = self._is_finished = False
        self._known: dict[str, set[int]] = {}  # the steps that MLflow has, or gets, of each metric
        self._logged: set[Path] = set()
        self._precision: str | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: trainer.
        """
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.log_overlays)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.log_precision)
        if self.validator is not None:
            self.validator.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def start(self, engine: Engine) -> None:
        """Start a run or continue ``run_id``; a run that a kill has left open is marked as killed first.

        Args:
            engine: trainer.
        """
        self._has_started = True
        with answering(self.client.tracking_uri):
            self._log.call(self._start, engine)
        if engine.state.epoch:  # an epoch's metrics, if a kill came after its checkpoint
            self._default_epoch_log(engine)

    def _start(self, engine: Engine) -> None:
        self._reserve_name()
        left = self._log.read() if self.run_id is not None else []
        if self.run_id is not None and self.cur_run is None:
            if self.client.get_run(self.run_id).info.status == _RUNNING:
                self._terminate(self.run_id, "KILLED")
            self.client.set_tag(self.run_id, "resumed_after_epoch", str(engine.state.epoch))
            self.client.update_run(self.run_id, status=_RUNNING)
            self.cur_run = self.client.get_run(self.run_id)
        super().start(engine)
        self.run_id = self.cur_run.info.run_id
        self._end_replaced_runs()
        self._known = {
            key: {point.step for point in self.client.get_metric_history(self.run_id, key)}
            for key in self.client.get_run(self.run_id).data.metrics
        }
        self._log.replace(filter(None, map(self._unknown, left)))

    def _end_replaced_runs(self) -> None:
        if self.replaced_runs:
            for run in self.client.search_runs([self.experiment.experiment_id]):
                if run.info.run_name in self.replaced_runs and run.info.status == _RUNNING:
                    self._terminate(run.info.run_id, "KILLED")

    def _unknown(self, entry: dict[str, Any]) -> dict[str, Any]:
        """An entry without the points that MLflow has; from now on it has the others, or will."""
        if "metrics" not in entry:
            return entry
        points = [point for point in entry["metrics"] if point[3] not in self._known.setdefault(point[0], set())]
        for key, _, _, step in points:
            self._known[key].add(step)
        return {"metrics": points} if points else {}

    def terminate(self, status: str) -> None:
        """End a run that was not completed, unless MLflow does not answer soon.

        Args:
            status: ``"KILLED"`` or ``"FAILED"``.
        """
        if not self._has_started:
            return
        try:
            self._log.wait(patience=_LAST_WORDS_S, limit=_LAST_WORDS_S)
            self._log.call(self._interrupt, status, timeout=_END_S)
        except (MlflowException, OSError, NoAnswerError) as error:
            logger.warning("%s: the run is not marked as %s: %s", self._log.address, status, why(error))
        self._log.stop()

    def _interrupt(self, status: str) -> None:
        if self.run_id is not None and not self._is_finished:
            self._terminate(self.run_id, status)

    def _terminate(self, run_id: str, status: str) -> None:
        self.client.set_tag(run_id, "interrupted", status.lower())
        self.client.set_terminated(run_id, status)

    def log_overlays(self) -> None:
        """Log the overlays that this epoch's validation has drawn."""
        for path in sorted(set((self.output_dir / "overlays").glob("*.png")) - self._logged):
            self._log.add({"artifact": str(path), "folder": "overlays"})
            self._logged.add(path)

    def log_precision(self, engine: Engine) -> None:
        """Log as a tag in which precision the training computes, see :class:`.TrainingPrecision`.

        Args:
            engine: trainer.
        """
        precision = getattr(engine.state, "precision", None)
        if precision != self._precision:
            self._log.add({"tag": "precision", "value": precision})
            self._precision = precision

    def complete(self) -> None:
        """Log the configured artifacts and the model, and wait until MLflow has everything or does not answer."""
        for artifact in self._parse_artifacts():
            self._log.add({"artifact": str(artifact), "folder": None})
        if not self._log.wait(patience=_PATIENCE_S):
            self._miss(self._log.reason or "it does not answer")
        elif self.network_def is not None:
            try:
                with patient():
                    self._log.call(self.log_model, self.network_def)
            except (MlflowException, OSError) as error:
                self._miss(why(error))
        if not self.missing and self._log.lost:
            self.missing = f"{self._log.address}: MLflow has refused {self._log.lost} entries: {self._log.reason}"

    def close(self) -> None:
        """Mark the run as finished, unless it lacks something that can still be sent."""
        try:
            if self.cur_run and not self.missing:
                self._log.call(self._finish)
        except (MlflowException, OSError) as error:
            self._miss(why(error))
        finally:
            with suppress(NoAnswerError):  # a call to a server that hangs, if a user lets it take longer
                self._log.call(self._dispose_sqlite_store, timeout=_END_S)
            self._log.stop()

    def _finish(self) -> None:
        self.client.set_terminated(self.run_id, self.run_finish_status)
        self._is_finished, self.cur_run = True, None

    def _miss(self, reason: str) -> None:
        what = "logged in full" if self.registered_model_name is None else f"registered as {self.registered_model_name}"
        self.missing = (
            f"{self._log.address}: MLflow does not answer, so this training is not {what}; its files in "
            f"{self.output_dir} are complete. Give its command again with --resume when MLflow answers. ({reason})"
        )

    def log_model(self, network: nn.Module) -> None:
        """Log ``model.pt`` as an MLflow PyTorch model with the signature of its input and output, and register it.

        It is logged as an exported graph (``torch.export``), which ``mlflow.pytorch.load_model`` reads without
        unpickling and without this package. The batch size is free; the spatial size is that of ``input_shape``.
        The file itself lies beside it as ``extra_files/model.pt``, with the settings that the bundle's preprocessing
        needs in ``extra_files/model.json``, and the model's metadata give its SHA-256. A model that the run has is not
        logged again, and one that the registry has is not registered again.

        Args:
            network: network to load the weights into.
        """
        model = self.output_dir / MODEL_NAME
        hashes = {MODEL_SHA256: file_sha256(model), SETTINGS_SHA256: file_sha256(settings_file(model))}
        with _global_tracking_uri(self.client.tracking_uri):
            uri = self._logged_model(hashes) or self._log_new_model(network, model, hashes)
            if self.registered_model_name is not None:
                self._register(uri, self.registered_model_name)

    def _logged_model(self, hashes: dict[str, str]) -> str | None:
        """Address of a model with these files that the run has."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        own = self.client.search_logged_models([experiment], filter_string=f"source_run_id = '{self.run_id}'")
        for logged in own:
            if logged.status == LoggedModelStatus.READY and hashes.items() <= logged.tags.items():
                uri: str = logged.model_uri
                return uri
        return None

    def _log_new_model(self, network: nn.Module, model: Path, hashes: dict[str, str]) -> str:
        network.load_state_dict(ModelFile(model).state_dict())
        network = network.cpu().eval()
        example = torch.zeros(2, *self.input_shape[1:])  # the export would fix a batch size of one
        with torch.no_grad():
            signature = infer_signature(example.numpy(), network(example).numpy())
        with mlflow.start_run(run_id=self.run_id):
            # name the requirement, since MLflow would infer it by importing the model in a new environment
            logged = mlflow.pytorch.log_model(
                network,
                name="model",
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=["torch"],
                extra_files=[str(model), str(settings_file(model))],
                metadata=hashes,
                tags=hashes,
            )
        uri: str = logged.model_uri
        return uri

    def _register(self, uri: str, name: str) -> None:
        versions = self.client.search_model_versions("name='{}'".format(name.replace("'", "''")))
        known = next((version for version in versions if version.source == uri), None)
        version = known or mlflow.register_model(uri, name)
        self.registered = f"models:/{name}/{version.version}"
        logger.info("Registered %s.", self.registered)

    def _reserve_name(self) -> None:
        """Make sure before the first epoch that the registry will accept the model after the last one."""
        if self.registered_model_name is None:
            return
        try:
            self.client.create_registered_model(self.registered_model_name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                return
            if not is_refusal(error):
                raise
            raise ValueError(
                f"{self.registered_model_name}: MLflow's registry does not accept a model of this name: {error}"
            ) from error

    def _log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep points for MLflow, except those that a resumed run has."""
        now = int(time.time() * 1000)
        points = [[key, float(value), now, step or 0] for key, value in flatten_dict(metrics).items()]
        if entry := self._unknown({"metrics": points}):
            self._log.add(entry)

    def _log_params(self, params: dict[str, Any]) -> None:
        """Log parameters that the run does not have yet; a resumed run keeps its first ones, as MLflow requires."""
        new = dict(params)
        self._delete_exist_param_in_dict(new)
        super()._log_params(new)

    def _send(self, entries: list[dict[str, Any]]) -> None:
        points = [Metric(*point) for entry in entries for point in entry.get("metrics", [])]
        if points:
            self.client.log_batch(self.run_id, metrics=points)
        for entry in entries:
            if "tag" in entry:
                self.client.set_tag(self.run_id, entry["tag"], entry["value"])
            if "artifact" in entry and Path(entry["artifact"]).is_file():
                self.client.log_artifact(self.run_id, entry["artifact"], entry["folder"])


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Say in one line that MLflow does not answer, or refuses.

    Args:
        uri: address of the server or the database.

    Raises:
        OSError: for an error of MLflow in the block.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, UnicodeError) as error:  # or a path that is not UTF-8
        what = "database cannot be used" if uri.startswith("sqlite:") else "server does not answer as it should"
        remedy = "see to it, name another (--tracking-uri), or train without (--no-tracking)"
        raise OSError(f"{uri}: the MLflow {what} ({why(error)}); {remedy}.") from error


@contextmanager
def impatient() -> Iterator[None]:
    """Let a call to an MLflow server that does not answer fail in eight seconds.

    By default MLflow waits two minutes for an answer and asks eight times. What a user has set for these stays.
    """
    with _environment({} if any(name in os.environ for name in _IMPATIENT) else _IMPATIENT):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """Within :func:`impatient`, let MLflow wait longer, as the upload of a model may need."""
    is_ours = all(os.environ.get(name) == value for name, value in _IMPATIENT.items())
    with _environment(_PATIENT if is_ours else {}):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _global_tracking_uri(uri: str) -> Iterator[None]:
    """Point MLflow's functions that have no client at ``uri``.

    ``mlflow.set_tracking_uri`` also sets ``MLFLOW_TRACKING_URI``, which MONAI prefers to the address that it is given.
    If the variable stayed set, the next training of this process would report to the address of this one.
    """
    before = os.environ.get(MLFLOW_TRACKING_URI)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
