"""The studies in a folder for MONAI Label, without any way out of that folder, and for requests in several threads."""

from __future__ import annotations

import functools
import inspect
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException

from medseg_monai.errors import explain
from medseg_monai.files import has_ending

from .labels import check_label, check_values
from .segmentations import sent_names
from .served import ServedBundle
from .uploads import refuse_detached

__all__ = ["FolderStudies", "SharedDatastore", "check_tag"]

_TAG = re.compile(r"\w[\w -]{0,39}")
_NAME = re.compile(r"\w[^/\\\0]*")
_LONGEST_NAME = 150  # bytes; file systems allow 255, and a name gets additions


def check_tag(tag: str) -> None:
    """Refuse the tag of a label if it is not a plain word, since MONAI Label creates a folder with that name.

    Args:
        tag: the tag that a client sent.

    Raises:
        HTTPException: with status 422.
    """
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise HTTPException(422, f"tag {tag!r}: give a plain word, such as final.")


class SharedDatastore(LocalDatastore):
    """MONAI Label's data store for several threads: its own methods run one at a time.

    MONAI Label changes its list of images while another thread, such as the one that watches the folder, may read it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._alone = threading.RLock()
        super().__init__(*args, **kwargs)

    def status(self) -> dict[str, Any]:
        """Numbers of images, of those with a final label, and of labels with each tag."""
        with self._alone:
            tags = Counter(tag for one in self._datastore.objects.values() for tag in one.labels)
        total, completed = len(self.list_images()), len(self.get_labeled_images())
        return {"total": total, "completed": completed, "label_tags": dict(tags)}


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: SharedDatastore, *args: Any, **kwargs: Any) -> Any:
        with self._alone:
            return method(self, *args, **kwargs)

    return call


#: methods that do their work by others, which a subclass may replace by some that wait for a server
_BY_OTHERS = ("get_dataset_archive", "get_image", "get_label", "get_label_by_image_id", "status")

for _name, _method in inspect.getmembers(LocalDatastore, inspect.isfunction):
    if not _name.startswith("__") and _name not in _BY_OTHERS:
        setattr(SharedDatastore, _name, _alone(_method))


class FolderStudies(SharedDatastore):
    """MONAI Label's data store for a folder, which writes nowhere else, overwrites no image, and has usable labels.

    MONAI Label itself uses the names of images and tags unchecked as parts of a path, and writes to and deletes what a
    link in the folder leads to.

    Args:
        folder: the folder.
        bundles: the bundles that are served, which name the values of labels.
        options: those of MONAI Label's data store.
    """

    def __init__(self, folder: str, *, bundles: Iterable[ServedBundle], **options: Any) -> None:
        self._bundles = list(bundles)
        super().__init__(folder, **options)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image that a client sent.

        Args:
            image_id: name of the image; by default that of the file.
            image_filename: the file.
            image_info: information from the client.

        Raises:
            HTTPException: 422 for a name that is a path, an ending that is no image's or a header without its voxels,
                409 for the name of an existing image.
        """
        if image_id and (not _NAME.fullmatch(image_id) or len(image_id.encode()) > _LONGEST_NAME):
            raise HTTPException(422, f"image {image_id!r}: give a short name, not a path.")
        endings = [pattern.removeprefix("*.") for pattern in self._extensions]
        if not has_ending(image_filename, endings):
            raise HTTPException(422, f"file: not an image by its name ({', '.join(endings)}).")
        refuse_detached(image_filename)
        name, ending = self._to_id(Path(image_filename).name)
        with self._alone:
            if self.get_image_uri(image_id) or os.path.lexists(self._image(image_id or name, ending)):
                raise HTTPException(409, f"image {image_id}: this name is already in use; give another one.")
            added: str = super().add_image(image_id, image_filename, image_info)
        return added

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label that a client sent; it replaces an earlier label with the same tag.

        Args:
            image_id: name of the image.
            label_filename: the file.
            label_tag: the tag, such as ``final``.
            label_info: information from the client.

        Raises:
            HTTPException: 422 for a tag that is not a plain word, a header without its voxels, a label that is damaged
                or not in the grid of its image, or values without a name.
            ImageNotFoundException: no such image.
        """
        try:
            check_tag(label_tag)
            refuse_detached(label_filename)
            image = self.get_image_uri(image_id)
            if not image:
                raise ImageNotFoundException(f"Image {image_id} not found")
            with _telling({label_filename: "label", image: image_id}):
                check_values(check_label(Path(image), Path(label_filename)), label_info, self._bundles)
            with self._alone:
                _, ending = self._to_id(Path(label_filename).name)
                _remove_link(self._label(image_id, label_tag, ending))
                saved: str = super().save_label(image_id, label_filename, label_tag, label_info)
        except Exception:
            Path(label_filename).unlink(missing_ok=True)  # MONAI Label deletes a mask of its own only if all went well
            raise
        return saved

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to the information about a label.

        Args:
            label_id: name of the image.
            label_tag: the tag.
            info: information from the client.

        Raises:
            HTTPException: 422 for names of the values in another form.
            LabelNotFoundException: no such label.
        """
        with _telling({}):
            sent_names(info)
        super().update_label_info(label_id, label_tag, info)

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels from the folder; what a link leads to stays.

        Args:
            image_id: name of the image.

        Raises:
            ImageNotFoundException: no such image.
        """
        with self._alone:
            if found := self._datastore.objects.get(image_id):
                _remove_link(self._image(image_id, found.image.ext))
            super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label from the folder; what a link leads to stays.

        Args:
            label_id: name of the image.
            label_tag: the tag.
        """
        with self._alone:
            if found := self._datastore.label(label_id, label_tag):
                _remove_link(self._label(label_id, label_tag, found.ext))
            super().remove_label(label_id, label_tag)

    def check_final_label(self, image_id: str) -> None:
        """Check that a training can use an image and its final label, which may have been put there by hand.

        Args:
            image_id: name of the image.

        Raises:
            HTTPException: with status 422, if it cannot.
        """
        image, label = self.get_image_uri(image_id), self.get_label_uri(image_id, DefaultLabelTag.FINAL.value)
        with _telling({label: "label", image: image_id}):
            info = self.get_label_info(image_id, DefaultLabelTag.FINAL.value)
            check_values(check_label(Path(image), Path(label)), info, self._bundles)

    def _image(self, image_id: str, ending: str) -> Path:
        return Path(self._datastore.image_path(), self._filename(image_id, ending))

    def _label(self, image_id: str, tag: str, ending: str) -> Path:
        return Path(self._datastore.label_path(tag), self._filename(image_id, ending))


def _remove_link(path: Path) -> None:
    if path.is_symlink():
        path.unlink()


@contextmanager
def _telling(shown: Mapping[str, str]) -> Iterator[None]:
    """One line for a label that cannot be used, with names in place of the server's paths."""
    try:
        yield
    except (ValueError, OSError) as error:
        line = explain(error)
        for path, name in shown.items():
            line = line.replace(path, name)
        raise HTTPException(422, line) from error
