"""The studies of a DICOMweb server for MONAI Label.

MONAI Label's own class converts every series to NIfTI and every label to DICOM SEG, with programs that it downloads
when it starts, and names the segments by their order among those that occur. Here the bundles get the DICOM files as
they are, and this project's own writer turns a label into a SEG.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from dicomweb_client import DICOMwebClient
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.local import DataModel, ImageLabelModel
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom import Dataset, dcmread

from medseg_monai.data.dicom import find_series, read_series
from medseg_monai.data.results.masks import write_volume_nifti
from medseg_monai.errors import explain

from .folder import SharedDatastore, check_tag
from .segmentations import DicomGrid, name_values, read_label, read_seg, write_label, write_seg
from .served import ServedBundle
from .uploads import refuse_detached

__all__ = ["DicomWebStudies"]

_LOGGER = logging.getLogger(__name__)

_FINAL = DefaultLabelTag.FINAL.value
_UID = re.compile(r"(?=.{1,64}$)\d+(\.\d+)*")
_AS_STORED = (("application/dicom", "*"),)  # otherwise the server may decompress, with another decoder than ours
_SLICE = ".dcm"

#: attributes of a series that a client shows
_SHOWN = ("StudyDate", "StudyTime", "Modality", "RetrieveURL", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")

#: attributes that say when, for which image and by whom a SEG was made
_SEG_TAGS = ("00080018", "00080023", "00080033", "00080070", "00081115", "00620002")

_OURS = "medseg-monai"  # manufacturer in the predictions of the bundles

_EXPIRY_S = 30.0


@dataclass(frozen=True)
class _StoredSeg:
    """A DICOM SEG on the server.

    Attributes:
        uid: its SeriesInstanceUID.
        study: its StudyInstanceUID.
        instance: its SOPInstanceUID.
        image: SeriesInstanceUID of the image that it segments.
        created: date and time in a form that can be compared.
        names: names of the segments by their numbers.
        is_label: whether an annotator has seen it; the prediction of a bundle is not a label.
    """

    uid: str
    study: str
    instance: str
    image: str
    created: str
    names: dict[int, str]
    is_label: bool


class DicomWebStudies(SharedDatastore):
    """MONAI Label's data store for a DICOMweb server; an image is a series and its name is the SeriesInstanceUID.

    A series is downloaded when it is requested, and again when the server has received other instances of it. Final
    labels are DICOM SEG on the server. If a series has several, the newest counts, whoever wrote it. A SEG that a
    bundle predicted is not a label until an annotator has saved it. Labels with other tags stay in the cache.

    Errors are those of FastAPI: 502 if the server does not answer like a DICOMweb server, 422 for a label that does not
    fit.

    Args:
        client: connection to the server.
        cache: folder for the downloaded files, which only this user may read.
        filters: the series to list, by QIDO attributes; several filters are applied one after the other.
        bundles: the bundles that are served, which describe the segments.
        expiry: seconds for which a list of series or labels counts as up to date.
    """

    def __init__(
        self,
        client: DICOMwebClient,
        cache: Path,
        *,
        filters: Sequence[Mapping[str, Any]],
        bundles: Iterable[ServedBundle],
        expiry: float = _EXPIRY_S,
    ) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o700)
        self._root = cache.resolve()
        self._client = client
        self._client.set_http_retry_params(retry=False)  # otherwise a client waits half a minute for a dead server
        self._filters = filters
        self._bundles = list(bundles)
        self._expiry = expiry
        self._remembered: dict[str, tuple[float, Any]] = {}
        self._segs: dict[str, _StoredSeg | None] = {}
        self._lists = threading.RLock()
        self._files = threading.RLock()  # a download must not keep other requests from the lists
        super().__init__(str(self._root), extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT, auto_reload=False)
        try:
            _LOGGER.info("%s: %d series.", self.name(), len(self.list_images()))
        except HTTPException as error:  # the server may start after us
            _LOGGER.warning(error.detail)

    def name(self) -> str:
        """Address of the server."""
        return str(self._client.base_url)

    def status(self) -> dict[str, Any]:
        """Numbers of images and labels, or ``error`` if the server does not answer (uploads still work)."""
        try:
            status: dict[str, Any] = super().status()
        except HTTPException as error:
            return {"total": 0, "completed": 0, "label_tags": {}, "error": error.detail}
        return {**status, "label_tags": {**status["label_tags"], _FINAL: status["completed"]}}

    def json(self) -> dict[str, Any]:
        """All images and labels."""
        content: dict[str, Any] = super().json()
        known, final = content["objects"], self._labels()
        content["objects"] = {
            image: {
                "image": {"ext": "", "info": self.get_image_info(image)},
                "labels": {
                    **known.get(image, {}).get("labels", {}),
                    **({_FINAL: {"ext": "", "info": self.get_label_info(image, _FINAL)}} if image in final else {}),
                },
            }
            for image in self.list_images()
        }
        return content

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images with final labels, as files; a SEG that cannot be read is left out and logged."""
        found = []
        for image in self.get_labeled_images():
            try:
                found.append({"image": self.image_file(image), "label": self.get_label_uri(image, _FINAL)})
            except HTTPException as error:
                _LOGGER.warning("%s: left out: %s", image, error.detail)
        return found

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the series that pass one of the filters."""
        return list(self._listing())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images that have a final label."""
        labelled = self._labels()
        return [image for image in self.list_images() if image in labelled]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images that have no final label."""
        labelled = self._labels()
        return [image for image in self.list_images() if image not in labelled]

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Information about a series from the server's list and from earlier requests."""
        info = {**self._listing().get(image_id, {}), **super().get_image_info(image_id)}
        info.pop("path", None)  # it is a folder, which a client with access to it would open as a file
        return info

    def get_image_uri(self, image_id: str) -> str:
        """Path of a series, which is downloaded if necessary: its folder, or its only file; empty if there is none.

        Args:
            image_id: SeriesInstanceUID.

        Raises:
            HTTPException: 502 if the server does not answer.
        """
        found = self._find(image_id)
        if found is None:
            return ""
        folder = self._root / image_id
        info = {**_shown(found), "instances": str(found.get("NumberOfSeriesRelatedInstances") or "")}
        with self._files:
            known = self._datastore.objects.get(image_id)
            if known is None or known.image.info.get("instances") != info["instances"] or not folder.is_dir():
                self._download(info["StudyInstanceUID"], image_id, folder)
                self._volume_file(image_id).unlink(missing_ok=True)
                self._remember_image(image_id, info)
        files = sorted(folder.glob(f"*{_SLICE}"))
        return str(files[0] if len(files) == 1 else folder)

    def image_file(self, image_id: str) -> str:
        """Path of a series as one file that a client can open: DICOM for a single image, otherwise NIfTI.

        Args:
            image_id: SeriesInstanceUID.

        Raises:
            HTTPException: 422 if the series is not a regular grid.
        """
        image = self.get_image_uri(image_id)
        if not image or not Path(image).is_dir():
            return image
        path = self._volume_file(image_id)
        with self._files:
            if not path.is_file():
                with self._telling():
                    series = find_series(image)[0]
                    values, affine = read_series(series, modality=series.modality)
                    is_whole = np.array_equal(values, values.astype(np.int16))
                    write_volume_nifti(path, values.astype(np.int16) if is_whole else values, affine)
        return str(path)

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """The tags under which a series has a label."""
        tags: dict[str, str] = super().get_labels_by_image_id(image_id)
        return {**tags, _FINAL: image_id} if image_id in self._labels() else tags

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Information about a label; for a final label its series, and the names and numbers of its segments."""
        if label_tag != _FINAL:
            info: dict[str, Any] = super().get_label_info(label_id, label_tag)
            return info
        seg = self._labels().get(label_id)
        if seg is None:
            return {}
        return {
            "SeriesInstanceUID": seg.uid,
            "StudyInstanceUID": seg.study,
            "label_info": [{"name": name, "idx": number} for number, name in seg.names.items()],
        }

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label in the grid of its image: NIfTI, or PNG for a single image; empty if there is none.

        Args:
            label_id: SeriesInstanceUID of the image.
            label_tag: ``final`` for the label on the server.
            image_id: not used.

        Raises:
            HTTPException: 422 for a SEG that cannot be read, 502 if the server does not answer.
        """
        if label_tag != _FINAL:
            return str(super().get_label_uri(label_id, label_tag))
        seg = self._labels().get(label_id)
        image = self.get_image_uri(label_id) if seg else ""
        if seg is None or not image:
            return ""
        with self._files, self._telling():
            grid = DicomGrid.read(image)
            path = self._root / "segmentations" / f"{seg.uid}{grid.suffix}"
            if not path.is_file():
                with tempfile.TemporaryDirectory(dir=self._root) as folder:
                    file = Path(folder) / f"{seg.uid}{_SLICE}"
                    with self._asking():
                        instance = self._client.retrieve_instance(
                            seg.study, seg.uid, seg.instance, media_types=_AS_STORED
                        )
                        instance.save_as(file)
                    write_label(path, read_seg(file, grid)[0], grid)
        return str(path)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label; a final label is stored on the server as DICOM SEG.

        Args:
            image_id: SeriesInstanceUID of the image.
            label_filename: PNG, NIfTI, NRRD, OHIF's bytes, or a DICOM SEG of the image.
            label_tag: ``final``, or another tag with which the label stays in the cache.
            label_info: information that the client sent; see :func:`~.segmentations.name_values`.
            label_id: not used.

        Returns:
            the SeriesInstanceUID of the image, with which the label can be requested.

        Raises:
            ImageNotFoundException: there is no such series.
            HTTPException: 422 for a label that does not fit the image or has values without a name, 502 if the server
                does not accept it.
        """
        try:
            check_tag(label_tag)
            refuse_detached(label_filename)
            image = self.get_image_uri(image_id)
            if not image:
                raise ImageNotFoundException(f"Image {image_id} not found")
            with tempfile.TemporaryDirectory(dir=self._root) as folder, self._telling(label_filename):
                self._keep(image_id, DicomGrid.read(image), label_filename, label_tag, label_info, Path(folder))
        except Exception:
            Path(label_filename).unlink(missing_ok=True)  # MONAI Label deletes the upload only if all went well
            raise
        return image_id

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: images must be stored on the server itself."""
        raise HTTPException(405, f"Store images in {self.name()} itself, by STOW or C-STORE.")

    def remove_image(self, image_id: str) -> None:
        """Refused: clients must not delete a patient's images."""
        raise HTTPException(405, f"Images are deleted in {self.name()} itself.")

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label from the cache; a final label is refused, since it is on the server."""
        if label_tag == _FINAL:
            raise HTTPException(405, f"Final labels are deleted in {self.name()} itself.")
        super().remove_label(label_id, label_tag)

    def _keep(self, image_id: str, grid: DicomGrid, path: str, tag: str, info: dict[str, Any], folder: Path) -> None:
        names: dict[int, str] | None = None
        if path.endswith(_SLICE):
            labels, names = read_seg(path, grid)
        else:
            labels = read_label(path, grid)
        if tag != _FINAL:
            file = folder / f"label{grid.suffix}"
            write_label(file, labels, grid)
            super().save_label(image_id, str(file), tag, info)
            return
        if names is None:
            present = [int(value) for value in np.unique(labels) if value]
            names = name_values(info, present, self._usual_names(image_id, info))
        file = folder / f"label{_SLICE}"
        write_seg(file, labels, grid, names, bundles=self._bundles, creator=str(info.get("user") or ""))
        with self._asking():
            answer = self._client.store_instances([dcmread(file)])
            if answer.get("FailedSOPSequence"):
                raise ValueError("it did not take the DICOM SEG")
        with self._lists:
            self._remembered.pop("labels", None)

    def _usual_names(self, image_id: str, info: Mapping[str, Any]) -> dict[str, int] | None:
        """The labels of the bundle that the label must be for: the bundle named, or the only one for such an image."""
        modality = self.get_image_info(image_id).get("Modality")
        named = [one for one in self._bundles if one.name == info.get("model")]
        found = named or [one for one in self._bundles if modality in one.modalities]
        return found[0].labels if found and all(one.labels == found[0].labels for one in found) else None

    def _listing(self) -> dict[str, dict[str, str]]:
        """The series that pass one of the filters, each with the attributes that a client shows."""

        def ask() -> dict[str, dict[str, str]]:
            found = [series for one in self._filters for series in self._search(one)]
            return {str(series.SeriesInstanceUID): _shown(series) for series in found if series.Modality != "SEG"}

        listing: dict[str, dict[str, str]] = self._once_in_a_while("images", ask)
        return listing

    def _labels(self) -> dict[str, _StoredSeg]:
        """The newest label of each series that has any."""

        def ask() -> dict[str, _StoredSeg]:
            segs = [self._read_seg(series) for series in self._search({"Modality": "SEG"})]
            labels = [seg for seg in segs if seg is not None and seg.is_label]
            return {seg.image: seg for seg in sorted(labels, key=lambda seg: seg.created)}

        labels: dict[str, _StoredSeg] = self._once_in_a_while("labels", ask)
        return labels

    def _once_in_a_while(self, key: str, ask: Callable[[], Any]) -> Any:
        with self._lists:
            since, value = self._remembered.get(key, (-np.inf, None))
            if time.monotonic() - since >= self._expiry:
                value = ask()
                self._remembered[key] = (time.monotonic(), value)
            return value

    def _read_seg(self, series: Dataset) -> _StoredSeg | None:
        """The metadata of a SEG; they are requested only once, since its instances never change."""
        uid = str(series.SeriesInstanceUID)
        if uid not in self._segs:
            try:
                with self._asking():
                    metadata = self._client.retrieve_series_metadata(str(series.StudyInstanceUID), uid)
                    entries = [
                        Dataset.from_json({tag: one[tag] for tag in _SEG_TAGS if tag in one}) for one in metadata
                    ]
                    self._segs[uid] = max(
                        (_to_stored_seg(series, one) for one in entries), key=lambda seg: seg.created, default=None
                    )
            except HTTPException as error:  # one unreadable SEG must not hide the others
                _LOGGER.warning("%s: left out, since its metadata cannot be read: %s", uid, error.detail)
                return None
        return self._segs[uid]

    def _find(self, uid: str) -> Dataset | None:
        """The series with a SeriesInstanceUID."""
        if not _UID.fullmatch(uid):
            return None
        found = self._search({"SeriesInstanceUID": uid})
        return next((one for one in found if str(one.SeriesInstanceUID) == uid), None)

    def _search(self, attributes: Mapping[str, Any]) -> list[Dataset]:
        with self._asking():
            return [Dataset.from_json(one) for one in self._client.search_for_series(search_filters=dict(attributes))]

    def _download(self, study: str, uid: str, folder: Path) -> None:
        """Put the files of a series into a folder, all or none."""
        with tempfile.TemporaryDirectory(dir=self._root) as temporary:
            partial = Path(temporary, "series")
            partial.mkdir()
            with self._asking():
                for instance in self._client.iter_series(study, uid, media_types=_AS_STORED):
                    name = str(instance.SOPInstanceUID)
                    if not _UID.fullmatch(name):
                        raise ValueError(f"SOPInstanceUID {name!r}")
                    instance.save_as(partial / f"{name}{_SLICE}")
            if folder.is_dir():
                shutil.rmtree(folder)
            partial.rename(folder)

    def _remember_image(self, uid: str, info: dict[str, Any]) -> None:
        objects = self._datastore.objects
        if uid in objects:
            objects[uid].image.info.update(info)
        else:
            objects[uid] = ImageLabelModel(image=DataModel(info={**info, "ts": int(time.time()), "name": uid}))
        self._update_datastore_file()

    def _volume_file(self, uid: str) -> Path:
        return self._root / "volumes" / f"{uid}.nii.gz"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """One line for any error between us and the server."""
        try:
            yield
        except requests.HTTPError as error:
            answer = error.response
            reason = f"{answer.status_code} {answer.reason}" if answer is not None else str(error)
            raise HTTPException(502, f"{self.name()}: the DICOMweb server answered {reason}.") from error
        except requests.Timeout as error:
            raise HTTPException(502, f"{self.name()}: the DICOMweb server did not answer in time.") from error
        except requests.ConnectionError as error:
            raise HTTPException(502, f"{self.name()}: no DICOMweb server can be reached there.") from error
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
            line = f"{self.name()}: not the answer of a DICOMweb server ({explain(error)}); check the address."
            raise HTTPException(502, line) from error

    @contextmanager
    def _telling(self, label_filename: str = "") -> Iterator[None]:
        """One line, without paths of the server, for an image or a label that cannot be used."""
        try:
            yield
        except ValueError as error:
            line = explain(error).replace(f"{self._root}/", "")
            raise HTTPException(422, line.replace(label_filename, "label") if label_filename else line) from error


def _shown(series: Dataset) -> dict[str, str]:
    """The attributes of a series that a client shows; UNK is what OHIF shows for unknown values."""
    return {keyword: str(series.get(keyword) or "UNK") for keyword in _SHOWN}


def _to_stored_seg(series: Dataset, metadata: Dataset) -> _StoredSeg:
    referenced = metadata.get("ReferencedSeriesSequence") or []
    segments = metadata.get("SegmentSequence") or []
    is_automatic = all(one.get("SegmentAlgorithmType") == "AUTOMATIC" for one in segments)
    return _StoredSeg(
        uid=str(series.SeriesInstanceUID),
        study=str(series.StudyInstanceUID),
        instance=str(metadata.SOPInstanceUID),
        image=str(referenced[0].SeriesInstanceUID) if referenced else "",
        created=f"{metadata.get('ContentDate') or ''} {metadata.get('ContentTime') or ''}",
        names={int(one.SegmentNumber): str(one.SegmentLabel) for one in segments},
        is_label=bool(referenced) and not (is_automatic and metadata.get("Manufacturer") == _OURS),
    )
