"""One case in, one prediction out: the place where every mask is made."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate
from monai.transforms import Compose, SaveImaged

from medseg_monai.data.datalist import Item
from medseg_monai.data.savers import CaseSaver

from .loader import build_workflow
from .weights import file_sha256

__all__ = ["Prediction", "Predictor"]

_SAVERS = (SaveImaged, CaseSaver)
_PHASES = ("reading", "network", "postprocessing")
_NO_SETTINGS = ("dataset_dir", "output_dir", "checkpoint", "device", "num_workers")  # these change no prediction


@dataclass(frozen=True)
class Prediction:
    """What a bundle makes of one case.

    Attributes:
        data: the item after the bundle's postprocessing; ``data["pred"]`` is the mask ``[C, *spatial]`` in the
            geometry of the input, ``data["image"]`` the network's input.
        phases: wall time in seconds of ``reading`` (with preprocessing), ``network`` and ``postprocessing``.
        peak_memory_mib: peak of the accelerator's memory during the case, or of the process' resident memory so far.
    """

    data: dict[str, Any] = field(repr=False)
    phases: dict[str, float]
    peak_memory_mib: float

    @property
    def mask(self) -> torch.Tensor:
        """The mask, ``[C, *spatial]`` in the geometry of the input."""
        mask: torch.Tensor = self.data["pred"]
        return mask


class Predictor:
    """The loaded network, preprocessing, inferer and postprocessing of a bundle's ``inference.json``.

    It keeps nothing from one case to the next, so that a bad case cannot touch another. ``python -m monai.bundle
    run`` drives the same objects by the bundle's evaluator and makes the same masks.

    Args:
        bundle: name or path of the bundle.
        checkpoint: weights to use instead of the bundle's ``models/model.pt``.
        overrides: flat keys of ``inference.json`` and their values.

    Attributes:
        cases: items of what the override ``dataset_dir`` (a path or several) stands for, found as the bundle finds
            them; none without it.
        settings: the overrides that a prediction depends on.
        model_sha256: SHA-256 of the file of weights.

    Raises:
        BundleError: no such bundle, override or weights, or weights that do not fit.
        RuntimeError: MONAI's round any error of the config's parts, such as a ``dataset_dir`` without an input.
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
        # before the network is loaded, so that a wrong path is told at once
        self.cases: list[Item] = parser.get_parsed_content("dataset#data") if "dataset_dir" in values else []
        self.checkpoint = Path(parser.get_parsed_content("checkpoint"))
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        self.model_sha256 = file_sha256(self.checkpoint)
        self.device = torch.device(parser.get_parsed_content("device"))
        self.amp = bool(parser.get_parsed_content("amp"))
        self.preprocessing: Compose = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        transforms = parser.get_parsed_content("postprocessing").transforms
        self.postprocessing = Compose([t for t in transforms if not isinstance(t, _SAVERS)])
        self.savers = [t for t in transforms if isinstance(t, _SAVERS)]

    def __call__(self, case: Mapping[str, Any]) -> Prediction:
        """Predict one case.

        Args:
            case: item of a data list; ``case["image"]`` is the path.

        Returns:
            the prediction, not yet written.

        Raises:
            Exception: whatever reading, network or postprocessing raise; the predictor stays usable.
        """
        times = [time.perf_counter()]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        batch = list_data_collate([self.preprocessing(dict(case))])
        times.append(time.perf_counter())
        with torch.no_grad(), torch.autocast(self.device.type, enabled=self.amp):
            batch["pred"] = self.inferer(batch["image"].to(self.device), self.network)
        times.append(time.perf_counter())
        data = self.postprocessing(decollate_batch(batch)[0])
        times.append(time.perf_counter())
        phases = {name: end - start for name, start, end in zip(_PHASES, times, times[1:], strict=False)}
        return Prediction(data=data, phases=phases, peak_memory_mib=self._peak_memory())

    def save(self, prediction: Prediction, output_dir: str | os.PathLike[str]) -> list[Path]:
        """Write a prediction as the bundle's last transforms say: named after its input, each file all or nothing.

        Args:
            prediction: what :meth:`__call__` returned.
            output_dir: folder to write into, in place of the config's.

        Returns:
            the files written.

        Raises:
            OSError: the folder cannot be written.
        """
        written = []
        for transform in self.savers:
            if isinstance(transform, CaseSaver):
                transform.output_dir = str(output_dir)
                written += transform.save(prediction.data)
                continue
            transform.saver.folder_layout.output_dir = str(output_dir)
            data = transform(dict(prediction.data))
            written += [Path(data[key].meta["saved_to"]) for key in transform.key_iterator(data)]
        return written

    def _peak_memory(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage counts bytes there, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
