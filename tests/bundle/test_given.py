"""Nothing that was given as input is written over, however it was named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medseg_monai.bundle import Predictor, build_workflow, evaluate, predict_cases, prune, train
from medseg_monai.bundle.given import refuse_folders_of_inputs
from medseg_monai.cli import main
from medseg_monai.networks.nets import CENet
from tests.data.dicom_files import write_series
from tests.data.oct_files import bscans, reflectivity, write_e2e

from .small_anunet import PLAIN, make_bundle, make_network, write_volume

BUNDLE = "retinal_vessel_fundus_cenet"
QUICK = {"views": "flips", "fast": False}


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(BUNDLE, checkpoint=model, overrides=QUICK)


def eye(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(path)))
    Image.fromarray(generator.integers(0, 255, (20, 31, 3)).astype(np.uint8)).save(path)
    return path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(predictor: Predictor, image: Path, output: Path, name: str, root: Path, **options: Any) -> None:
    before = content(root)
    with pytest.raises(ValueError, match=rf": holds the input {name}; give another folder for the results\."):
        predict_cases(predictor, [{"image": str(image)}], output, **options)
    assert content(root) == before


@pytest.mark.parametrize("output", ["clone", "store", "clone/../store", "other_name"])
def test_a_linked_image_is_replaced_neither_where_it_is_named_nor_where_the_link_leads(predictor, output, tmp_path):
    """As git-annex keeps files: a link of the right name into a store."""
    stored = eye(tmp_path / "store" / "sha256-0a1b.png")
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "eye.png").symlink_to(stored)
    (tmp_path / "other_name").symlink_to(tmp_path / "clone")
    refuse(predictor, tmp_path / "clone" / "eye.png", tmp_path / output, r"eye\.png", tmp_path)


@pytest.mark.parametrize("output", ["scan", "scan/disc1", "scan/../scan/disc0"])
@pytest.mark.parametrize("image", ["scan", "scan/1.2.3"])
def test_no_folder_of_a_series_takes_results(predictor, image, output, tmp_path):
    write_series(tmp_path / "scan", uid="1.2.3", name=lambda z: f"disc{z % 2}/IM{z}")
    refuse(predictor, tmp_path / image, tmp_path / output, r"(scan|1\.2\.3)", tmp_path)


def test_a_folder_of_results_below_a_series_stays_usable(tmp_path):
    write_series(tmp_path / "scan", name=lambda z: f"disc{z % 2}/IM{z}")
    results = tmp_path / "scan" / "results"
    results.mkdir()
    refuse_folders_of_inputs([results], [{"image": str(tmp_path / "scan")}])


def test_the_folder_of_a_file_with_several_scans_takes_no_results(tmp_path):
    path = write_e2e(tmp_path / "eyes.e2e", {4: reflectivity(bscans()), 9: reflectivity(bscans(1))})
    with pytest.raises(ValueError, match=r"holds the input eyes\.e2e; give another folder for the results"):
        refuse_folders_of_inputs([tmp_path], [{"image": str(path / "9")}])


def test_folders_that_were_given_beside_the_images_take_no_results(model, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    predictor = Predictor(BUNDLE, checkpoint=model, overrides=QUICK)
    predictor.settings["infection_dir"] = str(masks)
    refuse(predictor, eye(tmp_path / "eyes" / "a.png"), masks, "masks", tmp_path)


def test_drawings_do_not_replace_the_images(tmp_path):
    bundle = make_bundle(tmp_path / "bundles", make_network())
    predictor = Predictor(bundle, overrides={**PLAIN, "slices": True})
    image = eye(tmp_path / "out" / "attention" / "a.png")
    refuse(predictor, image, tmp_path / "out", r"a\.png", tmp_path, attention=True)


@pytest.mark.parametrize("name", ["report.csv", "report.pt"])
def test_the_report_replaces_neither_weights_nor_their_settings(name, tmp_path):
    torch.save(CENet().state_dict(), tmp_path / name)
    if name == "report.pt":
        (tmp_path / "report.json").write_text("{}")
    predictor = Predictor(BUNDLE, checkpoint=tmp_path / name, overrides={**QUICK, "image_size": [192, 192]})
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"report\.(json|csv): was given as an input and would be written over; give"):
        predict_cases(predictor, [{"image": str(eye(tmp_path.parent / "eyes" / "a.png"))}], tmp_path)
    assert content(tmp_path) == before


def test_names_that_differ_in_case_alone_are_refused_where_the_file_system_ignores_case(predictor, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "REPORT.JSON").symlink_to(output / "report.json")  # what such a file system shows
    cases = [{"image": str(eye(tmp_path / "eyes" / name))} for name in ("Eye.png", "eye.png")]
    with pytest.raises(ValueError, match=r"Eye\.png and .*eye\.png: both predictions would be one file"):
        predict_cases(predictor, cases, output)


def test_case_folders_are_predicted_under_names_of_their_own_and_no_result_becomes_a_case(model, tmp_path):
    for case in ("s2", "s1"):
        eye(tmp_path / "set" / case / "eye.png")
    output = tmp_path / "set" / "predictions"
    command = ["predict", BUNDLE, str(tmp_path / "set"), "-o", str(output), "--checkpoint", str(model)]
    for _ in range(2):
        assert main([*command, "--set", "views=flips", "--set", "fast=false"]) == 0
        assert sorted(path.name for path in output.glob("*.png")) == ["s1_eye.png", "s2_eye.png"]
        assert json.loads((output / "report.json").read_text())["counts"] == {"ok": 2}


def test_monai_bundle_run_names_the_masks_in_the_same_way(model, tmp_path):
    given = [str(eye(tmp_path / case / "eye.png")) for case in ("s2", "s1")]
    values = {**QUICK, "dataset_dir": given, "output_dir": str(tmp_path / "out"), "checkpoint": str(model)}
    workflow = build_workflow(BUNDLE, ["inference"], workflow_type="infer", overrides=values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["s1_eye.png", "s2_eye.png"]
    predictor = Predictor(BUNDLE, checkpoint=model, overrides=QUICK)
    for path in given:
        mask = predictor({"image": path}).mask[0] * 255
        written = np.asarray(Image.open(tmp_path / "out" / f"{Path(path).parent.name}_eye.png"))
        np.testing.assert_array_equal(written, mask)


def labelled(folder: Path, datalist: Path) -> Path:
    image = eye(folder / "a.png")
    Image.fromarray(np.eye(20, 31, dtype=np.uint8) * 255).save(folder / "label.png")
    datalist.parent.mkdir(parents=True, exist_ok=True)
    items = [{key: os.path.relpath(folder / name, datalist.parent) for key, name in FILES.items()}]
    datalist.write_text(json.dumps({"training": [], "validation": [], "test": items}))
    assert image.is_file()
    return datalist


FILES = {"image": "a.png", "label": "label.png"}


@pytest.mark.parametrize(
    ("images", "datalist", "named"),
    [
        ("run/evaluation/overlays", "list.json", "overlays: holds the input a"),
        ("run/evaluation", "list.json", "evaluation: holds the input a"),
        ("images", "run/evaluation/summary.json", r"summary\.json: was given as an input"),
    ],
)
def test_an_evaluation_replaces_neither_images_nor_its_data_list(images, datalist, named, model, tmp_path):
    values = {"datalist": str(labelled(tmp_path / images, tmp_path / datalist)), "checkpoint": str(model), **QUICK}
    before = content(tmp_path)
    with pytest.raises(ValueError, match=named):
        evaluate(BUNDLE, overrides={**values, "output_dir": str(tmp_path / "run")})
    assert content(tmp_path) == before


def test_a_training_does_not_replace_the_weights_that_it_starts_from(tmp_path):
    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "model.pt"
    torch.save(CENet().state_dict(), weights)
    values = {"datalist": str(labelled(tmp_path / "a", tmp_path / "list.json")), "output_dir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match=r"model\.pt: was given as an input and would be written over; give another"):
        train(BUNDLE, overrides=values, checkpoint=weights, track=False)


@pytest.mark.parametrize("name", ["model.json", "run.json", "config.json"])
def test_a_training_does_not_replace_its_data_list(name, tmp_path):
    datalist = labelled(tmp_path / "a", tmp_path / "run" / name)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=rf"{name}: was given as an input and would be written over; give another"):
        train(BUNDLE, overrides={"datalist": str(datalist), "output_dir": str(tmp_path / "run")}, track=False)
    assert content(tmp_path) == before


@pytest.mark.parametrize("output", ["list.pt", "a.nii.gz", "label.nii.gz"])
def test_a_pruned_model_and_its_settings_replace_neither_the_data_list_nor_a_case(output, tmp_path):
    bundle = make_bundle(tmp_path / "bundles", make_network())
    for seed, name in enumerate(("a.nii.gz", "label.nii.gz")):
        write_volume(tmp_path / name, seed=seed)
    item = {"image": "a.nii.gz", "label": "label.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps({"validation": [item]}))
    before = content(tmp_path)
    with pytest.raises(ValueError, match="was given as an input and would be written over; name another file with -o"):
        prune(bundle, tmp_path / "list.json", output=tmp_path / output, overrides=PLAIN)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", [["combine", "IN"], ["import-weights", "cenet", "IN"]])
def test_a_file_that_is_written_is_none_of_those_that_were_given(command, tmp_path, capsys):
    given = labelled(tmp_path / "a", tmp_path / "list.json")
    before = content(tmp_path)
    arguments = [str(given) if part == "IN" else part for part in command]
    assert main([*arguments, "-o", str(tmp_path / "a" / ".." / "list.json")]) == 2
    assert "was given as an input and would be written over; name another file" in capsys.readouterr().err
    assert content(tmp_path) == before
