"""``medseg predict`` that is killed, and two of them into one folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg_monai.bundle import Predictor, predict_cases
from medseg_monai.cli import main
from medseg_monai.files import LOCK_NAME, REPORT_FILES, atomic_path, file_sha256
from medseg_monai.networks.nets import ResCRNet
from medseg_monai.networks.weights import write_model
from medseg_monai.phantoms import write_chest_xray_phantoms

BUNDLE = "lung_cxr_rescrnet"
CASES = 6
KILLS = 2

HOLD = """
import sys, time
from medseg_monai.files import locked_folder
with locked_folder(sys.argv[1], "a prediction"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs large enough to be killed in every phase, and a small network."""
    folder = tmp_path_factory.mktemp("radiographs")
    write_chest_xray_phantoms(folder, counts={"test": CASES}, size=(900, 1023), seed=0)
    settings: dict[str, Any] = {"filters": 4, "num_blocks": 1}
    torch.manual_seed(0)
    write_model(folder / "model.pt", ResCRNet(2, 1, 2, **settings).state_dict(), {**settings, "image_size": [48, 64]})
    return folder


def arguments(radiographs: Path, output: Path) -> list[str]:
    given = [BUNDLE, str(radiographs / "images"), "-o", str(output), "--checkpoint", str(radiographs / "model.pt")]
    return ["predict", *given, "--set", "fast=false", "--skip-existing"]


def masks(output: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in output.glob("*.png")}


def recorded(output: Path) -> dict[str, int]:
    """The masks that the report lists, with what tells a file from one that replaces it."""
    report = json.loads((output / REPORT_FILES[0]).read_text())
    return {path: os.stat(path).st_mtime_ns for case in report["cases"] for path in case["outputs"]}


def kill(command: list[str], output: Path, after: float) -> bool:
    """Kill a prediction some seconds after it has begun with the cases; whether it was still at work."""
    report = output / REPORT_FILES[0]
    before = report.stat().st_mtime_ns if report.exists() else 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if report.exists() and report.stat().st_mtime_ns != before:
            time.sleep(after)
            break
        time.sleep(0.001)
    process.kill()
    return process.wait(60) == -signal.SIGKILL


def test_what_kills_have_left_is_completed_and_nothing_is_predicted_twice(radiographs: Path, tmp_path: Path):
    assert main(arguments(radiographs, tmp_path / "whole")) == 0
    report = json.loads((tmp_path / "whole" / REPORT_FILES[0]).read_text())
    seconds = sum(case["seconds"] for case in report["cases"])
    assert len(masks(tmp_path / "whole")) == CASES

    output, moments = tmp_path / "killed", random.Random(0)
    command = [sys.executable, "-m", "medseg_monai.cli", *arguments(radiographs, output)]
    done: dict[str, int] = {}
    killed = 0
    for _ in range(KILLS):
        killed += kill(command, output, moments.uniform(0, seconds / KILLS))
        now = recorded(output)
        assert done.items() <= now.items()
        done = now
    assert killed
    assert main(arguments(radiographs, output)) == 0
    assert done.items() <= recorded(output).items()
    assert masks(output) == masks(tmp_path / "whole")
    assert sorted(path.name for path in output.iterdir()) == sorted([*masks(output), *REPORT_FILES])
    report = json.loads((output / REPORT_FILES[0]).read_text())
    assert report["counts"] == {"ok": CASES}
    assert len({case["input"] for case in report["cases"]}) == CASES


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_prediction_into_a_folder_ends_at_once_and_names_the_first(
    radiographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "out"
    with held(output) as first:
        monkeypatch.setattr("medseg_monai.bundle.Predictor", lambda *_, **__: pytest.fail("a network is loaded"))
        assert main(arguments(radiographs, output)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"medseg: {output}: in use by a prediction (process {first.pid} on ")
        assert [path.name for path in output.iterdir()] == [LOCK_NAME]
    monkeypatch.undo()
    assert main(arguments(radiographs, output)) == 0  # a process that was killed holds nothing
    assert not (output / LOCK_NAME).exists()


def test_a_prediction_in_python_holds_its_folder_too(radiographs: Path, tmp_path: Path):
    predictor = Predictor(BUNDLE, checkpoint=radiographs / "model.pt", overrides={"fast": False})
    case = {"image": str(next((radiographs / "images").iterdir()))}
    with held(tmp_path / "out"), pytest.raises(BlockingIOError, match="in use by a prediction"):
        predict_cases(predictor, [case], tmp_path / "out")
    half_written = [atomic_path(tmp_path / "out" / name).__enter__() for name in ("a.png", "attention/a.png")]
    for path in half_written:
        path.touch()
    assert predict_cases(predictor, [case], tmp_path / "out").failed == []
    assert not any(path.exists() for path in half_written)
