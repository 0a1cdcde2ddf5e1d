"""The studies in a folder for MONAI Label, without any way out of that folder, and for requests in several threads."""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

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
    if not _TAG.fullmatch(tag):
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
    """MONAI Label's data store for a folder, which writes nowhere else and overwrites no image.

    MONAI Label itself uses the names of images and tags unchecked as parts of a path.
    """

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image that a client sent.

        Args:
            image_id: name of the image; by default that of the file.
            image_filename: the file.
            image_info: information from the client.

        Raises:
            HTTPException: 422 for a name that is a path or a header without its voxels, 409 for the name of an existing
                image.
        """
        if image_id and (not _NAME.fullmatch(image_id) or len(image_id.encode()) > _LONGEST_NAME):
            raise HTTPException(422, f"image {image_id!r}: give a short name, not a path.")
        refuse_detached(image_filename)
        if self.get_image_uri(image_id):
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
            HTTPException: 422 for a tag that is not a plain word or a header without its voxels.
            ImageNotFoundException: no such image.
        """
        check_tag(label_tag)
        refuse_detached(label_filename)
        saved: str = super().save_label(image_id, label_filename, label_tag, label_info)
        return saved
