"""The savers of bundles from before :class:`SaveResultsd`, so that a copy of such a bundle still writes its results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import SaveImaged, Transform
from monai.utils import ImageMetaKey

from medseg_monai.data.names import case_name, item_name
from medseg_monai.data.readers import VolumeReader
from medseg_monai.data.segments import Segment

from .lobe_table import LobeTableWriter
from .masks import NIfTIWriter
from .save import SaveResultsd
from .seg import DicomSegWriter

__all__ = [
    "SaveByMonai",
    "SaveDicomSegd",
    "SaveLabelMapd",
    "SaveLobeTabled",
    "SaveRadiographSegd",
    "name_radiograph",
    "split_savers",
]


class SaveLabelMapd(SaveResultsd):
    """:class:`SaveResultsd` with a :class:`NIfTIWriter`.

    Args:
        keys: the label map.
        output_dir: folder of the files.
        image_key: the input image.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | os.PathLike[str], image_key: str = "image") -> None:
        super().__init__(keys, output_dir, [NIfTIWriter()], image_key)


class SaveDicomSegd(SaveResultsd):
    """:class:`SaveResultsd` with a :class:`DicomSegWriter`.

    Args:
        keys: the label map.
        output_dir: folder of the files.
        segments: description of the labels.
        algorithm_name: name of the algorithm.
        algorithm_version: its version.
        image_key: the input image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        *,
        segments: Sequence[Segment],
        algorithm_name: str,
        algorithm_version: str,
        image_key: str = "image",
    ) -> None:
        writer = DicomSegWriter(segments, algorithm_name=algorithm_name, algorithm_version=algorithm_version)
        super().__init__(keys, output_dir, [writer], image_key)


class SaveRadiographSegd(SaveDicomSegd):
    """:class:`SaveDicomSegd` for radiographs, which once needed a saver of their own."""


class SaveLobeTabled(SaveResultsd):
    """:class:`SaveResultsd` with a :class:`LobeTableWriter`.

    Args:
        keys: the label map.
        output_dir: folder of the files.
        names: names of the labels.
        reader: the reader that loaded the image.
        infection_dir: folder of infection masks.
        image_key: the input image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        *,
        names: Sequence[str],
        reader: ImageReader,
        infection_dir: str | os.PathLike[str] | None = None,
        image_key: str = "image",
    ) -> None:
        of_volumes = reader if isinstance(reader, VolumeReader) else VolumeReader()
        super().__init__(keys, output_dir, [LobeTableWriter(names, of_volumes, infection_dir=infection_dir)], image_key)


def name_radiograph(meta: Mapping[str, Any], saver: Transform) -> dict[str, Any]:
    """Give a mask the name of its image; an ``output_name_formatter`` for MONAI's ``SaveImage``.

    Args:
        meta: metadata of the mask, with the file of the image.
        saver: the transform that calls this function.
    """
    # MONAI removes the last ending, whatever it is
    return {"subject": f"{case_name(str(meta['filename_or_obj']))}.png", "idx": meta.get("patch_index")}


class SaveByMonai:
    """MONAI's ``SaveImaged`` with the interface of :class:`SaveResultsd`.

    Args:
        transform: the transform that writes the files; it must add their paths to the metadata
            (``savepath_in_metadict``).
    """

    def __init__(self, transform: SaveImaged) -> None:
        self.transform = transform

    def check(self, data: Mapping[Any, Any]) -> list[str]:
        """MONAI's writers check nothing before they write; see :meth:`SaveResultsd.check`.

        Args:
            data: item with the image.
        """
        return [""]

    def save(self, data: Mapping[Any, Any], output_dir: str | os.PathLike[str] | None = None) -> list[Path]:
        """Write the files of a case; see :meth:`SaveResultsd.save`.

        Args:
            data: item with the label map.
            output_dir: folder to write into instead of the transform's own folder.
        """
        if output_dir is not None:
            self.transform.saver.folder_layout.output_dir = str(output_dir)
        written = self.transform(self._named(data))
        return [Path(written[key].meta["saved_to"]) for key in self.transform.key_iterator(written)]

    def _named(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with the case's name as that of its file, from which MONAI makes the name of the mask."""
        item = dict(data)
        for key in self.transform.key_iterator(item):
            item[key] = item[key].clone()
            file = Path(item[key].meta[ImageMetaKey.FILENAME_OR_OBJ])
            item[key].meta[ImageMetaKey.FILENAME_OR_OBJ] = str(file.with_name(f"{item_name(data)}.png"))
        return item


def split_savers(transforms: Sequence[Any]) -> tuple[list[Any], list[SaveResultsd | SaveByMonai]]:
    """Separate the steps of a postprocessing that write results from the other steps.

    Args:
        transforms: the steps of the postprocessing.

    Returns:
        the steps that compute the result, and the steps that write it.
    """
    steps: list[Any] = []
    savers: list[SaveResultsd | SaveByMonai] = []
    for step in transforms:
        if isinstance(step, SaveResultsd):
            savers.append(step)
        elif isinstance(step, SaveImaged):
            savers.append(SaveByMonai(step))
        else:
            steps.append(step)
    return steps, savers
