"""Evaluation tables for layers: the mean absolute error of each boundary, and the validation's metrics of layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.handlers import IgniteMetricHandler

from medseg_monai.layers import boundaries_of_labels, boundary_names
from medseg_monai.metrics import BoundaryError, LayerDice, boundary_distances

from .case_metrics import CaseTable

__all__ = ["LayerMetrics", "MeanBoundaryError", "MeanLayerDice"]

FloatArray = npt.NDArray[np.float64]

BOUNDARIES = "boundaries"
"""Key of an item for boundaries with fractions, ``[B, W]``, that are judged in place of those of ``pred``."""

_AXIAL = "axial_um"
_EXPERT = "label_expert"


class LayerMetrics(CaseTable):
    """Compare the boundaries of a label map with those of its reference; write ``cases.csv`` and ``summary.json``.

    The handler expects decollated items with ``pred`` and ``label`` of shape ``[1, H, W]``, classes in order of depth in
    the B-scan's own grid, in the evaluator's output or in its batch. The label is 255 in columns that nobody has drawn:
    they do not count, and the table says how many there are. An item that has ``boundaries`` (``[B, W]``) is judged by
    these instead of the counts of ``pred``.

    For each case, ``mae_<name>`` is the mean of ``|y_b - y_b of the reference|`` over the columns, in pixels, and
    ``mae`` the mean over the boundaries. If the item or the image's metadata has the spacing of the rows as
    ``axial_um``, ``mae_um`` is ``mae`` in micrometres. An item with ``label_expert2`` has the same columns for that
    expert (``mae_expert2``), and the distance between both experts (``mae_between_expert2``).

    ``summary.json`` states ``per_case`` the statistics of each column over the cases, and ``pooled`` the error over the
    columns of all cases together, as in the paper's table.

    Args:
        output_dir: folder for the two files.
        classes: number of classes.
        names: names of the boundaries, see :func:`medseg_monai.layers.boundary_names`.

    Raises:
        ValueError: another number of names than of boundaries.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.handlers import LayerMetrics
        >>> label = torch.zeros(1, 20, 4)
        >>> label[:, 8:], label[:, 12:] = 1, 2
        >>> pred = label.clone()
        >>> pred[:, 8:11] = 0  # the first boundary is found 3 pixels too low
        >>> label[:, :, 3] = 255
        >>> image = MetaTensor(torch.zeros(1, 20, 4), meta={"filename_or_obj": "eye.png"})
        >>> evaluator = Engine(lambda engine, batch: batch)  # stands for MONAI's SupervisedEvaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     LayerMetrics(folder, classes=3, names=["ILM", "BM"]).attach(evaluator)
        ...     _ = evaluator.run([[{"image": image, "pred": pred, "label": label, "axial_um": 2.0}]])
        ...     print(Path(folder, "cases.csv").read_text())
        case,mae,mae_ILM,mae_BM,mae_um,columns,columns_without_truth
        eye,1.5,3.0,0.0,3.0,3,1
        <BLANKLINE>

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section III-F and Table V. The paper gives no unit.
    """

    def __init__(self, output_dir: str | os.PathLike[str], classes: int, names: Sequence[str] = ()) -> None:
        self.classes = classes
        self.names = boundary_names(classes, names)
        super().__init__(output_dir)

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.sums: dict[str, FloatArray] = {}
        self.counts: dict[str, FloatArray] = {}
        self.without_truth = 0

    def settings(self) -> dict[str, Any]:
        """Return the unit, and how many columns had no truth."""
        return {"unit": "pixels of the rows, columns with _um micrometres", "columns_without_truth": self.without_truth}

    def compare(self, item: Mapping[str, Any], file: Path) -> dict[str, float]:
        """Compute the values of one case.

        Args:
            item: the case.
            file: its image.

        Raises:
            ValueError: a label has another size than the prediction.
        """
        found = self._found(item, file)
        truths = {key.removeprefix("label"): self._boundaries(item, key, file) for key in _labels(item)}
        row: dict[str, float] = {}
        for suffix, truth in truths.items():
            row |= self._errors(suffix, boundary_distances(found, truth), item)
            if suffix:
                row |= self._errors(f"_between{suffix}", boundary_distances(truths[""], truth), item)
        open_columns = int(np.isnan(truths[""]).any(axis=0).sum())
        self.without_truth += open_columns
        columns = truths[""].shape[-1]
        return {**row, "columns": columns - open_columns, "columns_without_truth": open_columns}

    def pool(self) -> dict[str, float]:
        """Compute the error over the columns of all cases together."""
        pooled: dict[str, float] = {}
        for suffix, sums in self.sums.items():
            pooled |= self._columns(suffix, _divided(sums, self.counts[suffix]))
        return pooled

    def _errors(self, suffix: str, distances: FloatArray, item: Mapping[str, Any]) -> dict[str, float]:
        sums, counts = np.nansum(distances, axis=-1), np.isfinite(distances).sum(axis=-1).astype(np.float64)
        self.sums[suffix] = self.sums.get(suffix, 0) + sums
        self.counts[suffix] = self.counts.get(suffix, 0) + counts
        row = self._columns(suffix, _divided(sums, counts))
        axial = _axial_um(item)
        return row if axial is None else {**row, f"mae_um{suffix}": row[f"mae{suffix}"] * axial}

    def _columns(self, suffix: str, errors: FloatArray) -> dict[str, float]:
        each = {f"mae_{name}{suffix}": float(error) for name, error in zip(self.names, errors, strict=True)}
        return {f"mae{suffix}": float(errors.mean()), **each}

    def _found(self, item: Mapping[str, Any], file: Path) -> npt.NDArray[np.float32]:
        if BOUNDARIES in item:
            return np.asarray(torch.as_tensor(item[BOUNDARIES]).cpu(), dtype=np.float32)
        return self._boundaries(item, "pred", file)

    def _boundaries(self, item: Mapping[str, Any], key: str, file: Path) -> npt.NDArray[np.float32]:
        values, shape = item[key], tuple(item["pred"].shape)
        if tuple(values.shape) != shape or shape[0] != 1 or len(shape) != 3:
            raise ValueError(
                f"{file}: its {key} has shape {tuple(values.shape)}, but the prediction has {shape}; "
                "give a label of the B-scan's size."
            )
        return boundaries_of_labels(np.asarray(values.cpu())[0], self.classes)


def _divided(sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _labels(item: Mapping[str, Any]) -> list[str]:
    return ["label", *sorted(key for key in item if str(key).startswith(_EXPERT))]


def _axial_um(item: Mapping[str, Any]) -> float | None:
    """The spacing of the rows as the data list has it, or else the file."""
    given = item.get(_AXIAL, item["image"].meta.get(_AXIAL))
    return None if given is None else float(given)


class MeanLayerDice(IgniteMetricHandler):
    """The mean Dice coefficient of a validation over all classes, see :class:`medseg_monai.metrics.LayerDice`.

    Args:
        classes: number of classes.
        output_transform: takes prediction and label from the engine's output.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import MeanLayerDice
        >>> engine = Engine(lambda engine, batch: batch)
        >>> MeanLayerDice(classes=2).attach(engine, "val_dice")
        >>> label = torch.tensor([[[0, 1, 255, 255]]])
        >>> engine.run([(torch.tensor([[[0, 1, 0, 0]]]), label)]).metrics["val_dice"]
        1.0
    """

    def __init__(self, classes: int, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        super().__init__(metric_fn=LayerDice(classes), output_transform=output_transform)


class MeanBoundaryError(IgniteMetricHandler):
    """The mean error of a validation's boundaries, see :class:`medseg_monai.metrics.BoundaryError`.

    Args:
        classes: number of classes.
        output_transform: takes prediction and label from the engine's output.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from medseg_monai.handlers import MeanBoundaryError
        >>> engine = Engine(lambda engine, batch: batch)
        >>> MeanBoundaryError(classes=2).attach(engine, "val_mae")
        >>> found, label = torch.tensor([[[[0], [0], [0], [1]]]]), torch.tensor([[[[0], [1], [1], [1]]]])
        >>> engine.run([(found, label)]).metrics["val_mae"]
        2.0
    """

    def __init__(self, classes: int, output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        super().__init__(metric_fn=BoundaryError(classes), output_transform=output_transform)
