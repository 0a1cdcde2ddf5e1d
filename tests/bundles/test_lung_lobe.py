"""The lobe bundle's way from scans and labels to the network, and what it refuses on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from medseg_monai.bundle import find_bundle
from medseg_monai.errors import explain, is_users_mistake
from medseg_monai.networks.nets import CTSUNet
from medseg_monai.networks.weights import write_model
from medseg_monai.phantoms import write_thorax_phantoms
from medseg_monai.transforms import ReassignFragmentsd

from .conftest import make_workflow

BUNDLE = find_bundle("lung_lobe_ct_ctsunet")
AIR = -1200
SMALL = {"in_plane_size": 48, "stage1_features": [4] * 14, "stage2_features": [4] * 14, "embedding_channels": 4}


def transforms(config: str, section: str, **overrides: Any) -> Any:
    workflow = make_workflow(BUNDLE, config, workflow_type="infer" if config == "inference" else "train", **overrides)
    workflow.parser.parse(reset=True)
    return workflow.parser.get_parsed_content(section)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Four scans twice: as NIfTI in the axes of their labels, and as DICOM series, whose axes are others."""
    items = {}
    for image_format in ("nii.gz", "dicom"):
        folder = tmp_path_factory.mktemp("phantoms")
        datalist = write_thorax_phantoms(
            folder, counts={"training": 4}, size=(32, 48, 40), seed=0, image_format=image_format
        )
        entries = json.loads(datalist.read_text())["training"]
        items[image_format] = [{key: str(folder / entry[key]) for key in ("image", "label")} for entry in entries]
    return items


@pytest.fixture
def air(tmp_path: Path) -> dict[str, str]:
    """Air and below it, in a size that must be padded, with its empty label."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    scan = np.full((48, 48, 37), AIR, np.int16)
    scan[10:20, 5:9] -= 1848  # what scanners store outside their field of view
    nib.save(nib.Nifti1Image(scan, affine), tmp_path / "scan.nii")
    nib.save(nib.Nifti1Image(np.zeros((48, 48, 37), np.uint8), affine), tmp_path / "label.nii")
    return {"image": str(tmp_path / "scan.nii"), "label": str(tmp_path / "label.nii")}


@pytest.mark.parametrize("window", [{}, {"hu_min": -1000, "hu_max": -500}])
@pytest.mark.parametrize(
    ("config", "section"),
    [("inference", "preprocessing"), ("train", "train#preprocessing"), ("train", "validate#preprocessing")],
)
def test_what_is_padded_round_a_scan_is_air(config, section, window, air):
    image = transforms(config, section, in_plane_size=48, **window)(air)["image"]
    assert image.shape == (1, 48, 48, 48)
    assert image.unique().tolist() == [0.0]


@pytest.mark.parametrize("number", range(4))
def test_a_label_in_another_order_of_axes_lies_on_its_scan(phantoms, number):
    training = transforms("train", "train#preprocessing", in_plane_size=48)
    expected, item = (training(dict(phantoms[name][number])) for name in ("nii.gz", "dicom"))
    assert torch.equal(item["label"].as_tensor(), expected["label"].as_tensor())
    validation = transforms("train", "validate#preprocessing", in_plane_size=48)(dict(phantoms["dicom"][number]))
    scan = torch.as_tensor(validation["image"].meta["original_affine"])
    torch.testing.assert_close(validation["label"].affine, scan, rtol=0, atol=1e-3)


def test_two_gpus_retrain_from_the_weights_too():
    workflow = make_workflow(BUNDLE, "train", "multi_gpu_train", workflow_type="train", **SMALL)
    assert "@initial_network" in workflow.parser["network"]["module"]


def test_an_unknown_way_to_restore_labels_is_a_users_mistake_that_names_the_ways(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        transforms("inference", "postprocessing", restore="probability", output_dir=str(tmp_path))
    assert is_users_mistake(caught.value)
    assert "probabilities" in explain(caught.value)


def test_a_label_that_the_network_lacks_is_refused_by_its_value():
    network = transforms("train", "network", **SMALL)
    label = torch.zeros(1, 1, 32, 32, 32)
    label[..., :4] = 12
    with pytest.raises(ValueError, match=r"12.*0 to 5"):
        network.train()(torch.rand(1, 1, 32, 32, 32), label)


@pytest.mark.parametrize(
    ("configs", "section"),
    [(["inference"], "inferer"), (["train"], "validate#inferer"), (["train", "evaluate"], "validate#inferer")],
    ids=["inference", "validation", "evaluation"],
)
def test_windows_are_those_of_the_key_or_of_the_weights_wherever_a_scan_is_predicted(tmp_path, configs, section):
    model = tmp_path / "model.pt"
    write_model(model, {"weight": torch.zeros(1)}, CTSUNet.author_settings)
    weights = "initial_weights" if configs == ["train"] else "checkpoint"
    kind = "infer" if configs == ["inference"] else "train"
    for overrides, window in (({}, None), ({weights: str(model)}, 132), ({weights: str(model), "window": 92}, 92)):
        workflow = make_workflow(BUNDLE, *configs, workflow_type=kind, **overrides)
        workflow.parser.parse(reset=True)
        assert workflow.parser.get_parsed_content(section).window == window


@pytest.mark.parametrize(
    ("configs", "section"),
    [(["inference"], "postprocessing"), (["train", "evaluate"], "validate#postprocessing")],
    ids=["inference", "evaluation"],
)
def test_fragments_go_to_their_neighbours_unless_the_key_says_no(tmp_path, configs, section):
    kind = "infer" if configs == ["inference"] else "train"
    lobes = torch.zeros(1, 6, 5, 6)
    lobes[:, :3, :4], lobes[:, 4, 2:4], lobes[:, 2, 1] = 1, 2, 2  # of label 2, the voxels in row 2 touch only label 1
    for overrides, expected in (({}, 1), ({"reassign_fragments": False}, 2)):
        workflow = make_workflow(BUNDLE, *configs, workflow_type=kind, output_dir=str(tmp_path), **overrides)
        workflow.parser.parse(reset=True)
        steps = workflow.parser.get_parsed_content(section).transforms
        cleaning = [step for step in steps if isinstance(step, ReassignFragmentsd)]
        found = Compose(cleaning)({"pred": lobes.clone()})["pred"]
        assert found[0, 2, 1].unique().tolist() == [expected]
