"""``medseg prune`` and ``medseg predict --attention`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg_monai.cli import main
from medseg_monai.data import write_datalist

from .bundle.small_anunet import make_bundle, make_network, write_volume

QUICK = ["--set", "fast=false", "--set", "device=cpu"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundles", make_network())


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return write_volume(tmp_path / "ct.nii.gz")


@pytest.fixture
def datalist(bundle: Path, volume: Path, tmp_path: Path) -> Path:
    """One case, whose label is what the full network predicts."""
    assert main(["predict", str(bundle), str(volume), "-o", str(tmp_path / "labels"), *QUICK]) == 0
    label = tmp_path / "labels" / "ct.nii.gz"
    write_datalist({"test": [{"image": str(volume), "label": str(label)}]}, tmp_path / "list.json")
    return tmp_path / "list.json"


def test_prune_then_predict_needs_no_further_key_and_the_report_names_the_level(
    bundle: Path, volume: Path, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["prune", str(bundle), "--datalist", str(datalist), "--section", "test", *QUICK]
    capsys.readouterr()
    assert main([*arguments, "--max-dice-loss", "1"]) == 0
    header, *rows, _, chosen, model, full = capsys.readouterr().out.splitlines()
    assert header.split() == ["level", "parameters", "network", "s", "total", "s", "Dice", "IoU", "difference"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert rows[2].split()[-3:] == ["1.0000", "1.0000", "0.0000"]
    assert chosen.startswith("level 1 of 3: ")
    assert model == f"model: {bundle / 'models' / 'model.pt'}"
    assert full == f"full model: {bundle / 'models' / 'model_full.pt'}"
    assert main(["predict", str(bundle), str(volume), "-o", str(tmp_path / "out"), "--attention", *QUICK]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["network"]["supervision_level"] == 1
    assert report["network"]["pruned_from_level"] == 3
    (case,) = report["cases"]
    assert [Path(path).parent.name for path in case["outputs"]] == ["out", "attention"]
    assert all(Path(path).is_file() for path in case["outputs"])


def test_the_answer_in_json_is_what_the_file_holds(
    bundle: Path, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "small.pt"
    capsys.readouterr()
    arguments = ["prune", str(bundle), "--datalist", str(datalist), "--section", "test", "-o", str(output), "--json"]
    assert main([*arguments, "--level", "2", *QUICK]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["full"]) == (str(output), str(bundle / "models" / "model.pt"))
    assert (answer["level"], answer["from_level"], answer["max_dice_loss"]) == (2, 3, None)
    assert [row["level"] for row in answer["levels"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["prune", "lung_cxr_rescrnet", "--datalist", "list.json"], "ResCRNet cannot be pruned"),
        (["prune", "liver_ct_anunet", "--datalist", "gone.json"], "gone.json: no such data list"),
        (["prune", "liver_ct_anunet", "--datalist", "gone.json", "--max-dice-loss", "-1"], "must be 0 or more"),
        (["prune", "liver_ct_anunet", "--datalist", "gone.json", "--set", "treshold=1"], "did you mean threshold"),
    ],
)
def test_a_mistake_ends_in_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("medseg:"))
    assert named in line


def test_attention_of_a_network_without_gates_is_refused_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "image.png").write_bytes(b"never read")
    arguments = ["predict", "retinal_vessel_fundus_cenet", str(tmp_path / "image.png"), "--checkpoint", str(model)]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--attention", "--set", "fast=false"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "medseg: retinal_vessel_fundus_cenet: CENet has no attention gates to draw; leave --attention out."
    )
    assert not (tmp_path / "out").exists()
