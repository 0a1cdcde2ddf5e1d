"""Training on one manufacturer's images and testing on another's: Table IV of DEFU-Net's paper."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from medseg_monai.bundle import check_overrides, evaluate, find_bundle, train
from medseg_monai.data import Datalist, Item, split_by_patient, write_datalist
from medseg_monai.files import write_json, write_text
from medseg_monai.handlers import CHECKPOINT_NAME
from medseg_monai.report import format_table, installed_versions

__all__ = ["MIXED", "PAPER_SCORES", "ExperimentResult", "cross_manufacturer_datalist", "run_cross_manufacturer"]

MIXED = "mixed"
"""Name that stands for all data sets together, for ``train`` and ``test``."""

PAPER_SCORES: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("montgomery", "shenzhen"): {
        "U-Net": (0.8556, 0.8568),
        "Res-U-Net": (0.6642, 0.6653),
        "BCDU-Net": (0.9088, 0.9089),
        "Incep-Res-U-Net": (0.8896, 0.8918),
        "R2U-Net": (0.9122, 0.9141),
        "Att-R2U-Net": (0.9069, 0.9097),
        "DEFU-Net": (0.9154, 0.9158),
    },
    ("shenzhen", "montgomery"): {
        "U-Net": (0.7706, 0.7739),
        "Res-U-Net": (0.8162, 0.8191),
        "BCDU-Net": (0.7671, 0.9082),
        "Incep-Res-U-Net": (0.8984, 0.9022),
        "R2U-Net": (0.8659, 0.8713),
        "Att-R2U-Net": (0.8659, 0.8713),
        "DEFU-Net": (0.9227, 0.9231),
    },
    (MIXED, MIXED): {
        "U-Net": (0.9190, 0.9194),
        "Res-U-Net": (0.9602, 0.9605),
        "BCDU-Net": (0.9658, 0.9658),
        "Incep-Res-U-Net": (0.9616, 0.9620),
        "R2U-Net": (0.9647, 0.9648),
        "Att-R2U-Net": (0.9644, 0.9645),
        "DEFU-Net": (0.9667, 0.9667),
    },
}
"""Dice and F1 of DEFU-Net's paper: Table IV, and Table III for the mixture of Montgomery and Shenzhen."""

_PAPER_MIXTURE = {"montgomery", "shenzhen"}
_PAPER_NETWORK = "DEFU-Net"
_OWN_KEYS = ("seed", "datalist", "output_dir", "checkpoint")  # keys that the experiment sets itself
_MIXED_FRACTIONS = {"training": 528 / 704, "validation": 76 / 704, "test": 100 / 704}  # DEFU-Net's paper, III-A
_VALIDATION_FRACTION = 76 / 604  # the same share of the images that are not tested; the paper states none for Table IV
_RUN = "run.json"
_MEANING = "Dice and IoU are means over the test images; the paper's column is DEFU-Net's Dice."
_PAPER_MEANING = "The paper's Dice / F1 (Table IV; the mixture: Table III):"
_HEADER = ["train", "test", "training", "validation", "test cases", "epochs", "Dice", "IoU", "pooled Dice", "paper"]


