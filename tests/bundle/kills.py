"""Kills of real trainings at random moments: each is resumed and compared with one that ran through.

The tests make two; more by hand, with what each has met:

    python -m tests.bundle.kills --kills 20 [--register] [--seed 1] [--tracking-uri URI]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch

from medseg_monai.cli import main as medseg
from medseg_monai.handlers import CHECKPOINT_NAME
from medseg_monai.phantoms import write_chest_xray_phantoms

BUNDLE = "lung_cxr_rescrnet"
#: key metrics of training and validation, and a learning rate that falls, so that there is something to lose
TINY = {"image_size": [40, 52], "filters": 4, "num_blocks": 1, "batch_size": 2, "val_interval": 1, "max_epochs": 4}
NAME = "lungs"


@dataclass(frozen=True)
class Outcome:
    """A complete training.

    Attributes:
        tensors: ``checkpoint.pt``.
        points: value of each metric at each step, in all runs of the experiment.
        statuses: of all runs.
        versions: number of registered versions.
        models: number of logged models that are ready.
        left: files beside those of an undisturbed training.
    """

    tensors: dict[str, Any]
    points: dict[tuple[str, int], list[float]]
    statuses: list[str]
    versions: int
    models: int
    files: frozenset[str]


@contextmanager
def child(arguments: Sequence[str], log: Path) -> Iterator[int]:
    """``medseg`` in a process that has everything imported, so that most moments are moments of the training."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        stream = log.open("ab")
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        code = 1
        try:
            code = medseg(arguments)
        finally:
            sys.stderr.flush()
            os._exit(code)
    try:
        yield process
    finally:
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # the caller has seen its end


def command(data: Path, folder: Path, *options: str, tracking_uri: str | None) -> list[str]:
    pairs = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    where = ["--tracking-uri", tracking_uri, "--experiment", folder.name] if tracking_uri else []
    return ["train", BUNDLE, "--datalist", str(data), "-o", str(folder), *options, *where, *pairs]


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(folder: Path, tracking_uri: str | None, name: str) -> Outcome:
    client = mlflow.MlflowClient(tracking_uri or f"sqlite:///{folder / 'mlruns.db'}")
    experiment = client.get_experiment_by_name(folder.name if tracking_uri else BUNDLE).experiment_id
    runs = client.search_runs([experiment])
    points: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        for key in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, key):
                points.setdefault((key, point.step), []).append(point.value)
    models = client.search_logged_models([experiment])
    return Outcome(
        tensors=torch.load(folder / CHECKPOINT_NAME, weights_only=True),
        points=points,
        statuses=[run.info.status for run in runs],
        versions=len(client.search_model_versions(f"name='{name}'")),
        models=sum(str(model.status) == "READY" for model in models),
        files=frozenset(path.name for path in folder.iterdir()),
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def faults(found: Outcome, wanted: Outcome) -> list[str]:
    """How a resumed training differs from one that ran through, but for the wall clock."""
    twice = [key for key, values in found.points.items() if len(values) > 1]
    checks = {
        "other weights": not same(found.tensors, wanted.tensors),
        f"points twice: {twice}": bool(twice),
        f"points lost: {wanted.points.keys() - found.points.keys()}": not wanted.points.keys() <= found.points.keys(),
        "other points": not twice and found.points != wanted.points,
        f"runs {found.statuses}": found.statuses != ["FINISHED"],
        f"{found.versions} versions": found.versions != wanted.versions,
        f"{found.models} models": found.models != wanted.models,
        f"files {sorted(found.files ^ wanted.files)}": found.files != wanted.files,
    }
    return [what for what, is_so in checks.items() if is_so]


def where(folder: Path) -> str:
    """How far a training had come when it was killed."""
    if not (folder / "run.json").exists():
        return "before run.json"
    if not (folder / CHECKPOINT_NAME).exists():
        return "before the first checkpoint"
    epoch = torch.load(folder / CHECKPOINT_NAME, weights_only=True)["epoch"]
    return f"after epoch {epoch}" if epoch < TINY["max_epochs"] else "at the end"


def kill_and_resume(
    folder: Path, data: Path, moments: Sequence[tuple[float, signal.Signals]], options: Sequence[str], uri: str | None
) -> list[str]:
    """Start a training, kill and resume it at each moment, and let it end; what each kill has met."""
    log = folder.with_suffix(".log")
    met = []
    for delay, how in [*moments, (None, None)]:
        again = ["--resume"] if (folder / "run.json").exists() else []
        arguments = (
            ["train", BUNDLE, "-o", str(folder), *again] if again else command(data, folder, *options, tracking_uri=uri)
        )
        with child(arguments, log) as process:
            if delay is None:
                code = ended(process)
                if code != 0:
                    return [*met, f"exit code {code}: {log.read_text(errors='replace').splitlines()[-1]}"]
                break
            time.sleep(delay)
            os.kill(process, how)
            code = ended(process)
            met.append(f"{how.name} after {delay:.2f} s, {where(folder)} ({code})")
            if how == signal.SIGTERM and code not in (0, 130, -signal.SIGTERM, -signal.SIGINT):
                return [*met, f"exit code {code}: {log.read_text(errors='replace').splitlines()[-1]}"]
    return met


def run(kills: int, *, seed: int = 0, register: bool = False, tracking_uri: str | None = None) -> list[str]:
    """Kill trainings at random moments.

    Returns:
        the faults that were found, one a line.
    """
    torch.set_num_threads(1)
    drawn = random.Random(seed)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_chest_xray_phantoms(
            root / "data", counts={"training": 4, "validation": 2}, size=(64, 80), seed=seed
        )

        def options(folder: str) -> list[str]:
            return ["--register", f"{NAME}_{root.name}_{folder}"] if register else []

        began = time.monotonic()
        with child(
            command(data, root / "through", *options("through"), tracking_uri=tracking_uri), root / "log"
        ) as process:
            if code := ended(process):
                return [f"exit code {code}: {(root / 'log').read_text()}"]
        duration = time.monotonic() - began
        print(f"undisturbed: {duration:.1f} s", flush=True)  # noqa: T201
        wanted = outcome(root / "through", tracking_uri, f"{NAME}_{root.name}_through")
        made = 0
        while made < kills:
            folder = root / f"killed_{made}"
            count = min(drawn.choice([1, 1, 2]), kills - made)
            moments = [
                (drawn.uniform(0, duration), signal.SIGTERM if (made + number) % 2 else signal.SIGKILL)
                for number in range(count)
            ]
            made += count
            met = kill_and_resume(folder, data, moments, options(folder.name), tracking_uri)
            wrong = (
                [met[-1]]
                if met[-1].startswith("exit code")
                else faults(outcome(folder, tracking_uri, f"{NAME}_{root.name}_{folder.name}"), wanted)
            )
            print("; ".join(met), "->", wrong or "as undisturbed", flush=True)  # noqa: T201
            found += [f"{'; '.join(met)}: {one}" for one in wrong]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--tracking-uri")
    args = parser.parse_args()
    problems = run(args.kills, seed=args.seed, register=args.register, tracking_uri=args.tracking_uri)
    print(f"{args.kills} kills, {len(problems)} faults", *problems, sep="\n")  # noqa: T201
    sys.exit(bool(problems))
