"""The studies in a folder for MONAI Label, without any way out of that folder."""

from __future__ import annotations

import re
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from .uploads import refuse_detached

__all__ = ["FolderStudies", "check_tag"]

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


class FolderStudies(LocalDatastore):
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