@dataclass(frozen=True)
class ExperimentResult:
    """The results of the experiment.

    Attributes:
        output_dir: folder with ``results.json``, ``table.md`` and a folder for each run.
        runs: counts, epochs and metrics for each pair of training and test data.
        settings: bundle, seed, overrides and versions that belong to the numbers.

    Example:
        >>> from pathlib import Path
        >>> from medseg_monai.experiments import ExperimentResult
        >>> run = {
        ...     "train": "montgomery",
        ...     "test": "shenzhen",
        ...     "counts": {"training": 121, "validation": 17, "test": 566},
        ...     "epochs": 200,
        ...     "per_case": {"dice": {"mean": 0.915}, "iou": {"mean": 0.845}},
        ...     "pooled": {"dice": 0.917},
        ...     "paper": None,
        ... }
        >>> ExperimentResult(Path("runs/cxr"), [run], settings={}).rows()[0][:3]
        ['montgomery', 'shenzhen', 121]
    """

    output_dir: Path
    runs: list[dict[str, Any]]
    settings: dict[str, Any] = field(repr=False)

    def rows(self) -> list[list[Any]]:
        """Rows of the table; the last column is empty where the paper has no figure."""
        return [
            [
                run["train"],
                run["test"],
                *(run["counts"][section] for section in ("training", "validation", "test")),
                run["epochs"],
                run["per_case"]["dice"]["mean"],
                run["per_case"]["iou"]["mean"],
                run["pooled"]["dice"],
                f"{run['paper'][_PAPER_NETWORK][0]:.4f}" if run["paper"] else "",
            ]
            for run in self.runs
        ]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {**self.settings, "runs": self.runs}

    def as_text(self) -> str:
        """The result for a terminal."""
        return f"{format_table(_HEADER, self.rows())}\n{self.output_dir / 'table.md'}"

    def as_markdown(self) -> str:
        """The result for a web page, with the paper's table below it."""
        ours = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in self.rows()]
        text = f"{_markdown(_HEADER, ours)}\n\n{_MEANING}\n"
        compared = [run for run in self.runs if run["paper"]]
        if compared:
            networks = list(compared[0]["paper"])
            theirs = [
                [run["train"], run["test"], *("{:.4f} / {:.4f}".format(*run["paper"][name]) for name in networks)]
                for run in compared
            ]
            text += f"\n{_PAPER_MEANING}\n\n{_markdown(['train', 'test', *networks], theirs)}\n"
        return text


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def cross_manufacturer_datalist(data: Mapping[str, Sequence[Item]], pair: tuple[str, str], *, seed: int) -> Datalist:
    """Divide the images of a pair of training and test data, see :func:`run_cross_manufacturer`.

    Args:
        data: the labelled items of each data set, with ``patient``.
        pair: names of training and test data, or :data:`MIXED` twice.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``; ``source`` is the name of the data set.

    Example:
        >>> from medseg_monai.experiments import cross_manufacturer_datalist
        >>> data = {
        ...     name: [{"image": f"{name}_{number}.png", "patient": str(number)} for number in range(8)]
        ...     for name in ("montgomery", "shenzhen")
        ... }
        >>> datalist = cross_manufacturer_datalist(data, ("montgomery", "shenzhen"), seed=0)
        >>> {section: len(items) for section, items in datalist.items()}
        {'training': 7, 'validation': 1, 'test': 8}
    """
    # the same patient number in two hospitals means two patients
    items = {
        name: [{**item, "patient": f"{name}/{item['patient']}", "source": name} for item in data[name]] for name in data
    }
    if pair[0] == MIXED:
        return split_by_patient([item for name in data for item in items[name]], fractions=_MIXED_FRACTIONS, seed=seed)
    fractions = {"training": 1 - _VALIDATION_FRACTION, "validation": _VALIDATION_FRACTION}
    return {**split_by_patient(items[pair[0]], fractions=fractions, seed=seed), "test": items[pair[1]]}


def run_cross_manufacturer(
    bundle: str | os.PathLike[str],
    data: Mapping[str, Sequence[Item]],
    output_dir: str | os.PathLike[str],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    configs: Sequence[str] = ("train",),
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
) -> ExperimentResult:
    """Train and test a bundle within and across data sets, each from one manufacturer.

    A training on one data set uses all its images, of which a share (76 of 604) is held out by patient for validation,
    and is tested on all images of the other data set. :data:`MIXED` stands for all data sets together, divided by
    patient in the proportions of the paper (528, 76 and 100 of 704). The test images are used for nothing else.

    For each pair, ``output_dir`` gets a folder ``<train>_to_<test>`` with data list, training and evaluation. At the
    end, it gets ``results.json`` and ``table.md`` of all pairs that are complete there, including those of earlier
    calls.

    Args:
        bundle: name or path of a bundle whose evaluation states ``dice`` and ``iou``.
        data: the labelled items of each data set, with ``patient``.
        output_dir: new or empty folder; with ``resume``, the folder of an interrupted experiment.
        pairs: names of training and test data; by default all ordered pairs, then the mixture.
        configs: ``train`` and overlays.
        overrides: flat keys of the bundle and their values, except those that the experiment sets itself.
        seed: seed of the split and of the trainings.
        resume: keep the runs that are complete, continue the one that was interrupted, and add further pairs.

    Returns:
        the table, with the paper's figures where there are any.

    Raises:
        ValueError: an unknown name, a pair that trains on what it tests, fewer than two data sets, an override that is
            unknown or set by the experiment, a folder that is not empty, or a folder to resume that was started with
            other settings or other images.

    Example:
        This trains the bundle three times:

        >>> from medseg_monai.datasets import read_montgomery, read_shenzhen
        >>> from medseg_monai.experiments import run_cross_manufacturer
        >>> film = read_montgomery("MontgomerySet", derived="derived")  # doctest: +SKIP
        >>> digital = read_shenzhen("ChinaSet_AllFiles", derived="derived")  # doctest: +SKIP
        >>> data = {  # doctest: +SKIP
        ...     "montgomery": [item for section in film.values() for item in section],
        ...     "shenzhen": [item for section in digital.values() for item in section],
        ... }
        >>> result = run_cross_manufacturer("lung_cxr_defunet", data, "runs/manufacturers")  # doctest: +SKIP
        >>> print(result.as_text())  # doctest: +SKIP
    """
    names = list(data)
    pairs_in_order = [*permutations(names, 2), (MIXED, MIXED)]
    chosen = pairs_in_order if pairs is None else list(pairs)
    _check(names, chosen)
    _check_keys(bundle, configs, overrides or {})
    root = Path(output_dir).absolute()
    if root.is_dir() and any(root.iterdir()) and not resume:
        raise ValueError(f"{root}: not empty; continue with --resume, or give another --output-dir.")
    settings = {
        "bundle": find_bundle(bundle).name,
        "seed": seed,
        "configs": list(configs),
        "overrides": dict(overrides or {}),
        "data": {name: _fingerprint(data[name]) for name in names},
    }
    _remember(settings, root)
    for pair in chosen:
        datalist = cross_manufacturer_datalist(data, pair, seed=seed)
        _run(bundle, datalist, pair, _folder(root, pair), configs, {**(overrides or {}), "seed": seed})
    finished = [_folder(root, pair) / _RUN for pair in pairs_in_order]
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in finished if file.is_file()]
    for run in runs:
        run["paper"] = _paper_scores((run["train"], run["test"]), names)
    result = ExperimentResult(output_dir=root, runs=runs, settings={**settings, "versions": installed_versions()})
    write_json(root / "results.json", result.as_dict())
    write_text(root / "table.md", result.as_markdown())
    return result


