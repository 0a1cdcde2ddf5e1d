import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


def test_one_run_measures_three_loops_of_a_bundle(tmp_path):
    out = tmp_path / "training.json"
    command = [sys.executable, str(SCRIPT), "--bundles", "lung_cxr_rescrnet", "--size", "80", "96", "--epochs", "1"]
    command += ["--set", "filters=4", "--set", "num_blocks=1", "--set", "image_size=[40,52]", "--json", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    loops = json.loads(out.read_text(encoding="utf-8"))["results"]["lung_cxr_rescrnet"]
    assert list(loops) == ["before", "now", "plain MONAI"]
    for loop, found in loops.items():
        assert 0 < found["step_seconds"] < found["epoch_seconds"], loop
        assert found["peak_mib"] > 100
    assert loops["before"]["precision"] == loops["plain MONAI"]["precision"] == "float32"
    assert "| lung_cxr_rescrnet | before | " in finished.stdout
