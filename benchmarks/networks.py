"""Cost of every registered network beside MONAI's BasicUNet, measured in one run.

``python benchmarks/networks.py --help`` lists the options; ``benchmarks/README.md`` reads the table.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import monai
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseg_monai.files import write_json
from medseg_monai.networks import NETWORKS
from medseg_monai.networks.blocks import SeparableAtrousConv2d
from medseg_monai.networks.blocks.separable_atrous import PointwiseConv2d
from medseg_monai.networks.fast import make_fast

BASELINE = "BasicUNet"
TEXTBOOK = "-textbook"  # what follows the name of a network whose own fast layers are replaced by torch's
DEFAULT_SIZES = ((448, 448), (96, 96, 96))  # 2D first; the second is for networks that are 3D only
STEPS = ("forward", "training_step")
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class NotAvailableError(Exception):
    """This machine cannot run a form; the message says why."""


def textbook_rescrnet(network: nn.Module) -> nn.Module:
    """Replace the convolutions of a Res-CR-Net by torch's own ones with the same weights; changes ``network``."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SeparableAtrousConv2d):
                setattr(parent, name, nn.Sequential(child.depthwise, child.pointwise))
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PointwiseConv2d):
                conv = nn.Conv2d(child.in_channels, child.out_channels, kernel_size=1)
                conv.load_state_dict(child.state_dict())
                setattr(parent, name, conv.to(child.weight.device))
    return network


# networks whose plain form is not what torch's layers alone would give: measured that way too
TEXTBOOK_FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {"rescrnet": textbook_rescrnet}


@dataclass(frozen=True)
class Setting:
    """What every measurement of a run shares."""

    batch: int
    in_channels: int
    out_channels: int
    device: str
    threads: int

    def input(self, size: Sequence[int]) -> torch.Tensor:
        """Random image ``[batch, in_channels, *size]``."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, self.in_channels, *size, generator=generator).to(self.device)

    def build(self, name: str, spatial_dims: int) -> nn.Module:
        """The baseline or a registered network, with MONAI's constructor arguments that it knows.

        A name that ends in :data:`TEXTBOOK` gives the network with torch's own layers.
        """
        registered = name.removesuffix(TEXTBOOK)
        network_class = BasicUNet if name == BASELINE else NETWORKS[registered]
        options = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        if "spatial_dims" in inspect.signature(network_class).parameters:
            options["spatial_dims"] = spatial_dims
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = network_class(**options).to(self.device).eval()
        return network if name == registered else TEXTBOOK_FORMS[registered](network)


# The forms of a forward pass. Each takes an eval network and its input, and gives the call to time.


def plain_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Eager, float32, default memory format: what the other forms are compared with."""
    return lambda: network(x)


