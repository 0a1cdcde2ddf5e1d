"""Pruning: the smallest part of a network with supervision at several levels that is still accurate enough."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import nn
from tqdm import tqdm

from medseg_monai.data import Item, load_datalist
from medseg_monai.data.datalist import item_paths
from medseg_monai.files import file_sha256, refuse_given
from medseg_monai.metrics import count_voxels, metrics_from_counts
from medseg_monai.networks.weights import ModelFile, copy_model, write_model
from medseg_monai.networks.weights.model_file import settings_file
from medseg_monai.report import format_table, installed_versions

from .loader import BundleError, build_workflow, find_bundle, flat_keys, merged_config
from .predictor import Predictor
from .training_data import read_label, refuse_unlabelled

__all__ = ["LevelResult", "PruningResult", "choose_level", "measure_levels", "prune"]

_HEADER = ["level", "parameters", "network s", "total s", "Dice", "IoU", "difference"]
_ROUNDING = 1e-9  # in floating point, 0.9 - 0.895 is more than 0.005


@dataclass(frozen=True)
class LevelResult:
    """The results on labelled cases of the network pruned to one level.

    Attributes:
        level: the level; 1 is the shallowest.
        parameters: number of parameters of the pruned network.
        network_seconds: wall time of the network for all cases.
        total_seconds: wall time of reading, network and postprocessing for all cases.
        dice: mean Dice over the cases, in the grid of their files; cases for which it is undefined are left out.
        iou: mean IoU, likewise.

    Example:
        >>> from medseg_monai.bundle import LevelResult
        >>> result = LevelResult(1, parameters=900, network_seconds=1.0, total_seconds=3.0, dice=0.9, iou=0.82)
        >>> result.dice
        0.9
    """

    level: int
    parameters: int
    network_seconds: float
    total_seconds: float
    dice: float
    iou: float


@dataclass(frozen=True)
class PruningResult:
    """The measurements, the chosen level and the files of a pruning.

    Attributes:
        file: weights that were written.
        full: the full model that they come from.
        levels: results from level 1 to the deepest.
        level: the chosen level.
        record: all of this in the form that the settings of the file hold under ``"pruning"``.

    Example:
        >>> from dataclasses import asdict
        >>> from pathlib import Path
        >>> from medseg_monai.bundle import LevelResult, PruningResult
        >>> levels = [LevelResult(1, 900, 1.0, 3.0, 0.88, 0.8), LevelResult(2, 3600, 2.0, 4.0, 0.9, 0.82)]
        >>> rows = [{**asdict(level), "difference": level.dice - 0.9} for level in levels]
        >>> record = {"levels": rows, "cases": 12, "section": "validation", "device": "cpu", "threads": 2}
        >>> result = PruningResult(Path("model.pt"), Path("model_full.pt"), levels, level=1, record=record)
        >>> result.as_text().splitlines()[4]
        'level 1 of 2: 75.0% of the parameters less, Dice -0.0200'
    """

    file: Path
    full: Path
    levels: list[LevelResult]
    level: int
    record: dict[str, Any] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"file": str(self.file), "full": str(self.full), "sha256": file_sha256(self.file), **self.record}

    def as_text(self) -> str:
        """The result for a terminal, with a table like the paper's Table 6."""
        rows = [list(row.values()) for row in self.record["levels"]]
        deepest, chosen = self.levels[-1], self.levels[self.level - 1]
        saved = 1 - chosen.parameters / deepest.parameters
        return (
            f"{format_table(_HEADER, rows)}\n"
            f"{self.record['cases']} cases of '{self.record['section']}'; times are of all of them, on "
            f"{self.record['device']} with {self.record['threads']} CPU threads\n"
            f"level {self.level} of {deepest.level}: {saved:.1%} of the parameters less, "
            f"Dice {chosen.dice - deepest.dice:+.4f}\n"
            f"model: {self.file}\nfull model: {self.full}"
        )


