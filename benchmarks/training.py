"""A training of each network in three loops, measured in one run: as it was, as it is, and a plain one of MONAI's.

``python benchmarks/training.py --help`` lists the options; ``benchmarks/README.md`` reads the table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver, ValidationHandler
from torch import nn

from medseg_monai.bundle import build_workflow, list_bundles
from medseg_monai.phantoms import phantom_writer

#: one bundle for each network, and the phantoms that fill an epoch with a few steps of its own batch size
BUNDLES: dict[str, dict[str, Any]] = {
    "retinal_vessel_fundus_cenet": {"size": (584, 565), "overrides": {"batch_size": 4}},
    "liver_ct_anunet": {"size": (8, 256, 256), "overrides": {"batch_size": 1, "slices_per_volume": 2}},
    "lung_cxr_defunet": {"size": (512, 480), "overrides": {"batch_size": 1, "image_size": [256, 256]}},
    "lung_cxr_rescrnet": {"size": (512, 480), "overrides": {"batch_size": 2, "image_size": [150, 170]}},
    "lung_lobe_ct_ctsunet": {
        "size": (64, 160, 160),
        "overrides": {"patches": 1, "patch_size": 100, "in_plane_size": 128},
    },
}
STEPS = 3
#: what earlier versions (commit 5267492) did
BEFORE: dict[str, Any] = {"amp": False, "channels_last": False}
OF_3D = "lung_lobe_ct_ctsunet"  # which had channels-last memory


def build(bundle: str, folder: Path, **overrides: Any) -> ConfigParser:
    """The config of a bundle's training on its phantoms, parsed.

    Args:
        bundle: name of the bundle.
        folder: folder of its phantoms, and of the run.
        overrides: further flat keys.
    """
    values = {"datalist": str(folder / "datalist.json"), "output_dir": str(folder / f"run_{os.getpid()}"), **overrides}
    workflow = build_workflow(bundle, ["train"], workflow_type="train", overrides=values)
    parser: ConfigParser = workflow.parser
    parser["train#trainer#epoch_length"] = STEPS
    parser.parse(reset=True)
    return parser


def loop_of_today(bundle: str, folder: Path, overrides: Mapping[str, Any]) -> Engine:
    """What ``medseg train`` does, without MLflow."""
    parser = build(bundle, folder, **overrides)
    parser.get_parsed_content("initialize")
    trainer: Engine = parser.get_parsed_content("train#trainer")
    return trainer


def loop_of_before(bundle: str, folder: Path, overrides: Mapping[str, Any]) -> Engine:
    """The same in float32 and the default layout, and with the C library's own ways with memory."""
    keys = {**BEFORE, "channels_last": True} if bundle == OF_3D else BEFORE
    parser = build(bundle, folder, **{**overrides, **keys})
    trainer: Engine = parser.get_parsed_content("train#trainer")
    return trainer


def plain_loop(bundle: str, folder: Path, overrides: Mapping[str, Any]) -> Engine:
    """MONAI's trainer with the bundle's data, loss and optimizer, and the network in torch's own layers."""
    parser = build(bundle, folder, **{**overrides, **BEFORE})
    network: nn.Module = textbook(parser.get_parsed_content("network"))
    optimizer = parser.get_parsed_content("optimizer")
    validator = parser.get_parsed_content("validate#evaluator")
    options = {}
    if "prepare_batch" in parser["train#trainer"]:  # CTSU-Net draws its patches by the label
        options["prepare_batch"] = parser.get_parsed_content("train#trainer#prepare_batch")
    saver = CheckpointSaver(str(folder), {"network": network, "optimizer": optimizer}, save_interval=1, n_saved=1)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=parser.get_parsed_content("max_epochs"),
        epoch_length=STEPS,
        train_data_loader=parser.get_parsed_content("train#dataloader"),
        network=network,
        optimizer=optimizer,
        loss_function=parser.get_parsed_content("loss"),
        train_handlers=[ValidationHandler(validator=validator, interval=1), saver],
        **options,
    )


LOOPS: dict[str, Callable[[str, Path, Mapping[str, Any]], Engine]] = {
    "before": loop_of_before,
    "now": loop_of_today,
    "plain MONAI": plain_loop,
}


