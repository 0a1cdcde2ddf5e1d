"""What several configs say must be the same thing, since each bundle and each of its configs is complete by itself.

Three tables name what may differ, and why: ``OWN`` blocks are another matter in every bundle, ``EXCEPTIONS`` are blocks
of single bundles, and ``OTHER_DEFAULTS`` are keys of one bundle's configs. An exception that no longer holds fails too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import decollate_batch, list_data_collate
from monai.transforms import AsDiscreted, Compose

from medseg_monai.bundle import Predictor, find_bundle, flat_keys, list_bundles, merged_config

from .conftest import Phantoms, Trained, make_workflow

CONFIGS = ("train", "inference", "evaluate", "multi_gpu_train")

#: blocks that most bundles have and that are another matter in each: (config, block) -> why
OWN: dict[tuple[str, str], str] = {
    ("train", "imports"): "what the other blocks name",
    ("train", "max_epochs"): "the paper's",
    ("train", "val_interval"): "as often as a validation of the task's images is cheap",
    ("train", "batch_size"): "the paper's",
    ("train", "learning_rate"): "the paper's",
    ("train", "settings"): "what the task's images and the network's widths depend on",
    ("train", "network_def"): "the paper's",
    ("train", "loss"): "the paper's",
    ("train", "optimizer"): "the paper's",
    ("train", "lr_scheduler"): "the paper's",
    ("train", "load_transforms"): "the task's images",
    ("train", "resize"): "the task's images",
    ("train", "normalize"): "the task's images",
    ("train", "train#label_resize"): "the task's images",
    ("train", "train#dataset"): "how many views of an image an epoch has",
    ("train", "train#random_transforms"): "the paper's",
    ("train", "train#preprocessing"): "the task's images",
    ("train", "validate#preprocessing"): "the task's images",
    ("train", "validate#inferer"): "whole, slice by slice, or in two stages",
    ("train", "validate#postprocessing"): "the task's labels",
    ("inference", "imports"): "what the other blocks name",
    ("inference", "network_def"): "the paper's",
    ("inference", "preprocessing"): "the task's images",
    (
        "inference",
        "dataset",
    ): "what finds the task's images: one of find_images, find_oct …",
    ("inference", "inferer"): "whole, in views, slice by slice, or in two stages",
    ("inference", "postprocessing"): "the task's labels",
    ("evaluate", "imports"): "what the other blocks name",
    ("evaluate", "metrics"): "the paper's",
    ("evaluate", "validate#inferer"): "whole, in views, slice by slice, or in two stages",
    ("evaluate", "validate#postprocessing#transforms"): "the task's labels; where absent, the training's serve",
    ("evaluate", "validate#handlers#CaseMetrics"): "for images; LabelMetrics for volumes",
}

#: blocks of single bundles that differ from the others' or are absent: (config, block) -> bundle -> why
EXCEPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("train", "initial_network"): {"lung_lobe_ct_ctsunet": "refuses the key that it had before initial_weights"},
    ("train", "initialize"): {"abdomen_mri_anunet": "an unknown organ is refused before anything is read"},
    ("multi_gpu_train", "initialize"): {"abdomen_mri_anunet": "an unknown organ is refused before anything is read"},
    ("train", "train#trainer"): {
        "lung_lobe_ct_ctsunet": "its network takes the label too, to draw patches",
        "lung_cxr_rescrnet": "the paper plots a coefficient of the training",
    },
    ("train", "validate#evaluator"): {"lung_cxr_rescrnet": "the paper plots loss and coefficient of the validation"},
    ("train", "train#handlers#LrScheduleHandler"): {
        "lung_cxr_defunet": "the rate falls on a plateau of the validation, so its validation has the handler"
    },
    ("train", "train#handlers#TrainingState"): {"lung_cxr_defunet": "the paper stops early"},
    **{
        (config, "validate#handlers#OverlaySaver"): {"cell_contour_em_cenet": "draws a page of a stack"}
        for config in ("train", "evaluate")
    },
    ("train", "validate#key_metric"): {
        "lung_lobe_ct_ctsunet": "a label map of five lobes",
        "retinal_layer_oct_cenet": "layers, of which columns may have no truth",
    },
}

#: flat keys whose values differ between the configs of a bundle: key -> why
OTHER_DEFAULTS = {
    "output_dir": "a run and predictions are not mixed",
    "amp": "a training may choose bfloat16, while a mask is made in float32",
    "checkpoint": "a prediction takes the shipped weights, an evaluation those of its run",
    "organ": "a training needs one; a prediction refuses to guess what its weights were trained for",
}


def read(bundle: str, config: str) -> dict[str, Any]:
    """A config as its file has it, with a common name for all bundles."""
    text = (find_bundle(bundle) / "configs" / f"{config}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text.replace(bundle, "BUNDLE"))
    return content


def blocks(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The parts that are compared: entries, those of ``train`` and ``validate`` one by one, and each handler."""
    for key, value in content.items():
        if key in ("train", "validate") and not prefix:
            yield from blocks(value, f"{key}#")
        elif key.endswith("handlers") and isinstance(value, list):
            yield from ((f"{prefix}{key}#{one['_target_'].rpartition('.')[2]}", one) for one in value)
        else:
            yield f"{prefix}{key}", value


