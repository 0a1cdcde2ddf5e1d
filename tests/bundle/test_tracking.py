"""What a run records so that it can be repeated."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from medseg_monai import __version__
from medseg_monai.bundle.tracking import default_tracking_uri, run_parameters, tracking_settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle outside of any checkout, with a data list."""
    root = tmp_path / "toy_bundle"
    root.mkdir()
    (root / "datalist.json").write_text('{"training": []}')
    return root


def parameters(bundle: Path, config: dict[str, Any]) -> dict[str, str]:
    return run_parameters(bundle, "0.3.0", config, bundle / "datalist.json")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def revision(bundle: Path) -> str:
    """The bundle in a checkout with one, tagged, commit."""
    git(bundle, "init", "-q")
    git(bundle, "add", ".")
    git(bundle, "commit", "-qm", "first")
    git(bundle, "tag", "-a", "v1", "-m", "v1")
    return git(bundle, "rev-parse", "HEAD")


def test_bundle_version_and_data_list_are_recorded(bundle):
    recorded = parameters(bundle, {})
    assert recorded["bundle"] == "toy_bundle"
    assert recorded["bundle_version"] == "0.3.0"
    assert recorded["medseg_monai_version"] == __version__
    assert recorded["datalist_sha256"] == hashlib.sha256(b'{"training": []}').hexdigest()


def test_the_revision_is_the_whole_commit_even_where_a_tag_names_it(bundle, revision):
    assert parameters(bundle, {})["git_revision"] == revision
    assert len(revision) == 40


def test_a_changed_checkout_is_marked(bundle, revision):
    (bundle / "datalist.json").write_text("{}")
    assert parameters(bundle, {})["git_revision"] == f"{revision}-dirty"


def test_outside_of_a_checkout_there_is_no_revision(bundle, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(bundle.parent))
    assert parameters(bundle, {})["git_revision"] == "none"


def test_without_git_there_is_no_revision(bundle, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert parameters(bundle, {})["git_revision"] == "none"


def test_scalars_and_lists_of_numbers_are_recorded_expressions_references_and_components_are_not(bundle):
    config = {
        "learning_rate": 0.004,
        "amp": False,
        "image_size": [448, 320],
        "channel_order": "RGB",
        "device": "$torch.device('cpu')",
        "patch_size": "@image_size",
        "run": ["$@trainer.run()"],
        "network_def": {"_target_": "CENet"},
        "nothing": None,
    }
    own = parameters(bundle, {})
    assert {key: value for key, value in parameters(bundle, config).items() if key not in own} == {
        "learning_rate": "0.004",
        "amp": "False",
        "image_size": "[448, 320]",
        "channel_order": "RGB",
    }


def test_a_long_value_is_cut_to_what_every_server_takes(bundle):
    assert parameters(bundle, {"dataset_dir": "/data/" + "x" * 1000})["dataset_dir"] == "/data/" + "x" * 244


@pytest.mark.parametrize("key", ["network_def#out_channels", "network_def::out_channels"])
def test_a_nested_key_gets_a_name_that_mlflow_takes(key, bundle):
    assert parameters(bundle, {key: 2})["network_def.out_channels"] == "2"


def test_a_missing_data_list_is_named_with_the_remedy(bundle):
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such data list; .*--dataset-dir") as error:
        run_parameters(bundle, "0.3.0", {}, bundle / "gone.json")
    assert "\n" not in str(error.value)


def test_the_default_database_lies_in_the_runs_folder_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri(Path("runs/a")) == f"sqlite:///{tmp_path}/runs/a/mlruns.db"


def test_the_settings_name_the_objects_that_every_bundle_has(tmp_path):
    settings = tracking_settings(
        output_dir=tmp_path,
        tracking_uri="http://localhost:1",
        experiment_name="eyes",
        run_name="eyes_1",
        run_id="abc",
        parameters={"seed": "0"},
        config_file=tmp_path / "config.json",
        input_shape=[1, 3, 64, 96],
        registered_model_name="eyes",
    )
    assert settings["handlers_id"] == {"trainer": {"id": "train#trainer", "handlers": "train#handlers"}}
    configs = settings["configs"]
    assert configs["tracking_uri"] == "http://localhost:1"
    assert configs["save_execute_config"] == str(tmp_path / "config.json")
    trainer = configs["trainer"]
    assert (trainer["run_id"], trainer["input_shape"]) == ("abc", [1, 3, 64, 96])
    assert trainer["experiment_param"] == {"seed": "0"}
    assert trainer["registered_model_name"] == "eyes"
    assert (trainer["experiment_name"], trainer["run_name"]) == ("@experiment_name", "@run_name")
    assert trainer["validator"] == "@validate#evaluator"  # which is logged to the same run
