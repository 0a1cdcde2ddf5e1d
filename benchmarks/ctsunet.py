"""CTSU-Net: the fast path beside the released way, memory of a whole scan, growth of its attention with the map.

``python benchmarks/ctsunet.py --help`` lists the options; ``benchmarks/README.md`` reads the tables.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from medseg_monai.bundle import Predictor, merged_config
from medseg_monai.files import write_json
from medseg_monai.inferers import TwoStageInferer
from medseg_monai.networks.blocks.criss_cross import CrissCrossAttention3d
from medseg_monai.networks.blocks.valid_windows import legal_output, tile_starts
from medseg_monai.networks.fast.cunet import fold_batch_norms
from medseg_monai.networks.nets import CTSUNet
from medseg_monai.phantoms.thorax import draw_thorax

BUNDLE = "lung_lobe_ct_ctsunet"
PARTS = ("timing", "memory", "attention")
LOBES = ("LUL", "LLL", "RUL", "RLL", "RML")
MAP_EDGES = (8, 12, 16, 24, 32, 40)
LARGE_SCAN = (700, 512, 512)


def folded_form(network: CTSUNet) -> CTSUNet:
    """The plain network with folded batch norms, channels last."""
    form = copy.deepcopy(network).eval()
    form.stage1, form.stage2 = fold_batch_norms(form.stage1), fold_batch_norms(form.stage2)
    return form.to(memory_format=torch.channels_last_3d)


# The ways to predict: the network's form, and the edge of stage 2's windows (None: as large as memory allows).
STEPS: dict[str, tuple[str, Callable[[CTSUNet], CTSUNet], int | None]] = {
    "released": ("released way: plain, windows of 132", lambda network: network, 132),
    "folded": ("+ folded batch norms, channels last", folded_form, 132),
    "form": ("+ slice by slice, Winograd (fast form)", CTSUNet.fast_form, 132),
    "fast": ("+ large windows: the fast path", CTSUNet.fast_form, None),
}


class Stopwatch:
    """Seconds of a network's stages, and windows of its second; wall time and processor time of all threads."""

    def __init__(self, network: CTSUNet) -> None:
        self.wall = {"stage1": 0.0, "stage2": 0.0}
        self.cpu = {"stage1": 0.0, "stage2": 0.0}
        self.windows = 0
        for method, stage in (("first_stage", "stage1"), ("context", "stage1"), ("second_stage", "stage2")):
            object.__setattr__(network, method, self._timed(getattr(network, method), stage))

    def _timed(self, method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if stage == "stage2":
                self._count(*arguments[1:])
            wall, cpu = time.perf_counter(), time.process_time()
            result = method(*arguments)
            self.wall[stage] += time.perf_counter() - wall
            self.cpu[stage] += time.process_time() - cpu
            return result

        return call

    def _count(self, start: list[int], stop: list[int], output: list[int]) -> None:
        tiles = [
            len(tile_starts(first, last, min(edge, legal_output(last - first))))
            for first, last, edge in zip(start, stop, output, strict=True)
        ]
        self.windows += math.prod(tiles)


def inference_parser(checkpoint: Path | None) -> ConfigParser:
    """The bundle's ``inference.json`` on a CPU, with the settings that the checkpoint's weights were trained with."""
    parser = ConfigParser(merged_config(BUNDLE, ["inference"]))
    parser["device"] = "cpu"
    parser["fast"] = False
    parser["checkpoint"] = str(checkpoint or "")
    return parser


def load_network(checkpoint: Path | None) -> CTSUNet:
    """A plain network in eval mode; without a file full width, random."""
    torch.manual_seed(0)
    network = inference_parser(checkpoint).get_parsed_content("network_def" if checkpoint is None else "network")
    return network.eval()


def read_scan(
    path: Path, checkpoint: Path | None, in_plane_size: int | None, region: Sequence[int] | None
) -> torch.Tensor:
    """A scan as the bundle's network gets it, ``[1, 1, D, H, W]``; of a region, the middle."""
    parser = inference_parser(checkpoint)
    if in_plane_size is not None:
        parser["in_plane_size"] = in_plane_size
    scan = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"].as_tensor()
    edges = list(scan.shape[1:])
    if region is not None:
        edges = [min(edge, wanted) // 16 * 16 for edge, wanted in zip(edges, region, strict=True)]
    z, y, x = ((whole - edge) // 2 for whole, edge in zip(scan.shape[1:], edges, strict=True))
    return scan[None, :, z : z + edges[0], y : y + edges[1], x : x + edges[2]].contiguous()


def write_synthetic(path: Path, size: Sequence[int], spacing: float = 0.7) -> None:
    """A thorax phantom of 64 voxels an edge, enlarged to ``size`` (D, H, W), with noise, as NIfTI."""
    image = draw_thorax(size=(64, 64, 64), seed=0).image
    zoomed = ndimage.zoom(image, [edge / 64 for edge in size], order=1)
    rng = np.random.default_rng(0)
    for plane in zoomed:
        plane += rng.integers(-25, 26, plane.shape, dtype=np.int16)
    affine = np.diag([-spacing, -spacing, spacing, 1.0])  # the phantom's axes are z up, y to the back, x to the left
    nib.save(nib.Nifti1Image(zoomed.transpose(2, 1, 0), affine), path)


def measure_timing(network: CTSUNet, scan: torch.Tensor, steps: Sequence[str], lung_only: bool) -> list[dict[str, Any]]:
    """Each way's seconds, its ratio to the released way's, and how far their results agree."""
    results: list[dict[str, Any]] = []
    reference = None
    for step in ["released", *(step for step in steps if step != "released")]:
        name, make, window = STEPS[step]
        form = make(copy.deepcopy(network))
        watch = Stopwatch(form)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            logits = TwoStageInferer(window=window, lung_only=lung_only)(scan, form)
        result = {"step": step, "name": name, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        result |= {"wall_stages": watch.wall, "cpu_stages": watch.cpu, "windows": watch.windows}
        if reference is None:
            reference = logits
        result["ratio_wall"] = results[0]["wall"] / result["wall"] if results else 1.0
        result["ratio_cpu"] = results[0]["cpu"] / result["cpu"] if results else 1.0
        result |= compare(reference, logits)
        results.append(result)
        print(f"{name}: {result['wall']:.1f} s", file=sys.stderr, flush=True)
    return results


def compare(reference: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """Largest difference on the scale of the logits, equal labels, Dice of each lobe (none where neither has it)."""
    expected, found = reference.argmax(dim=1), logits.argmax(dim=1)
    dice: dict[str, float | None] = {}
    for label, lobe in enumerate(LOBES, start=1):
        total = int((expected == label).sum() + (found == label).sum())
        dice[lobe] = 2 * int(((expected == label) & (found == label)).sum()) / total if total else None
    return {
        "difference": float((reference - logits).abs().max() / reference.abs().max()),
        "same_labels": float((expected == found).double().mean()),
        "dice": dice,
    }


def _fresh_process() -> ProcessPoolExecutor:
    """A pool whose only worker has a peak of memory of its own; see ``networks.py``."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["medseg_monai.bundle", "medseg_monai.networks.nets"])
    return ProcessPoolExecutor(max_workers=1, mp_context=context, max_tasks_per_child=1)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def predict_case(path: str, checkpoint: str, overrides: dict[str, Any], threads: int) -> dict[str, Any]:
    """Predict a file by the bundle's own predictor: seconds and peak memory; run in a process of its own."""
    torch.set_num_threads(threads)
    idle = _peak_bytes()
    predictor = Predictor(BUNDLE, checkpoint=checkpoint, overrides=overrides)
    prediction = predictor({"image": path})
    return {
        "idle_bytes": idle,
        "peak_bytes": _peak_bytes(),
        "phases": prediction.phases,
        "mask": list(prediction.mask.shape),
        "network_input": list(prediction.data["image"].shape),
    }


def measure_memory(
    checkpoint: Path | None, size: Sequence[int], lung_only: bool, threads: int, max_window_voxels: int | None
) -> dict[str, Any]:
    """Peak memory of a synthetic scan's whole prediction."""
    with tempfile.TemporaryDirectory() as folder, _fresh_process() as pool:
        path, weights = Path(folder) / "scan.nii", checkpoint
        if weights is None:
            weights = Path(folder) / "model.pt"
            torch.save({"model": load_network(None).state_dict(), "settings": {}}, weights)
        pool.submit(write_synthetic, path, size).result()
        overrides = {"device": "cpu", "lung_only": lung_only, "max_window_voxels": max_window_voxels}
        return {"scan": list(size)} | pool.submit(predict_case, str(path), str(weights), overrides, threads).result()


def attend(edge: int, channels: int, embedding: int, repeats: int, threads: int) -> dict[str, Any]:
    """Seconds and memory of the attention on a cubic map; run in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    attention = CrissCrossAttention3d(channels, embedding).eval()
    centers = [torch.linspace(-0.5, 0.5, edge)[None]] * 3
    x = torch.rand(1, channels, edge, edge, edge)
    with torch.no_grad():
        attention(x[:, :, :4, :4, :4], [center[:, :4] for center in centers])
        idle = _peak_bytes()
        seconds = []
        for _ in range(repeats):
            start = time.process_time()
            attention(x, centers)
            seconds.append(time.process_time() - start)
    return {"edge": edge, "cpu": min(seconds), "bytes": _peak_bytes() - idle}


def measure_attention(edges: Sequence[int], channels: int, embedding: int, threads: int) -> list[dict[str, Any]]:
    """The attention on growing maps, each with what ``O(N (D + H + W))`` predicts from the largest."""
    with _fresh_process() as pool:
        results = [pool.submit(attend, edge, channels, embedding, 3, threads).result() for edge in edges]
    for result in results:
        share = (result["edge"] / max(edges)) ** 4  # N (D + H + W) = 3 edge^4
        result |= {"predicted_cpu": results[-1]["cpu"] * share, "predicted_bytes": results[-1]["bytes"] * share}
    return results


def table(document: dict[str, Any]) -> str:
    """The document as Markdown tables."""
    settings, machine = document["settings"], document["machine"]
    lines = [f"{machine['capability']}, {settings['threads']} threads, torch {machine['torch']}", ""]
    if "timing" in document:
        lines += _timing_lines(document)
    if "memory" in document:
        memory = document["memory"]
        scan, grid = ("x".join(map(str, edges)) for edges in (memory["scan"], memory["network_input"][1:]))
        lines += [
            f"Scan {scan}, network input {grid}: "
            f"peak memory {memory['peak_bytes'] / 2**30:.2f} GiB ({memory['idle_bytes'] / 2**30:.2f} before the bundle "
            f"was loaded); " + ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in memory["phases"].items()),
            "",
        ]
    if "attention" in document:
        rows = [["map", "processor time", "by N (D + H + W)", "memory", "by N (D + H + W)"]]
        for result in document["attention"]:
            row = [f"{result['edge']}^3", f"{result['cpu'] * 1e3:.1f} ms", f"{result['predicted_cpu'] * 1e3:.1f} ms"]
            rows.append(row + [f"{result[key] / 2**20:.1f} MiB" for key in ("bytes", "predicted_bytes")])
        lines += _markdown(rows)
    return "\n".join(lines)


def _timing_lines(document: dict[str, Any]) -> list[str]:
    timed = ["windows", "stage 1", "stage 2", "wall", "ratio", "processor time", "ratio"]
    rows = [["", *timed, "difference", "same labels", *LOBES]]
    for result in document["timing"]:
        row = [result["name"], str(result["windows"])]
        row += [f"{result['wall_stages'][stage]:.1f} s" for stage in ("stage1", "stage2")]
        row += [f"{result['wall']:.1f} s", f"{result['ratio_wall']:.1f}"]
        row += [f"{result['cpu']:.1f} s", f"{result['ratio_cpu']:.1f}"]
        row += [f"{result['difference']:.0e}", f"{100 * result['same_labels']:.3f} %"]
        rows.append(row + ["" if value is None else f"{value:.4f}" for value in result["dice"].values()])
    shape = "x".join(map(str, document["network_input"]))
    return [f"Network input {shape}; difference, labels and Dice: to the released way.", "", *_markdown(rows), ""]


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=list(PARTS), help="which tables")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--scan", type=Path, help="chest CT to time: a NIfTI file or a folder of one DICOM series")
    size = {"nargs": 3, "type": int, "metavar": ("D", "H", "W")}
    source.add_argument("--synthetic", **size, default=[160, 256, 256], help="size of a phantom for the timing")
    parser.add_argument("--region", **size, help="time this part of the network's input only, from the middle")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="beside the released way")
    parser.add_argument("--lung-only", action="store_true", help="stage 2 sees stage 1's lungs; needs trained weights")
    parser.add_argument("--checkpoint", type=Path, help="weights with their settings; by default full width, random")
    parser.add_argument("--in-plane-size", type=int, help="by default what the checkpoint says, or 256")
    parser.add_argument("--large-scan", **size, default=list(LARGE_SCAN), help="size of the phantom for the memory")
    parser.add_argument("--max-window-voxels", type=int, help="limit of a window for the memory")
    parser.add_argument("--map-edges", nargs="+", type=int, default=list(MAP_EDGES), help="maps for the attention")
    parser.add_argument("--channels", nargs=2, type=int, default=[384, 32], help="of the attention and its embeddings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    return parser


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for; memory first, in processes that fork from a small one."""
    torch.set_num_threads(options.threads)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    machine = {
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    document: dict[str, Any] = {"machine": machine, "settings": settings}
    if "memory" in options.what:
        document["memory"] = measure_memory(
            options.checkpoint, options.large_scan, options.lung_only, options.threads, options.max_window_voxels
        )
    if "attention" in options.what:
        document["attention"] = measure_attention(sorted(options.map_edges), *options.channels, options.threads)
    if "timing" in options.what:
        network = load_network(options.checkpoint)
        with tempfile.TemporaryDirectory() as folder:
            path = options.scan
            if path is None:
                path = Path(folder) / "scan.nii"
                write_synthetic(path, options.synthetic)
            scan = read_scan(path, options.checkpoint, options.in_plane_size, options.region)
        document["network_input"] = list(scan.shape[2:])
        document["timing"] = measure_timing(network, scan, options.steps, options.lung_only)
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line.

    Args:
        arguments: command line, by default the process's own.

    Returns:
        the exit code.
    """
    options = _parser().parse_args(arguments)
    document = benchmark(options)
    print(table(document))
    if options.json is not None:
        write_json(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
