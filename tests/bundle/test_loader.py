"""Finding bundles, and checking what a user overrides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from medseg_monai.bundle import (
    BundleError,
    build_workflow,
    bundle_root,
    example_input_shape,
    find_bundle,
    flat_keys,
    list_bundles,
    loader,
    merged_config,
    read_metadata,
)
from medseg_monai.bundle.loader import check_overrides

REAL = "retinal_vessel_fundus_cenet"
TRAIN: dict[str, Any] = {
    "imports": ["$import math"],
    "bundle_root": "$bundle_root",
    "learning_rate": 0.1,
    "image_size": [6, 9],
    "patch_size": "@image_size",
    "metrics": ["dice", "$'a' + 'uc'"],
    "area": "$math.prod(@image_size)",
    "layers": [{"_target_": "torch.nn.ReLU"}],
    "network": "$@network_def",
    "network_def": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": [3, 1]},
    "initialize": [],
    "run": ["$None"],
}


def write_bundle(shelf: Path, name: str) -> Path:
    """A bundle that trains nothing."""
    configs = shelf / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"name": name, "version": "0.3.0"}))
    (configs / "train.json").write_text(json.dumps(TRAIN))
    (configs / "quick.json").write_text(json.dumps({"learning_rate": 0.2, "network_def#in_channels": 3}))
    return shelf / name


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles that come with the package, and a folder that is none."""
    shelf = tmp_path / "shelf"
    for name in ("toy_eye_net", "toy_lung_net"):
        write_bundle(shelf, name)
    (shelf / "no_bundle").mkdir()
    monkeypatch.setattr(loader, "_shelves", lambda: [shelf])
    return shelf


def test_the_bundles_that_come_with_the_package_are_listed_by_name(shelf):
    assert list_bundles() == ["toy_eye_net", "toy_lung_net"]


def test_the_real_bundles_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert REAL in list_bundles()
    assert find_bundle(REAL).is_absolute()
    assert read_metadata(REAL)["name"] == REAL


def test_a_bundle_is_found_by_its_name_and_by_its_path(shelf, tmp_path, monkeypatch):
    own = write_bundle(tmp_path / "elsewhere", "mine")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("toy_lung_net") == shelf / "toy_lung_net"
    assert find_bundle(own) == find_bundle("elsewhere/mine") == own


def test_an_unknown_bundle_is_refused_with_the_nearest_and_all_names(shelf):
    with pytest.raises(BundleError) as error:
        find_bundle("toy_eyes_net")
    assert str(error.value) == (
        "toy_eyes_net: no such bundle. Did you mean toy_eye_net? There are: toy_eye_net, toy_lung_net."
    )


def test_a_name_like_none_gets_no_guess(shelf):
    with pytest.raises(BundleError, match=r"^xyz: no such bundle\. There are: toy_eye_net"):
        find_bundle("xyz")


def test_a_config_belongs_to_the_folder_above_it_whatever_the_name_there(tmp_path, monkeypatch):
    copy = tmp_path / "my_lungs"
    shutil.copytree(find_bundle("lung_cxr_rescrnet"), copy)
    metadata = copy / "configs" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "name": "my_lungs"}))
    shutil.copy(copy / "configs" / "inference.json", copy / "mine.json")
    monkeypatch.chdir(tmp_path)
    for config in (copy / "configs" / "inference.json", copy / "mine.json"):
        workflow = ConfigWorkflow(str(config), meta_file=str(metadata), workflow_type="infer", logging_file=False)
        workflow.initialize()
        assert workflow.bundle_root == str(copy)


