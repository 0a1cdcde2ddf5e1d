"""Labels of layers in order of depth: a guard, and a change of size that keeps thin layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from medseg_monai.errors import shorten
from medseg_monai.layers import IGNORED, boundaries_of_labels, disordered_columns, labels_of_boundaries

from .same_size import file_name

__all__ = ["CheckLayersd", "ResizeLayersd"]


class CheckLayersd(MapTransform):
    """Refuse a label that is not one of layers in order of depth; place it directly after loading.

    A label has the classes 0, 1, 2 … from top to bottom in each column, and 255 where nobody has drawn one. A class may
    be absent.

    Args:
        keys: labels ``[1, H, W]``.
        classes: number of classes.
        allow_missing_keys: whether a key may be missing.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import CheckLayersd
        >>> check = CheckLayersd(keys="label", classes=3)
        >>> _ = check({"label": torch.tensor([[[0, 0, 255], [2, 1, 255]]])})
        >>> check({"label": torch.tensor([[[0, 2], [2, 1]]])})
        Traceback (most recent call last):
        ValueError: label: classes out of order in column 1 (the first is 0); number the layers from top to bottom.
    """

    def __init__(self, keys: KeysCollection, classes: int, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Look at the labels.

        Args:
            data: item with loaded labels.

        Returns:
            the unchanged item.

        Raises:
            ValueError: a class that there is not, or a column out of order; the message names the file.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            name, values = file_name(d[key], key), np.asarray(d[key].cpu())[0]
            others = np.setdiff1d(values, [*range(self.classes), IGNORED])
            if others.size:
                raise ValueError(
                    f"{name}: values {shorten(f'{value:g}' for value in others)}, expected the classes 0 to "
                    f"{self.classes - 1} and {IGNORED} for columns without truth; set out_channels to the number of "
                    "classes, or correct the label."
                )
            columns = disordered_columns(values)
            if columns.size:
                raise ValueError(
                    f"{name}: classes out of order in column {shorten(str(column) for column in columns)} (the first "
                    "is 0); number the layers from top to bottom."
                )
        return d


class ResizeLayersd(MapTransform):
    """Bring labels of layers to another size by way of their boundaries, so that no layer is lost.

    Resizing by the nearest pixel drops rows when it makes an image lower, and with them layers of a pixel or two. Here
    each boundary is scaled and rounded, and a layer that is present in a column keeps a row at least; for this its
    neighbours give way. Of the columns the nearest are taken. Columns with a pixel of 255 are 255 from top to bottom.

    Args:
        keys: labels ``[1, H, W]`` as :class:`CheckLayersd` lets them pass.
        spatial_size: rows and columns of the result.
        classes: number of classes.
        allow_missing_keys: whether a key may be missing.

    Raises:
        ValueError: the size is not two positive numbers.

    Example:
        >>> import torch
        >>> from medseg_monai.transforms import ResizeLayersd
        >>> label = torch.tensor([[0, 0, 0, 1, 2, 3, 3, 3, 3, 3]]).reshape(1, 10, 1)
        >>> ResizeLayersd("label", (5, 2), classes=4)({"label": label})["label"][0, :, 0].tolist()
        [0, 0, 1, 2, 3]
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        classes: int,
        *,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(spatial_size) != 2 or min(spatial_size) < 1:
            raise ValueError(f"spatial_size must be rows and columns of 1 or more, got {list(spatial_size)}.")
        self.rows, self.columns = (int(side) for side in spatial_size)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Resize the labels.

        Args:
            data: item with labels.

        Returns:
            the item with labels of the new size, of the same type.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            resized = self._resize(np.asarray(d[key].cpu())[0])[None]
            d[key] = convert_to_dst_type(resized, dst=d[key], dtype=d[key].dtype)[0]
        return d

    def _resize(self, labels: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        rows, columns = labels.shape
        nearest = ((np.arange(self.columns) + 0.5) * columns / self.columns).astype(np.int64)
        boundaries = boundaries_of_labels(labels[:, nearest], self.classes)
        return labels_of_boundaries(_with_a_row_each(boundaries, rows, self.rows), self.rows)


def _with_a_row_each(boundaries: npt.NDArray[np.float32], rows: int, new_rows: int) -> npt.NDArray[np.float64]:
    """Scale boundaries ``[B, W]`` to another number of rows; each class that is present keeps a row if they suffice."""
    edges = np.concatenate([np.zeros_like(boundaries[:1]), boundaries, np.full_like(boundaries[:1], rows)])
    least = (np.diff(edges, axis=0) > 0).astype(np.float64)
    scaled = np.rint(boundaries.astype(np.float64) * new_rows / rows)
    for number in range(len(scaled)):
        above = scaled[number - 1] if number else 0
        scaled[number] = np.maximum(scaled[number], above + least[number])
    below = np.full(boundaries.shape[1], float(new_rows))
    for number in reversed(range(len(scaled))):
        scaled[number] = np.minimum(scaled[number], below - least[number + 1])
        below = scaled[number]
    scaled[:, np.isnan(boundaries).any(axis=0)] = np.nan
    return scaled