def prune(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    *,
    section: str = "validation",
    max_dice_loss: float = 0.005,
    level: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> PruningResult:
    """Measure a network at each level it can be pruned to, and write the smallest that is accurate enough.

    The file holds a network that really is smaller, so the bundle predicts with it like with any other. Its settings
    are those of the full model except for ``features``, and ``pruning`` with the table and the data that it was
    measured on.

    Without ``output`` the file replaces the bundle's model (``models/model.pt``). A full model that it replaces is kept
    beside it (``models/model_full.pt``), and the next pruning starts from that model: pruning is not cumulative.

    Args:
        bundle: name or path of a bundle whose network can be pruned (``ANUNet``).
        datalist: data list with labelled cases.
        section: section of the data list; do not choose the level with data on which you report the accuracy.
        max_dice_loss: the largest loss of mean Dice against the full network.
        level: use this level, whatever it loses.
        checkpoint: full model; by default the bundle's, or the model kept beside it if the bundle's is pruned.
        output: file to write instead of the bundle's model.
        overrides: flat keys of ``inference.json`` and their values.

    Returns:
        the table and the choice.

    Raises:
        BundleError: no such bundle, override or weights, or weights that do not fit; a network that cannot be pruned;
            a full model that cannot be found, or that would be lost.
        ValueError: an unknown level, a negative ``max_dice_loss``, or cases without a label or with a label that the
            bundle's evaluation refuses.
        OSError: a file that cannot be read or written.

    Example:
        >>> import tempfile
        >>> from medseg_monai.bundle import prune
        >>> from medseg_monai.networks.nets import ANUNet
        >>> from medseg_monai.networks.weights import write_model
        >>> from medseg_monai.phantoms import write_abdomen_phantoms
        >>> features = [4, 4, 8, 8, 8]
        >>> network = ANUNet(2, 1, 1, features=features)  # with random weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     datalist = write_abdomen_phantoms(folder, counts={"validation": 1}, size=(8, 32, 40), seed=0)
        ...     full, small = f"{folder}/model.pt", f"{folder}/small.pt"
        ...     write_model(full, network.state_dict(), {"features": features, "image_size": [32, 48]})
        ...     result = prune(
        ...         "liver_ct_anunet", datalist, level=2, checkpoint=full, output=small, overrides={"fast": False}
        ...     )
        >>> result.level, [level.level for level in result.levels]
        (2, [1, 2, 3, 4])

    Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.5 ("evaluating the performance and inference time
    of the four sub-networks during validation") and Table 6.
    """
    if not max_dice_loss >= 0:
        raise ValueError(f"max_dice_loss={max_dice_loss}: must be 0 or more, a difference of Dice coefficients.")
    values = dict(overrides or {})
    given = checkpoint or values.pop("checkpoint", None)
    deployed = _deployed_model(bundle, values)
    target = deployed if output is None else Path(output)
    items = _labelled_items(datalist, section)
    full = Path(given) if given is not None else _full_model(deployed)
    _check_writable(target)
    named = [datalist, *(path for item in items for path in item_paths(item))]
    refuse_given([target, settings_file(target)], named, "name another file with -o")
    kept = _where_to_keep(target)
    predictor = Predictor(bundle, checkpoint=full, overrides=values)
    if level is not None and not 1 <= level <= _depth(predictor.network_def):
        raise ValueError(f"level {level}: {full} has the levels 1 to {_depth(predictor.network_def)}.")
    levels = measure_levels(predictor, items)
    chosen = choose_level(levels, max_dice_loss) if level is None else level
    record = {
        "level": chosen,
        "from_level": levels[-1].level,
        "max_dice_loss": max_dice_loss if level is None else None,
        "datalist": Path(datalist).name,
        "datalist_sha256": file_sha256(datalist),
        "section": section,
        "cases": len(items),
        "levels": [{**asdict(result), "difference": result.dice - levels[-1].dice} for result in levels],
        **_circumstances(predictor),
    }
    record = json.loads(json.dumps(record, default=str))  # a file of weights holds only plain values
    settings = {"bundle": predictor.model_file.bundle, **predictor.model_file.settings, "pruning": record}
    if kept is not None:
        full = _keep(target, kept, full)
    _write(predictor.network_def, chosen, settings, target)
    return PruningResult(target, full, levels, chosen, record)


def measure_levels(predictor: Predictor, items: Sequence[Item]) -> list[LevelResult]:
    """Predict labelled cases at each level that the network can be pruned to.

    Everything except the network is the predictor's own, and labels are read and checked as in the bundle's
    evaluation, so that the Dice coefficients are those of ``medseg evaluate``. Each level first makes one prediction
    that does not count, and then the levels take turns at each case, so that slow periods of the machine and cold
    caches affect all levels equally.

    Args:
        predictor: a bundle with the full network.
        items: cases with ``image`` and ``label``.

    Returns:
        a result for each level, from 1 on.

    Raises:
        ValueError: a label that the bundle's evaluation refuses, for instance because it has another size, lies
            elsewhere or has several structures; no case with anything labelled or predicted.
    """
    network: Any = predictor.network_def
    levels = range(1, _depth(network) + 1)
    predictors = [predictor.with_network(network.pruned(level)) for level in levels]
    seconds = np.zeros((len(predictors), 2))
    scores = np.full((len(predictors), len(items), 2), np.nan)
    load_transforms = _load_transforms(predictor)
    steps = (len(items) + 1) * len(predictors)
    with tqdm(total=steps, desc="measuring levels", unit="prediction", disable=None) as progress:
        for one in predictors:
            one({"image": items[0]["image"]})
            progress.update()
        for case, item in enumerate(items):
            label = read_label(item, load_transforms)
            for index, one in enumerate(predictors):
                prediction = one({"image": item["image"]})
                seconds[index] += prediction.phases["network"], sum(prediction.phases.values())
                counts = count_voxels(prediction.mask.cpu(), label.reshape(prediction.mask.shape))
                scores[index, case] = list(metrics_from_counts(counts, ["dice", "iou"]).values())
                progress.update()
    if np.isnan(scores[-1, :, 0]).all():
        raise ValueError(f"{items[0]['label']}: no label and no prediction here nor in any other case; check the list.")
    return [
        LevelResult(
            level,
            sum(values.numel() for values in one.network_def.parameters()),
            *map(float, seconds[index]),
            *(_mean(scores[index, :, metric]) for metric in range(2)),
        )
        for index, (level, one) in enumerate(zip(levels, predictors, strict=True))
    ]


def choose_level(levels: Sequence[LevelResult], max_dice_loss: float) -> int:
    """The smallest level whose mean Dice is at most ``max_dice_loss`` below that of the deepest level.

    Args:
        levels: results, the deepest last.
        max_dice_loss: difference of Dice coefficients, 0 or more.

    Example:
        >>> from medseg_monai.bundle import LevelResult, choose_level
        >>> scores = {1: 0.85, 2: 0.897, 3: 0.9}
        >>> choose_level([LevelResult(level, 0, 0.0, 0.0, dice, 0.0) for level, dice in scores.items()], 0.005)
        2
    """
    enough = levels[-1].dice - max_dice_loss - _ROUNDING
    return next((result.level for result in levels if result.dice >= enough), levels[-1].level)


def _deployed_model(bundle: str | os.PathLike[str], overrides: Mapping[str, Any]) -> Path:
    """Path of the bundle's model, if its network can be pruned."""
    parser = build_workflow(bundle, ["inference"], workflow_type="infer", overrides=overrides).parser
    parser.parse(reset=True)
    network = parser.get_parsed_content("network_def")
    if not hasattr(network, "pruned"):
        raise BundleError(
            f"{find_bundle(bundle).name}: {type(network).__name__} cannot be pruned: it has no heads at several "
            "levels; choose a bundle with ANUNet."
        )
    return Path(parser.get_parsed_content("checkpoint"))


def _depth(network: nn.Module) -> int:
    depth: int = network.depth  # type: ignore[assignment]  # to mypy any attribute is a tensor or a module
    return depth


def _labelled_items(datalist: str | os.PathLike[str], section: str) -> list[Item]:
    items = load_datalist(datalist, section)
    refuse_unlabelled(datalist, section, items)
    return items


def _kept_beside(model: Path) -> Path:
    return model.with_name(f"{model.stem}_full{model.suffix}")


def _is_pruned(model: Path) -> bool:
    return model.is_file() and "pruning" in ModelFile(model).settings


def _full_model(deployed: Path) -> Path:
    """The deployed model, or the model that it was pruned from."""
    kept = _kept_beside(deployed)
    if not _is_pruned(deployed):
        return deployed if deployed.is_file() or not kept.is_file() else kept
    if kept.is_file() and file_sha256(kept) == ModelFile(deployed).settings["pruning"]["source_sha256"]:
        return kept
    raise BundleError(
        f"{deployed}: already pruned, and {kept.name} beside it is not the model it was pruned from: "
        "give the full model with --checkpoint FILE."
    )


def _where_to_keep(target: Path) -> Path | None:
    """Where to keep the full model in ``target``; ``None`` if it holds none."""
    if not target.is_file() or _is_pruned(target):
        return None
    kept = _kept_beside(target)
    if kept.is_file() and file_sha256(kept) != file_sha256(target):
        raise BundleError(
            f"{target}: a full model, and {kept.name} beside it is another one: move one of them away, "
            "or write elsewhere with -o FILE."
        )
    return kept


def _keep(target: Path, kept: Path, full: Path) -> Path:
    """Copy the model that will be replaced, and return the path of ``full`` afterwards.

    It is a copy so that the bundle has a model at every moment.
    """
    if not kept.is_file():
        copy_model(target, kept)
    return kept if full.resolve() == target.resolve() else full


def _check_writable(target: Path) -> None:
    """Refuse a file that cannot be written before hours of predictions instead of after them."""
    if target.is_dir():
        raise IsADirectoryError(f"{target}: a folder; name the file to write.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{target.parent}: cannot be written to; write elsewhere with -o FILE.")


def _load_transforms(predictor: Predictor) -> list[Transform]:
    """The transforms by which the bundle's evaluation reads image and label and checks that they belong together."""
    root, configs = predictor.workflow.config_root_path.parent, ["train", "evaluate"]
    known = flat_keys(merged_config(root, configs))
    overrides = {key: value for key, value in predictor.settings.items() if key in known}
    overrides["checkpoint"] = str(predictor.checkpoint)
    parser = build_workflow(root, configs, workflow_type="train", overrides=overrides).parser
    parser.parse(reset=True)
    transforms: list[Transform] = parser.get_parsed_content("load_transforms")
    return transforms


def _circumstances(predictor: Predictor) -> dict[str, Any]:
    """Everything besides the data that the numbers of a table depend on."""
    metadata = predictor.workflow.parser.config["_meta_"]
    return {
        "source_sha256": predictor.model_sha256,
        "bundle": metadata["name"],
        "bundle_version": metadata["version"],
        "settings": predictor.settings,
        "device": str(predictor.device),
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
    }


def _mean(scores: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    defined = scores[~np.isnan(scores)]
    return float(defined.mean()) if len(defined) else float("nan")


def _write(network: nn.Module, level: int, settings: dict[str, Any], target: Path) -> None:
    """Write the weights of one level, with settings from which a bundle builds the network that they fit."""
    pruned = network.pruned(level)  # type: ignore[operator]  # to mypy any attribute is a tensor or a module
    state = pruned.state_dict()
    settings["features"] = list(pruned.infer_arguments(state)["features"])
    settings.pop("supervision_level", None)  # the deepest remaining head predicts
    write_model(target, state, settings)
