import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg_monai.networks import NETWORKS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "networks.py"


@pytest.fixture(scope="module")
def networks_benchmark():
    spec = importlib.util.spec_from_file_location("networks_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def setting(networks_benchmark):
    return networks_benchmark.Setting(1, 3, 1, "cpu", torch.get_num_threads())


def test_one_run_measures_the_network_and_the_baseline(tmp_path):
    out = tmp_path / "networks.json"
    command = [sys.executable, str(SCRIPT), "--networks", "cenet", "--size", "192", "224", "--repeats", "1"]
    command += ["--forms", "fast", "bf16", "--json", str(out), "--device", "cpu", "--threads", "1"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert finished.returncode == 0, finished.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    assert [result["network"] for result in document["results"]] == ["BasicUNet", "cenet"]
    assert document["skipped"] == []
    assert document["settings"]["threads"] == 1
    for result in document["results"]:
        assert result["size"] == [192, 224]
        assert result["multiply_adds"] > 1e9
        assert set(result["forward"]) == {"plain", "fast", "bf16"}
        assert result["forward"]["plain"]["ratio_to_plain"] == 1.0
        assert result["forward"]["fast"]["seconds"] > 0
        assert set(result["forward"]["bf16"]) in ({"unavailable"}, set(result["forward"]["plain"]))
        assert result["training_step"]["seconds"] > 0
        assert result["peak_bytes"]["training_step"] > result["peak_bytes"]["forward"] > 4 * result["parameters"]
    baseline, cenet = document["results"]
    assert cenet["parameters"] == 29_003_093
    assert set(baseline["ratio_to_baseline"].values()) == {1.0}
    assert cenet["ratio_to_baseline"]["multiply_adds"] == cenet["multiply_adds"] / baseline["multiply_adds"]
    assert "| cenet " in finished.stdout


def test_the_textbook_form_computes_the_same_with_torch_s_own_layers(networks_benchmark, setting):
    x = setting.input((21, 26))
    network, textbook = (setting.build(name, 2).double() for name in ("rescrnet", "rescrnet-textbook"))
    own = {type(module) for module in network.modules()} - {type(module) for module in textbook.modules()}
    assert own == {networks_benchmark.SeparableAtrousConv2d, networks_benchmark.PointwiseConv2d}
    with torch.no_grad():
        torch.testing.assert_close(textbook(x.double()), network(x.double()))


def test_a_network_with_a_textbook_form_is_measured_beside_it(networks_benchmark, setting, monkeypatch):
    # its processes could not import this module, which is no package's
    monkeypatch.setattr(
        networks_benchmark, "_measure_memory", lambda jobs, setting: {(name, step): 1 for name, _, step in jobs}
    )
    document = networks_benchmark.benchmark(["rescrnet"], [(32, 48)], ["fast"], 1, setting)
    network, textbook = (r for r in document["results"] if r["network"].startswith("rescrnet"))
    assert textbook["network"] == "rescrnet-textbook"
    assert textbook["parameters"] == network["parameters"]
    ratio = textbook["forward"]["plain"]["seconds"] / network["forward"]["fast"]["seconds"]
    assert network["textbook_ratio"]["forward"] == ratio
    assert set(network["textbook_ratio"]) == {"forward", "forward_cpu", "training_step", "training_step_cpu"}
    assert "textbook_ratio" not in textbook
    assert f"training_step {network['textbook_ratio']['training_step']:.2f}" in networks_benchmark.table(document)


@pytest.mark.parametrize("form", ["fast", "channels_last", "frozen", "frozen_onednn"])
def test_an_exact_form_computes_what_the_plain_network_computes(form, networks_benchmark):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    x = torch.randn(1, 3, 9, 14)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(networks_benchmark.FORMS[form](network, x)(), expected)


def test_multiply_adds_of_a_convolution_are_counted_once(networks_benchmark, setting, monkeypatch):
    conv = torch.nn.Conv2d(3, 5, kernel_size=3, padding=1)
    monkeypatch.setattr(networks_benchmark.Setting, "build", lambda self, name, spatial_dims: conv)
    subject = networks_benchmark.make_subject("conv", (8, 6), [], setting)
    assert subject.multiply_adds == 8 * 6 * 3 * 5 * 9


def test_a_size_no_network_takes_is_left_out_with_the_size_that_works(networks_benchmark, setting):
    document = networks_benchmark.benchmark(["cenet"], [(100, 224)], [], 1, setting)
    assert document["results"] == []
    assert [entry["network"] for entry in document["skipped"]] == ["cenet"]
    assert "pad or resize to 192x224" in networks_benchmark.table(document)


def test_a_form_that_cannot_run_says_why(networks_benchmark):
    def broken():
        raise networks_benchmark.NotAvailableError("no such processor")

    subject = networks_benchmark.Subject("net", (8, 8), 1, 1)
    subject.add("compile", broken)
    assert subject.unavailable == {"compile": "no such processor"}
    assert subject.calls == {}


def test_compile_is_not_available_without_a_compiler(networks_benchmark, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(networks_benchmark.NotAvailableError, match="compiler"):
        networks_benchmark.compile_form(torch.nn.Identity(), torch.zeros(1, 3, 8, 8))


def test_every_registered_network_is_a_choice(networks_benchmark):
    assert networks_benchmark._parser().parse_args([]).networks == sorted(name for name, _ in NETWORKS)


def test_an_unknown_network_is_refused(networks_benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        networks_benchmark.main(["--networks", "cennet"])
    assert stopped.value.code == 2
    assert "'cennet'" in capsys.readouterr().err
