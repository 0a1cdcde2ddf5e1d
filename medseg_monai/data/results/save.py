"""The last step of a bundle's postprocessing: writing the prediction of a case to files."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from medseg_monai.data.names import item_name
from medseg_monai.errors import explain

from .case import ResultWriter, to_case

__all__ = ["PartlySavedError", "SaveResultsd", "save_all"]


class PartlySavedError(ValueError):
    """Some results of a case could not be written; the others were.

    Args:
        reasons: one line for each result that is missing.
        files: the files that were written.

    Attributes:
        files: the files that were written.
    """

    def __init__(self, reasons: Sequence[str], files: Sequence[Path]) -> None:
        super().__init__("; ".join(reasons))
        self.files = tuple(files)


def save_all(steps: Sequence[tuple[str, Callable[[], Sequence[Path]]]]) -> list[Path]:
    """Write the results of a case one after the other, whatever becomes of the one before.

    Args:
        steps: a name for messages, and what writes files and returns their paths.

    Returns:
        the files that were written.

    Raises:
        PartlySavedError: some steps failed; the message names each with its reason.
        Exception: the error of the only step.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.data.results.save import save_all
        >>> [path.name for path in save_all([("mask", lambda: [Path("a.png")]), ("table", lambda: [Path("a.csv")])])]
        ['a.png', 'a.csv']
    """
    files: list[Path] = []
    errors: list[tuple[str, Exception]] = []
    for name, step in steps:
        try:
            files += step()
        except Exception as error:  # the other results must get their chance, whatever this one did
            files += error.files if isinstance(error, PartlySavedError) else ()
            errors.append((name, error))
    if errors and len(steps) == 1:
        raise errors[0][1]
    if errors:
        raise PartlySavedError([_reason(name, error) for name, error in errors], files) from errors[0][1]
    return files


def _reason(name: str, error: Exception) -> str:
    return str(error) if isinstance(error, PartlySavedError) else f"{name}: {explain(error)}"


class SaveResultsd(MapTransform):
    """Write the results of a case, with one writer for each kind of file.

    As a transform it writes the files and returns the item unchanged. :meth:`save` writes them too and returns their
    paths, so that a runner can write later and report the files.

    The label map must be back in the input's grid (after ``Invertd``): its shape and affine are compared with those
    that the input had when it was loaded, and nothing is resampled. Each file is written completely or not at all. The
    files have the name of the case, see :func:`medseg_monai.data.names.item_name`.

    Args:
        keys: one key, that of the label map ``[1, X, Y, Z]`` (for images ``[1, H, W]``) with metadata and integer
            values from 0 to 255.
        output_dir: folder of the files; it is created if it is missing.
        writers: the writers, in their order: :class:`PNGWriter`, :class:`StackWriter`, :class:`ProbabilityWriter`,
            :class:`NIfTIWriter`, :class:`DicomSegWriter`, :class:`LobeTableWriter`, or any
            :class:`~medseg_monai.data.results.case.ResultWriter`.
        image_key: key of the input image; its metadata state where the case comes from.
        probability_key: key of the probability of the foreground, in the grid of the label map, for writers that need
            it (:class:`ProbabilityWriter`).

    Raises:
        ValueError: for several keys, since their files would have the same names.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import NIfTIWriter, SaveResultsd
        >>> meta = {"filename_or_obj": "scan.nii.gz", "spatial_shape": [4, 5, 6]}
        >>> scan = MetaTensor(torch.zeros(1, 4, 5, 6), meta=meta)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[NIfTIWriter()])
        ...     [path.name for path in save.save({"image": scan, "pred": scan > 0})]
        ['scan.nii.gz']
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        writers: Sequence[ResultWriter],
        image_key: str = "image",
        probability_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"{type(self).__name__} writes one label map per case, got keys={self.keys}.")
        self.output_dir = os.fspath(output_dir)
        self.writers = tuple(writers)
        self.image_key = image_key
        self.probability_key = probability_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of a case; see :meth:`save`."""
        self.save(data)
        return dict(data)

    def check(self, data: Mapping[Any, Any]) -> list[str]:
        """Ask each writer, before the network runs, what the input lacks for its result.

        Args:
            data: item with the image.

        Returns:
            one line for each writer, empty if it has what it needs.
        """
        meta = data[self.image_key].meta
        name = item_name(data, self.image_key)
        return [self._fault(writer, name, meta) for writer in self.writers]

    def _fault(self, writer: ResultWriter, name: str, meta: Mapping[str, Any]) -> str:
        try:
            writer.check(name, meta)
        except (OSError, ValueError) as error:
            return _reason(type(writer).__name__, error)
        return ""

    def save(self, data: Mapping[Any, Any], output_dir: str | os.PathLike[str] | None = None) -> list[Path]:
        """Write the files of a case; a writer that fails does not keep the others from writing.

        Args:
            data: item with the label map and the image.
            output_dir: folder to write into instead of the transform's own folder.

        Returns:
            the files that were written.

        Raises:
            ValueError: the label map is not in the grid of its input, or has values that are not labels.
            PartlySavedError: some writers failed; the message names each, and the error holds the files of the others.
            OSError: the folder, or the files of the only writer, cannot be written.
        """
        probability = None if self.probability_key is None else data[self.probability_key]
        name = item_name(data, self.image_key)
        case = to_case(data[self.keys[0]], data[self.image_key], name, probability=probability)
        folder = Path(self.output_dir if output_dir is None else output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return save_all([(type(writer).__name__, partial(writer, case, folder)) for writer in self.writers])