def channels_last_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Eager with weights and input channels last."""
    layout = _LAYOUTS[x.ndim]
    network, x = network.to(memory_format=layout), x.contiguous(memory_format=layout)  # type: ignore[call-overload]
    return lambda: network(x)


def bf16_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """Eager with weights and input in bfloat16; not exact."""
    if x.is_cuda:
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not supported:
        raise NotAvailableError("no bfloat16 arithmetic on this processor")
    network, x = network.to(torch.bfloat16), x.to(torch.bfloat16)
    return lambda: network(x)


def compile_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """``torch.compile`` with its defaults."""
    if not x.is_cuda and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise NotAvailableError("no C++ compiler (set CXX)")
    compiled = torch.compile(network)
    return lambda: compiled(x)


def fast_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """What ``medseg predict`` uses, :func:`medseg_monai.networks.fast.make_fast`."""
    fast = make_fast(network)
    return lambda: fast(x)


def frozen_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """TorchScript, frozen, in the default memory format."""
    frozen = torch.jit.freeze(torch.jit.script(network))
    return lambda: frozen(x)


def frozen_onednn_form(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """TorchScript, frozen, with the weights packed for oneDNN by ``torch.jit.optimize_for_inference``."""
    packed = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(network)))
    return lambda: packed(x)


FORMS: dict[str, Callable[[nn.Module, torch.Tensor], Callable[[], Any]]] = {
    "plain": plain_form,
    "fast": fast_form,
    "channels_last": channels_last_form,
    "bf16": bf16_form,
    "compile": compile_form,
    "frozen": frozen_form,
    "frozen_onednn": frozen_onednn_form,
}
DEFAULT_FORMS = ["plain", "fast", "channels_last", "bf16", "compile"]  # the others were tried for the fast form


def _make_form(form: str, name: str, x: torch.Tensor, setting: Setting) -> Callable[[], Any]:
    # a network of its own, since some forms change theirs
    return FORMS[form](setting.build(name, x.ndim - 2), x)


def _scalar(output: Any) -> torch.Tensor:
    """Sum of the mean squares of every tensor that a network gives in train mode, nested as it likes."""
    if isinstance(output, torch.Tensor):
        return output.float().square().mean()
    parts = output.values() if isinstance(output, dict) else output
    return sum((_scalar(part) for part in parts), start=torch.zeros(()))


def training_call(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    """One training step: forward in train mode, mean square as loss, backward, SGD with momentum."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = _scalar(network(x)).to(x.device)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def _run(call: Callable[[], Any], *, gradients: bool) -> tuple[float, float]:
    """Wall seconds of one call, and the processor seconds of all its threads."""
    start, cpu_start = time.perf_counter(), time.process_time()
    with torch.set_grad_enabled(gradients):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_memory(name: str, size: tuple[int, ...], step: str, setting: Setting) -> int:
    """Bytes that one forward pass or training step adds to the idle process; run in a process of its own.

    The weights count: the network is built after the idle process was measured. The training step is done twice, since
    the optimizer makes its state in the first.
    """
    torch.set_num_threads(setting.threads)
    idle = _peak_bytes(setting.device)
    network, x = setting.build(name, len(size)), setting.input(size)
    call = plain_form(network, x) if step == "forward" else training_call(network, x)
    for _ in range(1 if step == "forward" else 2):
        _run(call, gradients=step == "training_step")
    return _peak_bytes(setting.device) - idle


def _measure_memory(jobs: list[tuple[str, tuple[int, ...], str]], setting: Setting) -> dict[tuple[str, str], int]:
    """``peak_memory`` of each job in a fresh process; ``{(network, step): bytes}``."""
    methods = multiprocessing.get_all_start_methods()
    # a fork server imports torch once and forks before any thread or tensor exists; CUDA wants a new process
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in methods and setting.device == "cpu" else "spawn"
    )
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["medseg_monai.networks.fast", "torch.utils.flop_counter"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1) as pool:
        return {(name, step): pool.submit(peak_memory, name, size, step, setting).result() for name, size, step in jobs}


@dataclass
class Subject:
    """One network at one input size, with the calls to time and what came of them."""

    name: str
    size: tuple[int, ...]
    parameters: int
    multiply_adds: int
    calls: dict[str, Callable[[], Any]] = field(default_factory=dict)
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, make: Callable[[], Callable[[], Any]]) -> None:
        """Prepare and warm up a call; one that this machine cannot run is noted with its reason."""
        try:
            call = make()
            _run(call, gradients=key == "training_step")
        except Exception as error:
            self.unavailable[key] = str(error).strip().split("\n")[0][:200] or type(error).__name__
            return
        self.calls[key] = call
        self.seconds[key] = []


