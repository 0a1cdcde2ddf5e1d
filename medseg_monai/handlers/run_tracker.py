"""MLflow tracking of a training beyond MONAI's handler: overlays, the model, and a run that can be resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import torch
from ignite.engine import Engine, Events
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.telemetry import set_telemetry_client
from monai.handlers import MLFlowHandler
from torch import nn

from medseg_monai.files import file_sha256
from medseg_monai.networks.weights import ModelFile, settings_file

from .training_state import MODEL_NAME

__all__ = ["MODEL_SHA256", "RunTracker"]

MLFLOW_TRACKING_URI = "MLFLOW_TRACKING_URI"
#: key in a logged model's metadata for the SHA-256 of its ``model.pt``
MODEL_SHA256 = "model_sha256"
#: and under this one that of the ``model.json`` with its settings; earlier versions have them in ``model.pt``
SETTINGS_SHA256 = "settings_sha256"

logger = logging.getLogger(__name__)

# By default MLflow reports each run to its makers, but a hospital's machine must not contact anybody. MONAI imports
# MLflow before this package is imported, so the client already exists and must be set again.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
set_telemetry_client()


class RunTracker(MLFlowHandler):
    """MONAI's ``MLFlowHandler`` for a trainer, with overlays, the best model with its signature, and resuming.

    Args:
        output_dir: folder of the training; new files in its ``overlays`` are logged after each epoch, its
            ``model.pt`` at the end.
        network_def: network that ``model.pt`` is loaded into when the training has ended; ``None`` logs no model.
        input_shape: shape ``[B, C, *spatial]`` of the example that the model's signature is taken from.
        run_id: run to continue; ``None`` starts a new one.
        registered_model_name: name under which the model is added to MLflow's registry as a new version; ``None``
            does not register it.
        kwargs: arguments of :class:`monai.handlers.MLFlowHandler`.

    Raises:
        ValueError: a name for the registry is given without a network, or, at the start, the registry does not accept
            the name.
    """

    def __init__(
        self,
        *,
        output_dir: str | os.PathLike[str],
        network_def: nn.Module | None = None,
        input_shape: tuple[int, ...] = (),
        run_id: str | None = None,
        registered_model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if registered_model_name is not None and network_def is None:
            raise ValueError(f"registered_model_name={registered_model_name}: give network_def, the model to register.")
        super().__init__(**kwargs)
        self.output_dir = Path(output_dir)
        self.network_def = network_def
        self.input_shape = tuple(input_shape)
        self.run_id = run_id
        self.registered_model_name = registered_model_name
        self.cur_run: Any = None
        self._logged: set[Path] = set()

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: trainer.
        """
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.log_overlays)

    def start(self, engine: Engine) -> None:
        """Start a run or continue ``run_id``; a run that a kill has left open is marked as killed first.

        Args:
            engine: trainer.
        """
        self._reserve_name()
        if self.run_id is not None and self.cur_run is None:
            if self.client.get_run(self.run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
                self.terminate("KILLED")
            self.client.set_tag(self.run_id, "resumed_after_epoch", str(engine.state.epoch))
            self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            self.cur_run = self.client.get_run(self.run_id)
        super().start(engine)
        self.run_id = self.cur_run.info.run_id

    def terminate(self, status: str) -> None:
        """End a run that was not completed.

        Args:
            status: ``"KILLED"`` or ``"FAILED"``.
        """
        if self.run_id is not None:
            self.client.set_tag(self.run_id, "interrupted", status.lower())
            self.client.set_terminated(self.run_id, status)

    def log_overlays(self) -> None:
        """Log the overlays that this epoch's validation has drawn."""
        for path in sorted(set((self.output_dir / "overlays").glob("*.png")) - self._logged):
            self.client.log_artifact(self.run_id, str(path), "overlays")
            self._logged.add(path)

    def complete(self) -> None:
        """Log the configured artifacts and the model."""
        super().complete()
        if self.network_def is not None:
            self.log_model(self.network_def)

    def log_model(self, network: nn.Module) -> None:
        """Log ``model.pt`` as an MLflow PyTorch model with the signature of its input and output, and register it.

        It is logged as an exported graph (``torch.export``), which ``mlflow.pytorch.load_model`` reads without
        unpickling and without this package. The batch size is free; the spatial size is that of ``input_shape``.
        The file itself lies beside it as ``extra_files/model.pt``, with the settings that the bundle's preprocessing
        needs in ``extra_files/model.json``, and the model's metadata give its SHA-256.

        Args:
            network: network to load the weights into.
        """
        model = self.output_dir / MODEL_NAME
        network.load_state_dict(ModelFile(model).state_dict())
        network = network.cpu().eval()
        example = torch.zeros(2, *self.input_shape[1:])  # the export would fix a batch size of one
        with torch.no_grad():
            signature = infer_signature(example.numpy(), network(example).numpy())
        with _global_tracking_uri(self.client.tracking_uri), mlflow.start_run(run_id=self.run_id):
            # name the requirement, since MLflow would infer it by importing the model in a new environment
            logged = mlflow.pytorch.log_model(
                network,
                name="model",
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=["torch"],
                extra_files=[str(model), str(settings_file(model))],
                metadata={MODEL_SHA256: file_sha256(model), SETTINGS_SHA256: file_sha256(settings_file(model))},
                registered_model_name=self.registered_model_name,
            )
        if self.registered_model_name is not None:
            logger.info("Registered models:/%s/%s.", self.registered_model_name, logged.registered_model_version)

    def _reserve_name(self) -> None:
        """Make sure before the first epoch that the registry will accept the model after the last one."""
        if self.registered_model_name is None:
            return
        try:
            self.client.create_registered_model(self.registered_model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise ValueError(
                    f"{self.registered_model_name}: MLflow's registry does not accept a model of this name: {error}"
                ) from error

    def _log_params(self, params: dict[str, Any]) -> None:
        """Log parameters that the run does not have yet; a resumed run keeps its first ones, as MLflow requires."""
        new = dict(params)
        self._delete_exist_param_in_dict(new)
        super()._log_params(new)


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
