"""A training that is killed at any moment ends as one that was not; ``kills.py`` makes more of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_and_resumed_trainings_end_as_an_undisturbed_one_and_register_their_model_once():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    result = subprocess.run(
        [sys.executable, "-m", "tests.bundle.kills", "--kills", "2", "--seed", "5", "--register"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "2 kills, 0 faults"
