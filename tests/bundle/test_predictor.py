"""One case in, one prediction out; nothing stays from one case to the next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import BundleError, Predictor, predict_cases
from medseg_monai.data import find_images
from medseg_monai.networks.nets import CENet

QUICK = {"views": "flips", "fast": False}


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor("retinal_vessel_fundus_cenet", checkpoint=model, overrides=QUICK)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A gradient that no flip or transposition maps to itself, 40 rows by 61 columns."""
    rows, columns = np.mgrid[0:40, 0:61]
    path = tmp_path / "gradient.v1.png"
    Image.fromarray(np.stack([rows * 5, columns * 4, rows + columns], axis=-1).astype(np.uint8)).save(path)
    return path


def test_a_prediction_has_its_images_size_and_a_probability_for_each_pixel(predictor: Predictor, image: Path):
    prediction = predictor({"image": str(image)})
    assert tuple(prediction.mask.shape) == (1, 40, 61)
    probability = prediction.data["probability"]
    assert tuple(probability.shape) == (1, 40, 61)
    assert 0 <= float(probability.min()) <= float(probability.max()) <= 1
    assert torch.equal((probability >= 0.5).float().as_tensor(), prediction.mask.as_tensor())


def test_the_networks_input_stays_with_the_prediction_in_its_own_grid(predictor: Predictor, image: Path):
    prediction = predictor({"image": str(image)})
    assert tuple(prediction.image.shape) == (3, 192, 192)
    spacing = prediction.image.affine.diagonal()[:2] / prediction.mask.affine.diagonal()[:2]
    torch.testing.assert_close(spacing, torch.tensor([40 / 192, 61 / 192], dtype=spacing.dtype))


def test_the_facts_of_a_network_are_the_same_in_both_forms(predictor: Predictor, model: Path):
    fast = Predictor("retinal_vessel_fundus_cenet", checkpoint=model, overrides={**QUICK, "fast": True})
    parameters = sum(values.numel() for values in CENet().parameters())
    assert predictor.network_facts == fast.network_facts == {"name": "CENet", "parameters": parameters}


def test_mixed_precision_is_that_of_an_evaluation_which_has_none_on_a_cpu(
    predictor: Predictor, model: Path, image: Path
):
    overrides = {**QUICK, "amp": True, "device": "cpu"}
    mixed = Predictor("retinal_vessel_fundus_cenet", checkpoint=model, overrides=overrides)
    found, expected = (one({"image": str(image)}).data["probability"] for one in (mixed, predictor))
    assert torch.equal(found.as_tensor(), expected.as_tensor())


def test_a_bad_case_does_not_touch_the_next(predictor: Predictor, image: Path, tmp_path: Path):
    before = predictor({"image": str(image)}).data["probability"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(RuntimeError):
        predictor({"image": str(broken)})
    after = predictor({"image": str(image)}).data["probability"]
    assert torch.equal(before.as_tensor(), after.as_tensor())


def test_a_mask_is_named_after_its_image(predictor: Predictor, image: Path, tmp_path: Path):
    written = predictor.save(predictor({"image": str(image)}), tmp_path / "out")
    assert written == [tmp_path / "out" / "gradient.v1.png"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gradient.v1.png"]


def test_the_fast_form_makes_the_probabilities_of_the_plain_one(predictor: Predictor, model: Path, image: Path):
    fast = Predictor("retinal_vessel_fundus_cenet", checkpoint=model, overrides={**QUICK, "fast": True})
    plain, quick = (p({"image": str(image)}).data["probability"].as_tensor() for p in (predictor, fast))
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-4)


def test_weights_bring_the_settings_they_were_trained_with(predictor: Predictor, model: Path, tmp_path: Path):
    assert predictor.workflow.parser.get_parsed_content("image_size") == [192, 192]
    other = tmp_path / "other.pt"
    torch.save({"model": CENet().state_dict(), "settings": {"image_size": [224, 192], "channel_order": "BGR"}}, other)
    parser = Predictor("retinal_vessel_fundus_cenet", checkpoint=other, overrides=QUICK).workflow.parser
    assert parser.get_parsed_content("image_size") == [224, 192]
    assert parser.get_parsed_content("channel_order") == "BGR"


def test_missing_weights_are_told_before_any_case(tmp_path: Path):
    with pytest.raises(RuntimeError) as caught:
        Predictor("retinal_vessel_fundus_cenet", checkpoint=tmp_path / "none.pt")
    assert isinstance(caught.value.__cause__, BundleError)


def test_a_disc_that_fills_the_image_fills_the_mask(model: Path, image: Path, tmp_path: Path):
    """The crop pastes back to every pixel where it covers the image, and the largest component is all of it."""
    predictor = Predictor(
        "optic_disc_fundus_cenet", checkpoint=model, overrides={**QUICK, "threshold": 0.0, "crop_size": [800, 800]}
    )
    report = predict_cases(predictor, [{"image": str(image)}], tmp_path / "out")
    assert not report.failed
    assert (np.asarray(Image.open(report.cases[0].outputs[0])) == 255).all()


def test_the_report_lists_the_files_of_a_folder_that_were_left_out(predictor: Predictor, image: Path, tmp_path: Path):
    (tmp_path / "eyes").mkdir()
    (tmp_path / "eyes" / "a.jpe").write_bytes(image.read_bytes())
    for name in ("b.heic", "c.txt"):
        (tmp_path / "eyes" / name).touch()
    predict_cases(predictor, find_images(tmp_path / "eyes"), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"ok": 1}
    assert report["left_out"] == [str(tmp_path / "eyes" / name) for name in ("b.heic", "c.txt")]


def test_a_mask_never_replaces_the_image_it_was_made_from(predictor: Predictor, image: Path, tmp_path: Path):
    before = image.read_bytes()
    with pytest.raises(ValueError, match=r"holds the input gradient\.v1\.png; give another folder"):
        predict_cases(predictor, [{"image": str(image)}], tmp_path / "somewhere" / "..")
    assert image.read_bytes() == before
    assert list(tmp_path.iterdir()) == [image]
