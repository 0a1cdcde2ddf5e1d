"""Metrics of layers: how far each boundary lies from its reference, and the overlap of each class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction

from medseg_monai.layers import IGNORED, boundaries_of_labels

from .label_dice import LabelDice

__all__ = ["BoundaryError", "LayerDice", "boundary_distances"]

FloatArray = npt.NDArray[np.float64]


def boundary_distances(boundaries: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Measure how far each boundary lies from its reference in each column.

    Args:
        boundaries: ``[..., B, W]`` in pixels, ``nan`` in columns without truth.
        reference: the same of the reference.

    Returns:
        ``[..., B, W]``, not negative; ``nan`` where one of both is.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.metrics import boundary_distances
        >>> boundary_distances([[4, 5, 6], [8, 8, 8]], [[1, 8, np.nan], [8, 9, np.nan]])
        array([[ 3.,  3., nan],
               [ 0.,  1., nan]])
    """
    found, expected = np.asarray(boundaries, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if found.shape != expected.shape:
        raise ValueError(
            f"Boundaries of shape {found.shape} have a reference of shape {expected.shape}: both must be the same."
        )
    return np.abs(found - expected)


class LayerDice(LabelDice):
    """Dice coefficient of each class of each case; pixels whose label is 255 do not count.

    It is :class:`medseg_monai.metrics.LabelDice` with every class counted, also the one above the first layer and the
    one below the last.

    Args:
        classes: number of classes; the maps ``[B, 1, *spatial]`` hold 0 to ``classes - 1``, the reference 255 too.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import LayerDice
        >>> dice = LayerDice(classes=3)
        >>> dice(y_pred=torch.tensor([[[0, 0, 1, 2]]]), y=torch.tensor([[[0, 1, 1, 255]]]))
        tensor([[0.6667, 0.6667,    nan]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.labels = range(classes)

    def _of_case(self, mask: torch.Tensor, truth: torch.Tensor) -> list[float]:
        counts = truth != IGNORED
        return super()._of_case(mask[counts], truth[counts])


class BoundaryError(CumulativeIterationMetric):
    """Mean distance of each boundary from its reference in pixels of the map's rows; columns with 255 do not count.

    Args:
        classes: number of classes, one more than boundaries; the maps are ``[B, 1, H, W]``.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import BoundaryError
        >>> label = torch.zeros(1, 1, 20, 2)
        >>> label[..., 9:, :] = 1
        >>> error = BoundaryError(classes=2)
        >>> error(y_pred=label.roll(3, dims=2) * (torch.arange(20) > 5)[:, None], y=label)  # shifted by 3 pixels
        tensor([[3.]])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is None:
            raise ValueError("BoundaryError compares a prediction with a reference; give both.")
        found, truth = (boundaries_of_labels(values[:, 0].cpu(), self.classes) for values in (y_pred, y))
        distances = boundary_distances(found, truth)
        counted = np.isfinite(distances).sum(axis=-1)
        sums = np.nansum(distances, axis=-1)
        with np.errstate(invalid="ignore"):
            return torch.from_numpy((sums / counted).astype(np.float32))

    def aggregate(self) -> torch.Tensor:
        """The mean over the cases of the mean over their boundaries, leaving out cases without truth; 0 if all are."""
        mean: torch.Tensor = do_metric_reduction(self.get_buffer(), "mean")[0]
        return mean
