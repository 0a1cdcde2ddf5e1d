"""Evaluation tables for several labels: the overlap and the surface distance of each, per case and pooled."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import find_objects

from medseg_monai.metrics import count_voxels, metrics_from_counts
from medseg_monai.transforms import same_grid

from .case_metrics import CaseTable

__all__ = ["LabelMetrics"]

LabelMap = npt.NDArray[np.uint8]

_COUNT_METRICS = ("dice", "iou", "precision", "recall")
_METRICS = (*_COUNT_METRICS, "hd95")
_DEFAULT_METRICS = ("dice", "iou", "hd95")
_MOST_LABELS = 255


class LabelMetrics(CaseTable):
    """Compare a label map with its reference, label by label; write ``cases.csv`` and ``summary.json``.

    The handler expects decollated items with ``pred`` and ``label`` of shape ``[1, *spatial]``, whole numbers on the
    grid of the image, in the evaluator's output or in its batch. The spacing comes from the label's affine, so that
    ``hd95`` is in mm.

    For a prediction ``X`` and a reference ``Y``, Dice is ``2 |X n Y| / (|X| + |Y|)``, IoU is ``|X n Y| / |X u Y|``,
    precision is ``|X n Y| / |X|`` and recall is ``|X n Y| / |Y|``; ``hd95`` is the larger of the two 95 % quantiles of
    the distances from one surface to the other. If a label is absent from both, its metrics are undefined (``nan``). If
    it is absent from one of them, its Dice and IoU are 0, it has no distance, and precision or recall is defined only
    if its denominator is not 0. The columns are each metric's mean over the labels for which it is defined (``iou``)
    and, if there are several labels, the value of each (``iou_<name>``).

    ``summary.json`` states ``per_case`` for every column: the mean, the standard deviation (of the population of
    cases), the minimum and the maximum, without the cases where it is undefined, and the number of those cases. It
    states ``pooled`` for every metric: the metric of the voxels of all cases together, averaged over the labels.
    Surfaces of different cases cannot be pooled, so ``hd95`` is not among them. Its ``per_case`` also states how many
    structures are ``missing``: only one of prediction and reference has them, so that the mean leaves them out.

    Args:
        output_dir: folder for the two files.
        names: names of the labels 1, 2, … for the columns.
        metrics: names among ``"dice"``, ``"iou"``, ``"precision"``, ``"recall"`` and ``"hd95"``.

    Raises:
        ValueError: a metric is unknown, or the names are missing, not unique or too many.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.handlers import LabelMetrics
        >>> label = torch.zeros(1, 4, 5, 6)
        >>> label[0, 0, 0], label[0, 3, 4] = 1, 2  # two rows of voxels
        >>> case = {
        ...     "image": MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": "ct.nii.gz"}),
        ...     "label": MetaTensor(label),
        ...     "pred": MetaTensor(label * (label == 1)),  # the second is missed
        ... }
        >>> evaluator = Engine(lambda engine, batch: batch)  # stands for MONAI's SupervisedEvaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     LabelMetrics(folder, names=["left", "right"], metrics=["dice"]).attach(evaluator)
        ...     _ = evaluator.run([[case]])
        ...     Path(folder, "cases.csv").read_text().splitlines()
        ['case,dice,dice_left,dice_right', 'ct,0.5,1.0,0.0']

    Source: Xie et al., "CTSU-Net", IEEE TMI 2020, Section IV-E: IoU and HD95 of each lobe "at the original resolution";
    "the overall performance … by computing the average of the per-lobe metrics". Li et al., "ANU-Net", Computers &
    Graphics 90, 2020, Eq. 9 to 12: Dice, IoU, precision and recall.
    """

    def __init__(
        self, output_dir: str | os.PathLike[str], names: Sequence[str], metrics: Sequence[str] = _DEFAULT_METRICS
    ) -> None:
        unknown = sorted(set(metrics) - set(_METRICS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such metric; known metrics: {', '.join(_METRICS)}.")
        if not 1 <= len(names) == len(set(names)) <= _MOST_LABELS:
            raise ValueError(f"names must be 1 to {_MOST_LABELS} different names, got {list(names)}.")
        self.names = tuple(names)
        self.metrics = tuple(metrics)
        self.count_names = [name for name in metrics if name in _COUNT_METRICS]
        super().__init__(output_dir)

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.counts = [torch.zeros(4, dtype=torch.int64) for _ in self.names]
        self.missing = dict.fromkeys(self.names, 0)

    def compare(self, item: Mapping[str, Any], file: Path) -> dict[str, float]:
        """Compute the values of one case.

        Args:
            item: the case.
            file: its image.

        Raises:
            ValueError: the label is not on the prediction's grid, or a map has values that are not labels.
        """
        _check_grids(item, file)
        maps = [self._label_map(item[key], key, file) for key in ("pred", "label")]
        spacing = _spacing(item["label"])
        boxes = [find_objects(values, max_label=len(self.names)) for values in maps]
        values = []
        for index, places in enumerate(zip(*boxes, strict=True)):
            masks = _cut(maps, index + 1, places)
            counts = count_voxels(*masks)
            self.counts[index] += counts
            self.missing[self.names[index]] += int(masks[0].any() != masks[1].any())
            row = metrics_from_counts(counts, self.count_names)
            if "hd95" in self.metrics:
                row["hd95"] = _hd95(*masks, spacing)
            values.append(row)
        return self._columns(values)

    def pool(self) -> dict[str, float]:
        """Compute the metrics of the voxels of all cases together, averaged over the labels."""
        values = [metrics_from_counts(counts, self.count_names) for counts in self.counts]
        return {name: _mean([row[name] for row in values]) for name in self.count_names}

    def summarize(self) -> dict[str, Any]:
        """Compute the statistics of all cases so far, and how many structures in only one mask have no distance."""
        summary = super().summarize()
        if "hd95" in self.metrics and self.rows:
            of_labels = {f"hd95_{name}": count for name, count in self.missing.items() if len(self.names) > 1}
            for column, count in {"hd95": sum(self.missing.values()), **of_labels}.items():
                summary["per_case"][column]["missing"] = count
        return summary

    def _columns(self, values: Sequence[Mapping[str, float]]) -> dict[str, float]:
        row: dict[str, float] = {}
        for metric in self.metrics:
            row[metric] = _mean([each[metric] for each in values])
            if len(self.names) > 1:
                row.update({f"{metric}_{name}": each[metric] for name, each in zip(self.names, values, strict=True)})
        return row

    def _label_map(self, image: torch.Tensor, key: str, file: Path) -> LabelMap:
        values = torch.as_tensor(image).as_subclass(torch.Tensor)[0].cpu()
        whole = values.to(torch.uint8)
        if not torch.equal(whole.to(values.dtype), values) or int(whole.max()) > len(self.names):
            raise ValueError(
                f"{file}: its {key} has values other than 0 to {len(self.names)} ({', '.join(self.names)}); "
                "give each label its number."
            )
        result: LabelMap = whole.numpy()
        return result


def _cut(
    maps: Sequence[LabelMap], label: int, places: Sequence[tuple[slice, ...] | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut both masks of one label to the smallest box around them, or to one background voxel if both are empty."""
    present = [place for place in places if place is not None]
    if present:
        box = tuple(
            slice(min(side.start for side in sides), max(side.stop for side in sides))
            for sides in zip(*present, strict=True)
        )
    else:
        box = (slice(0, 1),) * maps[0].ndim
    prediction, reference = (torch.from_numpy(values[box] == label) for values in maps)
    return prediction, reference


def _hd95(prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float]) -> float:
    if not (prediction.any() and reference.any()):
        return float("nan")
    distance = compute_hausdorff_distance(
        prediction[None, None], reference[None, None], include_background=True, percentile=95, spacing=spacing
    )
    return float(distance)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _spacing(image: MetaTensor) -> list[float]:
    spacing: list[float] = affine_to_spacing(image.affine, r=image.ndim - 1).tolist()
    return spacing


def _check_grids(item: Mapping[str, Any], file: Path) -> None:
    prediction, label = item["pred"], item["label"]
    if prediction.shape != label.shape or label.shape[0] != 1:
        raise ValueError(
            f"{file}: its label has shape {tuple(label.shape)}, but the prediction has {tuple(prediction.shape)}; "
            "give a label map with one channel and the image's size."
        )
    if not isinstance(label, MetaTensor):
        raise ValueError(f"{file}: its label has no affine, so its spacing is unknown; load it with LoadImaged.")
    if isinstance(prediction, MetaTensor) and not same_grid(prediction, label):
        raise ValueError(f"{file}: its label lies elsewhere than the prediction; give a label map on the image's grid.")
