import subprocess
import sys
from pathlib import Path

from medseg_monai.phantoms import write_chest_xray_phantoms

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "epoch.py"


def test_the_time_of_an_epoch_is_told_apart_by_what_it_was_spent_on(tmp_path):
    datalist = write_chest_xray_phantoms(tmp_path, counts={"training": 2, "validation": 1}, size=(64, 80), seed=0)
    command = [sys.executable, str(SCRIPT), "lung_cxr_rescrnet", "--datalist", str(datalist), "--epochs", "1"]
    command += ["--set", "filters=4", "--set", "num_blocks=1", "--set", "image_size=[40,52]", "--set", "amp=false"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in finished.stdout.splitlines()
        if line.startswith("|")
    ]
    shares = {part: float(share) for part, _, share in rows[2:]}
    assert {"steps", "batches", "validation", "checkpoint", "MLflow"} <= set(shares)
    assert abs(sum(shares.values()) - 1) < 0.05
