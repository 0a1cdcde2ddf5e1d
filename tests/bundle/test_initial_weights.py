"""A training that starts from weights: one way, whichever door it is asked for at."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from medseg_monai.bundle import BundleError, build_workflow, find_bundle, train
from medseg_monai.networks import NETWORKS
from medseg_monai.networks.weights import ModelFile, copy_model, settings_file, write_model
from medseg_monai.phantoms import phantom_writer
from tests.bundles.tiny import phantom_size, tiny_training

STILL: dict[str, Any] = {"max_epochs": 1, "learning_rate": 0.0}  # whatever the weights are, they stay
CODE = "$__import__('pathlib').Path('hit').touch()"
LOBES = "lung_lobe_ct_ctsunet"


def settings_and_weights(bundle: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Random weights of a small network with its settings, and what remains to be set for the training."""
    network = NETWORKS["rescrnet" if bundle == "lung_cxr_rescrnet" else "ctsunet"]
    remembered = {
        "lung_cxr_rescrnet": ("filters", "num_blocks", "image_size"),
        LOBES: ("stage1_features", "stage2_features", "embedding_channels", "in_plane_size"),
    }[bundle]
    tiny = tiny_training(bundle)
    settings = {key: tiny[key] for key in remembered}
    widths = {key: value for key, value in settings.items() if key not in ("image_size", "in_plane_size")}
    torch.manual_seed(5)
    path = folder / "start.pt"
    write_model(path, network(**widths).state_dict(), settings)
    return {key: value for key, value in tiny.items() if key not in settings}, path


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    bundle = getattr(request, "param", "lung_cxr_rescrnet")
    phantom_writer(bundle)(tmp_path, counts={"training": 2, "validation": 2}, size=phantom_size(bundle), seed=3)
    overrides, path = settings_and_weights(bundle, tmp_path)
    return bundle, {**overrides, **STILL, "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "run")}, path


def assert_same_weights(model: Path, start: Path) -> None:
    before, after = ModelFile(start), ModelFile(model)
    assert {key: after.settings[key] for key in before.settings} == before.settings
    weights, trained = before.state_dict(), after.state_dict()
    names = [name for name in weights if not name.endswith(("running_mean", "running_var", "tracked"))]
    assert names
    for name in names:
        assert torch.equal(trained[name], weights[name]), name


@pytest.mark.parametrize("start", ["lung_cxr_rescrnet", LOBES], indirect=True)
def test_it_takes_the_weights_and_the_settings_they_were_trained_with(start):
    bundle, overrides, path = start
    assert_same_weights(train(bundle, overrides=overrides, checkpoint=path, track=False).model, path)


def test_monai_takes_the_same_weights_by_the_flat_key(start, tmp_path: Path):
    bundle, overrides, path = start
    workflow = ConfigWorkflow(
        config_file=str(find_bundle(bundle) / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        **overrides,
        initial_weights=str(path),
    )
    workflow.initialize()
    workflow.run()
    assert_same_weights(tmp_path / "run" / "model.pt", path)


def test_two_ranks_start_from_the_weights_and_train_together(start, tmp_path: Path):
    bundle, overrides, path = start
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    command += [f"--master_port={port}", "-m", "medseg_monai.cli", "train", bundle, "--config", "multi_gpu_train"]
    command += ["--checkpoint", str(path), "--no-tracking", "-o", overrides.pop("output_dir")]
    overrides |= {"batch_size": 1, "learning_rate": 1e-3}
    command += [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["iteration"] == 1  # of two images each rank has one: they share the work
    assert ModelFile(tmp_path / "run" / "model.pt").settings["filters"] == ModelFile(path).settings["filters"]


def test_a_resumed_training_goes_on_without_the_weights_that_it_started_from(start, tmp_path: Path):
    bundle, overrides, path = start
    train(bundle, overrides=overrides, checkpoint=path, track=False)
    longer = {**overrides, "max_epochs": 2}
    with pytest.raises(BundleError, match="leave --checkpoint out"):
        train(bundle, overrides=longer, checkpoint=path, resume=True, track=False)
    kept = tmp_path / "moved.pt"
    copy_model(path, kept)
    path.unlink()
    result = train(bundle, overrides=longer, resume=True, track=False)
    assert result.epochs == 2
    assert_same_weights(result.model, kept)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["configs"] == ["train"]


def test_weights_that_are_not_there_are_refused_before_anything_is_written(start, tmp_path: Path):
    bundle, overrides, _ = start
    with pytest.raises(BundleError, match="no weights to start from"):
        train(bundle, overrides=overrides, checkpoint=tmp_path / "none.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["filters", "image_size", "equalize", "merge", "max_epochs", "unheard_of"])
def test_a_setting_that_is_code_is_never_run(key, start, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, overrides, path = start
    model = ModelFile(path)
    write_model(path, model.state_dict(), {**model.settings, key: CODE})
    if key in ("max_epochs", "unheard_of"):  # the bundle does not keep these with weights
        train(bundle, overrides=overrides, checkpoint=path, track=False)
    else:
        with pytest.raises(RuntimeError) as caught:
            train(bundle, overrides=overrides, checkpoint=path, track=False)
        assert f"its setting {key} is" in str(chain(caught.value))
    assert not (tmp_path / "hit").exists()


def chain(error: BaseException | None) -> list[str]:
    return [] if error is None else [str(error), *chain(error.__cause__ or error.__context__)]


def test_two_starts_for_one_training_are_refused(start, tmp_path: Path):
    bundle, overrides, path = start
    with pytest.raises(BundleError, match="two starts for one training"):
        train(bundle, overrides={**overrides, "initial_weights": str(tmp_path / "other.pt")}, checkpoint=path)


def test_weights_to_start_from_are_never_written_over_however_they_were_named(start, tmp_path: Path):
    bundle, overrides, path = start
    (tmp_path / "run").mkdir()
    copy_model(path, tmp_path / "run" / "model.pt")
    before = (tmp_path / "run" / "model.pt").read_bytes()
    for named in ({"checkpoint": tmp_path / "run" / "model.pt"}, {}):
        values = {} if named else {"initial_weights": str(tmp_path / "run" / "model.pt")}
        with pytest.raises(ValueError, match="given as an input and would be written over"):
            train(bundle, overrides={**overrides, **values}, track=False, **named)
    assert (tmp_path / "run" / "model.pt").read_bytes() == before


def test_a_training_from_another_bundles_weights_goes_on_with_its_own(start):
    bundle, overrides, path = start
    model = ModelFile(path)
    write_model(path, model.state_dict(), {**model.settings, "bundle": "lung_cxr_defunet"})
    values = {**overrides, "weights_of": "lung_cxr_defunet"}
    train(bundle, overrides=values, checkpoint=path, track=False)
    resumed = {"output_dir": overrides["output_dir"], "max_epochs": 2}
    assert train(bundle, overrides=resumed, resume=True, track=False).epochs == 2


def test_settings_that_were_lost_come_back_when_the_training_goes_on(start, tmp_path: Path):
    bundle, overrides, path = start
    model = train(bundle, overrides=overrides, checkpoint=path, track=False).model
    settings = ModelFile(model).settings
    for content in (None, '{"format": "medseg'):
        settings_file(model).unlink()
        if content:
            settings_file(model).write_text(content)
        train(bundle, overrides={**overrides, "max_epochs": 1}, resume=True, track=False)
        assert ModelFile(model).settings == settings


def test_another_programs_file_where_settings_would_go_is_told_before_the_first_epoch(start, tmp_path: Path):
    bundle, overrides, _ = start
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").write_text('{"x": 1}')
    with pytest.raises(RuntimeError) as caught:
        train(bundle, overrides={**overrides, **tiny_training(bundle)}, track=False)
    assert any("another program's file" in message for message in chain(caught.value))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_the_recipe_of_retraining_asks_for_weights(tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        parsed(["train", "retrain"]).get_parsed_content("network")
    assert any("this recipe starts from weights" in message for message in chain(caught.value))


def test_configs_of_a_runs_record_are_run_only_if_they_are_named_again(start, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle, overrides, path = start
    train(bundle, overrides=overrides, checkpoint=path, track=False)
    (tmp_path / "evil.json").write_text(json.dumps({"initialize": [CODE]}))
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "configs": ["train", str(tmp_path / "evil.json")]}))
    with pytest.raises(BundleError, match=r"evil\.json is run as code; name it again"):
        train(bundle, overrides={"output_dir": overrides["output_dir"]}, resume=True, track=False)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_of_a_run_is_named(content, tmp_path: Path):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"run\.json: damaged"):
        train("lung_cxr_rescrnet", overrides={"output_dir": str(tmp_path)}, resume=True, track=False)


@pytest.mark.parametrize("key", ["retrain_from"])
def test_a_replaced_key_is_refused_with_what_has_taken_its_place(key, tmp_path: Path):
    with pytest.raises(BundleError, match=r"retrain_from: .*initial_weights .*--config retrain"):
        train(LOBES, overrides={key: "model.pt", "output_dir": str(tmp_path / "run")}, track=False)
    assert not (tmp_path / "run").exists()
    workflow = ConfigWorkflow(
        config_file=str(find_bundle(LOBES) / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(tmp_path),
        **{key: "model.pt"},
    )
    workflow.parser.parse(reset=True)
    with pytest.raises(RuntimeError) as caught:
        workflow.parser.get_parsed_content("network")
    assert any("retrain_from: is no longer a key" in message for message in chain(caught.value))


def test_a_run_that_began_before_with_a_replaced_key_is_refused_when_resumed(tmp_path: Path):
    run = {"bundle": LOBES, "configs": ["train"], "overrides": {"retrain_from": "model.pt"}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"retrain_from: is no longer a key"):
        train(LOBES, overrides={"output_dir": str(tmp_path)}, resume=True, track=False)


def test_a_run_that_began_before_from_weights_resumes_by_its_own_overlay(start, tmp_path: Path):
    bundle, overrides, path = start
    settings = ModelFile(path).settings
    train(bundle, overrides=overrides, checkpoint=path, track=False)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    del checkpoint["settings"]  # as that version wrote it
    torch.save(checkpoint, tmp_path / "run" / "checkpoint.pt")
    network = {
        "_target_": "medseg_monai.bundle.load_network",
        "network_def": "@network_def",
        "checkpoint": "@fine_tune_from",
        "device": "@device",
        "fast": False,
    }
    overlay = tmp_path / "run" / "fine_tune.json"
    overlay.write_text(json.dumps({"fine_tune_from": str(path), "network": network}))
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    del run["overrides"]["initial_weights"]
    run = {**run, "configs": ["train", str(overlay)], "overrides": {**run["overrides"], **settings}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    assert train(bundle, overrides={**overrides, "max_epochs": 2}, resume=True, track=False).epochs == 2


def parsed(configs: list[str], **overrides: object) -> Any:
    kind = "infer" if configs == ["inference"] else "train"
    parser = build_workflow(LOBES, configs, workflow_type=kind, overrides=overrides).parser
    parser.parse(reset=True)
    return parser


def test_the_papers_retraining_is_a_recipe_on_top_of_the_weights(lobe_model: Path):
    plain, retrained = (
        parsed(configs, initial_weights=str(lobe_model)).get_parsed_content("loss")
        for configs in (["train"], ["train", "retrain"])
    )
    assert (plain.top_k, retrained.top_k) == (0.0, 0.3)


def test_the_window_in_hounsfield_units_stays_with_the_weights(lobe_model: Path, tmp_path: Path):
    stored = ModelFile(lobe_model)
    weights = tmp_path / "model.pt"
    write_model(weights, stored.state_dict(), {**stored.settings, "hu_min": -1000, "hu_max": -500})
    doors = {"initial_weights": ["train"], "checkpoint": ["inference"]}
    for key, configs in doors.items():
        parser = parsed(configs, **{key: str(weights)})
        assert [parser.get_parsed_content(name) for name in ("hu_min", "hu_max")] == [-1000, -500], configs
    parser = parsed(["train", "evaluate"], checkpoint=str(weights))
    assert [parser.get_parsed_content(name) for name in ("hu_min", "hu_max")] == [-1000, -500]


def test_training_from_nothing_has_the_generalised_dice_loss_alone():
    parser = parsed(["train"], stage1_features=[4] * 14, stage2_features=[4] * 14)
    loss = parser.get_parsed_content("loss")
    assert (loss.top_k, loss.dice_loss.w_type) == (0.0, "square")
    optimizer = parser.get_parsed_content("optimizer")
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (1e-5, 0.9)


def test_a_short_training_weighs_all_labels_alike():
    parser = parsed(["train", "train_from_scratch"], stage1_features=[4] * 14, stage2_features=[4] * 14)
    loss = parser.get_parsed_content("loss")
    assert (loss.top_k, loss.dice_loss.w_type) == (1.0, "uniform")


def test_weights_that_fit_only_in_part_are_refused(lobe_model: Path):
    with pytest.raises(RuntimeError) as caught:
        parsed(["train"], initial_weights=str(lobe_model), embedding_channels=8).get_parsed_content("network")
    assert any("fits CTSUNet only in part" in message for message in chain(caught.value))
