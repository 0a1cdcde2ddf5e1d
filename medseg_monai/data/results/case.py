"""A predicted label map with the metadata of its input, in the form that every writer of results takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from monai.data.utils import to_affine_nd
from monai.utils import ImageMetaKey, MetaKeys

from medseg_monai.data.names import case_name

__all__ = ["ResultWriter", "SavedCase", "check_same_grid", "input_grid", "to_case"]

_SAME_AFFINE = 1e-3  # mm; inverse transforms return to the input's grid except for rounding


@dataclass(frozen=True, eq=False)
class SavedCase:
    """A label map in the grid of its input, with what is known of the input.

    Attributes:
        name: stem of the files to write, see :func:`medseg_monai.data.names.item_name`.
        source: path of the input.
        labels: uint8, ``[X, Y, Z]`` for a volume, ``[pages, H, W]`` for a stack and ``[H, W]`` for an image.
        affine: ``[4, 4]`` of the input, from voxel indices to mm in RAS; the identity for an image.
        meta: metadata of the input.
        probability: float32, that of the foreground, of the shape of ``labels``; ``None`` if nobody asked for it.
    """

    name: str
    source: str
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    meta: Mapping[str, Any]
    probability: npt.NDArray[np.float32] | None = None


class ResultWriter(Protocol):
    """Writes one kind of file for a case, each file completely or not at all."""

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Refuse an input of which this writer could write nothing, before the network runs.

        Args:
            name: stem of the files to write.
            meta: metadata of the input.

        Raises:
            ValueError: what the input lacks, or what is wrong with it.
            OSError: a file that the result needs cannot be read.
        """

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the files of a case.

        Args:
            case: the prediction.
            folder: an existing folder to write into.

        Returns:
            the files written; none if the case has no such result.
        """


def to_case(
    pred: torch.Tensor, image: torch.Tensor, name: str | None = None, *, probability: torch.Tensor | None = None
) -> SavedCase:
    """Combine a label map with its input.

    Args:
        pred: ``[1, X, Y, Z]`` for a volume and ``[1, H, W]`` for an image, with metadata and integer values from 0 to
            255, back in the grid of its input (after ``Invertd``).
        image: the input; its metadata state the file and the grid that it was loaded with.
        name: name of the case; by default that of its file.
        probability: probability of the foreground, of the shape and in the grid of ``pred``.

    Returns:
        the case for the writers.

    Raises:
        ValueError: several channels, values that are not labels, or another grid than the input's.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data.results.case import to_case
        >>> image = MetaTensor(torch.zeros(1, 4, 5), meta={"filename_or_obj": "photo.png", "spatial_shape": [4, 5]})
        >>> case = to_case(image + 1, image)
        >>> case.name, case.labels.shape, case.labels.dtype.name
        ('photo', (4, 5), 'uint8')
    """
    meta: Mapping[str, Any] = image.meta  # type: ignore[attr-defined]
    source = str(meta[ImageMetaKey.FILENAME_OR_OBJ])
    shape, affine = input_grid(meta)
    if pred.ndim != len(shape) + 1 or pred.shape[0] != 1:
        axes = "1, X, Y, Z" if len(shape) == 3 else "1, H, W"
        raise ValueError(f"{source}: expected one label map [{axes}], got {list(pred.shape)}; apply AsDiscreted.")
    for what, values in (("label map", pred), ("probability", probability)):
        if values is not None:
            found: torch.Tensor = values.affine  # type: ignore[attr-defined]
            check_same_grid(f"{what} of {source}", values.shape[1:], found, shape, affine)
    written = torch.as_tensor(pred)[0].cpu()
    labels = written.to(torch.uint8)
    if not torch.equal(labels.to(written.dtype), written):
        raise ValueError(f"{source}: expected integer labels from 0 to 255; apply AsDiscreted first.")
    scores = None if probability is None else torch.as_tensor(probability)[0].cpu().float().numpy()
    return SavedCase(name or case_name(source), source, labels.numpy(), affine, meta, scores)


def input_grid(meta: Mapping[str, Any]) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Spatial shape and affine ``[4, 4]`` with which an input was loaded.

    Args:
        meta: metadata of the input.
    """
    shape = tuple(int(side) for side in np.asarray(meta[MetaKeys.SPATIAL_SHAPE]).ravel())
    # images have no affine of their own; MONAI gives them the identity
    return shape, np.asarray(meta.get(MetaKeys.ORIGINAL_AFFINE, np.eye(4)), dtype=np.float64).reshape(4, 4)


def check_same_grid(
    name: str,
    shape: Sequence[int],
    affine: npt.ArrayLike,
    expected_shape: Sequence[int],
    expected_affine: npt.NDArray[np.float64],
) -> None:
    """Refuse an array that does not lie in the grid of a case.

    Args:
        name: name of the array for the message.
        shape: spatial shape of the array.
        affine: affine of the array.
        expected_shape: spatial shape of the case.
        expected_affine: affine of the case.

    Raises:
        ValueError: another shape, or an affine that differs by more than 0.001 mm.
    """
    in_space = to_affine_nd(3, np.asarray(affine, dtype=np.float64))  # the affine of a slice may have two axes
    same_axes = np.allclose(in_space, expected_affine, rtol=0, atol=_SAME_AFFINE)
    if tuple(shape) != tuple(expected_shape) or not same_axes:
        raise ValueError(
            f"{name}: {tuple(shape)}, not in the grid of the scan or image with {tuple(expected_shape)}; "
            "bring it back with Invertd, or resample it to the input."
        )
