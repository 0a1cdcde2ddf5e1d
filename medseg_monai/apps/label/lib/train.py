"""Training from a client: the bundle's own training on the labels that annotators marked final."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import itk
import numpy as np
import numpy.typing as npt
from monai.data.utils import is_supported_format
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask

from medseg_monai.bundle import evaluate, flat_keys, merged_config, train, trained_settings
from medseg_monai.data import Datalist, Item, RasterMaskWriter, RasterReader, write_datalist
from medseg_monai.data.datalist import patient_rank
from medseg_monai.data.readers import RASTER_SUFFIXES
from medseg_monai.data.volumes import VOLUME_SUFFIXES

from .served import ServedBundle
from .versions import Model, Versions

__all__ = ["BundleTrainTask"]

_LOGGER = logging.getLogger(__name__)

#: keys of ``train.json`` that a client may change, where the bundle has them
_OPTIONS = ("learning_rate", "batch_size", "val_interval")

#: a request that names a model under this key trains nothing and puts that model to use
USE_KEY = "use_model"

_FOREGROUND = 255  # of a mask with one label, in every data set of 2D images


class BundleTrainTask(TrainTask):
    """MONAI Label's training task over :func:`medseg_monai.bundle.train`.

    It starts from the weights in use, with the settings that these were trained with. Each training has a folder of its
    own, with its data list, MLflow run, checkpoints and evaluations. The new model is put to use only if it has a
    higher mean Dice than the one in use until then, both by the bundle's own evaluation on the same validation labels.

    Which labels validate is drawn by a hash of the image's name, so that a label stays on its side while others are
    added. Several images of one patient are not known as such.

    Args:
        bundle: the bundle.
        versions: its models.
        device: where to compute; by default as the bundle says.
    """

    def __init__(self, bundle: ServedBundle, versions: Versions, device: str | None = None) -> None:
        super().__init__(f"Fine-tunes {bundle.name} on the final labels")
        self.bundle = bundle
        self.versions = versions
        self.device = device

    def config(self) -> dict[str, Any]:
        """What a client may set, with the values that hold otherwise."""
        keys = flat_keys(merged_config(self.bundle.root, ["train"]))
        options = {key: keys[key] for key in _OPTIONS if isinstance(keys.get(key), (int, float))}
        return {"max_epochs": 20, "val_split": 0.2, **options, "val_interval": 1, USE_KEY: ["", *self.versions.all()]}

    def stats(self) -> dict[str, Any]:
        """The models, the one in use, and the Dice of each."""
        models = {model.name: {"dice": model.metric, "before": model.before} for model in self.versions.all().values()}
        return {"current": self.versions.current().name, "models": models}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or put another model to use.

        Args:
            request: the keys of :meth:`config`.
            datastore: images and labels.

        Returns:
            the name of the model, its Dice and that of the one in use before, and whether it is used now.

        Raises:
            ValueError: fewer than two final labels for this bundle, a value that is no number, or a model that there is
                not.
        """
        if isinstance(wanted := request.get(USE_KEY), str) and wanted:
            return {"model": self.versions.use(wanted).name, "used": True}
        values = self._numbers(request)
        name = time.strftime("%Y%m%d_%H%M%S")
        folder = self.versions.folder / "runs" / name
        datalist = folder / "datalist.json"
        write_datalist(self._datalist(datastore, folder, values["val_split"]), datalist)
        base = self.versions.current()
        shared = {"datalist": str(datalist), **self._settings(base)}
        result = train(
            self.bundle.root,
            checkpoint=base.path,
            overrides={
                **shared,
                **{key: value for key, value in values.items() if key != "val_split"},
                "output_dir": str(folder),
            },
        )
        before = self._dice(base.path, folder / "before", shared)
        after = self._dice(str(result.model), folder / "after", shared)
        used = after > before
        self.versions.add(Model(name, str(result.model), after, before), use=used)
        _LOGGER.info("%s: Dice %.4f, before %.4f; %s.", name, after, before, "used now" if used else "not used")
        return {"model": name, "dice": after, "before": before, "used": used}

    def _numbers(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a client may set, as numbers: MONAI would run a text that starts with $."""
        numbers = {key: value for key, value in self.config().items() if isinstance(value, (int, float))}
        return {key: type(value)(request.get(key, value)) for key, value in numbers.items()}

    def _settings(self, base: Model) -> dict[str, Any]:
        """Settings that the weights were trained with and that the training can take."""
        settings = trained_settings(self.bundle.root, ["train"], base.path)
        return {**settings, **({"device": f"$torch.device('{self.device}')"} if self.device else {})}

    def _dice(self, checkpoint: str, folder: Path, shared: Mapping[str, Any]) -> float:
        summary = evaluate(
            self.bundle.root,
            overrides={**shared, "checkpoint": checkpoint, "section": "validation", "output_dir": str(folder)},
        )
        dice = [values for metric, values in summary["per_case"].items() if metric.split("_")[0] == "dice"]
        return float(np.nanmean([values.get("mean", float("nan")) for values in dice]))

    def _datalist(self, datastore: Datastore, folder: Path, val_split: float) -> Datalist:
        items = sorted(self._labelled(datastore, folder), key=lambda item: patient_rank(item["patient"], 0))
        if len(items) < 2:
            raise ValueError(
                f"{self.bundle.name}: {len(items)} final labels; a training needs two, one of them to validate."
            )
        bound = f"{int(val_split * 16**8):08x}"
        validation = [item for item in items if patient_rank(item["patient"], 0) < bound] or items[:1]
        if len(validation) == len(items):
            validation = items[:-1]
        return {"training": [item for item in items if item not in validation], "validation": validation, "test": []}

    def _labelled(self, datastore: Datastore, folder: Path) -> list[Item]:
        """The final labels that are this bundle's: of its kind of image, and not named as another's."""
        items = []
        for name in datastore.get_labeled_images():
            image = datastore.get_image_uri(name)
            label = Path(datastore.get_label_uri(name, DefaultLabelTag.FINAL.value))
            info = datastore.get_label_info(name, DefaultLabelTag.FINAL.value)
            dimension = 3 if is_supported_format(image, VOLUME_SUFFIXES) or Path(image).is_dir() else 2
            named = _named_labels(info)
            if dimension != self.bundle.dimension or (named and named.isdisjoint(self.bundle.labels)):
                continue
            if dimension == 2:
                label = self._as_published(label, folder / "labels" / f"{name}.png")
            items.append({"image": image, "label": str(label), "patient": name, "source": "annotators"})
        return items

    def _as_published(self, label: Path, path: Path) -> Path:
        """A 2D mask in the values that the bundle's training reads: 0 and 255 if it has one label."""
        single = len(self.bundle.labels) == 1
        mask = _read_mask(label)
        writer = RasterMaskWriter(scale=_FOREGROUND if single else None)
        writer.set_data_array(mask > 0 if single else mask, channel_dim=None)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(path)
        return path


def _named_labels(info: Mapping[str, Any]) -> set[str]:
    """What the client called the labels of a mask, if it did."""
    named = {str(entry.get("name")) for entry in info.get("label_info") or []}
    return named | set((info.get("params") or {}).get("label_names") or {})


def _read_mask(path: Path) -> npt.NDArray[np.integer]:
    """The values of a 2D mask ``[H, W]``; viewers of volumes save one as a volume of one slice."""
    if is_supported_format(path, RASTER_SUFFIXES):
        reader = RasterReader(channels=1)
        return np.asarray(reader.get_data(reader.read(path))[0][0])
    return np.asarray(itk.array_from_image(itk.imread(str(path)))).squeeze()
