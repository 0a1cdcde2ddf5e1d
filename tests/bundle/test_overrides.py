"""What a user sets is taken as it is: never run, never altered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from medseg_monai.bundle import (
    BundleError,
    build_workflow,
    check_overrides,
    flat_keys,
    list_bundles,
    merged_config,
    train,
)
from medseg_monai.bundle.loader import check_values
from medseg_monai.bundle.overrides import is_code
from medseg_monai.cli import main
from medseg_monai.phantoms import phantom_writer
from tests.bundles.tiny import tiny_training

CODE = "$__import__('pathlib').Path('hit').touch()"
CXR = "lung_cxr_rescrnet"


@pytest.mark.parametrize("value", [1, 0.5, True, None, "BGR", [192, 224], "a$b", "x@y.png", {"a": 1}])
def test_plain_values_are_no_code(value):
    assert not is_code(value)
    check_values({"key": value}, "--set")


@pytest.mark.parametrize(
    "value", [CODE, " $x", "@device", "%file#key", [1, CODE], {"_target_": "os.system"}, {"a": [CODE]}]
)
def test_what_monai_would_run_or_look_up_is_code(value):
    with pytest.raises(BundleError, match=r"--set key=.*would be run as code; give a value, or --allow-expressions"):
        check_values({"key": value}, "--set")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((60, 50)).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", f"threshold={CODE}"],
        ["--set", f"image_size=[40, {json.dumps(CODE)}]"],
        ["--set", "preprocessing#transforms#0#reader#_target_=runpy.run_path"],
        ["--series", CODE],
    ],
)
def test_an_option_is_never_run(arguments, image: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", CXR, str(image), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert "would be run as code" in capsys.readouterr().err
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("verb", ["evaluate", "prune"])
def test_the_name_of_a_section_is_never_run(verb: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([verb, CXR, "--datalist", str(tmp_path / "datalist.json"), "--section", CODE]) == 2
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("option", ["--experiment", "--register", "--tracking-uri"])
def test_what_mlflow_is_told_is_never_run(option: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "run")
    assert main(["train", CXR, "--dataset-dir", str(tmp_path), "--output-dir", folder, option, CODE]) == 2
    assert "would be run as code; give a value, or --allow-expressions" in capsys.readouterr().err
    assert not (tmp_path / "hit").exists()


def test_who_trusts_an_expression_can_allow_it(image: Path, tmp_path: Path):
    arguments = ["--set", "threshold=$1 / 4", "--allow-expressions"]
    assert main(["predict", CXR, str(image), "-o", str(tmp_path / "out"), *arguments]) == 0


@pytest.mark.parametrize(
    "pair",
    [
        *("threshold=NaN", "threshold=-5", "threshold=1.5", "threshold=much", "threshold=null"),
        *("keep_largest=-1", "keep_largest=0.5", "image_size=[40, NaN]", "image_size=[40, 0]", "amp=1"),
        *("threshold=Infinity", "threshold=[0.5]", "image_size=40", "image_size=tall", "image_size=[]"),
        *("keep_largest=2.0", f"keep_largest=-1{'0' * 400}", f"threshold=1{'0' * 400}"),
        *("filters=-1", "filters=x", "device=toaster", "device=cuda:99", "checkpoint=5"),
    ],
)
def test_a_value_that_a_key_cannot_have_is_refused_by_name(pair: str, image: Path, tmp_path: Path, capsys):
    assert main(["predict", CXR, str(image), "-o", str(tmp_path / "out"), "--set", pair]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert pair.partition("=")[0] in told
    assert not (tmp_path / "out").exists()


def test_a_learning_rate_that_is_no_number_starts_no_training(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert main(["train", CXR, "--output-dir", str(folder), "--set", "learning_rate=NaN"]) == 2
    assert "learning_rate: expected a number of at least 0, got nan; the bundle has 0.001." in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("seed", ["1e3", "-1", "4294967296"])
def test_a_seed_that_numpy_does_not_take_starts_no_training(seed: str, tmp_path: Path, capsys):
    assert main(["train", CXR, "--output-dir", str(tmp_path / "run"), "--set", f"seed={seed}"]) == 2
    assert "seed: expected a whole number from 0 to 4294967295, got " in capsys.readouterr().err


@pytest.mark.parametrize("name", list_bundles())
def test_no_bundle_has_a_value_that_it_would_refuse(name: str):
    for config in ("train", "inference"):
        check_overrides(name, [config], flat_keys(merged_config(name, [config])))


@pytest.fixture
def run(tmp_path: Path) -> tuple[dict[str, object], Path]:
    phantom_writer(CXR)(tmp_path, counts={"training": 1, "validation": 1}, size=(150, 181), seed=1)
    overrides = {
        **tiny_training(CXR),
        "dataset_dir": str(tmp_path),
        "output_dir": str(tmp_path / "run"),
        "max_epochs": 1,
    }
    train(CXR, overrides=overrides, track=False)
    return overrides, tmp_path / "run" / "run.json"


def test_code_in_the_record_of_a_run_is_not_run_when_it_is_resumed(run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides, record = run
    content = json.loads(record.read_text())
    content["overrides"]["seed"] = CODE
    record.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"run\.json: seed=.*would be run as code"):
        train(CXR, overrides={"output_dir": overrides["output_dir"]}, resume=True, track=False)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(("key", "value"), [("run_name", CODE), ("run_id", CODE), ("replaced_runs", [CODE])])
def test_code_for_mlflow_in_the_record_of_a_run_is_not_run(key: str, value, run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides, record = run
    record.write_text(json.dumps({**json.loads(record.read_text()), key: value}))
    with pytest.raises(BundleError, match=f"MLflow's {key}=.*would be run as code"):
        train(CXR, overrides={"output_dir": overrides["output_dir"]}, resume=True)
    assert not (tmp_path / "hit").exists()


def test_a_resumed_training_says_what_it_does_not_take_and_records_what_it_does(run, caplog):
    overrides, record = run
    caplog.set_level("INFO")
    longer = {"output_dir": overrides["output_dir"], "max_epochs": 2, "learning_rate": 0.5}
    assert train(CXR, overrides=longer, resume=True, track=False).epochs == 2
    assert "learning_rate=0.5: not taken: a resumed training keeps its optimizer" in caplog.text
    assert "Resuming with max_epochs=2." in caplog.text
    recorded = json.loads(record.read_text())["overrides"]
    assert recorded["max_epochs"] == 2
    assert "learning_rate" not in recorded


def test_a_refused_resume_leaves_the_record_as_it_was(run):
    overrides, record = run
    before = record.read_text()
    with pytest.raises(RuntimeError):  # another network than the checkpoint's
        train(CXR, overrides={"output_dir": overrides["output_dir"], "filters": 8}, resume=True, track=False)
    assert record.read_text() == before
    longer = {"output_dir": overrides["output_dir"], "max_epochs": 2}
    assert train(CXR, overrides=longer, resume=True, track=False).epochs == 2


def test_a_path_keeps_its_hash_signs(tmp_path: Path):
    folder = str(tmp_path / "set#1" / "a#b")
    parser = build_workflow(CXR, ["train"], workflow_type="train", overrides={"dataset_dir": folder}).parser
    parser.parse(reset=True)
    assert parser.get_parsed_content("datalist") == f"{folder}/datalist.json"


def test_an_input_an_output_and_weights_with_hash_signs_are_found(image: Path, tmp_path: Path):
    here = image.rename(tmp_path / "q#2.png")
    assert main(["predict", CXR, str(here), "-o", str(tmp_path / "out#1")]) == 0
    assert (tmp_path / "out#1" / "q#2.png").is_file()


def test_a_training_into_a_folder_with_a_hash_sign_is_found_again(tmp_path: Path):
    data = tmp_path / "set#3"
    phantom_writer(CXR)(data, counts={"training": 1}, size=(150, 181), seed=1)
    shared = {"dataset_dir": str(data), "output_dir": str(tmp_path / "run#1"), "max_epochs": 1}
    overrides = {**tiny_training(CXR), **shared}
    result = train(CXR, overrides=overrides, track=False)
    assert result.model == tmp_path / "run#1" / "model.pt"
    assert result.model.is_file()
    assert train(CXR, overrides={"output_dir": overrides["output_dir"], "max_epochs": 2}, resume=True).epochs == 2
