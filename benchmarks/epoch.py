"""Where the time of a training's epoch goes: the steps, the batches, and everything that happens beside them.

``python benchmarks/epoch.py --help`` lists the options; ``benchmarks/README.md`` reads the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ignite.engine import Events
from ignite.handlers import HandlersTimeProfiler
from monai.bundle import ConfigWorkflow

from medseg_monai.bundle import build_workflow, list_bundles, train

#: what an epoch has besides steps, by the handlers that do it
PARTS = {
    "ValidationHandler": "validation",
    "TrainingState": "checkpoint",
    "MLFlowHandler": "MLflow",
    "RunTracker": "MLflow",
    "WeightAverage": "average",
    "OverlaySaver": "overlays",
}
#: of a training, not of an epoch
ONCE = (Events.STARTED, Events.COMPLETED)


def profile(bundle: str, datalist: Path, epochs: int, overrides: dict[str, Any]) -> dict[str, float]:
    """Seconds of an epoch by what they were spent on, the mean over some epochs of ``medseg train``.

    Args:
        bundle: name of the bundle.
        datalist: its data list, with a validation section.
        epochs: number of epochs; reading the images for the first time comes before them.
        overrides: further flat keys.
    """
    profiler = HandlersTimeProfiler()

    def build(*args: Any, **kwargs: Any) -> ConfigWorkflow:
        workflow = build_workflow(*args, **kwargs)
        run = workflow.run

        def run_profiled() -> None:
            profiler.attach(workflow.parser.get_parsed_content("train#trainer"))
            run()

        workflow.run = run_profiled  # type: ignore[method-assign]
        return workflow

    with tempfile.TemporaryDirectory() as folder, mock.patch("medseg_monai.bundle.training.build_workflow", build):
        values = {"datalist": str(datalist), "output_dir": folder, "max_epochs": epochs, "val_interval": 1}
        train(bundle, overrides={**values, **overrides})
    found = {"steps": sum(profiler.processing_times), "batches": sum(profiler.dataflow_times)}
    for event, handlers in profiler.event_handlers_times.items():
        for name, times in handlers.items() if event not in ONCE else ():
            part = PARTS.get(name.split(".")[0], "other")
            found[part] = found.get(part, 0.0) + sum(times)
    return {part: seconds / epochs for part, seconds in found.items()}


def main() -> None:
    """Profile what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", choices=list_bundles())
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="flat key of the training")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    overrides = {key: json.loads(value) for key, _, value in (one.partition("=") for one in args.set)}
    found = profile(args.bundle, args.datalist, args.epochs, overrides)
    epoch = sum(found.values())
    print(f"| {args.bundle} | seconds an epoch | share |\n|---|---|---|")
    for part, seconds in sorted(found.items(), key=lambda item: -item[1]):
        print(f"| {part} | {seconds:.2f} | {seconds / epoch:.2f} |")


if __name__ == "__main__":
    main()