def make_subject(name: str, size: tuple[int, ...], forms: Sequence[str], setting: Setting) -> Subject:
    """Build a network, count its parameters and multiply-adds, prepare its calls.

    Raises:
        ValueError: the network does not exist with these dimensions, or does not take this size.
    """
    x = setting.input(size)
    network = setting.build(name, len(size))
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x)
    except RuntimeError as error:
        raise ValueError(str(error).split("\n")[0]) from error
    parameters = sum(parameter.numel() for parameter in network.parameters())
    subject = Subject(name, size, parameters, counter.get_total_flops() // 2)
    for form in forms:
        subject.add(form, partial(_make_form, form, name, x, setting))
    subject.add("training_step", lambda: training_call(network, x))
    return subject


def _find_subjects(
    names: Sequence[str], sizes: Sequence[tuple[int, ...]], forms: Sequence[str], setting: Setting
) -> tuple[list[Subject], dict[str, str]]:
    """Each network at the first size that it takes, each such size's baseline first; the others with their reasons."""
    subjects: list[Subject] = []
    skipped: dict[str, str] = {}
    for name in names:
        reasons = []
        for size in sizes:
            try:
                subject = make_subject(name, size, forms, setting)
            except ValueError as error:
                reasons.append(str(error))
                continue
            if not any(other.name == BASELINE and other.size == size for other in subjects):
                subjects.append(make_subject(BASELINE, size, forms, setting))
            subjects.append(subject)
            break
        else:
            skipped[name] = "; ".join(reasons)
    return subjects, skipped


def _report(subject: Subject, memory: dict[tuple[str, str], int]) -> dict[str, Any]:
    timings: dict[str, dict[str, Any]] = {key: {"unavailable": why} for key, why in subject.unavailable.items()}
    for key, values in subject.seconds.items():
        wall, processor = zip(*values, strict=True)
        timings[key] = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(processor)}
    forward = {form: timings[form] for form in FORMS if form in timings}
    for entry in forward.values():
        if "seconds" in entry:
            entry["ratio_to_plain"] = entry["seconds"] / forward["plain"]["seconds"]
            entry["cpu_ratio_to_plain"] = entry["cpu_seconds"] / forward["plain"]["cpu_seconds"]
    return {
        "network": subject.name,
        "size": list(subject.size),
        "parameters": subject.parameters,
        "multiply_adds": subject.multiply_adds,
        "forward": forward,
        "training_step": timings["training_step"],
        "peak_bytes": {key: memory[subject.name, key] for key in STEPS},
    }


def _add_ratios(results: list[dict[str, Any]]) -> None:
    """Set ``ratio_to_baseline`` of every result, to the baseline of the same size."""
    for result in results:
        base = next(r for r in results if r["network"] == BASELINE and r["size"] == result["size"])
        ratios = {key: result[key] / base[key] for key in ("parameters", "multiply_adds")}
        ratios["forward"] = result["forward"]["plain"]["seconds"] / base["forward"]["plain"]["seconds"]
        if "seconds" in result["training_step"] and "seconds" in base["training_step"]:
            ratios["training_step"] = result["training_step"]["seconds"] / base["training_step"]["seconds"]
        for key in STEPS:
            ratios[f"peak_bytes_{key}"] = result["peak_bytes"][key] / base["peak_bytes"][key]
        result["ratio_to_baseline"] = ratios


def _add_textbook_ratios(results: list[dict[str, Any]]) -> None:
    """Set ``textbook_ratio``: the time of the textbook form over that of the network, as it predicts and as it trains.

    Processor time has the names that end in ``_cpu``. The fast form predicts, where it was measured, else the plain.
    """
    measured = {(result["network"], tuple(result["size"])): result for result in results}
    for result in results:
        textbook = measured.get((result["network"] + TEXTBOOK, tuple(result["size"])))
        if textbook is None:
            continue
        predicting = result["forward"].get("fast", result["forward"]["plain"])
        pairs = {
            "forward": (textbook["forward"]["plain"], predicting),
            "training_step": (textbook["training_step"], result["training_step"]),
        }
        result["textbook_ratio"] = {
            step + suffix: theirs[key] / ours[key]
            for step, (theirs, ours) in pairs.items()
            for suffix, key in (("", "seconds"), ("_cpu", "cpu_seconds"))
            if key in theirs and key in ours
        }


def benchmark(
    names: Sequence[str], sizes: Sequence[tuple[int, ...]], forms: Sequence[str], repeats: int, setting: Setting
) -> dict[str, Any]:
    """Measure the named networks and the baseline; repetitions go round all of them, so that a drift meets all alike.

    Args:
        names: keys of :data:`medseg_monai.networks.NETWORKS`; those of :data:`TEXTBOOK_FORMS` come with that form.
        sizes: input sizes; each network is measured at the first that it takes.
        forms: keys of :data:`FORMS`; ``"plain"`` is always measured.
        repeats: timed calls of each kind, after an untimed one; the median counts.
        setting: what all measurements share.

    Returns:
        the JSON document that the README describes.
    """
    torch.set_num_threads(setting.threads)
    names = [variant for name in names for variant in ([name, name + TEXTBOOK] if name in TEXTBOOK_FORMS else [name])]
    subjects, skipped = _find_subjects(names, sizes, ["plain", *(form for form in forms if form != "plain")], setting)
    for _ in range(repeats):
        for subject in subjects:
            for key, call in subject.calls.items():
                subject.seconds[key].append(_run(call, gradients=key == "training_step"))
    results = []
    for subject in subjects:
        memory = _measure_memory([(subject.name, subject.size, step) for step in STEPS], setting)
        results.append(_report(subject, memory))
    _add_ratios(results)
    _add_textbook_ratios(results)
    return {
        "baseline": BASELINE,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name() if setting.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "monai": monai.__version__,
        },
        "settings": {**vars(setting), "repeats": repeats},
        "results": results,
        "skipped": [{"network": name, "reason": reason} for name, reason in skipped.items()],
    }


