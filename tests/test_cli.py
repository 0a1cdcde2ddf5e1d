"""``medseg`` as a user types it: good folders, bad files, wrong words."""

from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from medseg_monai.cli import main
from medseg_monai.metrics import DICE_CONVENTION
from medseg_monai.networks.nets import CENet

BUNDLE = "retinal_vessel_fundus_cenet"


def noise(height: int, width: int, *channels: int, dtype: type = np.uint8) -> np.ndarray:
    generator = np.random.default_rng(height * width)
    return generator.integers(0, np.iinfo(dtype).max, (height, width, *channels)).astype(dtype)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of every kind that a folder may hold, each readable."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(noise(40, 60, 3)).save(folder / "rgb.png")
    Image.fromarray(noise(30, 50, 4)).save(folder / "rgba.png")
    Image.fromarray(noise(50, 30, dtype=np.uint16)).save(folder / "grey16.tif")
    Image.fromarray(noise(20, 33, 3)).quantize(16).save(folder / "palette.gif")
    Image.fromarray(noise(70, 1, 3)).save(folder / "one_pixel_wide.bmp")
    return folder


def predict(model: Path, images: Path, output: Path, *options: str) -> int:
    return main(
        [
            "predict",
            BUNDLE,
            str(images),
            "-o",
            str(output),
            "--checkpoint",
            str(model),
            "--set",
            "views=flips",
            "--set",
            "fast=false",
            *options,
        ]
    )


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    errors = capsys.readouterr().err.strip().splitlines()
    assert not any(line.startswith("Traceback") for line in errors)
    return errors[-1]


def test_a_folder_of_every_kind_of_image_gives_a_mask_of_each_ones_size(model: Path, images: Path, tmp_path: Path):
    assert predict(model, images, tmp_path / "out") == 0
    for path in images.iterdir():
        with Image.open(path) as image, Image.open(tmp_path / "out" / f"{path.stem}.png") as mask:
            assert mask.size == image.size


