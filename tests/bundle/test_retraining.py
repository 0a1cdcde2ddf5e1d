"""Retraining of the lobe bundle from a checkpoint, by one switch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseg_monai.bundle import BundleError, build_workflow
from medseg_monai.data.phantoms import phantom_writer

BUNDLE = "lung_lobe_ct_ctsunet"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    phantom_writer(BUNDLE)(folder, counts={"training": 1}, size=(32, 40, 32), seed=1)
    return folder


def parsed(scans: Path, configs: tuple[str, ...] = ("train",), **overrides: object) -> object:
    kind = "infer" if configs == ("inference",) else "train"
    workflow = build_workflow(
        BUNDLE, list(configs), workflow_type=kind, overrides={"dataset_dir": str(scans), **overrides}
    )
    workflow.initialize()
    return workflow.parser


def test_retraining_starts_from_the_weights_with_their_widths_and_adds_the_cross_entropy(scans, lobe_model):
    parser = parsed(scans, retrain_from=str(lobe_model))
    network = parser.get_parsed_content("network")
    stored = torch.load(lobe_model, weights_only=True)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor.contiguous(), stored["model"][name]), name
    assert parser.get_parsed_content("loss").top_k == 0.3
    assert parser.get_parsed_content("settings")["stage2_features"] == stored["settings"]["stage2_features"]
    assert parser.get_parsed_content("in_plane_size") == 48


def test_the_window_in_hounsfield_units_stays_with_the_weights(scans, lobe_model, tmp_path):
    stored = torch.load(lobe_model, weights_only=True)
    recorded = parsed(scans, hu_min=-1000, hu_max=-500).get_parsed_content("settings")
    stored["settings"].update({key: recorded[key] for key in ("hu_min", "hu_max")})
    weights = tmp_path / "model.pt"
    torch.save(stored, weights)
    for configs, key in (
        (("train",), "retrain_from"),
        (("train", "evaluate"), "checkpoint"),
        (("inference",), "checkpoint"),
    ):
        parser = parsed(scans, configs, **{key: str(weights)})
        assert [parser.get_parsed_content(name) for name in ("hu_min", "hu_max")] == [-1000, -500], configs


def test_training_without_it_has_the_generalised_dice_loss_alone(scans):
    parser = parsed(scans, stage1_features=[4] * 14, stage2_features=[4] * 14)
    loss = parser.get_parsed_content("loss")
    assert (loss.top_k, loss.dice_loss.w_type) == (0.0, "square")
    optimizer = parser.get_parsed_content("optimizer")
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (1e-5, 0.9)


def test_a_short_training_weighs_all_labels_alike(scans):
    parser = parsed(scans, ("train", "train_from_scratch"), stage1_features=[4] * 14, stage2_features=[4] * 14)
    loss = parser.get_parsed_content("loss")
    assert (loss.top_k, loss.dice_loss.w_type) == (1.0, "uniform")


def test_weights_that_fit_only_in_part_are_refused(scans, lobe_model):
    with pytest.raises(RuntimeError) as caught:
        parsed(scans, retrain_from=str(lobe_model), embedding_channels=8).get_parsed_content("network")
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any(isinstance(cause, BundleError) and "fits CTSUNet only in part" in str(cause) for cause in causes)
