"""The bundle of cell contours: stacks in, stacks out; a network of membranes, and masks of cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from medseg_monai.bundle import Predictor, find_bundle, predict_cases
from medseg_monai.cli import main
from medseg_monai.data import find_sections
from medseg_monai.data.limits import TooLargeError

from .conftest import make_workflow, run_workflow
from .stand_ins import save_stand_in

NAME = "cell_contour_em_cenet"
BUNDLE = find_bundle(NAME)
PAGES, SIZE = 5, (150, 211)


def cells(page: int) -> np.ndarray:
    """A membrane that wanders from page to page, and one that only the last page has."""
    found = np.ones(SIZE, bool)
    found[:, 30 + 25 * page : 40 + 25 * page] = False
    found[60:70] = page < PAGES - 1
    return found


def draw(page: int) -> np.ndarray:
    return np.where(cells(page), 215, 40).astype(np.uint8)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "volume.tif"
    tifffile.imwrite(path, np.stack([draw(page) for page in range(PAGES)]), photometric="minisblack")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same pages as files, of which a wrong order takes the last but two for the second."""
    folder = tmp_path / "block"
    folder.mkdir()
    for page in range(PAGES):
        Image.fromarray(draw(page)).save(folder / f"{page + 8}.png")
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    network = save_stand_in(BUNDLE, tmp_path / "model.pt")
    return {"checkpoint": str(tmp_path / "model.pt"), "network_def#_target_": network, "views": "flips"}


def check(mask: Path, probability: Path) -> None:
    """Fail unless page k of both belongs to page k."""
    masks, scores = tifffile.imread(mask), tifffile.imread(probability)
    assert (masks.shape, masks.dtype, scores.dtype) == ((PAGES, *SIZE), np.uint8, np.float32)
    assert set(np.unique(masks)) == {0, 255}
    for page in range(PAGES):
        agree = [float(((masks[page] > 0) == cells(other)).mean()) for other in range(PAGES)]
        assert int(np.argmax(agree)) == page
        assert agree[page] > 0.97
        np.testing.assert_array_equal(masks[page] > 0, scores[page] > 0.5)
        assert scores[page][cells(page)].mean() > 0.95


def predict(keys: dict[str, Any], given: Path, out: Path, *more: str) -> int:
    checkpoint = keys.pop("checkpoint")
    options = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    keys["checkpoint"] = checkpoint
    command = ["predict", NAME, str(given), "-o", str(out), "--checkpoint", checkpoint, "--allow-expressions"]
    return main([*command, *options, *more])


def test_page_k_of_mask_and_probability_belongs_to_page_k_of_the_stack(stack, keys, tmp_path):
    assert predict(keys, stack, tmp_path / "out") == 0
    check(tmp_path / "out" / "volume.tif", tmp_path / "out" / "volume_probability.tif")


def test_a_run_of_monai_writes_the_same_stacks(stack, keys, tmp_path):
    assert predict(keys, stack, tmp_path / "out") == 0
    values = {"dataset_dir": str(stack.parent), "output_dir": str(tmp_path / "monai"), **keys}
    run_workflow(make_workflow(BUNDLE, "inference", workflow_type="infer", **values))
    for name in ("volume.tif", "volume_probability.tif"):
        assert (tmp_path / "monai" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_folder_of_sections_gives_a_png_for_each(folder, stack, keys, tmp_path):
    assert predict(keys, folder, tmp_path / "out", "--set", "probabilities=false") == 0
    assert predict(keys, stack, tmp_path / "stack") == 0
    masks = tifffile.imread(tmp_path / "stack" / "volume.tif")
    for page in range(PAGES):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / f"{page + 8}.png")), masks[page])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [Path(case["input"]).stem for case in report["cases"]] == ["8", "9", "10", "11", "12"]
    assert not list((tmp_path / "out").glob("*.tif"))


def test_a_folder_of_sections_is_a_stack_if_asked_for(folder, keys, tmp_path):
    assert predict(keys, folder, tmp_path / "out", "--set", "stack=true") == 0
    check(tmp_path / "out" / "block.tif", tmp_path / "out" / "block_probability.tif")


