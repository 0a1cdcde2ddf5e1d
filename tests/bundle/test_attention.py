"""Attention over a slice: which slice, in which orientation, and what the gates of the network really let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import Predictor, attention, predict_cases
from medseg_monai.networks.nets import ANUNet, CENet
from medseg_monai.visualize import save_map_sheet

from .small_anunet import AFFINE, FEATURES, PLAIN, make_bundle, make_network, write_volume

NODES = {(level, column) for column in range(1, 4) for level in range(4 - column)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), make_network())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is given to the drawing, which is done all the same."""
    seen: dict[str, Any] = {}

    def note(path, image, rows, **others):
        seen.update(path=path, image=image, rows=rows, **others)
        save_map_sheet(path, image, rows, **others)

    monkeypatch.setattr(attention, "save_map_sheet", note)
    return seen


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Air in 6 slices of 16x24 pixels, but for slice 4 (along the second axis of the file), which has a bright ramp."""
    values = np.full((24, 6, 16), -1000, np.int16)
    values[:, 4] = np.linspace(-140, 190, 24 * 16).reshape(24, 16)
    nib.Nifti1Image(values, AFFINE).to_filename(tmp_path / "a.b.nii.gz")
    return tmp_path / "a.b.nii.gz"


def finds_what_is_bright(bundle: Path, image_size: list[int]) -> Predictor:
    """The bundle, predicting whatever is brighter than air; its gates are the network's."""
    predictor = Predictor(bundle, overrides={**PLAIN, "image_size": image_size})
    infer = predictor.infer

    def find(images, network):
        return (images > 0).float() - 0.5 if network is predictor.network else infer(images, network)

    predictor.infer = find
    return predictor


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return finds_what_is_bright(bundle, [24, 16])


def test_the_slice_with_most_of_the_prediction_is_drawn_upright_with_its_index_in_the_file(
    predictor, volume, drawn, tmp_path
):
    path = attention.save_attention(predictor, predictor({"image": str(volume)}), tmp_path / "out")
    assert path == drawn["path"] == tmp_path / "out" / "attention" / "a.b_slice004.png"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    ramp = np.asarray(nib.load(volume).dataobj)[:, 4].astype(float)
    upright = ramp[::-1].clip(-150, 200)  # the file's x runs to the front and has to run down; z does run to the left
    expected = (upright + 150) / 350
    np.testing.assert_allclose(drawn["image"][0], expected, atol=1e-4)
    np.testing.assert_array_equal(drawn["prediction"], upright > -150)


def test_the_maps_are_what_the_gates_let_through_of_that_slice(predictor, volume, drawn, tmp_path):
    attention.save_attention(predictor, predictor({"image": str(volume)}), tmp_path)
    x = torch.from_numpy(drawn["image"]).float()[None]  # the image is the network's input: sizes are equal here
    expected = predictor.network_def.attention_maps(x)
    titles = [title for row in drawn["rows"] for title in row]
    assert titles[:3] == ["X0_1 gates X0_0", "X0_2 gates X0_1", "X0_3 gates X0_2"]
    assert {tuple(map(int, title.split()[0][1:].split("_"))) for title in titles} == NODES
    for level, row in enumerate(drawn["rows"]):
        for title, values in row.items():
            assert values.shape == (24, 16)
            assert 0 <= values.min() < values.max() <= 1
            coefficients = expected[title.split()[0]][0, 0].numpy()
            mean = values.reshape(coefficients.shape[0], 2**level, coefficients.shape[1], 2**level).mean((1, 3))
            np.testing.assert_allclose(mean, coefficients, atol=1e-3 if level == 0 else 0.2)
            assert level == 0 or np.corrcoef(mean.ravel(), coefficients.ravel())[0, 1] > 0.9


