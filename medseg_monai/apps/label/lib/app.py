"""The MONAI Label app: this project's bundles as MONAI Label's models, trainers and strategies."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from medseg_monai.data.radiographs import DICOM_SUFFIX
from medseg_monai.data.readers import RASTER_SUFFIXES
from medseg_monai.data.volumes import VOLUME_SUFFIXES

from .infer import BundleInferTask
from .served import choose_bundles
from .train import BundleTrainTask
from .uncertainty import UncertaintyStrategy
from .versions import Versions

__all__ = ["BundleApp"]


class BundleApp(MONAILabelApp):
    """Serves this project's bundles, each as one model with its own name.

    Args:
        app_dir: folder of the app, where MONAI Label keeps its log.
        studies: folder of images, or the address of a DICOMweb server.
        conf: ``models`` (names or paths, separated by commas; default: all that have weights), ``weights`` (JSON: file
            by the bundle's name), ``work_dir`` (folder for what is trained; default: the folder of the app) and
            ``device``.

    Raises:
        BundleError: a bundle that there is not, or that has no weights.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        self.weights: dict[str, str] = json.loads(conf.get("weights") or "{}")
        self.bundles = choose_bundles(names or None, self.weights)
        work_dir = Path(conf.get("work_dir") or app_dir)
        self.versions = {
            name: Versions(work_dir / "models" / name, self.weights.get(name, bundle.shipped_weights))
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

    def init_infers(self) -> dict[str, BundleInferTask]:
        """One inference task for each bundle."""
        device = self.conf.get("device")
        return {name: BundleInferTask(one, self.versions[name], device) for name, one in self.bundles.items()}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """One training task for each bundle."""
        device = self.conf.get("device")
        return {name: BundleTrainTask(one, self.versions[name], device) for name, one in self.bundles.items()}

    def init_strategies(self) -> dict[str, Any]:
        """MONAI Label's first and random image, and for each bundle the one of which it is least certain."""
        uncertain = {f"uncertainty_{name}": UncertaintyStrategy(task) for name, task in self._infers.items()}
        return {"first": First(), "random": Random(), **uncertain}

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment an image of the studies, or one that was uploaded.

        Args:
            request: ``model``, ``image`` and options; see :class:`BundleInferTask`.
            datastore: where the image is; by default the studies.

        Raises:
            HTTPException: 404 for a model or an image that there is not; see also :class:`BundleInferTask`.
        """
        _refuse_unknown(request.get("model"), self._infers, "model")
        image = str(request.get("image") or "")
        if not _is_upload(image) and not (datastore or self.datastore()).get_image_uri(image):
            raise HTTPException(404, f"{image}: no such image in the studies, nor was it uploaded.")
        try:
            result: dict[str, Any] = super().infer({**request, "image": image}, datastore)
        except Exception:
            if Path(image).is_absolute() and not request.get("session"):
                Path(image).unlink(missing_ok=True)  # MONAI Label deletes an upload only if all went well
            raise
        return result

    def bundle_path(self, model: str | None) -> None:
        """MONAI Label asks for it before it starts a training or a batch as a process of its own.

        Args:
            model: what is to be trained or to predict.

        Raises:
            HTTPException: 404 for a model that there is not.
        """
        if model:
            _refuse_unknown(model, self._infers, "model")

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image to label next.

        Args:
            request: ``strategy`` and its options.

        Raises:
            HTTPException: 404 for a strategy that there is not.
        """
        _refuse_unknown(request.get("strategy") or "random", self._strategies, "strategy")
        result: dict[str, Any] = super().next_sample(request)
        return result


def _refuse_unknown(name: Any, there: Mapping[str, Any], what: str) -> None:
    if name not in there:
        raise HTTPException(404, f"{name}: no such {what}; there are {', '.join(there) or 'none'}.")


def _is_upload(image: str) -> bool:
    """Whether a path is where MONAI Label puts what a client sends: any other file of the server is nobody's to ask."""
    folders = [tempfile.gettempdir(), settings.MONAI_LABEL_SESSION_PATH]
    path = Path(image).resolve()
    return Path(image).is_absolute() and any(path.is_relative_to(Path(one).resolve()) for one in folders if one)
