"""Evaluation tables: one row for each case, and a summary with statistics per case and pooled."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey

from medseg_monai.data.names import item_name
from medseg_monai.files import write_csv, write_json
from medseg_monai.metrics import (
    CONTOUR_METRICS,
    DICE_CONVENTION,
    METRICS,
    contour_scores,
    count_scores,
    count_voxels,
    metrics_from_counts,
    roc_auc,
    roc_auc_from_counts,
)

__all__ = ["TABLES", "CaseMetrics", "CaseTable"]

TABLES = ("cases.csv", "summary.json")
"""Names of the two files of an evaluation."""

_FOV = ("inside", "ignore")


class CaseTable(ABC):
    """A table with one row for each case (``cases.csv``) and statistics per case and pooled (``summary.json``).

    A case has its name in the data list, that of its prediction's files, see
    :func:`medseg_monai.data.names.name_cases`.

    The handler expects decollated items with an ``image`` whose metadata name its file, in the evaluator's output or in
    its batch. A subclass defines how a case is compared (:meth:`compare`) and how the cases are pooled (:meth:`pool`).

    Args:
        output_dir: folder for the two files.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.output_dir = Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all cases."""
        self.rows: list[dict[str, Any]] = []

    @abstractmethod
    def compare(self, item: Mapping[str, Any], file: Path) -> dict[str, float]:
        """Compute the values of one case, by the names of their columns.

        Args:
            item: the case.
            file: its image, for error messages.
        """

    @abstractmethod
    def pool(self) -> dict[str, float]:
        """Compute the pooled values of all cases, by the names of the metrics."""

    def settings(self) -> dict[str, Any]:
        """Return what the summary states in addition to the values."""
        return {}

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: evaluator with decollated output.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.reset())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add_cases)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def add_cases(self, engine: Engine) -> None:
        """Add the cases of one iteration.

        Args:
            engine: evaluator.

        Raises:
            ValueError: a mask does not fit the prediction of its image.
        """
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            item = {**case, **output}  # MONAI moves only image, label and later results from batch to output
            file = Path(item["image"].meta[ImageMetaKey.FILENAME_OR_OBJ])
            self.rows.append({"case": item_name(item), **self.compare(item, file)})

    def write(self, engine: Engine) -> None:
        """Write both files, and store the means in ``engine.state.metrics`` as ``test_<metric>``.

        Args:
            engine: evaluator.
        """
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        cases, means = (self.output_dir / name for name in TABLES)
        write_csv(cases, self.rows, columns)
        summary = self.summarize()
        write_json(means, _json_ready(summary))
        for name, statistics in summary["per_case"].items():
            engine.state.metrics[f"test_{name}"] = statistics["mean"]

    def summarize(self) -> dict[str, Any]:
        """Compute the statistics of all cases so far, per case and pooled."""
        names = [key for key in dict.fromkeys(k for row in self.rows for k in row) if key != "case"]
        per_case = {name: _statistics([row[name] for row in self.rows if name in row]) for name in names}
        facts = {"cases": len(self.rows), "convention": DICE_CONVENTION, **self.settings()}
        return {**facts, "per_case": per_case, "pooled": self.pool()}


class CaseMetrics(CaseTable):
    """Compare each case with its label and with those of further experts; write ``cases.csv`` and ``summary.json``.

    The handler expects decollated items with ``pred`` (the mask that a prediction writes, after all postprocessing) and
    ``label`` of shape ``[1, *spatial]`` at the image's own size; for ``"auc"``, ``"v_rand"`` and ``"v_info"`` it also
    needs ``probability``, that of the foreground. Optional are ``fov`` (only the pixels inside it count) and
    ``label_expert1`` … (each expert gets columns of its own, named ``dice_expert1`` …, and ``dice_experts`` is their
    mean). Each may be in the evaluator's output or in its batch.

    ``summary.json`` has two entries for each metric. ``per_case`` holds the mean, the standard deviation (of the
    population of cases), the minimum and the maximum over the cases; it leaves out cases where the metric is undefined
    and states how many there are. ``pooled`` is the metric of the pixels of all cases together; ``"v_rand"`` and
    ``"v_info"``, which compare cells and not pixels, are not pooled. An undefined value is ``nan`` in the table and
    ``null`` in the summary, since JSON has no ``nan``.

    Args:
        output_dir: folder for the two files.
        metrics: names from :data:`medseg_monai.metrics.METRICS` and :data:`medseg_monai.metrics.CONTOUR_METRICS`.
        threshold: the one of the postprocessing; the summary states it.
        fov: ``"inside"`` counts what lies inside a case's ``fov``; ``"ignore"`` counts the whole image, as CE-Net's
            authors do. Where no case has a ``fov``, both are the same.

    Raises:
        ValueError: a metric or the word for ``fov`` is unknown.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.handlers import CaseMetrics
        >>> case = {
        ...     "image": MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": "eye.png"}),
        ...     "pred": torch.tensor([[[1, 1], [0, 0]]]),
        ...     "label": torch.tensor([[[1, 0], [0, 0]]]),
        ... }
        >>> evaluator = Engine(lambda engine, batch: batch)  # stands for MONAI's SupervisedEvaluator
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CaseMetrics(folder, metrics=["iou", "recall"]).attach(evaluator)
        ...     _ = evaluator.run([[case]])
        ...     Path(folder, "cases.csv").read_text().splitlines()
        ['case,iou,recall', 'eye,0.5,1.0']
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        metrics: Sequence[str],
        *,
        threshold: float = 0.5,
        fov: str = "inside",
    ) -> None:
        known = (*METRICS, *CONTOUR_METRICS)
        unknown = sorted(set(metrics) - set(known))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such metric; known metrics: {', '.join(known)}.")
        if fov not in _FOV:
            raise ValueError(f"fov={fov!r} is unknown: choose from {', '.join(_FOV)}.")
        self.fov = fov
        self.names = tuple(metrics)
        self.count_names = [name for name in metrics if name != "auc" and name not in CONTOUR_METRICS]
        self.contour_names = [name for name in metrics if name in CONTOUR_METRICS]
        self.with_auc = "auc" in metrics
        self.threshold = threshold
        super().__init__(output_dir)

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self.counts: dict[str, torch.Tensor] = {}
        self.scores: dict[str, torch.Tensor] = {}
        self.with_fov = False

    def settings(self) -> dict[str, Any]:
        """Return the threshold and, if there are fields of view, how they were treated."""
        return {"threshold": self.threshold, **({"fov": self.fov} if self.with_fov else {})}

    def compare(self, item: Mapping[str, Any], file: Path) -> dict[str, float]:
        """Compute the values of one case for its label and for those of further experts.

        Args:
            item: the case.
            file: its image.

        Raises:
            ValueError: a mask has another size than the prediction.
        """
        _check_shapes(item, file)
        inside = self._counted(item)
        mask = item["pred"].cpu()[inside]
        row: dict[str, float] = {}
        for key in _labels(item):
            suffix = key.removeprefix("label")
            label = item[key].cpu()[inside]
            counts = count_voxels(mask, label)
            self.counts[suffix] = self.counts.get(suffix, torch.zeros_like(counts)) + counts
            values = metrics_from_counts(counts, self.count_names)
            if self.with_auc:
                probability = item["probability"].cpu()[inside]
                values["auc"] = roc_auc(probability, label)
                scores = count_scores(probability, label)
                self.scores[suffix] = self.scores[suffix] + scores if suffix in self.scores else scores
            if self.contour_names:  # a pixel outside the field of view does not count, as one on a membrane
                truth = item[key].cpu() * inside
                values.update(contour_scores(item["probability"].cpu(), truth, self.contour_names))
            row.update({name + suffix: value for name, value in values.items()})
        return self._with_mean_of_experts(row)

    def pool(self) -> dict[str, float]:
        """Compute the metrics of the pixels of all cases together."""
        pooled: dict[str, float] = {}
        for suffix, counts in self.counts.items():
            values = metrics_from_counts(counts, self.count_names)
            if self.with_auc:
                values["auc"] = roc_auc_from_counts(self.scores[suffix])
            pooled.update({name + suffix: value for name, value in values.items()})
        return self._with_mean_of_experts(pooled)

    def _counted(self, item: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.with_fov |= "fov" in item
        if "fov" in item and self.fov == "inside":
            return item["fov"].cpu() > 0
        return torch.ones(item["label"].shape, dtype=torch.bool)

    def _with_mean_of_experts(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add each metric's mean over the experts, leaving out those for whom it is undefined."""
        result = dict(values)
        for name in self.names:
            experts = [value for key, value in values.items() if key.startswith(f"{name}_expert")]
            if experts:
                result[f"{name}_experts"] = float(_statistics(experts)["mean"])
        return result


def _labels(item: Mapping[str, torch.Tensor]) -> list[str]:
    return ["label", *sorted(key for key in item if str(key).startswith("label_expert"))]


def _check_shapes(item: Mapping[str, torch.Tensor], file: Path) -> None:
    shape = tuple(item["pred"].shape)
    for key in [*_labels(item), *(key for key in ("fov", "probability") if key in item)]:
        if tuple(item[key].shape) != shape:
            raise ValueError(
                f"{file}: its {key} has shape {tuple(item[key].shape)}, but the image and its prediction have {shape}; "
                "give a mask of the image's size."
            )


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _statistics(values: Sequence[float]) -> dict[str, float | int]:
    defined = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    statistics: dict[str, float | int] = {"undefined": len(values) - len(defined)}
    if len(defined):
        statistics |= {
            "mean": float(defined.mean()),
            "std": float(defined.std()),
            "min": float(defined.min()),
            "max": float(defined.max()),
        }
    else:
        statistics |= dict.fromkeys(("mean", "std", "min", "max"), float("nan"))
    return statistics
