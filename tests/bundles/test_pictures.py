"""Every bundle of 2D images finds the foreground of a mask from its file, and refuses an image without content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from medseg_monai.bundle import find_bundle, flat_keys, list_bundles, merged_config
from medseg_monai.bundle.training_data import read_label
from medseg_monai.errors import explain, is_users_mistake

from .conftest import make_workflow

#: bundles that read pictures with masks of one structure
OF_PICTURES = [name for name in list_bundles() if "BinarizeMaskd" in json.dumps(merged_config(name, ["train"]))]
#: bundles whose pictures are not slices of volumes, which may be blank
OF_WHOLE_PICTURES = [name for name in OF_PICTURES if "slices" not in flat_keys(merged_config(name, ["train"]))]


def mask() -> np.ndarray:
    found = np.zeros((210, 226), bool)
    found[30:90, 20:150] = found[120:140, 160:200] = True
    return found


@pytest.mark.parametrize("configs", [("train",), ("train", "evaluate")], ids="-".join)
@pytest.mark.parametrize("name", OF_PICTURES)
def test_a_mask_of_0_and_1_has_the_foreground_of_one_of_0_and_255(name: str, configs: tuple[str, ...], tmp_path: Path):
    Image.linear_gradient("L").resize(mask().shape[::-1]).save(tmp_path / "image.png")
    Image.fromarray(mask().astype(np.uint8)).save(tmp_path / "label.png")
    item = {key: str(tmp_path / f"{key}.png") for key in ("image", "label")}
    slices = {"slices": True} if "slices" in flat_keys(merged_config(name, ["train"])) else {}
    workflow = make_workflow(find_bundle(name), *configs, workflow_type="train", **slices)
    workflow.parser.parse(reset=True)
    label = read_label(item, workflow.parser.get_parsed_content("load_transforms"))
    np.testing.assert_array_equal(np.asarray(label).squeeze(), mask())


@pytest.mark.parametrize("configs", [("train",), ("train", "evaluate"), ("inference",)], ids="-".join)
@pytest.mark.parametrize("name", OF_WHOLE_PICTURES)
def test_a_blank_image_is_refused_by_its_name(name: str, configs: tuple[str, ...], tmp_path: Path):
    Image.new("L", mask().shape[::-1], 77).save(tmp_path / "blank.png")
    Image.fromarray(mask()).save(tmp_path / "label.png")
    item = {"image": str(tmp_path / "blank.png"), "label": str(tmp_path / "label.png")}
    workflow = make_workflow(find_bundle(name), *configs, workflow_type="infer" if "inference" in configs else "train")
    workflow.parser.parse(reset=True)
    key = "preprocessing" if "inference" in configs else "validate#preprocessing"
    with pytest.raises(RuntimeError) as refused:
        workflow.parser.get_parsed_content(key)(item)
    assert is_users_mistake(refused.value)
    line = "a blank image, all its pixels have the same value; replace the file, or leave it out."
    assert explain(refused.value) == f"{tmp_path / 'blank.png'}: {line}"


@pytest.mark.parametrize("configs", [("train",), ("train", "evaluate")], ids="-".join)
@pytest.mark.parametrize("name", OF_PICTURES)
def test_a_picture_and_its_mask_are_read_upright_and_refused_if_one_of_them_is_not(
    name: str, configs: tuple[str, ...], tmp_path: Path
):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # shown turned right, so stored turned left
    drawn = Image.fromarray(mask().astype(np.uint8) * 255)
    photograph = Image.linear_gradient("L").resize(drawn.size)
    photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "image.png", exif=turned)
    drawn.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "label.png", exif=turned)
    drawn.save(tmp_path / "upright.png")
    slices = {"slices": True} if "slices" in flat_keys(merged_config(name, ["train"])) else {}
    workflow = make_workflow(find_bundle(name), *configs, workflow_type="train", **slices)
    workflow.parser.parse(reset=True)
    load = workflow.parser.get_parsed_content("load_transforms")
    item = {key: str(tmp_path / f"{key}.png") for key in ("image", "label")}
    np.testing.assert_array_equal(np.asarray(read_label(item, load)).squeeze(), mask())
    with pytest.raises(ValueError, match=r"upright\.png: EXIF orientation 1, but its image \S+image\.png has 6"):
        read_label({**item, "label": str(tmp_path / "upright.png")}, load)
