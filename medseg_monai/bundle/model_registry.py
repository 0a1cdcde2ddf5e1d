"""Weights from MLflow's model registry: fetched, verified, and cached."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from medseg_monai.files import file_sha256
from medseg_monai.handlers import MODEL_NAME
from medseg_monai.handlers.run_tracker import MODEL_SHA256, SETTINGS_SHA256, impatient
from medseg_monai.networks.weights import ModelFile, copy_model, settings_file

__all__ = ["fetch_weights", "is_registered"]

_SCHEME = "models:/"
_ADDRESS = re.compile(r"models:/[^/@]+(/[^/@]+|@[^/@]+)")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def is_registered(checkpoint: Any) -> bool:
    """Whether a checkpoint is given by its address in MLflow's registry and not by a path.

    Args:
        checkpoint: path or address.

    Example:
        >>> from medseg_monai.bundle.model_registry import is_registered
        >>> is_registered("models:/lungs/3"), is_registered("runs/lungs/model.pt")
        (True, False)
    """
    return str(checkpoint).startswith(_SCHEME)


def fetch_weights(address: str) -> Path:
    """Fetch the ``model.pt`` of a registered model from the MLflow server of ``MLFLOW_TRACKING_URI``.

    The file is kept in the user's cache (``XDG_CACHE_HOME``) under its SHA-256, and is not fetched again while the copy
    there is unchanged. Nothing is unpickled here; the file is later loaded like any other file of weights.

    Args:
        address: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Returns:
        path of the file.

    Raises:
        ValueError: another form of address, no server is set, no such model, version or alias, a model without our
            ``model.pt``, or a file that differs from the registered one.
        OSError: the server does not answer, or the file cannot be written.

    Example:
        With the server's address in ``MLFLOW_TRACKING_URI``:

        >>> from medseg_monai.bundle.model_registry import fetch_weights
        >>> path = fetch_weights("models:/lungs/3")  # doctest: +SKIP
    """
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"{address}: write models:/NAME/VERSION or models:/NAME@ALIAS.")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ValueError(f"{address}: set MLFLOW_TRACKING_URI to the address of the MLflow server with the model.")
    with tempfile.TemporaryDirectory() as folder:
        with impatient():  # a server that is not there is told soon; the weights may take their time
            metadata = Model.load(_download(address, "MLmodel", folder)).metadata or {}
        sha256 = str(metadata.get(MODEL_SHA256, ""))
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(
                f"{address}: holds no {MODEL_NAME} of 'medseg train'; register a model of this project: "
                "medseg train --register NAME."
            )
        of_settings = str(metadata.get(SETTINGS_SHA256, ""))  # earlier versions have them inside the weights
        if of_settings:
            _download_settings(address, folder, of_settings)
        kept = _cache(of_settings[:16] or "inside") / f"{sha256}.pt"
        if _is_kept(kept, sha256):
            return kept
        fetched = Path(_download(address, f"extra_files/{MODEL_NAME}", folder))
        if file_sha256(fetched) != sha256:
            raise ValueError(
                f"{address}: its {MODEL_NAME} is not the one that was registered (SHA-256 differs); try again, or "
                "register the model again."
            )
        settings_file(kept).unlink(missing_ok=True)  # damaged, or the model would be in use by now
        copy_model(fetched, kept)
    return kept


def _is_kept(kept: Path, sha256: str) -> bool:
    """Whether the cache has the unchanged weights together with their settings, which are inside or beside them."""
    if not kept.is_file() or file_sha256(kept) != sha256:
        return False
    try:
        return bool(ModelFile(kept).settings)
    except ValueError:
        return False


def _download_settings(address: str, folder: str, sha256: str) -> None:
    fetched = _download(address, f"extra_files/{settings_file(MODEL_NAME).name}", folder)
    if file_sha256(fetched) != sha256:
        raise ValueError(
            f"{address}: its settings are not those that were registered (SHA-256 differs); try again, or register the "
            "model again."
        )


def _cache(settings: str) -> Path:
    """The folder of weights with certain settings: two versions may share the weights and differ in these."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "medseg-monai" / "models" / settings


def _download(address: str, file: str, folder: str) -> str:
    try:
        path: str = mlflow.artifacts.download_artifacts(artifact_uri=f"{address}/{file}", dst_path=folder)
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        if error.error_code in _ABSENT or error.get_http_status_code() == 404:
            raise ValueError(f"{address}: not in the registry of MLFLOW_TRACKING_URI: {reason}") from error
        raise OSError(f"{address}: the registry of MLFLOW_TRACKING_URI does not answer: {reason}") from error
    return path
