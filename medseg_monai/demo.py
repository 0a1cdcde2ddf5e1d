"""The demonstration: from phantoms to evaluated masks in a few minutes on a CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg_monai.bundle import Predictor, evaluate, predict_cases, train
from medseg_monai.data import RasterReader, find_images, load_datalist
from medseg_monai.metrics import count_voxels, metrics_from_counts
from medseg_monai.phantoms import PHANTOMS
from medseg_monai.report import RunReport, format_table
from medseg_monai.visualize import save_overlay

__all__ = ["DemoResult", "run_demo"]

TASK = "optic_disc_fundus"
BUNDLE = "optic_disc_fundus_cenet"
COUNTS = {"training": 54, "validation": 4, "test": 8}
PHANTOM_SIZE = (288, 320)
SETTINGS = {
    "crop_size": [128, 128],
    "image_size": [192, 192],
    "learning_rate": 0.0005,
    "max_epochs": 20,
    # the paper's jitter: the wider jitter of train_from_scratch takes too long to learn for a demonstration
    "scale_range": 0.1,
    "rotate_range": 0.0,
    "saturation_range": 5,
    "brightness_range": 15,
    "val_interval": 20,
    "overlay_interval": 20,
}


@dataclass(frozen=True)
class DemoResult:
    """The results of the demonstration.

    Attributes:
        rows: test case, Dice of its predicted mask file, seconds.
        folders: paths of the results by their names.

    Example:
        >>> from medseg_monai.demo import DemoResult
        >>> result = DemoResult(rows=[("a.png", 0.9, 0.2), ("b.png", 0.8, 0.2)], folders={"masks": "runs/demo/masks"})
        >>> print(result.as_text())
        case     Dice  seconds
        a.png  0.9000   0.2000
        b.png  0.8000   0.2000
        mean Dice 0.8500
        masks: runs/demo/masks
    """

    rows: list[tuple[str, float, float]]
    folders: dict[str, str]

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the test cases."""
        return sum(row[1] for row in self.rows) / len(self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        cases = [dict(zip(("case", "dice", "seconds"), row, strict=True)) for row in self.rows]
        return {"cases": cases, "mean_dice": self.mean_dice, **self.folders}

    def as_text(self) -> str:
        """The result for a terminal."""
        table = format_table(["case", "Dice", "seconds"], self.rows)
        lines = [f"{what}: {where}" for what, where in self.folders.items()]
        return "\n".join([table, f"mean Dice {self.mean_dice:.4f}", *lines])


def run_demo(output_dir: str | os.PathLike[str]) -> DemoResult:
    """Draw fundus phantoms, train the optic disc bundle on some of them, and predict and evaluate the others.

    Args:
        output_dir: new or empty folder for everything.

    Returns:
        the table of test cases and the paths of the results.

    Raises:
        ValueError: ``output_dir`` is not empty.
        RuntimeError: a test case could not be predicted.

    Example:
        This takes a few minutes:

        >>> from medseg_monai.demo import run_demo
        >>> result = run_demo("runs/demo")  # doctest: +SKIP
        >>> print(result.as_text())  # doctest: +SKIP
    """
    root = Path(output_dir).absolute()
    if root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root}: not empty; give another --output-dir, or remove it.")
    datalist = PHANTOMS[TASK](root / "phantoms", counts=COUNTS, size=PHANTOM_SIZE, seed=0)
    training = train(
        BUNDLE,
        configs=["train", "train_from_scratch"],
        overrides={"datalist": str(datalist), "output_dir": str(root / "training"), **SETTINGS},
    )
    test = load_datalist(datalist, "test")
    predictor = Predictor(BUNDLE, checkpoint=training.model)
    report = predict_cases(predictor, find_images([item["image"] for item in test]), root / "masks")
    if report.failed:
        raise RuntimeError(f"{report.failed[0].input}: {report.failed[0].error}")
    evaluation = evaluate(
        BUNDLE,
        configs=["train", "train_from_scratch", "evaluate"],
        overrides={"datalist": str(datalist), "output_dir": str(root), "checkpoint": str(training.model)},
    )
    return DemoResult(
        rows=_compare(test, report, root / "overlays"),
        folders={
            "masks": str(root / "masks"),
            "overlays": str(root / "overlays"),
            "report": str(root / "masks" / "report.json"),
            "evaluation": evaluation["output_dir"],
            "model": str(training.model),
            "MLflow": str(training.tracking_uri),
        },
    )


def _compare(test: list[dict[str, Any]], report: RunReport, overlays: Path) -> list[tuple[str, float, float]]:
    """Compare the mask files with the labels, as a user would, and draw both over the images."""
    read_image, read_mask = RasterReader(channels=3), RasterReader(channels=1)
    rows = []
    for item, case in zip(test, report.cases, strict=True):
        name = Path(item["image"]).name
        image, _ = read_image.get_data(read_image.read(item["image"]))
        mask, label = (
            read_mask.get_data(read_mask.read(path))[0][0] > 127 for path in (case.outputs[0], item["label"])
        )
        save_overlay(overlays / name, image, prediction=mask, label=label)
        rows.append((name, _dice(mask, label), case.seconds))
    return rows


def _dice(mask: npt.NDArray[np.bool_], label: npt.NDArray[np.bool_]) -> float:
    counts = count_voxels(torch.from_numpy(mask), torch.from_numpy(label))
    return metrics_from_counts(counts, ["dice"])["dice"]
