"""Training from a client: the bundle's own training on the labels that annotators marked as final."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask

from medseg_monai.bundle import evaluate, flat_keys, merged_config, train
from medseg_monai.data import Datalist, Item, RasterMaskWriter, VolumeReader, write_datalist
from medseg_monai.data.datalist import patient_rank
from medseg_monai.data.readers.exif import EXIF_ORIENTATION
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.data.readers.volume import VOLUME_SUFFIXES
from medseg_monai.data.results.masks import write_label_nifti
from medseg_monai.errors import explain, shorten
from medseg_monai.files import has_ending
from medseg_monai.transforms import BinarizeMaskd

from .folder import FolderStudies
from .segmentations import name_values, read_mask, sent_names
from .served import ServedBundle, check_option
from .versions import Model, Versions

__all__ = ["BundleTrainTask", "output_without_reader"]

_LOGGER = logging.getLogger(__name__)

#: keys of ``train.json`` that a client may change if the bundle has them
_OPTIONS = ("learning_rate", "batch_size", "val_interval")

#: a request that names a model under this key does not train but puts that model into use
USE_KEY = "use_model"

_UNKNOWN = "UNK"  # what MONAI Label's clients show for values that are missing in DICOM

_FOREGROUND = 255  # value of the only label in the masks of 2D data sets


class BundleTrainTask(TrainTask):
    """MONAI Label's training task with :func:`medseg_monai.bundle.train`.

    It starts from the weights in use, with the settings that they were trained with. Each training has its own folder
    with its data list, MLflow run, checkpoints and evaluations. The new model is put into use only if it has a higher
    mean Dice than the model in use until then, both by the bundle's own evaluation on the same validation labels.

    A hash of the patient decides which labels are used for validation, so that a label keeps its role when others are
    added. DICOM images state their patient; in a folder of other images, each image counts as a different patient.

    Args:
        bundle: the bundle.
        versions: the models of the bundle.
        device: device for the computation; by default that of the bundle.
    """

    def __init__(self, bundle: ServedBundle, versions: Versions, device: str | None = None) -> None:
        super().__init__(f"Fine-tunes {bundle.name} on the final labels")
        self.bundle = bundle
        self.versions = versions
        self.device = device

    def config(self) -> dict[str, Any]:
        """The options that a client may set, with their default values."""
        keys = flat_keys(merged_config(self.bundle.root, ["train"]))
        options = {key: keys[key] for key in _OPTIONS if isinstance(keys.get(key), (int, float))}
        return {"max_epochs": 20, "val_split": 0.2, **options, "val_interval": 1, USE_KEY: ["", *self.versions.all()]}

    def stats(self) -> dict[str, Any]:
        """The models, the one in use, and the Dice of each."""
        models = {model.name: {"dice": model.metric, "before": model.before} for model in self.versions.all().values()}
        return {"current": self.versions.current().name, "models": models}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, or put another model into use.

        Args:
            request: the keys of :meth:`config`.
            datastore: images and labels.

        Returns:
            the name of the model, its Dice and that of the model in use before, whether it is used now, and the images
            that were left out, since they or their labels cannot be read.

        Raises:
            ValueError: fewer than two final labels or two patients for this bundle, a label with values without a name,
                an option that cannot have its value, or a model that does not exist.
        """
        if isinstance(wanted := request.get(USE_KEY), str) and wanted:
            return {"model": self.versions.use(wanted).name, "used": True}
        values = self.check(request)
        name = time.strftime("%Y%m%d_%H%M%S")
        folder = self.versions.folder / "runs" / name
        datalist = folder / "datalist.json"
        items, left_out = self._labelled(datastore, folder)
        write_datalist(self._datalist(items, left_out, values["val_split"]), datalist)
        base = self.versions.current()
        device = {"device": f"$torch.device('{self.device}')"} if self.device else {}
        shared = {"datalist": str(datalist), **device}
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
        if left_out:
            _LOGGER.warning("%s: trained without %s; see above.", name, shorten(left_out))
        return {"model": name, "dice": after, "before": before, "used": used, "left_out": left_out}

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a client may set, as numbers, since MONAI would run a text that starts with $.

        Args:
            request: the keys of :meth:`config`.

        Raises:
            ValueError: an option with a value of another type or outside its range, or a model that does not exist.
        """
        if isinstance(wanted := request.get(USE_KEY), str) and wanted:
            self.versions.find(wanted)
        numbers = {key: value for key, value in self.config().items() if isinstance(value, (int, float))}
        return {key: check_option(key, request.get(key, value), value) for key, value in numbers.items()}

    def _dice(self, checkpoint: str, folder: Path, shared: Mapping[str, Any]) -> float:
        summary = evaluate(
            self.bundle.root,
            overrides={**shared, "checkpoint": checkpoint, "section": "validation", "output_dir": str(folder)},
        )
        mean = summary["per_case"]["dice"]["mean"]
        return float("nan") if mean is None else float(mean)  # no case has the structure, or a prediction of it

    def _datalist(self, items: list[Item], left_out: Sequence[str], val_split: float) -> Datalist:
        items = sorted(items, key=lambda item: patient_rank(item["patient"], 0))
        if len(items) < 2:
            unread = f" (left out: {shorten(left_out)})" if left_out else ""
            raise ValueError(
                f"{self.bundle.name}: {len(items)} final labels{unread}; a training needs two, one of them for "
                "validation."
            )
        patients = list(dict.fromkeys(item["patient"] for item in items))
        if len(patients) < 2:
            raise ValueError(
                f"{self.bundle.name}: final labels of one patient only; a training needs another one for validation."
            )
        bound = f"{int(val_split * 16**8):08x}"
        drawn = [patient for patient in patients if patient_rank(patient, 0) < bound] or patients[:1]
        validation = [item for item in items if item["patient"] in drawn[: len(patients) - 1]]
        return {"training": [item for item in items if item not in validation], "validation": validation, "test": []}

    def _labelled(self, datastore: Datastore, folder: Path) -> tuple[list[Item], list[str]]:
        """The final labels for this bundle: those of its kind of image that are not named like another bundle's.

        Returns:
            the items, and the names of the images that are left out since they or their labels cannot be read.
        """
        items: list[Item] = []
        left_out: list[str] = []
        for name in datastore.get_labeled_images():
            info = datastore.get_label_info(name, DefaultLabelTag.FINAL.value)
            about = datastore.get_image_info(name)
            if not self._is_own(info, about):
                continue
            try:
                image = datastore.get_image_uri(name)
                label = datastore.get_label_uri(name, DefaultLabelTag.FINAL.value)
                dimension = 3 if has_ending(image, VOLUME_SUFFIXES) or Path(image).is_dir() else 2
                if dimension != self.bundle.dimension:
                    continue
                if isinstance(datastore, FolderStudies):  # a DICOM SEG has been read into the grid of its image
                    datastore.check_final_label(name)
            except HTTPException as error:  # one that cannot be read must not spoil the others
                _LOGGER.warning("%s: left out: %s", name, error.detail)
                left_out.append(name)
                continue
            try:
                used = self._as_published(Path(label), info, folder / "labels" / name)
            except ValueError as error:
                raise ValueError(f"{name}: {explain(error)}") from error
            patient = _patient(about) or name
            items.append({"image": image, "label": str(used), "patient": patient, "source": "annotators"})
        return items, sorted(left_out)

    def _is_own(self, info: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
        named = _named_labels(info)
        is_readable = about.get("Modality", _UNKNOWN) in (_UNKNOWN, *self.bundle.modalities)
        return is_readable and (not named or not named.isdisjoint(label.lower() for label in self.bundle.labels))

    def _as_published(self, label: Path, info: Mapping[str, Any], path: Path) -> Path:
        """A label with the values that the bundle's training reads; a 2D mask with one label has 0 and 255."""
        if self.bundle.dimension == 2:
            target = path.with_name(f"{path.name}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            writer = RasterMaskWriter(scale=_FOREGROUND if len(self.bundle.labels) == 1 else None)
            mask, meta = read_mask(label)
            writer.set_data_array(self._by_name(mask, info), channel_dim=None)
            writer.set_metadata({EXIF_ORIENTATION: meta.get(EXIF_ORIENTATION, 1)})
            writer.write(target)
            return target
        reader = VolumeReader()
        given, meta = reader.get_data(reader.read(label))
        values = self._by_name(given, info)
        if np.array_equal(values, given):
            return label
        target = path.with_name(f"{path.name}.nii.gz")
        write_label_nifti(target, values, meta["affine"], forms=NiftiForms.of_meta(meta))
        return target

    def _by_name(self, mask: npt.NDArray[Any], info: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
        """A mask with the bundle's values: a client's values stand for the names that it sent with them."""
        present = [int(value) for value in np.unique(mask) if value]
        if len(self.bundle.labels) == 1 and (not _named_labels(info) or present == [_FOREGROUND]):
            if self.bundle.dimension == 2:
                binary = BinarizeMaskd("label", dtype=np.uint8)({"label": torch.as_tensor(mask)[None]})
                return binary["label"][0].numpy()
            return (mask > 0).astype(np.uint8)
        own = {label.lower(): value for label, value in self.bundle.labels.items()}
        values = np.zeros(mask.shape, dtype=np.uint8)
        for value, name in name_values(info, present, self.bundle.labels).items():
            values[mask == value] = own.get(name.lower(), 0)
        return values


@contextmanager
def output_without_reader() -> Iterator[None]:
    """Let a program go on when the server that reads its output has ended: what nobody reads any more is dropped."""
    with redirect_stdout(_Unread(sys.stdout)), redirect_stderr(_Unread(sys.stderr)):
        yield


class _Unread(io.TextIOBase):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.flush()


def _named_labels(info: Mapping[str, Any]) -> set[str]:
    """The names that the client gave to the labels of a mask, if any, in lower case."""
    entries, names = sent_names(info)
    return {name.lower() for name in (*(str(entry["name"]) for entry in entries), *names)}


def _patient(about: Mapping[str, Any]) -> str:
    """A hash in place of a patient's number, which must not be in a list that MLflow may keep; empty without one."""
    number = str(about.get("PatientID") or _UNKNOWN)
    return "" if number == _UNKNOWN else hashlib.sha256(number.encode()).hexdigest()[:16]
