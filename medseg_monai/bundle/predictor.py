"""One case in, one prediction out: every mask is made here."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose
from torch import nn

from medseg_monai.data.datalist import Item
from medseg_monai.data.results.earlier import split_savers
from medseg_monai.data.results.save import save_all
from medseg_monai.networks.fast import make_fast
from medseg_monai.networks.weights import ModelFile

from .loader import build_workflow

__all__ = ["Prediction", "Predictor"]

_LOGGER = logging.getLogger(__name__)

_PHASES = ("reading", "network", "postprocessing")
_NO_SETTINGS = ("dataset_dir", "output_dir", "checkpoint", "device", "num_workers")  # these change no prediction
_NOT_HASHED = (*_NO_SETTINGS, "bundle_root", "_meta_")


@dataclass(frozen=True)
class Prediction:
    """A bundle's prediction for one case.

    Attributes:
        data: the item after the bundle's postprocessing; ``data["pred"]`` is the mask ``[C, *spatial]`` in the
            geometry of the input.
        image: the network's input ``[C, *spatial]`` in its own grid, even if the postprocessing has changed
            ``data["image"]``.
        phases: wall time in seconds of ``reading`` (with preprocessing), ``network`` and ``postprocessing``.
        peak_memory_mib: peak memory of the accelerator during the case, or of the process so far if there is none.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.bundle import Prediction
        >>> image = MetaTensor(torch.rand(1, 4, 5))
        >>> phases = {"reading": 0.1, "network": 0.5, "postprocessing": 0.1}
        >>> prediction = Prediction({"image": image, "pred": image > 0.5}, image, phases, peak_memory_mib=800.0)
        >>> prediction.mask.shape
        torch.Size([1, 4, 5])
    """

    data: dict[str, Any] = field(repr=False)
    image: MetaTensor = field(repr=False)
    phases: dict[str, float]
    peak_memory_mib: float

    @property
    def mask(self) -> MetaTensor:
        """The mask, ``[C, *spatial]`` in the geometry of the input."""
        mask: MetaTensor = self.data["pred"]
        return mask


class Predictor:
    """The loaded network, preprocessing, inferer and postprocessing of a bundle's ``inference.json``.

    A predictor keeps nothing from one case to the next, so a case that fails cannot affect another. ``python -m
    monai.bundle run`` uses the same objects through the bundle's evaluator and makes the same masks.

    Args:
        bundle: name or path of the bundle.
        checkpoint: weights to use instead of the bundle's ``models/model.pt``.
        overrides: flat keys of ``inference.json`` and their values.

    Attributes:
        cases: the cases in the override ``dataset_dir`` (one path or several), as the bundle finds them; none without
            this override.
        settings: the overrides that a prediction depends on.
        network: the network in the form used for prediction.
        network_def: the same network with the same weights as its own class, in eval mode.
        model_file: the file of weights with its settings.

    Raises:
        BundleError: no such bundle, override or weights, or weights that do not fit.
        RuntimeError: MONAI's error around any error in a part of the config, such as a ``dataset_dir`` without an
            input.

    Example:
        >>> import tempfile
        >>> from medseg_monai.bundle import Predictor
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> predictor = Predictor("lung_cxr_rescrnet", overrides={"fast": False})  # loads sooner, predicts slower
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 80), seed=0)
        ...     prediction = predictor({"image": f"{folder}/images/phantom_0001.png"})
        ...     written = predictor.save(prediction, f"{folder}/masks")
        >>> prediction.mask.shape, [path.name for path in written]
        (torch.Size([1, 64, 80]), ['phantom_0001.png'])
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        values = dict(overrides or {})
        if checkpoint is not None:
            values["checkpoint"] = str(checkpoint)
        self.settings = {key: value for key, value in values.items() if key not in _NO_SETTINGS}
        self.workflow = build_workflow(bundle, ["inference"], workflow_type="infer", overrides=values)
        parser: ConfigParser = self.workflow.parser
        parser.parse(reset=True)
        # before the network is loaded, so that a wrong path is reported at once
        self.cases: list[Item] = parser.get_parsed_content("dataset#data") if "dataset_dir" in values else []
        self.network: nn.Module = parser.get_parsed_content("network")
        self.network_def: nn.Module = parser.get_parsed_content("network_def")  # the weights were loaded into it
        self.model_file = _model_file(parser)
        self.device = torch.device(parser.get_parsed_content("device"))
        self.amp = bool(parser.get_parsed_content("amp"))
        self.preprocessing: Compose = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        steps, self.savers = split_savers(parser.get_parsed_content("postprocessing").transforms)
        self.postprocessing = Compose(steps)

    @property
    def checkpoint(self) -> Path:
        """The file of weights."""
        return Path(self.model_file.path or "")

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the file of weights."""
        return self.model_file.sha256

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the bundle's config with the overrides, without the keys that change no prediction.

        A copy of a bundle with an edited config has another one, although its name and version are the same.
        """
        config = {key: value for key, value in self.workflow.parser.config.items() if key not in _NOT_HASHED}
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def network_facts(self) -> dict[str, Any]:
        """The facts about the network for a report.

        They are its class and its number of parameters, the level of the head that predicts if the network is
        supervised at several levels, and the level that it was pruned from if it was pruned.
        """
        network = self.network_def
        facts = {"name": type(network).__name__, "parameters": sum(values.numel() for values in network.parameters())}
        if hasattr(network, "supervision_level"):
            facts["supervision_level"] = network.supervision_level
        pruning = self.model_file.settings.get("pruning")
        if isinstance(pruning, Mapping) and pruning.get("level") != pruning.get("from_level"):
            facts["pruned_from_level"] = pruning["from_level"]
        return facts

    def with_network(self, network: nn.Module) -> Self:
        """The same predictor with another network.

        Args:
            network: network in eval mode, on the same device; it predicts in its fast form if the network of this
                predictor does.

        Returns:
            a predictor that shares everything else with this one, including ``checkpoint`` and everything read from it.
        """
        other = copy.copy(self)
        other.network_def = network
        other.network = network if self.network is self.network_def else make_fast(network)
        return other

    def __call__(self, case: Mapping[str, Any]) -> Prediction:
        """Predict one case.

        What the results need of the input is checked before the network runs. If some of them cannot be written, one
        warning for each says why, and the others are made.

        Args:
            case: item of a data list; ``case["image"]`` is the path.

        Returns:
            the prediction, not yet written.

        Raises:
            ValueError: none of the results could be written.
            Exception: any error of reading, network or postprocessing; the predictor stays usable.
        """
        times = [time.perf_counter()]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        item = self.preprocessing(dict(case))
        self._check_results(item)
        batch = list_data_collate([item])
        times.append(time.perf_counter())
        batch["pred"] = self.infer(batch["image"], self.network)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # otherwise the network's time would count as postprocessing
        times.append(time.perf_counter())
        item = decollate_batch(batch)[0]
        image = item["image"]
        data = self.postprocessing(item)
        times.append(time.perf_counter())
        phases = {name: end - start for name, start, end in zip(_PHASES, times, times[1:], strict=False)}
        return Prediction(data=data, image=image, phases=phases, peak_memory_mib=self._peak_memory())

    def infer(self, images: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply a network to preprocessed images with the bundle's inferer.

        Args:
            images: ``[B, C, *spatial]``.
            network: :attr:`network`, or another callable with the same inputs and outputs.

        Returns:
            ``[B, C_out, *spatial]``, without gradients.
        """
        # as MONAI's evaluator, which scores and runs the same bundle: mixed precision on CUDA only
        with torch.no_grad(), torch.autocast("cuda", enabled=self.amp and self.device.type == "cuda"):
            output: torch.Tensor = self.inferer(images.to(self.device), network)
        return output

    def save(self, prediction: Prediction, output_dir: str | os.PathLike[str]) -> list[Path]:
        """Write a prediction with the bundle's last transforms; the files are named after the input.

        Each file is written completely or not at all.

        Args:
            prediction: a prediction from :meth:`__call__`.
            output_dir: folder to write into instead of the folder in the config.

        Returns:
            the files that were written.

        Raises:
            PartlySavedError: some results could not be written; the others were.
            OSError: the folder cannot be written.
        """
        return save_all(
            [(type(saver).__name__, partial(saver.save, prediction.data, output_dir)) for saver in self.savers]
        )

    def _check_results(self, item: Mapping[str, Any]) -> None:
        faults = [fault for saver in self.savers for fault in saver.check(item)]
        if faults and all(faults):
            raise ValueError("; ".join(faults))
        for fault in filter(None, faults):
            _LOGGER.warning("not to be written: %s", fault)

    def _peak_memory(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage counts bytes on macOS and KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _model_file(parser: ConfigParser) -> ModelFile:
    """The bundle's model file; bundles from before :class:`ModelFile` state only its path."""
    if "model_file" in parser:
        model: ModelFile = parser.get_parsed_content("model_file")
        return model
    return ModelFile(parser.get_parsed_content("checkpoint"))
