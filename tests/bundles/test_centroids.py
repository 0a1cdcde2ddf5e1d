"""An image and its label, made from one scene, lie in the same place after every preprocessing: nothing is shifted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, apply_transform
from monai.utils import ensure_tuple
from nibabel.affines import apply_affine

from medseg_monai.bundle import Predictor, find_bundle, flat_keys, list_bundles, merged_config

from .conftest import make_workflow
from .scenes import BLOB, FORMS, Scene, Shown, show
from .stand_ins import SETTINGS

TOLERANCE = 0.1  # pixels of the network

#: keys without which brightness would say nothing of where something lies: colours are not changed, masks not dilated,
#: which moves the centroid towards what is small, and slices without a label left out
PLAIN: dict[str, Any] = {
    "dilation": 1,
    "hue_range": 0,
    "saturation_range": 0,
    "brightness_range": 0,
    "intensity_scale": 0.0,
    "intensity_shift": 0.0,
    "equalize": False,
    "positive": 1,
    "negative": 0,
}
NOT_MOVED: dict[str, Any] = {
    "rotate_degrees": 0,
    "rotate_range": 0.0,
    "shear_degrees": 0,
    "shift_range": 0.0,
    "scale_range": 0.0,
    "flip_rows": 0.0,
    "flip_columns": 0.0,
}
#: a scene of each kind; a JPEG's noise lies everywhere
SCENES = [pair for pair in FORMS if pair[1] in ("PNG", "NIfTI PIR", "PNG slice")]


@pytest.fixture(params=SCENES, ids="-".join)
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Shown:
    return show(*request.param, tmp_path, BLOB)


def preprocessing(shown: Shown, place: str, configs: Sequence[str], **keys: Any) -> Compose:
    """A chain of a bundle's config, with those of the keys that it has."""
    known = flat_keys(merged_config(shown.bundle, configs))
    wanted = {**SETTINGS, **PLAIN, **shown.scene.keys, **keys}
    overrides = {key: value for key, value in wanted.items() if key in known}
    workflow = make_workflow(shown.bundle, *configs, workflow_type="train", **overrides)
    workflow.parser.parse(reset=True)
    chain: Compose = workflow.parser.get_parsed_content(place)
    return chain


def item_of(scene: Scene, folder: Path) -> dict[str, str]:
    return {"image": str(scene.image), "label": str(scene.write_label(folder / "label", scene.labels))}


def centroid(values: torch.Tensor) -> np.ndarray:
    """Centroid of what is brighter than the background, in pixels; it is most of every image.

    Where nothing is, as in the label of what lies between structures, it is that of what is darker.
    """
    mean = torch.as_tensor(values).as_subclass(torch.Tensor).double().mean(dim=0).numpy()
    weights = np.clip(mean - np.median(mean), 0, None)
    weights = weights if weights.any() else np.median(mean) - mean
    assert weights.any()
    return np.array([(place * weights).sum() / weights.sum() for place in np.indices(weights.shape)])


def centroid_in(grid: MetaTensor, values: MetaTensor) -> np.ndarray:
    """The centroid of an image that has another grid, in the pixels of this one."""
    axes = values.ndim - 1
    affine = np.linalg.inv(grid.affine.numpy()) @ values.affine.numpy()
    whole = np.zeros(affine.shape[0] - 1)
    whole[:axes] = centroid(values)
    return apply_affine(affine, whole)[:axes]


def samples(chain: Compose, item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a chain makes of an item: one sample or, of a volume, a slice or several."""
    made = apply_transform(chain, dict(item))
    yield from made if isinstance(made, list) else [made]


@pytest.mark.parametrize(
    ("moved", "tolerance"),
    [(NOT_MOVED, TOLERANCE), ({}, 2 * TOLERANCE)],  # an augmented label is rounded to pixels twice
    ids=["as they are", "augmented"],
)
def test_a_training_sees_a_label_where_its_image_is(
    moved: dict[str, Any], tolerance: float, shown: Shown, tmp_path: Path
):
    chain = preprocessing(shown, "train#preprocessing", ["train"], **moved)
    chain.set_random_state(seed=0)
    item = item_of(shown.scene, tmp_path)
    shifts = [
        centroid(sample["label"]) - centroid(sample["image"]) for _ in range(8) for sample in samples(chain, item)
    ]
    # a flip after a shift turns it, so that the mean of the shifts themselves says nothing
    assert np.abs(shifts).mean(axis=0).max() < tolerance


@pytest.mark.parametrize("configs", [["train"], ["train", "evaluate"]], ids="-".join)
def test_a_validation_and_an_evaluation_know_where_image_and_label_are(
    configs: list[str], shown: Shown, tmp_path: Path
):
    keys = {"checkpoint": str(shown.model), "views": "flips"}
    chain = preprocessing(shown, "validate#preprocessing", configs, **keys)
    (sample,) = samples(chain, item_of(shown.scene, tmp_path))
    expected = centroid_in(sample["image"], sample["label"])
    np.testing.assert_allclose(centroid(sample["image"]), expected, atol=TOLERANCE)


def ways_to_restore(name: str) -> list[dict[str, Any]]:
    """Keys for each way in which a bundle takes a mask back to the grid of its image."""
    known = flat_keys(merged_config(name, ["inference"]))
    return [{"restore": "labels"}, {"restore": "probabilities"}] if "restore" in known else [{}]


@pytest.mark.parametrize(
    ("name", "form", "options"), [(*pair, options) for pair in SCENES for options in ways_to_restore(pair[0])], ids=str
)
def test_a_mask_that_is_restored_lies_where_its_structure_is(
    name: str, form: str, options: dict[str, Any], tmp_path: Path
):
    shown = show(name, form, tmp_path, BLOB)
    predictor = Predictor(shown.bundle, checkpoint=shown.model, overrides={**shown.keys, **options})
    item = {"image": str(shown.scene.image)}
    image = apply_transform(predictor.preprocessing.transforms[0], item)["image"]
    shift = np.abs(centroid(predictor(item).mask) - centroid(image))
    assert shift.max() < 2 * TOLERANCE  # in pixels of the image, half as large as the network's and smaller


@pytest.mark.parametrize("name", list_bundles())
def test_no_bundle_resizes_a_label_to_the_pixels_below(name: str):
    """PyTorch's ``nearest`` does; that of ``grid_sample``, which the augmentation takes, rounds."""
    for config in find_bundle(name).glob("configs/*.json"):
        for step in steps_of(json.loads(config.read_text(encoding="utf-8"))):
            if not re.search("Affine|Elastic", step["_target_"]):
                assert "nearest" not in ensure_tuple(step.get("mode")), config


def steps_of(content: Any) -> Iterator[dict[str, Any]]:
    """All parts of a config that name a class."""
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if isinstance(content, dict) and "_target_" in content:
        yield content
    for part in parts:
        yield from steps_of(part)
