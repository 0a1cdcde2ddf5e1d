"""Inference for a client: the bundle's predictor, and its mask in the format that the client requests."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.data import ITKWriter
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from medseg_monai.bundle import Prediction, Predictor
from medseg_monai.data import RasterMaskWriter, StackWriter
from medseg_monai.data.results.case import to_case
from medseg_monai.data.results.save import PartlySavedError
from medseg_monai.errors import explain, is_users_mistake

from .served import ServedBundle, check_options
from .versions import Versions

__all__ = ["SEG_EXTENSION", "BundleInferTask"]

_LOGGER = logging.getLogger(__name__)

#: number of predictors of a bundle that stay loaded: the usual one, and the last one requested with other options
_LOADED = 2

#: key with which a client names the model to use, in addition to the options of the bundle
MODEL_KEY = "model_version"

#: extension with which a client requests the mask as DICOM SEG
SEG_EXTENSION = ".dcm"

#: key of the name of the image for messages, which reveal no path of the server
NAME_KEY = "medseg_image"


class BundleInferTask(InferTask):
    """MONAI Label's inference task with :class:`medseg_monai.bundle.Predictor`.

    The answer for an image is a PNG whose values are the labels (``medseg predict`` writes a mask with one label as 0
    and 255). For a volume it is the same file that ``medseg predict`` writes, or NRRD if the client requests it. For a
    DICOM image the client can also request the DICOM SEG that the bundle writes. The ``params`` of the response state
    the labels, the model, and anything else that the bundle writes for a case, such as the lobe table.

    Args:
        bundle: the bundle.
        versions: the models of the bundle.
        device: device for the computation; by default that of the bundle.
    """

    def __init__(self, bundle: ServedBundle, versions: Versions, device: str | None = None) -> None:
        colours = {name: list(colour) for name, colour in bundle.colours.items()}
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=dict(bundle.labels),
            dimension=bundle.dimension,
            description=bundle.description,
            config={**bundle.options, "label_colors": colours},
        )
        self.bundle = bundle
        self.versions = versions
        self.device = device
        self.lock = threading.RLock()  # for whoever uses a predictor: a strategy does so too, in another thread
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()

    def info(self) -> dict[str, Any]:
        """The information about the bundle in ``/info/``."""
        return {**super().info(), "version": self.bundle.version}

    def config(self) -> dict[str, Any]:
        """The options that a client shows: those of the bundle, and its models beginning with the one in use."""
        current = self.versions.current().name
        names = [current, *(name for name in reversed(self.versions.all()) if name != current)]
        return {**self._config, MODEL_KEY: names}

    def is_valid(self) -> bool:
        """Whether the bundle has weights."""
        return Path(self.versions.current().path).is_file()

    def get_path(self, validate: bool = True) -> str | None:
        """File of the weights in use; ``None`` if there is none and ``validate`` is set."""
        return self.versions.current().path if self.is_valid() or not validate else None

    def check(self, request: Mapping[str, Any]) -> None:
        """Check the options of a request.

        Args:
            request: the client's request.

        Raises:
            ValueError: an option with a value that it cannot have, or a model that does not exist.
        """
        check_options(self.bundle, request)
        self._model_path(request)

    def predictor(self, request: Mapping[str, Any]) -> Predictor:
        """The predictor for the options and the model of a request; it is loaded if necessary.

        Args:
            request: the client's request.

        Raises:
            ValueError: an option with a value that it cannot have, or a model that does not exist.
        """
        options = check_options(self.bundle, request)
        checkpoint = self._model_path(request)
        stat = os.stat(checkpoint)
        key = json.dumps([checkpoint, stat.st_mtime_ns, options], sort_keys=True)
        with self.lock:
            if key not in self._predictors:
                overrides = {**options, **({"device": f"$torch.device('{self.device}')"} if self.device else {})}
                self._predictors[key] = Predictor(self.bundle.root, checkpoint=checkpoint, overrides=overrides)
                while len(self._predictors) > _LOADED:
                    self._predictors.popitem(last=False)
            self._predictors.move_to_end(key)
            return self._predictors[key]

    def _model_path(self, request: Mapping[str, Any]) -> str:
        wanted = request.get(MODEL_KEY)
        if not isinstance(wanted, str) or not wanted:  # a client that shows the list may send all of it back
            return self.versions.current().path
        models = self.versions.all()
        if wanted not in models:
            raise ValueError(f"{MODEL_KEY}: {self.bundle.name} has no model {wanted}; there are {', '.join(models)}.")
        return models[wanted].path

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment an image.

        Args:
            request: ``image`` (path), the options, ``result_extension`` (``.nrrd`` for a volume in that format,
                ``.dcm`` for a DICOM SEG), ``result_compress`` (for NRRD).

        Returns:
            path of a temporary file with the mask, which the caller must delete, and the ``params`` of the response.

        Raises:
            HTTPException: with status 422 for an image or an option that cannot be used, 500 for a fault in the
                program; the detail is one line.
        """
        image = str(request["image"])
        shown = str(request.get(NAME_KEY) or Path(image).name)
        with self.lock, tempfile.TemporaryDirectory(prefix="medseg_label_") as folder:
            try:
                predictor = self.predictor(request)
                prediction = predictor({"image": image})
                written = self._save(predictor, prediction, folder, request)
                result = _keep(self._mask_file(prediction, written, Path(folder), request))
                params = {**self._describe(predictor, prediction), **_tables(written)}
                if request.get("output") == "json" and result.endswith(".png"):
                    params["annotations"] = _outlines(Path(result), self.bundle.labels)
            except Exception as error:  # the server must continue, whatever happened to this image
                line = f"{self.bundle.name}: {explain(error)}".replace(image, shown)
                if is_users_mistake(error):
                    _LOGGER.warning(line)
                    raise HTTPException(422, line) from error
                _LOGGER.exception(line)
                raise HTTPException(500, line) from error
        return result, params

    def _save(
        self, predictor: Predictor, prediction: Prediction, folder: str, request: Mapping[str, Any]
    ) -> Sequence[Path]:
        """Write the results; one that cannot be written matters only to a client that asked for it."""
        wants_seg = request.get("result_extension") == SEG_EXTENSION
        wanted = (SEG_EXTENSION,) if wants_seg else (".nii.gz", ".png", ".tif")
        try:
            return predictor.save(prediction, folder)
        except PartlySavedError as error:
            if not any(path.name.endswith(wanted) for path in error.files):
                raise
            _LOGGER.warning("%s: %s", self.bundle.name, error)
            return error.files

    def _mask_file(
        self, prediction: Prediction, written: Sequence[Path], folder: Path, request: Mapping[str, Any]
    ) -> Path:
        extension = str(request.get("result_extension") or "")
        if extension == SEG_EXTENSION:
            return self._seg_file(written)
        if prediction.mask.ndim == 3:
            path = _new_folder(folder) / "mask.png"
            writer = RasterMaskWriter()
            writer.set_data_array(prediction.mask)
            writer.set_metadata(prediction.data["image"].meta)
            writer.write(path)
            return path
        mask = next((path for path in written if path.name.endswith(".nii.gz")), None)
        if mask is None:  # a stack of pages
            (path,) = StackWriter()(to_case(prediction.mask, prediction.data["image"], "mask"), _new_folder(folder))
            return path
        if extension != ".nrrd":
            return mask
        path = folder / "mask.nrrd"
        writer = ITKWriter(output_dtype=np.uint8)
        writer.set_data_array(prediction.mask, channel_dim=0)
        writer.set_metadata({"affine": prediction.mask.affine}, resample=False)
        writer.write(path, compression=bool(request.get("result_compress", True)))
        return path

    def _seg_file(self, written: Sequence[Path]) -> Path:
        seg = next((path for path in written if path.suffix == SEG_EXTENSION), None)
        if seg is None:
            reason = "the image is not DICOM" if self.bundle.segments else "the bundle writes none"
            raise ValueError(f"no DICOM SEG: {reason}; ask for output=image.")
        return seg

    def _describe(self, predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
        phases = {name: round(seconds, 3) for name, seconds in prediction.phases.items()}
        latencies = {"pre": phases["reading"], "infer": phases["network"], "post": phases["postprocessing"]}
        return {
            "label_names": dict(self.bundle.labels),
            "label_colors": self._config["label_colors"],
            "bundle": self.bundle.name,
            "bundle_version": self.bundle.version,
            "model_sha256": predictor.model_sha256,
            "settings": {key: value for key, value in predictor.settings.items() if key in self.bundle.options},
            "latencies": {**latencies, "total": round(sum(phases.values()), 3)},
        }


def _new_folder(folder: Path) -> Path:
    """A folder for a mask of labels, beside the results that the bundle wrote."""
    path = folder / "labels"
    path.mkdir()
    return path


def _tables(written: Sequence[Path]) -> dict[str, Any]:
    """The JSON files that the bundle wrote in addition to the mask, by the last word of their names."""
    return {
        path.stem.rpartition("_")[2]: json.loads(path.read_text(encoding="utf-8"))
        for path in written
        if path.suffix == ".json"
    }


def _outlines(mask: Path, labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """Outlines of a PNG's labels in pixels, x before y, in the form of CVAT's detector; holes have outlines as well."""
    values = np.asarray(Image.open(mask))
    elements = []
    for name, value in labels.items():
        found = find_contours(np.pad(values == value, 1).astype(np.uint8), 0.5)
        outlines = [approximate_polygon(outline, 1.0)[:-1, ::-1] - 1 for outline in found]
        elements.append({"label": name, "contours": [one.tolist() for one in outlines if len(one) > 2]})
    return [{"annotation": {"name": "medseg-monai", "elements": elements}}]


def _keep(path: Path) -> str:
    """Move a file out of a folder that will be removed."""
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    handle, kept = tempfile.mkstemp(prefix="medseg_label_", suffix=suffix)
    os.close(handle)
    shutil.move(path, kept)
    return kept
