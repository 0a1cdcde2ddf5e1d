import importlib.util
import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg_monai.networks.nets import CTSUNet

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "ctsunet.py"
SETTINGS = {
    "stage1_features": [4, 4, 4, 6, 6, 6, 6, 8, 6, 6, 6, 4, 4, 4],
    "stage2_features": [4, 6, 6, 8, 8, 8, 8, 12, 8, 8, 8, 6, 6, 4],
    "embedding_channels": 4,
}


@pytest.fixture(scope="module")
def ctsunet_benchmark():
    spec = importlib.util.spec_from_file_location("ctsunet_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "model.pt"
    settings = {"in_plane_size": 64, "hu_min": -1000, "hu_max": -500, **SETTINGS}
    torch.save({"model": CTSUNet(**SETTINGS).state_dict(), "settings": settings}, file)
    return file


def test_one_run_makes_all_tables(tmp_path, checkpoint):
    out = tmp_path / "ctsunet.json"
    command = [sys.executable, str(SCRIPT), "--checkpoint", str(checkpoint), "--threads", "1", "--json", str(out)]
    command += ["--synthetic", "40", "80", "80", "--region", "32", "32", "48"]
    command += ["--large-scan", "48", "64", "64", "--map-edges", "6", "4", "--channels", "8", "4"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert finished.returncode == 0, finished.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["network_input"] == [32, 32, 48]
    assert [result["step"] for result in document["timing"]] == ["released", "folded", "form", "fast"]
    assert [result["windows"] for result in document["timing"]] == [2, 2, 2, 1]
    for result in document["timing"][1:3]:
        assert result["difference"] < 1e-4
    assert document["timing"][3]["ratio_cpu"] > 1
    assert document["memory"]["mask"] == [1, 64, 64, 48]
    assert document["memory"]["peak_bytes"] > document["memory"]["idle_bytes"]
    assert [result["edge"] for result in document["attention"]] == [4, 6]
    assert "| + large windows: the fast path | 1 |" in finished.stdout
    assert "Scan 48x64x64, network input 48x64x64: peak memory" in finished.stdout


def test_a_region_is_the_middle_of_the_networks_input(ctsunet_benchmark, tmp_path):
    values = np.zeros((64, 64, 48), np.int16) - 1200
    values[32:34, 32:34, 24:26] = 400
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "scan.nii")
    scan = ctsunet_benchmark.read_scan(tmp_path / "scan.nii", None, 64, (32, 40, 64))
    assert scan.shape == (1, 1, 32, 32, 64)
    assert scan.nonzero()[:, 2:].min(dim=0).values.tolist() == [16, 16, 32]
    assert scan.max() == 1


def test_a_scan_is_read_in_the_size_and_window_that_the_weights_were_trained_with(
    ctsunet_benchmark, checkpoint, tmp_path
):
    values = np.full((128, 128, 64), -750, np.int16)
    values[0] = 40  # one value is not a CT
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "scan.nii")
    scan = ctsunet_benchmark.read_scan(tmp_path / "scan.nii", checkpoint, None, None)
    assert scan.shape == (1, 1, 64, 64, 64)
    assert float(scan.median()) == pytest.approx(0.5)


def test_lobes_are_compared_one_by_one(ctsunet_benchmark):
    reference = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2, 2, 2]), 6).T[None].float()
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2, 2, 2]), 6).T[None].float()
    agreement = ctsunet_benchmark.compare(reference, logits)
    assert agreement["same_labels"] == pytest.approx(5 / 6)
    assert agreement["dice"]["LUL"] == pytest.approx(2 / 3)
    assert agreement["dice"]["LLL"] == pytest.approx(6 / 7)
    assert agreement["dice"]["RML"] is None


def test_attention_is_predicted_from_the_largest_map(ctsunet_benchmark, monkeypatch):
    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def submit(self, call, edge, *arguments):
            future = Future()
            future.set_result({"edge": edge, "cpu": 16.0, "bytes": 32})
            return future

    monkeypatch.setattr(ctsunet_benchmark, "_fresh_process", Pool)
    small, large = ctsunet_benchmark.measure_attention([4, 8], 8, 4, 1)
    assert (small["predicted_cpu"], small["predicted_bytes"]) == (1.0, 2.0)
    assert large["predicted_cpu"] == large["cpu"]


def test_an_unknown_step_is_refused(ctsunet_benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        ctsunet_benchmark.main(["--steps", "fastest"])
    assert stopped.value.code == 2
    assert "'fastest'" in capsys.readouterr().err
