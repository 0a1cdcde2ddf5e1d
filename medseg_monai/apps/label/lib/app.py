"""The MONAI Label app: this project's bundles as MONAI Label's models, trainers and strategies."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from medseg_monai.data.dicom.files import DICOM_SUFFIX
from medseg_monai.data.readers.raster import RASTER_SUFFIXES
from medseg_monai.data.readers.volume import VOLUME_SUFFIXES
from medseg_monai.files import locked_folder

from .dicomweb import DicomWebStudies
from .endpoints import answer_with_dicom, check_requests
from .folder import FolderStudies
from .infer import NAME_KEY, BundleInferTask
from .served import choose_bundles
from .train import BundleTrainTask, output_without_reader
from .uncertainty import UncertaintyStrategy
from .uploads import SentSessions, Uploads, refuse_detached
from .versions import Versions

__all__ = ["BundleApp"]

_LOGGER = logging.getLogger(__name__)

#: MONAI Label's settings for which we have our own values, unless the user has set them
_FILTER, _EXPIRY = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"

_TRAINING = "a training"  # what the lock of the folder of models says of its owner

_TIMEOUT_S = (5.0, 60.0)  # to reach the DICOMweb server, and to wait for the next bytes of its answer


class BundleApp(MONAILabelApp):
    """The app that serves this project's bundles, each as one model with its own name.

    Args:
        app_dir: folder of the app, where MONAI Label keeps its log.
        studies: folder of images, or the address of a DICOMweb server.
        conf: ``models`` (names or paths, separated by commas; default: all bundles with weights), ``weights`` (JSON:
            file by the bundle's name), ``work_dir`` (folder for trained models; default: the folder of the app) and
            ``device``.

    Raises:
        BundleError: a bundle that does not exist or has no weights.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        self.weights: dict[str, str] = json.loads(conf.get("weights") or "{}")
        self.bundles = choose_bundles(names or None, self.weights)
        self.work_dir = work_dir = Path(conf.get("work_dir") or app_dir)
        self.models = work_dir / "models"
        self.uploads = Uploads(work_dir / "uploads")
        self.versions = {
            name: Versions(self.models / name, self.weights.get(name, bundle.shipped_weights))
            for name, bundle in self.bundles.items()
        }
        endings = (*VOLUME_SUFFIXES, *RASTER_SUFFIXES, DICOM_SUFFIX)
        settings.MONAI_LABEL_DATASTORE_FILE_EXT = [f"*.{ending}" for ending in endings]
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="medseg-monai",
            description=f"Bundles of medseg-monai: {', '.join(self.bundles)}",
        )

    def init_datastore(self) -> Datastore:
        """The studies: a folder, or those of a DICOMweb server."""
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return FolderStudies(
            self.studies,
            bundles=self.bundles.values(),
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_remote_datastore(self) -> Datastore:
        """The studies of a DICOMweb server with the modalities that the bundles read, unless the user sets a filter."""
        if settings.MONAI_LABEL_DATASTORE.lower() in ("xnat", "dsa"):
            return super().init_remote_datastore()
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
            timeout=_TIMEOUT_S,
        )
        cache = Path(settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or self.work_dir / "dicomweb")
        name = hashlib.sha256(self.studies.encode()).hexdigest()[:16]  # each server's images have their own folder
        expiry = {"expiry": float(settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY)} if _is_set(_EXPIRY) else {}
        return DicomWebStudies(client, cache / name, filters=self._filters(), bundles=self.bundles.values(), **expiry)

    def _filters(self) -> Sequence[Mapping[str, Any]]:
        if _is_set(_FILTER):
            return [settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER]
        modalities = dict.fromkeys(modality for one in self.bundles.values() for modality in one.modalities)
        if unread := [one.name for one in self.bundles.values() if not one.modalities]:
            _LOGGER.warning("%s: cannot read DICOM, only uploads.", ", ".join(unread))
        return [{"Modality": modality} for modality in modalities]

    def on_init_complete(self) -> None:
        """Replace some of MONAI Label's answers; MONAI Label calls this when the server starts."""
        answer_with_dicom()
        check_requests()
        super().on_init_complete()

    def init_infers(self) -> dict[str, BundleInferTask]:
        """One inference task for each bundle."""
        device = self.conf.get("device")
        return {name: BundleInferTask(one, self.versions[name], device) for name, one in self.bundles.items()}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """One training task for each bundle."""
        device = self.conf.get("device")
        return {name: BundleTrainTask(one, self.versions[name], device) for name, one in self.bundles.items()}

    def init_strategies(self) -> dict[str, Any]:
        """MONAI Label's first and random image, and for each bundle the image about which it is least certain."""
        uncertain = {f"uncertainty_{name}": UncertaintyStrategy(task) for name, task in self._infers.items()}
        return {"first": First(), "random": Random(), **uncertain}

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment an image of the studies or an uploaded image.

        Args:
            request: ``model``, ``image`` and options; see :class:`BundleInferTask`.
            datastore: data store with the image; by default the studies.

        Raises:
            HTTPException: 404 for a model or an image that does not exist; see also :class:`BundleInferTask`.
        """
        _refuse_unknown(request.get("model"), self._infers, "model")
        image = str(request.get("image") or "")
        sent = self.uploads.path(image) or (self._sessions and self._sessions.image(image))
        if sent:
            refuse_detached(sent)
        elif not (datastore or self.datastore()).get_image_uri(image):
            raise HTTPException(404, f"{image}: no such image in the studies, nor was it uploaded.")
        named = {"image": str(sent)} if sent else {"image": image, NAME_KEY: image}
        result: dict[str, Any] = super().infer({**request, **named}, datastore)
        return result

    def _load_sessions(self, load: bool = False) -> SentSessions | None:
        return SentSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def batch_infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment many images and save the masks as labels; an image that cannot be segmented stops no other.

        Args:
            request: ``model``, ``images`` (``all``, ``labeled``, ``unlabeled`` or names), ``label_tag``,
                ``max_batch_size`` and the options of :meth:`infer`.
            datastore: data store with the images; by default the studies.

        Returns:
            the answer of :meth:`infer` or the ``error`` for each image, by the image's name.
        """

        def infer_or_tell(one: Mapping[str, Any], images: Any) -> dict[str, Any]:
            try:
                return self.infer(one, images)
            except HTTPException as error:
                return {"error": error.detail}

        # MONAI Label would divide the images among the GPUs, of which there may be none; a bundle has its own device
        shared = {**request, "multi_gpu": False}
        result: dict[str, Any] = self._batch_infer(shared, datastore or self.datastore(), infer_or_tell)
        return result

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train, in the process that the server has started for it, and to the end, even if the server ends before.

        Args:
            request: ``model`` and the options of :class:`BundleTrainTask`.

        Raises:
            BlockingIOError: another training, also of another bundle, writes to the folder of the models.
            ValueError: see :class:`BundleTrainTask`.
        """
        with locked_folder(self.models, _TRAINING), output_without_reader():
            result: dict[str, Any] = super().train(request)
        return result

    def other_training(self) -> str:
        """What is known of a training that an earlier server has begun and that still runs; empty if there is none."""
        try:
            with locked_folder(self.models, _TRAINING):
                return ""
        except BlockingIOError as error:
            return str(error).removeprefix(f"{self.models}: ")

    def bundle_path(self, model: str | None) -> None:
        """Check the name of a model; MONAI Label calls this before it starts a process for a training or a batch.

        Args:
            model: name of the model to train or to predict with.

        Raises:
            HTTPException: 404 for a model that does not exist.
        """
        if model:
            _refuse_unknown(model, self._infers, "model")

    def check_task(self, method: str, request: Mapping[str, Any]) -> None:
        """Check what a training or a batch is asked for, before a process starts for it.

        Args:
            method: ``train``, ``batch_infer`` or ``scoring``.
            request: the client's request.

        Raises:
            HTTPException: 404 for a model or a method that does not exist, 422 for an option with an impossible value.
        """
        if method == "scoring":
            _refuse_unknown(request.get("method"), self._scoring_methods, "method of scoring")
            return
        tasks = self._trainers if method == "train" else self._infers
        model = request.get("model")
        _refuse_unknown(model, tasks, "model")
        if "bundle_path" in request or not isinstance(request.get("gpus") or "", str):
            raise HTTPException(422, "bundle_path is not for clients, and gpus is a text, such as 0,1.")
        try:
            tasks[model].check(request)
        except ValueError as error:
            raise HTTPException(422, f"{model}: {error}") from error

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image to label next.

        Args:
            request: ``strategy`` and its options.

        Raises:
            HTTPException: 404 for a strategy that does not exist.
        """
        _refuse_unknown(request.get("strategy", "random"), self._strategies, "strategy")
        result: dict[str, Any] = super().next_sample(request)
        studies = self.datastore()
        if result and isinstance(studies, DicomWebStudies):
            # a series that is not a regular grid is left to the annotator: inference reports what is wrong with it
            with suppress(HTTPException):
                result["path"] = studies.image_file(result["id"])
        return result


def _is_set(setting: str) -> bool:
    """Whether the user has set one of MONAI Label's settings.

    MONAI Label exports all its settings to the process that trains; a setting that the user has not set is removed.
    """
    if setting in settings.model_fields_set:
        return True
    os.environ.pop(setting, None)
    return False


def _refuse_unknown(name: Any, there: Mapping[str, Any], what: str) -> None:
    if not isinstance(name, str) or name not in there:
        raise HTTPException(404, f"{name}: no such {what}; there are {', '.join(there) or 'none'}.")
