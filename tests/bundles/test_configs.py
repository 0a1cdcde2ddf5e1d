"""Checks 2 and 6: properties, and agreement between the configs of a bundle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import list_data_collate

from medseg_monai.bundle import Predictor, flat_keys, load_network, merged_config
from medseg_monai.metrics import CONTOUR_METRICS

from .conftest import Phantoms, Trained, make_workflow

FLAT_KEYS = {
    "train": {
        "dataset_dir",
        "datalist",
        "output_dir",
        "max_epochs",
        "learning_rate",
        "batch_size",
        "amp",
        "num_workers",
        "max_image_mib",
        "seed",
        "resume",
        "val_interval",
    },
    "inference": {"dataset_dir", "output_dir", "checkpoint", "amp", "num_workers", "max_image_mib", "device"},
}


def test_the_training_has_every_property(bundle: Path, phantoms: Phantoms, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = make_workflow(bundle, "train", workflow_type="train", dataset_dir=str(phantoms.folder))
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_evaluation_has_every_property(bundle: Path, trained: Trained, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = make_workflow(bundle, "train", "evaluate", workflow_type="train", **trained.overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_inference_has_every_property(
    bundle: Path, phantoms: Phantoms, trained: Trained, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    images = str(Path(phantoms.items("test")[0]["image"]).parent)
    workflow = make_workflow(
        bundle, "inference", workflow_type="infer", dataset_dir=images, checkpoint=str(trained.model)
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", ["train", "inference"])
def test_what_a_user_changes_is_a_flat_key(bundle: Path, name: str):
    assert FLAT_KEYS[name] - flat_keys(merged_config(bundle, [name])).keys() == set()


@pytest.mark.parametrize("names", [["train"], ["inference"], ["train", "evaluate"]])
def test_no_image_is_read_without_the_limit_of_its_size(bundle: Path, names: list[str]):
    readers = list(find_readers(merged_config(bundle, names)))
    assert readers
    assert all(reader["max_image_mib"] == "@max_image_mib" for reader in readers)


def find_readers(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict) and str(config.get("_target_")).endswith("Reader"):
        yield config
    if isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from find_readers(value)


def test_training_and_inference_define_the_same_network(bundle: Path, phantoms: Phantoms, trained: Trained):
    """What only the training says of its network changes no prediction."""
    train, inference = (merged_config(bundle, [name])["network_def"] for name in ("train", "inference"))
    assert {key: train.get(key) for key in inference} == inference
    predictor = Predictor(bundle, checkpoint=trained.model)
    workflow = make_workflow(bundle, "train", workflow_type="train", **trained.overrides)
    workflow.parser.parse(reset=True)
    network = load_network(workflow.parser.get_parsed_content("network_def"), trained.model, "cpu", fast=False)
    image = list_data_collate([predictor.preprocessing({"image": phantoms.items("test")[0]["image"]})])["image"]
    assert torch.equal(predictor.infer(image, network), predictor.infer(image, predictor.network_def))


def test_training_validation_and_inference_see_the_same_image(bundle: Path, phantoms: Phantoms, trained: Trained):
    """An image preprocessed for validation is the one preprocessed for inference, to the last bit."""
    item = phantoms.items("test")[0]
    train = make_workflow(bundle, "train", workflow_type="train", **trained.overrides)
    train.initialize()
    for_validation = train.parser.get_parsed_content("validate#preprocessing")(dict(item))["image"]
    inference = make_workflow(bundle, "inference", workflow_type="infer", checkpoint=str(trained.model))
    inference.parser.parse(reset=True)
    for_inference = inference.parser.get_parsed_content("preprocessing")({"image": item["image"]})["image"]
    assert for_validation.shape == for_inference.shape
    assert bool((for_validation == for_inference).all())


def test_the_metadata_counts_the_networks_channels(bundle: Path):
    workflow = make_workflow(bundle, "inference", workflow_type="infer")
    definition = {
        key: workflow.parser.get_parsed_content(f"network_def#{key}") for key in ("in_channels", "out_channels")
    }
    data_format = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert data_format["inputs"]["image"]["num_channels"] == definition["in_channels"]
    assert data_format["outputs"]["pred"]["num_channels"] == definition["out_channels"]
    assert len(data_format["outputs"]["pred"]["channel_def"]) == definition["out_channels"]


def test_the_evaluation_reports_every_metric_that_the_config_names(bundle: Path, evaluated: dict[str, Any]):
    asked = ConfigParser(merged_config(bundle, ["train", "evaluate"]))["metrics"]
    assert set(asked) - {"hd95", *CONTOUR_METRICS} == set(evaluated["pooled"])  # distances and cells are not pooled
    assert set(asked) <= set(evaluated["per_case"])
