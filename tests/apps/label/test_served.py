"""What a client is told of a bundle, and what it may change: without MONAI Label."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from medseg_monai.apps.label import serve
from medseg_monai.apps.label.lib.served import ServedBundle, check_options, choose_bundles
from medseg_monai.bundle import BundleError, find_bundle, list_bundles, merged_config

from .conftest import CXR, LOBES


@pytest.mark.parametrize("name", list_bundles())
def test_every_bundle_can_be_served_with_no_edit(name: str):
    bundle = ServedBundle.read(name)
    assert bundle.name == name
    assert list(bundle.labels.values()) == list(range(1, len(bundle.labels) + 1))
    assert set(bundle.colours) == set(bundle.labels)
    assert "background" not in bundle.labels
    assert check_options(bundle, bundle.options) == {}


def test_lobes_have_the_names_values_and_colours_of_the_bundles_dicom_seg():
    bundle = ServedBundle.read(LOBES)
    assert (bundle.dimension, bundle.softmax) == (3, True)
    assert bundle.labels["right middle lobe"] == 5
    assert bundle.colours["left lower lobe"] == (86, 180, 233)


def test_the_network_s_own_choice_is_shown_empty_and_a_number_overrules_it():
    bundle = ServedBundle.read("abdomen_mri_anunet")
    assert bundle.options["supervision_level"] == ""
    assert check_options(bundle, {"supervision_level": ""}) == {}
    assert check_options(bundle, {"supervision_level": "2"}) == {"supervision_level": 2}
    with pytest.raises(ValueError, match="supervision_level: expected whole number, got 'deep'"):
        check_options(bundle, {"supervision_level": "deep"})


def test_weights_that_say_what_they_segment_name_the_label(tmp_path: Path):
    weights = tmp_path / "model.pt"
    torch.save({"model": {}, "settings": {"organ": "spleen"}}, weights)
    assert ServedBundle.read("abdomen_mri_anunet", weights).labels == {"spleen": 1}
    assert ServedBundle.read("abdomen_mri_anunet").labels == {"organ": 1}


@pytest.mark.parametrize("name", list_bundles())
def test_settings_of_weights_are_never_run_when_a_bundle_is_served(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "$__import__('pathlib').Path('hit').touch()"
    for key in merged_config(name, ["train"])["settings"]:
        torch.save({"model": {}, "settings": {key: code}}, tmp_path / "model.pt")
        with contextlib.suppress(RuntimeError):  # a setting that decides about preprocessing is refused here already
            ServedBundle.read(name, tmp_path / "model.pt")
        assert not (tmp_path / "hit").exists(), key


def test_one_channel_of_a_sigmoid_is_label_one():
    bundle = ServedBundle.read("optic_disc_fundus_cenet")
    assert (bundle.labels, bundle.dimension, bundle.softmax) == ({"optic disc": 1}, 2, False)
    assert bundle.options["views"] == "dihedral"


def test_a_copy_of_a_bundle_under_another_name_is_served_from_its_path(tmp_path: Path):
    copy = tmp_path / "my_lungs"
    shutil.copytree(find_bundle(CXR), copy)
    metadata = copy / "configs" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "name": "my_lungs"}))
    assert choose_bundles([str(copy)])["my_lungs"].shipped_weights == copy / "models" / "model.pt"


def test_by_default_the_bundles_with_weights_are_served(tmp_path: Path):
    assert CXR in choose_bundles()
    weights = tmp_path / "model.pt"
    torch.save({"model": {}, "settings": {}}, weights)
    assert LOBES in choose_bundles(weights={LOBES: weights})


def test_a_bundle_without_weights_is_refused_by_name(tmp_path: Path):
    with pytest.raises(BundleError, match=f"{LOBES}: no weights"):
        choose_bundles([CXR, LOBES], {LOBES: tmp_path / "absent.pt"})


def test_weights_for_a_bundle_that_is_not_served_are_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="weights for bundles that are not served"):
        choose_bundles([CXR], {LOBES: tmp_path / "model.pt"})


def test_metadata_without_label_names_are_refused(tmp_path: Path):
    copy = tmp_path / CXR
    shutil.copytree(find_bundle(CXR), copy)
    metadata = copy / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["network_data_format"]["outputs"]["pred"]["channel_def"]
    metadata.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="names no labels"):
        ServedBundle.read(copy)


def test_options_come_in_the_type_that_the_bundle_has_for_them():
    given = {"lung_only": "false", "restore": "probabilities", "device": "cuda"}
    assert check_options(ServedBundle.read(LOBES), given) == {"lung_only": False, "restore": "probabilities"}
    changed = check_options(ServedBundle.read(CXR), {"keep_largest": "2.0", "threshold": "1"})
    assert changed == {"keep_largest": 2, "threshold": 1.0}
    assert {key: type(value) for key, value in changed.items()} == {"keep_largest": int, "threshold": float}


@pytest.mark.parametrize(
    ("bundle", "option"),
    [
        (LOBES, {"lung_only": "perhaps"}),
        (CXR, {"keep_largest": 0.5}),
        (CXR, {"keep_largest": "$1"}),
        (LOBES, {"restore": "$__import__('os').getpid()"}),
        (LOBES, {"restore": "@checkpoint"}),
        (LOBES, {"restore": "%train.json"}),
        (LOBES, {"restore": ["labels"]}),
        (CXR, {"threshold": float("nan")}),
        (CXR, {"threshold": -5}),
        (CXR, {"threshold": 1.01}),
        (CXR, {"threshold": "inf"}),
        (CXR, {"keep_largest": -1}),
        (CXR, {"keep_largest": float("inf")}),
        (CXR, {"keep_largest": 10**400}),
    ],
)
def test_a_value_of_another_type_or_range_or_that_monai_would_run_is_refused(bundle: str, option: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(option))):
        check_options(ServedBundle.read(bundle), option)


def test_an_address_that_others_can_reach_is_refused_unless_they_log_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    for host in ("0.0.0.0", "192.168.1.7", "example.org"):
        with pytest.raises(ValueError, match="without logging in"):
            serve(tmp_path, host=host)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        serve(tmp_path / "absent")


def test_layers_have_the_names_and_colours_of_the_weights(tmp_path: Path):
    bundle = ServedBundle.read("retinal_layer_oct_cenet")
    assert bundle.softmax
    channels = json.loads((bundle.root / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]
    assert list(bundle.labels) == list(channels["pred"]["channel_def"].values())[1:]
    weights = tmp_path / "model.pt"
    torch.save({"model": {}, "settings": {"out_channels": 4, "boundaries": ["ILM", "NFL-GCL", "BM"]}}, weights)
    bundle = ServedBundle.read("retinal_layer_oct_cenet", weights)
    assert bundle.labels == {"ILM to NFL-GCL": 1, "NFL-GCL to BM": 2, "below BM": 3}
    assert len(set(bundle.colours.values())) == 3