def test_broken_files_do_not_stop_the_others_and_are_named(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (images / "zero_bytes.png").touch()
    whole = (images / "grey16.tif").read_bytes()
    (images / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    assert predict(model, images, output, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["counts"] == {"ok": 5, "failed": 2}
    failed = {Path(case["input"]).name: case["error"] for case in answer["cases"] if case["status"] == "failed"}
    assert failed.keys() == {"zero_bytes.png", "truncated.tif"}
    assert all(name in error for name, error in failed.items())
    assert sorted(p.name for p in output.glob("*.png")) == sorted(
        f"{p.stem}.png" for p in images.iterdir() if p.name not in failed
    )
    assert json.loads((output / "report.json").read_text()) == answer
    with (output / "report.csv").open() as stream:
        assert [row["status"] for row in csv.DictReader(stream)].count("failed") == 2


def test_the_report_says_what_made_a_mask(model: Path, images: Path, tmp_path: Path):
    predict(model, images / "rgb.png", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["bundle"] == BUNDLE
    assert len(report["model_sha256"]) == 64
    assert {"python", "monai", "torch"} <= report["versions"].keys()
    (case,) = report["cases"]
    assert case["seconds"] > 0
    assert case["peak_memory_mib"] > 0
    assert Path(case["outputs"][0]) == tmp_path / "rgb.png"


def test_a_folder_without_images_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict(model, empty, tmp_path / "out") == 2
    assert str(empty) in last_error(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into a read-only folder")
def test_a_read_only_output_is_refused_before_anything_is_computed(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert predict(model, images, locked) == 2
    assert str(locked) in last_error(capsys)


def test_an_output_that_is_a_file_is_refused(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "taken"
    target.write_text("a file")
    for output in (target, target / "masks"):
        assert predict(model, images, output) == 2
        line = last_error(capsys)
        assert f"{output}: cannot be written to (" in line
        assert "choose another folder." in line
    assert target.read_text() == "a file"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "retinal_vesel_fundus_cenet"], "Did you mean retinal_vessel_fundus_cenet?"),
        (["predict", BUNDLE, "nowhere.png", "-o", "out"], "nowhere.png"),
        (["data", "drve", ".", "-o", "list.json"], "drishti_gs"),
        (["combine", "gone.json", "-o", "all.json"], "gone.json: no such data list"),
        (["train", BUNDLE, "--set", "learnign_rate=1"], "learning_rate"),
        (["train", BUNDLE, "--set", "learning_rate"], "key=value"),
        (["train", BUNDLE, "--config", "trian"], "train_from_scratch"),
        (["import-weights", "cenett", "x.pth", "-o", "y.pt"], "cenet"),
        (["serve", ".", "--weights", "model.pt"], "BUNDLE=FILE"),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_it_and_the_remedy(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert named in last_error(capsys)


@pytest.fixture
def lungs(tmp_path: Path) -> list[Path]:
    """Data lists of two data sets, each in a folder of its own, made by ``medseg data`` from the flat layout."""
    lists = []
    for source, name in (("montgomery", "MCUCXR"), ("shenzhen", "CHNCXR")):
        for number in range(1, 7):
            for folder in ("images", "masks"):
                path = tmp_path / source / folder / f"{name}_{number:04d}_0.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = np.eye(6, 9, dtype=np.uint8) * 255
                Image.fromarray(values if folder == "masks" else values // 2 + number).save(path)
        lists.append(tmp_path / source / "list.json")
        assert main(["data", source, str(tmp_path / source), "-o", str(lists[-1])]) == 0
    return lists


def test_data_lists_are_combined_with_paths_that_stay_right(
    lungs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "both" / "all.json"
    capsys.readouterr()
    assert main(["combine", *map(str, lungs), "-o", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"training": 8, "validation": 2, "test": 2}
    items = [item for section in json.loads(target.read_text()).values() for item in section]
    assert {item["source"] for item in items} == {"montgomery", "shenzhen"}
    assert all((target.parent / item[key]).is_file() for item in items for key in ("image", "label"))


def test_a_papers_split_of_other_data_is_refused_with_its_numbers(
    lungs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["combine", *map(str, lungs), "-o", str(tmp_path / "all.json"), "--split", "defu"]) == 2
    error = last_error(capsys)
    assert "needs montgomery 138, shenzhen 566 (704 images), found montgomery 6, shenzhen 6 (12 images)" in error
    assert not (tmp_path / "all.json").exists()


def test_an_unknown_key_is_refused_with_the_nearest_known_ones(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert predict(model, images, tmp_path / "out", "--set", "treshold=0.4") == 2
    assert "threshold" in last_error(capsys)


def test_weights_of_another_network_are_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = tmp_path / "other.pt"
    torch.save({"model": CENet(out_channels=12).state_dict()}, other)
    assert predict(other, images, tmp_path / "out") == 2
    assert "head.weight" in last_error(capsys)


def test_a_key_changes_the_prediction(model: Path, images: Path, tmp_path: Path):
    predict(model, images / "rgb.png", tmp_path / "none", "--set", "threshold=1")
    predict(model, images / "rgb.png", tmp_path / "all", "--set", "threshold=0.0")
    assert not np.asarray(Image.open(tmp_path / "none" / "rgb.png")).any()
    assert np.asarray(Image.open(tmp_path / "all" / "rgb.png")).all()


def test_the_list_names_the_bundles_in_json(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "--json"]) == 0
    assert BUNDLE in [bundle["name"] for bundle in json.loads(capsys.readouterr().out)]


def test_info_shows_the_keys_that_a_user_may_change(capsys: pytest.CaptureFixture[str]):
    assert main(["info", BUNDLE, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["keys"]["train"]["learning_rate"] == 0.004
    assert answer["keys"]["inference"]["threshold"] == 0.5


def test_the_program_answers_on_standard_output_alone():
    command = [sys.executable, "-m", "medseg_monai.cli", "list", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)


def test_importing_the_package_imports_neither_torch_nor_monai():
    check = "import sys, medseg_monai; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_table_of_an_evaluation_says_what_an_absent_structure_counts_and_leaves_blank_what_is_not_pooled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    statistics = {"undefined": 0, "mean": 0.5, "std": 0.25, "min": 0.25, "max": 0.75}
    summary = {
        "output_dir": "run",
        "cases": 2,
        "convention": DICE_CONVENTION,
        "per_case": {"dice": statistics, "hd95": {**dict.fromkeys(statistics), "undefined": 2, "missing": 3}},
        "pooled": {"dice": 0.625},
    }
    monkeypatch.setattr("medseg_monai.bundle.evaluate", lambda *args, **kwargs: summary)
    assert main(["evaluate", BUNDLE]) == 0
    head, table = capsys.readouterr().out.split("\n\n")
    assert DICE_CONVENTION in " ".join(head.split())
    assert table.splitlines() == [
        "metric    mean     std  pooled  undefined  missing",
        "dice    0.5000  0.2500  0.6250          0",
        "hd95       nan     nan                  2        3",
        "2 cases; tables and overlays in run",
    ]
    assert main(["evaluate", BUNDLE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary


def test_two_lists_in_one_folder_have_derived_files_of_their_own(tmp_path, capsys):
    paths = []
    for column in (3, 9):
        labels = np.full((30, 16, 20), 255, np.uint8)
        labels[:, :, column] = 0
        folder = tmp_path / f"hospital{column}"
        folder.mkdir()
        for name in ("train-volume.tif", "train-labels.tif"):
            tifffile.imwrite(folder / name, labels, photometric="minisblack")
        assert main(["data", "isbi2012", str(folder), "-o", str(tmp_path / f"list{column}.json")]) == 0
        paths.append(tmp_path / json.loads((tmp_path / f"list{column}.json").read_text())["test"][0]["label"])
    for column, path in zip((3, 9), paths, strict=True):
        with Image.open(path) as label:
            assert label.getpixel((column, 0)) == 0
