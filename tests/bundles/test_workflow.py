"""Checks 4, 5, 7 and 8: train, evaluate and infer as MONAI's command line does; tracking; two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from medseg_monai.bundle import Predictor, predict_cases

from .conftest import Phantoms, Trained, config_files, hash_tree, make_workflow, run_workflow, training_overrides
from .formats import format_of


@pytest.fixture(scope="session")
def inferred(bundle: Path, phantoms: Phantoms, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the test phantoms by ``python -m monai.bundle run``, in a process of its own, from elsewhere."""
    output_dir = tmp_path_factory.mktemp(f"{bundle.name}_masks")
    images = tmp_path_factory.mktemp(f"{bundle.name}_images")
    for item in phantoms.items("test"):
        os.symlink(item["image"], images / Path(item["image"]).name)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", *config_files(bundle, "inference")]
    command += ["--dataset_dir", str(images), "--output_dir", str(output_dir), "--checkpoint", str(trained.model)]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return output_dir


def test_training_leaves_a_model_and_a_checkpoint(trained: Trained):
    assert all(isinstance(value, torch.Tensor) for value in torch.load(trained.model, weights_only=True).values())
    assert (trained.output_dir / "checkpoint.pt").is_file()


def test_all_images_that_a_training_draws_have_one_size(bundle: Path, phantoms: Phantoms, tmp_path: Path):
    """Image and patch are not square, so that a quarter turn would show."""
    overrides = training_overrides(bundle, phantoms, tmp_path)
    workflow = make_workflow(bundle, "train", workflow_type="train", **overrides)
    workflow.parser.parse(reset=True)
    dataset = workflow.parser.get_parsed_content("train#dataset")
    drawn = [item if isinstance(item, list) else [item] for item in (dataset[0] for _ in range(8))]
    assert len({crop[key].shape[1:] for crops in drawn for crop in crops for key in ("image", "label")}) == 1


def test_training_draws_the_validation_cases(trained: Trained):
    assert list((trained.output_dir / "overlays").glob("*_epoch0001.png"))


def test_training_changes_nothing_that_is_shipped_nor_the_working_directory(trained: Trained):
    assert trained.changed == set()


def test_evaluation_writes_a_row_for_every_test_case(phantoms: Phantoms, trained: Trained, evaluated: dict[str, Any]):
    lines = (trained.output_dir / "evaluation" / "cases.csv").read_text().splitlines()
    assert evaluated["cases"] == len(phantoms.items("test")) == len(lines) - 1


def test_masks_have_the_geometry_of_their_images_and_their_names(bundle: Path, phantoms: Phantoms, inferred: Path):
    files = format_of(bundle)
    for item in phantoms.items("test"):
        files.check_geometry(item["image"], files.mask_of(inferred, item["image"]))


def test_medseg_predict_makes_the_masks_of_monai_bundle_run(
    bundle: Path, phantoms: Phantoms, trained: Trained, inferred: Path, tmp_path: Path
):
    images = [item["image"] for item in phantoms.items("test")]
    predictor = Predictor(bundle, checkpoint=trained.model, overrides={"dataset_dir": images})
    report = predict_cases(predictor, predictor.cases, tmp_path)
    assert not report.failed
    assert sorted(case.input for case in report.cases) == sorted(images)
    files = format_of(bundle)
    for case in report.cases:
        mine, theirs = (files.mask_of(folder, case.input) for folder in (tmp_path, inferred))
        assert str(mine) in case.outputs
        np.testing.assert_array_equal(files.read(mine), files.read(theirs))


def test_predicting_twice_gives_the_same_bits(bundle: Path, phantoms: Phantoms, trained: Trained):
    predictor = Predictor(bundle, checkpoint=trained.model)
    case = {"image": phantoms.items("test")[0]["image"]}
    first, second = (predictor(case).data for _ in range(2))
    key = "probability" if "probability" in first else "pred"
    assert torch.equal(first[key].as_tensor(), second[key].as_tensor())


def test_tracking_with_mlflow_ends_a_named_run_with_metrics_and_the_executed_config(trained: Trained):
    client = mlflow.MlflowClient(trained.tracking_uri)
    experiment = client.search_experiments(filter_string="name = 'monai_experiment'")[0]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "bundle-check"
    assert run.info.status == "FINISHED"
    assert {"train_loss", "val_dice"} <= run.data.metrics.keys()
    configs = [artifact.path for artifact in client.list_artifacts(run.info.run_id) if artifact.path.endswith(".json")]
    assert len(configs) == 1
    executed = json.loads(Path(client.download_artifacts(run.info.run_id, configs[0])).read_text())
    assert executed["max_epochs"] == 1


def test_two_processes_train_together(bundle: Path, phantoms: Phantoms, tmp_path: Path):
    overrides = {**training_overrides(bundle, phantoms, tmp_path / "run"), "batch_size": 1, "amp": "auto"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    command += [f"--master_port={port}", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(config_files(bundle, "train", "multi_gpu_train"))]
    command += [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["precision"]["used"] in ("float32", "bfloat16")
    assert state["iteration"] == len(phantoms.items("training")) // 2
    assert not any(key.startswith("module.") for key in state["network"])


def test_inference_without_weights_says_where_to_get_them(bundle: Path, phantoms: Phantoms, tmp_path: Path):
    images = str(Path(phantoms.items("test")[0]["image"]).parent)
    workflow = make_workflow(
        bundle,
        "inference",
        workflow_type="infer",
        dataset_dir=images,
        output_dir=str(tmp_path),
        checkpoint=str(tmp_path / "none.pt"),
    )
    before = hash_tree(bundle)
    with pytest.raises(RuntimeError) as caught:
        run_workflow(workflow)
    assert "no weights here" in str(caught.value.__cause__)
    assert hash_tree(bundle) == before