@pytest.mark.parametrize("given", ["stack", "folder"])
def test_an_existing_stack_is_kept_until_a_page_of_its_input_changes(given, keys, tmp_path, request):
    path: Path = request.getfixturevalue(given)
    predictor = Predictor(NAME, overrides={**keys, "stack": True})
    cases = find_sections(path, stack=True)
    out = tmp_path / "out"
    predict_cases(predictor, cases, out)
    (mask,) = (file for file in out.glob("*.tif") if "probability" not in file.name)
    first = mask.stat().st_mtime_ns
    predict_cases(predictor, cases, out, skip_existing=True)
    assert mask.stat().st_mtime_ns == first
    if path.is_dir():
        Image.fromarray(draw(0)).save(path / "11.png")
    else:
        changed = tifffile.imread(path)
        changed[3] = draw(0)
        tifffile.imwrite(path, changed, photometric="minisblack")
    predict_cases(predictor, cases, out, skip_existing=True)
    np.testing.assert_array_equal(tifffile.imread(mask)[3], tifffile.imread(mask)[0])


def test_an_unlike_page_fails_alone_and_is_named(stack, keys, tmp_path, capsys):
    odd = [Image.fromarray(draw(page)) for page in range(3)]
    odd[2] = odd[2].resize((200, 150))
    odd[0].save(stack.with_name("odd.tif"), save_all=True, append_images=odd[1:])
    assert predict(keys, stack.parent, tmp_path / "out") == 1
    assert "odd.tif: page 3 is 200x150, page 1 211x150" in capsys.readouterr().out
    check(tmp_path / "out" / "volume.tif", tmp_path / "out" / "volume_probability.tif")


def test_the_limit_of_an_image_holds_for_a_stack(stack, keys):
    predictor = Predictor(NAME, overrides={**keys, "max_image_mib": 1})
    tifffile.imwrite(stack, np.zeros((20, *SIZE), np.uint8), photometric="minisblack")
    with pytest.raises(RuntimeError) as refused:
        predictor({"image": str(stack)})
    assert isinstance(refused.value.__cause__, TooLargeError)


def chain(place: str, folder: Path, **keys: Any) -> Any:
    values = {"dataset_dir": str(folder), "image_size": [192, 224], "patch_size": [192, 224], **keys}
    workflow = make_workflow(BUNDLE, "train", workflow_type="train", **values)
    workflow.parser.parse(reset=True)
    return workflow.parser.get_parsed_content(place)


@pytest.fixture
def labelled(tmp_path: Path) -> dict[str, str]:
    Image.fromarray(draw(2)).save(tmp_path / "image.png")
    Image.fromarray(cells(2)).save(tmp_path / "label.png")
    return {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}


def test_the_network_learns_membranes_from_labels_that_are_white_in_cells(labelled, tmp_path):
    still = {"scale_range": 0.0, "shift_range": 0.0, "brightness_range": 0}
    learned = chain("train#preprocessing", tmp_path, **still)(labelled)
    label, image = learned["label"][0], learned["image"]
    assert image.shape == (3, 192, 224)
    assert torch.equal(image[0], image[2])
    assert label.mean() == pytest.approx(1 - cells(2).mean(), abs=0.01)
    assert image[0][label > 0].mean() < image[0][label == 0].mean()


def test_a_validation_compares_cells(labelled, tmp_path):
    seen = chain("validate#preprocessing", tmp_path)(labelled)
    np.testing.assert_array_equal(seen["label"][0, 0].numpy(), cells(2))


def test_a_label_that_is_not_two_valued_is_refused(labelled, tmp_path):
    grey = np.where(cells(2), 255, 0).astype(np.uint8)
    grey[100:120, 150:180] = 128
    Image.fromarray(grey).save(labelled["label"])
    with pytest.raises(RuntimeError) as refused:
        chain("train#preprocessing", tmp_path)(labelled)
    assert "do not say what is foreground" in str(refused.value.__cause__)


def test_a_training_draws_pages_from_a_stack_with_its_labels(stack, tmp_path):
    labels = np.stack([cells(page) for page in range(PAGES)]) * np.uint8(255)
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    still = {"scale_range": 0.0, "shift_range": 0.0, "brightness_range": 0}
    transform = chain("train#preprocessing", tmp_path, **still)
    transform.set_random_state(seed=0)
    drawn = [transform({"image": str(stack), "label": str(tmp_path / "labels.tif")}) for _ in range(12)]
    assert len({round(float(one["label"].mean()), 2) for one in drawn}) > 1
    for one in drawn:
        dark = one["image"][0] < 0
        assert (dark == (one["label"][0] > 0)).float().mean() > 0.97