def _check(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    if len(names) < 2 or MIXED in names:
        raise ValueError(f"Give two data sets or more, none of them named '{MIXED}', got {', '.join(names) or 'none'}.")
    for pair in pairs:
        for name in pair:
            if name not in (*names, MIXED):
                raise ValueError(f"{name}: no such data set; there are {', '.join([*names, MIXED])}.")
        if (pair[0] == pair[1]) != (MIXED in pair):
            raise ValueError(f"{pair[0]} to {pair[1]}: train on one and test on another, or '{MIXED}' for both.")


def _check_keys(bundle: str | os.PathLike[str], configs: Sequence[str], overrides: Mapping[str, Any]) -> None:
    own = [key for key in overrides if key in _OWN_KEYS]
    if own:
        raise ValueError(f"{', '.join(own)}: set by the experiment itself (the seed by --seed); leave it out.")
    check_overrides(bundle, configs, overrides)


def _fingerprint(items: Sequence[Item]) -> dict[str, Any]:
    """The number of images and the hash of their names, by which data sets of the same name are distinguished."""
    names = sorted(f"{item['patient']} {Path(item['image']).name}" for item in items)
    return {"images": len(names), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def _folder(root: Path, pair: tuple[str, str]) -> Path:
    return root / f"{pair[0]}_to_{pair[1]}"


def _paper_scores(pair: tuple[str, str], names: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """The paper's figures for a pair; for the mixture only if it is the paper's own."""
    return None if MIXED in pair and set(names) != _PAPER_MIXTURE else PAPER_SCORES.get(pair)


def _remember(settings: dict[str, Any], root: Path) -> None:
    """Write the settings that the runs of a folder share, or compare them with those that are written there."""
    path = root / "settings.json"
    if not path.is_file():
        write_json(path, settings)
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        changed = [key for key in settings if before.get(key) != settings[key]]
        raise ValueError(f"{path}: started with another {', '.join(changed)}; give the same, or another --output-dir.")


def _run(
    bundle: str | os.PathLike[str],
    datalist: Datalist,
    pair: tuple[str, str],
    folder: Path,
    configs: Sequence[str],
    overrides: Mapping[str, Any],
) -> None:
    """Train and test one pair, unless an earlier call completed it."""
    finished = folder / _RUN
    if finished.is_file():
        return
    path = folder / "datalist.json"
    write_datalist(datalist, path)
    values = {**overrides, "datalist": str(path), "output_dir": str(folder / "training")}
    trained = train(bundle, configs=configs, overrides=values, resume=(folder / "training" / CHECKPOINT_NAME).is_file())
    values |= {"output_dir": str(folder), "checkpoint": str(trained.model)}
    summary = evaluate(bundle, configs=[*configs, "evaluate"], overrides=values)
    run = {
        "train": pair[0],
        "test": pair[1],
        "counts": {section: len(items) for section, items in datalist.items()},
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "validation": trained.best_metric,
        "model": str(trained.model.relative_to(folder.parent)),
        "per_case": summary["per_case"],
        "pooled": summary["pooled"],
        "dice_by_source": _dice_by_source(Path(summary["output_dir"]) / "cases.csv", datalist["test"]),
    }
    write_json(finished, run)


def _dice_by_source(cases: Path, items: Sequence[Item]) -> dict[str, float]:
    """Mean Dice of the test cases of each data set."""
    with cases.open(newline="", encoding="utf-8") as stream:
        values = [float(row["dice"]) for row in csv.DictReader(stream)]
    sources = [str(item["source"]) for item in items]
    return {
        name: float(np.nanmean([value for value, source in zip(values, sources, strict=True) if source == name]))
        for name in sorted(set(sources))
    }
