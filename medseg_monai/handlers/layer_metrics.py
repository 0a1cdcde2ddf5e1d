"""Evaluation tables for layers: the mean absolute error of each boundary, and the overlap."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg_monai.layers import IGNORED, boundaries_of_labels, boundary_names
from medseg_monai.metrics import boundary_distances, count_voxels, metrics_from_counts

from .case_metrics import CaseTable

__all__ = ["LayerMetrics"]

FloatArray = npt.NDArray[np.float64]
LabelMap = npt.NDArray[np.uint8]

_METRICS = ("mae", "dice")
_AXIAL = "axial_um"
_EXPERT = "label_expert"


class LayerMetrics(CaseTable):
    """Compare the boundaries of a label map with those of its reference; write ``cases.csv`` and ``summary.json``.

    The handler expects decollated items with ``pred`` and ``label`` of shape ``[1, H, W]``, classes in order of depth
    in the B-scan's own grid, in the evaluator's output or in its batch. The label is 255 in columns that nobody has
    drawn: they do not count, and the table says how many there are.

    For each case, ``mae_<name>`` is the mean of ``|y_b - y_b of the reference|`` over the columns, in pixels, and
    ``mae`` the mean over the boundaries. If the image's metadata or the item has the spacing of the rows as
    ``axial_um``, or it is given, ``mae_um`` is ``mae`` in micrometres. An item with ``label_expert2`` has the same
    columns for that expert (``mae_expert2``), and the distance between both experts (``mae_between_expert2``).
    ``dice`` is the mean over all classes, with that above the first boundary and that below the last.

    ``summary.json`` states ``per_case`` the statistics of each column over the cases, and ``pooled`` the error over the
    columns of all cases together and the Dice coefficient of their pixels. ``boundaries`` has that error of each
    boundary, as the paper's table: against the label, against further experts, and between the experts.

    Args:
        output_dir: folder for the two files.
        classes: number of classes.
        names: names of the boundaries, see :func:`medseg_monai.layers.boundary_names`.
        metrics: names among ``"mae"`` and ``"dice"``.
        axial_um: spacing of the rows in micrometres, for images of which neither their file nor their item states it.

    Raises:
        ValueError: another number of names than of boundaries, or an unknown metric.

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
        ...     LayerMetrics(folder, classes=3, names=["ILM", "BM"], metrics=["mae"]).attach(evaluator)
        ...     _ = evaluator.run([[{"image": image, "pred": pred, "label": label, "axial_um": 2.0}]])
        ...     print(Path(folder, "cases.csv").read_text())
        case,mae,mae_ILM,mae_BM,mae_um,columns,columns_without_truth
        eye,1.5,3.0,0.0,3.0,3,1
        <BLANKLINE>

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section III-F and Table V. The paper gives no unit.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        classes: int,
        names: Sequence[str] = (),
        metrics: Sequence[str] = _METRICS,
        *,
        axial_um: float | None = None,
    ) -> None:
        unknown = sorted(set(metrics) - set(_METRICS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such metric; known metrics: {', '.join(_METRICS)}.")
        self.classes = classes
        self.names = boundary_names(classes, names)
        self.metrics = tuple(metrics)
        self.axial_um = axial_um
        super().__init__(output_dir)

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.errors: dict[str, tuple[FloatArray, FloatArray]] = {}
        self.counts = torch.zeros(self.classes, 4, dtype=torch.int64)
        self.without_truth = 0

    def settings(self) -> dict[str, Any]:
        """Return the unit, how many columns had no truth, and the error of each boundary over all columns."""
        pairs = {
            suffix.removeprefix("_") or "label": dict(zip(self.names, _divided(*found).tolist(), strict=True))
            for suffix, found in self.errors.items()
        }
        unit = "pixels of the rows; micrometres where a name has _um"
        return {"unit": unit, "columns_without_truth": self.without_truth, "boundaries": pairs}

    def compare(self, item: Mapping[str, Any], file: Path) -> dict[str, float]:
        """Compute the values of one case.

        Args:
            item: the case.
            file: its image.

        Raises:
            ValueError: a label has another size than the prediction.
        """
        maps = {key: _label_map(item, key, file) for key in ("pred", *_labels(item))}
        row: dict[str, float] = {}
        if "mae" in self.metrics:
            row |= self._boundary_errors(maps, self._axial_um(item))
            without_truth = int((maps["label"] == IGNORED).any(axis=0).sum())
            self.without_truth += without_truth
            row |= {"columns": maps["label"].shape[1] - without_truth, "columns_without_truth": without_truth}
        if "dice" in self.metrics:
            row["dice"] = self._dice(maps["pred"], maps["label"])
        return row

    def pool(self) -> dict[str, float]:
        """Compute the metrics over the columns and pixels of all cases together."""
        pooled: dict[str, float] = {}
        if "mae" in self.metrics:
            pooled["mae"] = float(_divided(*self.errors[""]).mean()) if self.errors else float("nan")
        if "dice" in self.metrics:
            pooled["dice"] = _mean_dice(self.counts)
        return pooled

    def _boundary_errors(self, maps: Mapping[str, LabelMap], axial_um: float | None) -> dict[str, float]:
        places = {key: boundaries_of_labels(values, self.classes) for key, values in maps.items()}
        pairs = {"": ("pred", "label")}
        for key in (key for key in maps if key.startswith(_EXPERT)):
            suffix = key.removeprefix("label")
            pairs |= {suffix: ("pred", key), f"_between{suffix}": ("label", key)}
        row: dict[str, float] = {}
        for suffix, (one, other) in pairs.items():
            distances = boundary_distances(places[one], places[other])
            sums, counts = np.nansum(distances, axis=-1), np.isfinite(distances).sum(axis=-1).astype(np.float64)
            before = self.errors.get(suffix, (np.zeros_like(sums), np.zeros_like(counts)))
            self.errors[suffix] = (before[0] + sums, before[1] + counts)
            errors = _divided(sums, counts)
            row[f"mae{suffix}"] = float(errors.mean())
            row |= {f"mae_{name}{suffix}": error for name, error in zip(self.names, errors.tolist(), strict=True)}
            if axial_um is not None:
                row[f"mae_um{suffix}"] = row[f"mae{suffix}"] * axial_um
        return row

    def _dice(self, found: LabelMap, truth: LabelMap) -> float:
        counted = truth != IGNORED
        pixels, expected = torch.from_numpy(found[counted]), torch.from_numpy(truth[counted])
        counts = torch.stack([count_voxels(pixels == label, expected == label) for label in range(self.classes)])
        self.counts += counts
        return _mean_dice(counts)

    def _axial_um(self, item: Mapping[str, Any]) -> float | None:
        """The spacing of the rows: as the file states it, else as the data list does, else as given."""
        for stated in (item["image"].meta.get(_AXIAL), item.get(_AXIAL), self.axial_um):
            if stated is not None and np.isfinite(float(stated)):
                return float(stated)
        return None


def _label_map(item: Mapping[str, Any], key: str, file: Path) -> LabelMap:
    values, shape = item[key], tuple(item["pred"].shape)
    if tuple(values.shape) != shape or shape[0] != 1 or len(shape) != 3:
        raise ValueError(
            f"{file}: its {key} has shape {tuple(values.shape)}, but the prediction has {shape}; "
            "give a label of the B-scan's size."
        )
    return np.asarray(torch.as_tensor(values).as_subclass(torch.Tensor).cpu())[0].astype(np.uint8)


def _labels(item: Mapping[str, Any]) -> list[str]:
    return ["label", *sorted(key for key in item if str(key).startswith(_EXPERT))]


def _divided(sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _mean_dice(counts: torch.Tensor) -> float:
    """The mean over the classes that are present in prediction or label."""
    each = [metrics_from_counts(of_class, ["dice"])["dice"] for of_class in counts]
    defined = [value for value in each if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
