"""Settings that come with weights are data: whatever a model file says is never run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseg_monai.bundle import merged_config
from medseg_monai.cli import main
from medseg_monai.networks.weights import write_model

from .conftest import Phantoms

CODE = "$__import__('pathlib').Path('hit').touch()"
STATE = {"weight": torch.zeros(1)}  # settings count before any weight is looked at


def save(path: Path, settings: dict[str, object], *, earlier: bool) -> None:
    if earlier:
        torch.save({"model": STATE, "settings": settings}, path)
    else:
        write_model(path, STATE, settings)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("verb", ["predict", "train"])
def test_code_under_any_key_is_never_run(
    bundle: Path, phantoms: Phantoms, verb: str, earlier: bool, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    commands = {
        "predict": [
            "predict",
            str(bundle),
            phantoms.items("test")[0]["image"],
            "-o",
            "out",
            "--checkpoint",
            "model.pt",
        ],
        "train": ["train", str(bundle), "--datalist", str(phantoms.datalist), "-o", "run", "--checkpoint", "model.pt"],
    }
    for key in [*merged_config(bundle, ["train"])["settings"], "imports", "initialize", "unheard_of"]:
        save(tmp_path / "model.pt", {key: CODE}, earlier=earlier)
        assert main([*commands[verb], "--checkpoint", "model.pt"]) == 2
        message = capsys.readouterr().err
        assert "\n" not in message.strip()
        assert "model.pt: " in message
        assert not (tmp_path / "hit").exists(), key


def test_the_network_of_another_bundle_is_refused_by_name(bundle: Path, phantoms: Phantoms, tmp_path: Path, capsys):
    write_model(tmp_path / "model.pt", STATE, {"bundle": "another_task_net"})
    image, out = phantoms.items("test")[0]["image"], str(tmp_path / "out")
    command = ["predict", str(bundle), image, "-o", out, "--checkpoint", str(tmp_path / "model.pt")]
    assert main(command) == 2
    assert f"weights of another_task_net, not of {bundle.name}" in capsys.readouterr().err
    assert main([*command, "--set", "weights_of=another_task_net"]) == 2
    assert "fits " in capsys.readouterr().err  # taken as it is, and refused for what it holds


def test_a_training_records_the_bundle_that_its_weights_are_for(bundle: Path):
    settings = json.loads((bundle / "configs" / "train.json").read_text())["settings"]
    assert settings["bundle"] == bundle.name
