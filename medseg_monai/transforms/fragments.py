"""Clean-up of a label map: one connected piece for each label, and loose fragments go to their neighbours."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Final

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy.ndimage import find_objects

__all__ = ["ReassignFragmentsd", "reassign_fragments"]

Labels = npt.NDArray[np.uint8]
Box = tuple[slice, ...]

_TOUCHING: Final = 26  # voxels that share a face, an edge or a corner


def reassign_fragments(label_map: npt.NDArray[np.generic], labels: Collection[int] | None = None) -> Labels:
    """Keep the largest connected piece of each label and give every other piece to its neighbours.

    A piece is a set of voxels of one label that touch at a face, an edge or a corner; if two pieces are the largest,
    the first in raster order is kept. Each voxel that touches a loose piece and belongs to a kept one votes for its
    label. The piece takes the label with the most votes, or the lowest of several with equally many. The background has
    no vote, but a piece that no label touches becomes background. Pieces that touch only other loose pieces wait until
    those have their label, so the result does not depend on the order of the pieces.

    The function works on ``uint8`` and inside the bounding boxes of the labels and of the pieces, since a scan may have
    200 million voxels.

    Args:
        label_map: ``[D, H, W]`` with whole values from 0 (background) to 255, any numeric type.
        labels: labels to clean up, all by default. The others stay as they are and vote.

    Returns:
        a new map ``[D, H, W]``.

    Raises:
        ValueError: the map does not have three dimensions, or some values are not labels.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.transforms import reassign_fragments
        >>> reassign_fragments(np.array([[[1, 1, 1, 2, 2, 1]]])).tolist()  # the last voxel touches only label 2
        [[[1, 1, 1, 2, 2, 2]]]

    Source: the authors' ``test.py`` of CTSU-Net (largest component per lobe, "others vote by neighbours"); the paper
    does not mention it.
    """
    kept = _to_labels(label_map)
    loose = np.zeros_like(kept)
    for label, box in _boxes(kept).items():
        if labels is None or label in labels:
            _move_loose_pieces(kept[box], loose[box], label)
    if loose.any():
        (box,) = _boxes((loose != 0).view(np.uint8)).values()
        _give_to_neighbours(kept[_grown(box)], loose[_grown(box)])
    return kept


class ReassignFragmentsd(MapTransform):
    """Dictionary version of :func:`reassign_fragments` for label maps ``[1, D, H, W]``; type and metadata are kept.

    Args:
        keys: label maps, after ``AsDiscreted``.
        labels: labels to clean up, all by default.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import ReassignFragmentsd
        >>> clean = ReassignFragmentsd(keys="pred")
        >>> clean({"pred": torch.tensor([[[[1.0, 1.0, 1.0, 2.0, 2.0, 1.0]]]])})["pred"]
        tensor([[[[1., 1., 1., 2., 2., 2.]]]])
    """

    def __init__(
        self, keys: KeysCollection, labels: Collection[int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = None if labels is None else frozenset(labels)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Clean up ``keys``.

        Raises:
            ValueError: a map is not ``[1, D, H, W]``, or some values are not labels.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            label_map = result[key]
            if label_map.ndim != 4 or label_map.shape[0] != 1:
                raise ValueError(
                    f"{key}: expected one label map [1, D, H, W], got {list(label_map.shape)}; apply AsDiscreted first."
                )
            cleaned = reassign_fragments(torch.as_tensor(label_map).cpu().numpy()[0], self.labels)
            result[key] = convert_to_dst_type(cleaned[None], label_map)[0]
        return result


def _to_labels(label_map: npt.NDArray[np.generic]) -> Labels:
    """Copy the map as uint8."""
    if label_map.ndim != 3:
        raise ValueError(f"Expected a label map [D, H, W], got {list(label_map.shape)}.")
    with np.errstate(invalid="ignore"):
        labels: Labels = label_map.astype(np.uint8, order="C")
    if not np.array_equal(labels, label_map):
        raise ValueError("Expected whole labels from 0 to 255; apply AsDiscreted first.")
    return labels


def _boxes(numbers: npt.NDArray[np.unsignedinteger]) -> dict[int, Box]:
    """Find the numbers that occur and the bounding box of each."""
    return {number: box for number, box in enumerate(find_objects(numbers), start=1) if box is not None}


def _pieces(labels: Labels) -> npt.NDArray[np.unsignedinteger]:
    """Number the connected pieces of equal label, starting at 1."""
    pieces: npt.NDArray[np.unsignedinteger] = cc3d.connected_components(
        np.ascontiguousarray(labels), connectivity=_TOUCHING
    )
    return pieces


def _move_loose_pieces(kept: Labels, loose: Labels, label: int) -> None:
    """Move all pieces of a label except the largest from ``kept`` to ``loose``, both cropped to the label's box."""
    pieces = _pieces((kept == label).view(np.uint8))
    sizes = cc3d.statistics(pieces, no_slice_conversion=True)["voxel_counts"]
    if len(sizes) == 2:
        return
    others = (pieces != 0) & (pieces != 1 + int(np.argmax(sizes[1:])))
    np.copyto(loose, label, where=others, casting="unsafe")
    np.copyto(kept, 0, where=others, casting="unsafe")


def _give_to_neighbours(kept: Labels, loose: Labels) -> None:
    """Write the loose pieces into ``kept``, in rounds, with the labels that their neighbours vote for."""
    pieces = _pieces(loose)
    waiting = _boxes(pieces)
    while waiting:
        votes = {piece: _winner(kept, pieces, piece, box) for piece, box in waiting.items()}
        decided = {piece: label for piece, label in votes.items() if label}
        if not decided:
            return
        for piece, label in decided.items():
            box = waiting.pop(piece)
            kept[box][pieces[box] == piece] = label


def _winner(kept: Labels, pieces: npt.NDArray[np.unsignedinteger], piece: int, box: Box) -> int:
    """Return the label of most kept voxels that touch the piece; 0 if there are none."""
    around = _grown(box)
    touching = _dilated(pieces[around] == piece)
    counts = np.bincount(kept[around][touching], minlength=2)
    return int(np.argmax(counts[1:])) + 1 if counts[1:].any() else 0


def _grown(box: Box) -> Box:
    return tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)


def _dilated(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Add all voxels that touch the mask, axis by axis, since a cube is the product of three lines."""
    for axis in range(mask.ndim):
        lines = np.moveaxis(mask, axis, 0)
        grown = lines.copy()
        grown[1:] |= lines[:-1]
        grown[:-1] |= lines[1:]
        mask = np.moveaxis(grown, 0, axis)
    return mask