def _timed(entry: dict[str, Any], ratio: float | None) -> str:
    if "unavailable" in entry:
        return "not available"
    return f"{entry['seconds'] * 1e3:.0f} ms" + ("" if ratio is None else f" ({ratio:.2f})")


def table(document: dict[str, Any]) -> str:
    """The document as two Markdown tables: cost beside the baseline, and the forms of a forward pass."""
    rows: list[list[str]] = [
        ["network", "input", "parameters", "multiply-adds", "forward", "training step", "peak forward", "peak training"]
    ]
    forms = [form for form in FORMS if any(form in result["forward"] for result in document["results"])]
    form_rows: list[list[str]] = [["network", "input", *forms]]
    for result in document["results"]:
        ratio, size = result["ratio_to_baseline"], "x".join(map(str, result["size"]))
        row = [result["network"], size]
        row.append(f"{result['parameters'] / 1e6:.2f} M ({ratio['parameters']:.2f})")
        row.append(f"{result['multiply_adds'] / 1e9:.1f} G ({ratio['multiply_adds']:.2f})")
        row.append(_timed(result["forward"]["plain"], ratio["forward"]))
        row.append(_timed(result["training_step"], ratio.get("training_step")))
        for step in STEPS:
            row.append(f"{result['peak_bytes'][step] / 2**20:.0f} MiB ({ratio[f'peak_bytes_{step}']:.2f})")
        rows.append(row)
        entries = [result["forward"][form] for form in forms]
        form_rows.append([result["network"], size, *(_timed(e, e.get("ratio_to_plain")) for e in entries)])
    settings, machine = document["settings"], document["machine"]
    lines = [
        f"{machine['device']}, {machine['capability']}, {settings['threads']} threads, torch {machine['torch']}, "
        f"batch {settings['batch']}, median of {settings['repeats']}",
        "",
        f"In brackets: ratio to {document['baseline']} at the same input.",
        *_markdown(rows),
        "",
        "Forward pass by form; in brackets: ratio to the plain form of the same network.",
        *_markdown(form_rows),
    ]
    for result in document["results"]:
        kinds = {**result["forward"], "training_step": result["training_step"]}
        lines += [f"{result['network']} {k}: {e['unavailable']}" for k, e in kinds.items() if "unavailable" in e]
    for result in document["results"]:
        if "textbook_ratio" in result:
            ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in result["textbook_ratio"].items())
            lines.append(f"{result['network']} is so many times as fast as its textbook form: {ratios}")
    lines += [f"{entry['network']} left out: {entry['reason']}" for entry in document["skipped"]]
    return "\n".join(lines)


def _markdown(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    names = sorted(name for name, _ in NETWORKS)
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME", help="which networks")
    parser.add_argument("--size", nargs="+", type=int, help="H W, or D H W; by default 448 448, or 96 96 96 in 3D")
    parser.add_argument(
        "--forms", nargs="*", choices=list(FORMS), metavar="FORM", default=DEFAULT_FORMS, help=", ".join(FORMS)
    )
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each kind")
    parser.add_argument("--batch", type=int, default=1, help="images a call")
    parser.add_argument("--in-channels", type=int, default=3, help="channels of the input")
    parser.add_argument("--out-channels", type=int, default=1, help="channels of the output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line.

    Args:
        arguments: command line, by default the process's own.

    Returns:
        0, or 2 if a network was left out.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.size is not None and (len(options.size) not in (2, 3) or min(options.size) < 1):
        parser.error(f"--size takes two or three positive numbers, H W or D H W, got {options.size}.")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}.")
    setting = Setting(options.batch, options.in_channels, options.out_channels, options.device, options.threads)
    sizes = DEFAULT_SIZES if options.size is None else (tuple(options.size),)
    document = benchmark(options.networks, sizes, options.forms, options.repeats, setting)
    print(table(document))
    if options.json is not None:
        write_json(options.json, document)
    return 2 if document["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
