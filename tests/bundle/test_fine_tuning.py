"""A training that starts from weights, in two and in three dimensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg_monai.bundle import BundleError, train
from medseg_monai.data.phantoms import phantom_writer
from medseg_monai.networks import NETWORKS
from tests.bundles.tiny import PHANTOM_SIZE, TRAINING

STILL: dict[str, Any] = {"max_epochs": 1, "learning_rate": 0.0}  # whatever the weights are, they stay


def settings_and_weights(bundle: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Random weights of a small network with its settings, and what remains to be set for the training."""
    network = NETWORKS["rescrnet" if bundle == "lung_cxr_rescrnet" else "ctsunet"]
    remembered = {
        "lung_cxr_rescrnet": ("filters", "num_blocks", "image_size"),
        "lung_lobe_ct_ctsunet": ("stage1_features", "stage2_features", "embedding_channels", "in_plane_size"),
    }[bundle]
    settings = {key: TRAINING[bundle][key] for key in remembered}
    widths = {key: value for key, value in settings.items() if key not in ("image_size", "in_plane_size")}
    torch.manual_seed(5)
    path = folder / "start.pt"
    torch.save({"model": network(**widths).state_dict(), "settings": settings}, path)
    return {key: value for key, value in TRAINING[bundle].items() if key not in settings}, path


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any], Path]:
    bundle = getattr(request, "param", "lung_cxr_rescrnet")
    task = bundle.rpartition("_")[0]
    phantom_writer(bundle)(tmp_path, counts={"training": 2, "validation": 1}, size=PHANTOM_SIZE[task], seed=3)
    overrides, path = settings_and_weights(bundle, tmp_path)
    return bundle, {**overrides, **STILL, "dataset_dir": str(tmp_path)}, path


@pytest.mark.parametrize("start", ["lung_cxr_rescrnet", "lung_lobe_ct_ctsunet"], indirect=True)
def test_it_takes_the_weights_and_the_settings_they_were_trained_with(start, tmp_path: Path):
    bundle, overrides, path = start
    result = train(bundle, overrides={**overrides, "output_dir": str(tmp_path / "run")}, checkpoint=path, track=False)
    before, after = (torch.load(file, weights_only=True) for file in (path, result.model))
    trained = [name for name in before["model"] if not name.endswith(("running_mean", "running_var", "tracked"))]
    assert trained
    for name in trained:
        assert torch.equal(after["model"][name], before["model"][name]), name
    assert {key: after["settings"][key] for key in before["settings"]} == before["settings"]


def test_a_resumed_training_keeps_its_own_weights_and_needs_the_start_named_no_more(start, tmp_path: Path):
    bundle, overrides, path = start
    overrides = {**overrides, "output_dir": str(tmp_path / "run")}
    train(bundle, overrides=overrides, checkpoint=path, track=False)
    longer = {**overrides, "max_epochs": 2}
    with pytest.raises(BundleError, match="leave --checkpoint out"):
        train(bundle, overrides=longer, checkpoint=path, resume=True, track=False)
    assert train(bundle, overrides=longer, resume=True, track=False).epochs == 2
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configs"] == ["train", str(tmp_path / "run" / "fine_tune.json")]


def test_weights_that_are_not_there_are_refused_before_anything_is_written(start, tmp_path: Path):
    bundle, overrides, _ = start
    with pytest.raises(BundleError, match="no weights to start from"):
        train(bundle, overrides={**overrides, "output_dir": str(tmp_path / "run")}, checkpoint=tmp_path / "none.pt")
    assert not (tmp_path / "run").exists()