def textbook(network: nn.Module) -> nn.Module:
    """A network in torch's own layers, where its own differ."""
    spec = spec_from_file_location("networks_benchmark", Path(__file__).with_name("networks.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    name = type(network).__name__.lower()
    return module.TEXTBOOK_FORMS[name](network) if name in module.TEXTBOOK_FORMS else network


def work(
    connection: Connection, loop: str, bundle: str, folder: Path, overrides: Mapping[str, Any], threads: int
) -> None:
    """Train in a process of its own; each epoch waits for a word and answers with what it took."""
    torch.set_num_threads(threads)
    with redirect_stdout(sys.stderr):
        trainer = LOOPS[loop](bundle, folder, overrides)
        clock: dict[str, Any] = {}
        trainer.add_event_handler(Events.EPOCH_STARTED, partial(_wait, connection, clock))
        trainer.add_event_handler(Events.ITERATION_STARTED, partial(_start_step, clock))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, partial(_end_step, clock))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, partial(_answer, connection, clock, trainer))
        trainer.run()


def _wait(connection: Connection, clock: dict[str, Any]) -> None:
    connection.recv()
    clock |= {"steps": [], "epoch": (time.perf_counter(), time.process_time())}


def _start_step(clock: dict[str, Any]) -> None:
    clock["step"] = (time.perf_counter(), time.process_time())


def _end_step(clock: dict[str, Any]) -> None:
    clock["steps"].append(_since(clock["step"]))


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]


def _answer(connection: Connection, clock: dict[str, Any], trainer: Engine) -> None:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    connection.send(
        {
            "steps": clock["steps"],
            "epoch": _since(clock["epoch"]),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
            "precision": getattr(trainer.state, "precision", "float32"),
        }
    )


def measure(bundle: str, folder: Path, overrides: Mapping[str, Any], epochs: int, threads: int) -> dict[str, Any]:
    """Train a bundle in every loop; epochs go round the loops, so that a slow minute meets all alike.

    Args:
        bundle: name of the bundle.
        folder: folder of its phantoms.
        overrides: flat keys of all loops.
        epochs: timed epochs, after an untimed one.
        threads: threads of each process.
    """
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for loop in LOOPS:
        ends[loop], theirs = context.Pipe()
        values = {"max_epochs": epochs + 1, "val_interval": 1, "overlay_interval": 10**6, **overrides}
        arguments = (theirs, loop, bundle, folder, values, threads)
        process = context.Process(target=work, args=arguments, daemon=True)  # none outlives a fault of another
        process.start()
        theirs.close()
        processes.append(process)
    found: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for _ in range(epochs + 1):
        for loop, end in ends.items():
            end.send("go")
            found[loop].append(end.recv())
    for process in processes:
        process.join()
    return {loop: _summary(answers) for loop, answers in found.items()}


def _summary(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    timed = answers[1:]
    steps = [step for answer in timed for step in answer["steps"]]
    return {
        "step_seconds": statistics.median(wall for wall, _ in steps),
        "step_cpu_seconds": statistics.median(cpu for _, cpu in steps),
        "epoch_seconds": statistics.median(answer["epoch"][0] for answer in timed),
        "epoch_cpu_seconds": statistics.median(answer["epoch"][1] for answer in timed),
        "peak_mib": answers[-1]["peak_mib"],
        "precision": answers[-1]["precision"],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as a Markdown table, with processor times and their ratios to the loop of before."""
    lines = [
        "| bundle | loop | step, s | ratio | epoch, s | ratio | peak, MiB | precision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for bundle, loops in results.items():
        before = loops["before"]
        for loop, found in loops.items():
            step, epoch = found["step_cpu_seconds"], found["epoch_cpu_seconds"]
            lines.append(
                f"| {bundle} | {loop} | {step:.2f} | {step / before['step_cpu_seconds']:.2f} | {epoch:.2f} | "
                f"{epoch / before['epoch_cpu_seconds']:.2f} | {found['peak_mib']:.0f} | {found['precision']} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundles", nargs="+", choices=list_bundles(), default=list(BUNDLES))
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs of each loop, after an untimed one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="flat key of all loops")
    parser.add_argument("--size", type=int, nargs="+", help="size of the phantoms, rows or slices first")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    given = {key: json.loads(value) for key, _, value in (one.partition("=") for one in args.set)}
    machine = {
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": args.threads,
        "torch": torch.__version__,
    }
    results = {}
    for bundle in args.bundles:
        own = BUNDLES.get(bundle, {"size": None, "overrides": {}})
        with tempfile.TemporaryDirectory() as name:
            size = tuple(args.size or own["size"])
            phantom_writer(bundle)(Path(name), counts={"training": 4, "validation": 1}, size=size, seed=0)
            results[bundle] = measure(bundle, Path(name), {**own["overrides"], **given}, args.epochs, args.threads)
        if args.json:  # after each bundle, so that an hour is not lost with the last of them
            content = json.dumps({"machine": machine, "results": results}, indent=2)
            args.json.write_text(content + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