BLOCKS = {(bundle, config): dict(blocks(read(bundle, config))) for bundle in list_bundles() for config in CONFIGS}
EXCEPTED = {(place, bundle) for place, bundles in EXCEPTIONS.items() for bundle in bundles}


def shared_blocks() -> list[tuple[str, str]]:
    """Places of the blocks that all bundles have in common, or would if it were not for the exceptions."""
    places = {(config, name) for (_, config), found in BLOCKS.items() for name in found}
    return sorted(place for place in places - OWN.keys() if is_shared(place))


def is_shared(place: tuple[str, str]) -> bool:
    """Whether all bundles have a flat key, or most of them another block, so that none can drop it unseen."""
    config, name = place
    having = [bundle for bundle in list_bundles() if name in BLOCKS[bundle, config]]
    is_flat = all(name in flat_keys(BLOCKS[bundle, config]) for bundle in having)
    return len(having) == len(list_bundles()) if is_flat else 2 * len(having) > len(list_bundles())


def as_text(place: tuple[str, str], bundle: str) -> str:
    config, name = place
    return json.dumps(BLOCKS[bundle, config].get(name), sort_keys=True)


@pytest.mark.parametrize("place", shared_blocks(), ids="-".join)
def test_a_block_that_all_bundles_share_is_the_same_in_all(place: tuple[str, str]):
    texts = {bundle: as_text(place, bundle) for bundle in list_bundles() if (place, bundle) not in EXCEPTED}
    assert len(set(texts.values())) == 1, texts


@pytest.mark.parametrize(("place", "name"), sorted(EXCEPTED), ids=str)
def test_an_exception_is_one(place: tuple[str, str], name: str):
    others = {as_text(place, other) for other in list_bundles() if (place, other) not in EXCEPTED}
    assert as_text(place, name) not in others


@pytest.mark.parametrize("place", sorted(OWN), ids="-".join)
def test_a_block_of_each_bundles_own_differs(place: tuple[str, str]):
    assert len({as_text(place, bundle) for bundle in list_bundles()}) > 1


def test_a_default_is_the_same_in_training_inference_and_evaluation(bundle: Path):
    flat = {config: flat_keys(read(bundle.name, config)) for config in ("train", "inference", "evaluate")}
    keys = set().union(*flat.values()) - OTHER_DEFAULTS.keys()
    values = {key: {json.dumps(config[key]) for config in flat.values() if key in config} for key in keys}
    assert {key: found for key, found in values.items() if len(found) > 1} == {}


def test_what_the_weights_remember_is_what_training_and_inference_ask_for(bundle: Path):
    remembered = set(merged_config(bundle, ["train"])["settings"]) - {"bundle"}  # which ModelFile asks for itself
    for config in ("train", "inference"):
        asked = re.findall(r"@model_file\.setting\('(\w+)'", json.dumps(merged_config(bundle, [config])))
        assert set(asked) == remembered, config


def test_an_evaluation_judges_the_mask_that_a_prediction_writes(bundle: Path, phantoms: Phantoms, trained: Trained):
    item = {key: phantoms.items("test")[0][key] for key in ("image", "label")}
    predictor = Predictor(bundle, checkpoint=trained.model)
    workflow = make_workflow(bundle, "train", "evaluate", workflow_type="train", **trained.overrides)
    workflow.parser.parse(reset=True)
    get = workflow.parser.get_parsed_content
    predicted = [predictor.preprocessing, predictor.inferer, predictor.network, predictor.postprocessing]
    judged = [get("validate#preprocessing"), get("validate#inferer"), get("network"), get("validate#postprocessing")]
    for mine, theirs in zip(results(item, *predicted), results(item, *judged), strict=True):
        assert torch.equal(mine, theirs)


def results(
    item: Mapping[str, Any], preprocessing: Compose, inferer: Any, network: Any, postprocessing: Compose
) -> list[torch.Tensor]:
    """The mask, and before it the values of which it is made, since those of an untrained network may be all alike."""
    batch = list_data_collate([preprocessing(dict(item))])
    with torch.no_grad():
        batch["pred"] = inferer(batch["image"], network)
    values = Compose(list(takewhile(lambda step: not isinstance(step, AsDiscreted), postprocessing.transforms)))
    return [steps(decollate_batch(batch)[0])["pred"].as_tensor().float() for steps in (values, postprocessing)]