def test_a_config_above_which_no_bundle_lies_takes_nobody_elses_weights(tmp_path, monkeypatch):
    shutil.copytree(find_bundle("lung_cxr_rescrnet") / "configs", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    workflow = ConfigWorkflow(str(tmp_path / "elsewhere" / "inference.json"), workflow_type="infer", logging_file=False)
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        _ = workflow.bundle_root
    assert "no folder of a bundle" in str(caught.value.__cause__)


def test_a_config_belongs_to_the_copy_in_the_current_folder_only_if_that_is_the_same_bundle(
    shelf, tmp_path, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(shelf / "toy_eye_net", copy)
    monkeypatch.chdir(copy)
    assert bundle_root("toy_eye_net") == str(copy)
    assert bundle_root("toy_lung_net") == str(shelf / "toy_lung_net")
    monkeypatch.chdir(tmp_path)
    assert bundle_root("toy_eye_net") == str(shelf / "toy_eye_net")
    with pytest.raises(BundleError, match="toy_ear_net: no such bundle"):
        bundle_root("toy_ear_net")


def test_overlays_are_merged_in_order_into_the_first_config(shelf):
    config = merged_config("toy_eye_net", ["train", "quick"])
    assert config["learning_rate"] == 0.2
    assert config["network_def"]["in_channels"] == 3
    assert config["network_def"]["out_channels"] == 2
    assert merged_config("toy_eye_net", ["train"])["learning_rate"] == 0.1


def test_a_file_of_the_users_own_serves_as_an_overlay(shelf, tmp_path):
    (tmp_path / "mine.yaml").write_text("learning_rate: 0.5\n")
    assert merged_config("toy_eye_net", ["train", str(tmp_path / "mine.yaml")])["learning_rate"] == 0.5


def test_an_unknown_config_is_refused_with_those_there_are(shelf):
    with pytest.raises(
        BundleError, match=r"fast: neither a config of toy_eye_net nor a file; its configs are: quick, train\."
    ):
        merged_config("toy_eye_net", ["train", "fast"])


def test_a_user_may_change_scalars_expressions_and_plain_lists_but_not_components_and_steps():
    assert flat_keys(TRAIN) == {
        key: TRAIN[key] for key in ("bundle_root", "learning_rate", "image_size", "patch_size", "area")
    }


@pytest.mark.parametrize(
    "key", ["learning_rate", "image_size", "network_def#out_channels", "network_def::kernel_size::1", "layers#0"]
)
def test_a_known_key_may_be_changed_nested_or_not(key, shelf):
    check_overrides("toy_eye_net", ["train"], {key: [3, 5] if key == "image_size" else 1})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rat", "did you mean learning_rate?"),
        ("imagesize", "did you mean image_size or patch_size?"),
        ("xyz", "there are: area, bundle_root, image_size, learning_rate, patch_size."),
        ("network_def", "there are: area"),
        ("network_def#out_chanels", "there are: area"),
        ("network_def::kernel_size::2", "there are: area"),
        ("learning_rate#x", "did you mean learning_rate?"),
        ("run", "there are: area"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key, hint, shelf):
    with pytest.raises(BundleError) as error:
        check_overrides(shelf / "toy_eye_net", ["train", "quick"], {"learning_rate": 1, key: 1})
    message = str(error.value)
    assert message.startswith(f"{key}: toy_eye_net (train, quick) has no such key; ")
    assert hint in message
    assert "\n" not in message


def test_the_workflow_has_the_overrides_the_overlays_and_the_bundles_root(shelf):
    workflow = build_workflow(
        "toy_eye_net",
        ["train", "quick"],
        workflow_type="train",
        overrides={"image_size": [2, 5], "network_def#out_channels": 4},
    )
    workflow.parser.parse(reset=True)
    network = workflow.parser.get_parsed_content("network")
    assert tuple(network.weight.shape) == (4, 3, 3, 1)
    assert workflow.parser.get_parsed_content("area") == 10
    assert workflow.parser.get_parsed_content("bundle_root") == str(shelf / "toy_eye_net")
    assert workflow.parser["_meta_"]["version"] == "0.3.0"


def test_a_workflow_with_an_unknown_override_is_not_built(shelf):
    with pytest.raises(BundleError, match=r"lerning_rate: toy_eye_net \(train, quick\) has no such key"):
        build_workflow("toy_eye_net", ["train", "quick"], workflow_type="train", overrides={"lerning_rate": 1})


def test_the_example_shape_is_the_smallest_that_the_metadata_allow():
    image = {"num_channels": 1, "spatial_shape": ["32*n", 48, "2**p"]}
    assert example_input_shape({"network_data_format": {"inputs": {"image": image}}}) == [1, 1, 32, 48, 2]


@pytest.mark.parametrize("spatial_shape", [[], ["*", "*"]])
def test_metadata_without_an_input_shape_are_refused(spatial_shape):
    metadata = read_metadata("retinal_vessel_fundus_cenet")
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = spatial_shape
    with pytest.raises(BundleError, match=r"retinal_vessel_fundus_cenet: its metadata\.json states no input shape"):
        example_input_shape(metadata)