def test_of_a_resized_input_everything_lies_where_the_file_has_it(bundle, drawn, tmp_path):
    """A bright block in one corner of the slice is bright in that corner of the drawing, and outlined there."""
    values = np.full((61, 5, 40), -1000, np.int16)
    values[45:60, 3, 4:12] = 200
    nib.Nifti1Image(values, AFFINE).to_filename(tmp_path / "ct.nii")
    predictor = finds_what_is_bright(bundle, [24, 16])
    path = attention.save_attention(predictor, predictor({"image": str(tmp_path / "ct.nii")}), tmp_path)
    assert path.name == "ct_slice003.png"
    block = values[::-1, 3] > 0
    image, outlined = drawn["image"][0], drawn["prediction"]
    assert image.shape == outlined.shape == (61, 40)
    assert image[block].mean() > 10 * image[~block].mean()
    assert (outlined & block).sum() > 0.6 * (outlined | block).sum()  # a pixel of the network is 2.5 of the file
    assert {one.shape for row in drawn["rows"] for one in row.values()} == {(61, 40)}


def test_where_nothing_is_predicted_the_middle_slice_is_drawn(bundle, drawn, tmp_path):
    predictor = Predictor(bundle, overrides={**PLAIN, "threshold": 1.0})
    volume = write_volume(tmp_path / "ct.nii.gz")
    path = attention.save_attention(predictor, predictor({"image": str(volume)}), tmp_path)
    assert path.name == "ct_slice002.png"
    assert not drawn["prediction"].any()


def test_a_network_that_gates_every_older_node_has_a_map_for_each(tmp_path, drawn):
    torch.manual_seed(0)
    network = ANUNet(features=FEATURES, gate_all=True)
    predictor = Predictor(make_bundle(tmp_path, network), overrides={**PLAIN, "gate_all": True})
    volume = write_volume(tmp_path / "ct.nii.gz")
    attention.save_attention(predictor, predictor({"image": str(volume)}), tmp_path)
    assert list(drawn["rows"][0]) == [
        f"X0_{column} gates X0_{older}" for column in range(1, 4) for older in range(column)
    ]


def test_an_image_of_one_slice_is_drawn_in_its_own_size_and_reported(bundle, drawn, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 47)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slice.v2.png")
    predictor = Predictor(bundle, overrides={**PLAIN, "slices": True, "image_size": [32, 48]})
    report = predict_cases(predictor, [{"image": str(tmp_path / "slice.v2.png")}], tmp_path / "out", attention=True)
    assert not report.failed
    assert report.cases[0].outputs == [
        str(tmp_path / "out" / "slice.v2.png"),
        str(tmp_path / "out" / "attention" / "slice.v2.png"),
    ]
    assert drawn["image"].shape == (1, 30, 47)
    assert np.corrcoef(drawn["image"].ravel(), pixels.ravel())[0, 1] > 0.8
    mask = np.asarray(Image.open(tmp_path / "out" / "slice.v2.png")) > 0
    np.testing.assert_array_equal(drawn["prediction"], mask)


def test_cases_predicted_before_without_attention_are_not_complete_with_it(bundle, tmp_path):
    predictor = Predictor(bundle, overrides=PLAIN)
    cases = [{"image": str(write_volume(tmp_path / "ct.nii.gz"))}]
    predict_cases(predictor, cases, tmp_path / "out")
    for _ in range(2):
        report = predict_cases(predictor, cases, tmp_path / "out", skip_existing=True, attention=True)
        written = {Path(path).name for path in report.cases[0].outputs}
        assert any("_slice" in name for name in written)
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["attention"] is True
    assert len(content["cases"]) == 1


def test_a_network_without_gates_is_refused_before_anything_is_predicted(tmp_path):
    weights = tmp_path / "model.pt"
    torch.save({"model": CENet().state_dict(), "settings": {"image_size": [192, 192]}}, weights)
    predictor = Predictor("retinal_vessel_fundus_cenet", checkpoint=weights, overrides={"fast": False})
    with pytest.raises(ValueError, match="CENet has no attention gates to draw; leave --attention out"):
        predict_cases(predictor, [{"image": "a.png"}], tmp_path / "out", attention=True)
    assert not (tmp_path / "out").exists()
