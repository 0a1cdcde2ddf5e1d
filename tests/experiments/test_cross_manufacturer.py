"""The cross-manufacturer experiment, on phantoms of two manufacturers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medseg_monai.bundle import BundleError
from medseg_monai.data import Item, load_datalist
from medseg_monai.experiments import MIXED, run_cross_manufacturer
from medseg_monai.phantoms import write_chest_xray_phantoms

BUNDLE = "lung_cxr_rescrnet"
QUICK: dict[str, Any] = {"image_size": [24, 32], "filters": 4, "num_blocks": 1, "max_epochs": 1, "batch_size": 2}
PAIR = ("montgomery", "shenzhen")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """Six images of each manufacturer; their patients have the same numbers."""
    items = {}
    for name, manufacturer, seed in (("montgomery", "a", 0), ("shenzhen", "b", 1)):
        folder = tmp_path_factory.mktemp(name)
        datalist = write_chest_xray_phantoms(
            folder, counts={"training": 6}, size=(64, 72), seed=seed, manufacturer=manufacturer
        )
        items[name] = load_datalist(datalist, "training")
    return items


@pytest.fixture(scope="module")
def finished(data: dict[str, list[Item]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair and the mixture, trained for an epoch."""
    folder = tmp_path_factory.mktemp("experiment")
    run_cross_manufacturer(BUNDLE, data, folder, pairs=[PAIR, (MIXED, MIXED)], overrides=QUICK, seed=3)
    return folder


def runs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["runs"]
    return found


def test_a_pair_is_tested_on_all_images_of_the_other_manufacturer(finished: Path):
    datalist = finished / "montgomery_to_shenzhen" / "datalist.json"
    sources = {
        section: {item["source"] for item in load_datalist(datalist, section)}
        for section in ("training", "validation", "test")
    }
    assert sources == {"training": {"montgomery"}, "validation": {"montgomery"}, "test": {"shenzhen"}}
    assert runs(finished)[0]["counts"] == {"training": 5, "validation": 1, "test": 6}


def test_no_patient_of_the_mixture_is_in_two_sections_and_equal_numbers_are_two_patients(finished: Path):
    datalist = finished / "mixed_to_mixed" / "datalist.json"
    patients = [{item["patient"] for item in load_datalist(datalist, s)} for s in ("training", "validation", "test")]
    assert sum(len(group) for group in patients) == len(set.union(*patients)) == 12


def test_the_table_states_our_dice_beside_the_papers(finished: Path):
    table = (finished / "table.md").read_text().partition("The paper's Dice / F1")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"][2:]
    for row, run, paper in zip(rows, runs(finished), ("0.9154", "0.9667"), strict=True):
        assert row[:2] == [run["train"], run["test"]]
        assert row[6] == f"{run['per_case']['dice']['mean']:.4f}"
        assert row[-1] == paper


def test_the_papers_table_stands_below_ours_with_every_network_of_it(finished: Path):
    lines = [line for line in (finished / "table.md").read_text().splitlines() if "/" in line and line[:1] == "|"]
    assert [len(line.strip("|").split("|")) for line in lines] == [9, 9]
    assert lines[0].startswith("| montgomery | shenzhen | 0.8556 / 0.8568 |")
    assert lines[1].endswith("| 0.9667 / 0.9667 |")


def test_another_mixture_is_not_compared_with_the_papers(data: dict[str, list[Item]], tmp_path: Path):
    other = {"montgomery": data["montgomery"], "jsrt": data["shenzhen"]}
    run_cross_manufacturer(BUNDLE, other, tmp_path / "new", pairs=[(MIXED, MIXED)], overrides=QUICK)
    assert runs(tmp_path / "new")[0]["paper"] is None
    assert "0.9667" not in (tmp_path / "new" / "table.md").read_text()


def test_the_mixtures_dice_is_told_for_each_manufacturer_too(finished: Path):
    mixed = runs(finished)[1]
    by_source = mixed["dice_by_source"]
    assert min(by_source.values()) <= mixed["per_case"]["dice"]["mean"] <= max(by_source.values())


def test_the_same_seed_gives_the_same_numbers(finished: Path, data: dict[str, list[Item]], tmp_path: Path):
    run_cross_manufacturer(BUNDLE, data, tmp_path / "again", pairs=[PAIR], overrides=QUICK, seed=3)
    assert runs(tmp_path / "again")[0] == runs(finished)[0]


def test_resuming_trains_nothing_that_is_complete(finished: Path, data: dict[str, list[Item]]):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("model.pt")}
    result = run_cross_manufacturer(
        BUNDLE, data, finished, pairs=[PAIR, (MIXED, MIXED)], overrides=QUICK, seed=3, resume=True
    )
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("model.pt")} == before
    assert len(result.runs) == 2


def test_a_further_pair_joins_the_table_of_the_first(finished: Path, data: dict[str, list[Item]], tmp_path: Path):
    shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "mixed_to_mixed")
    settings = {"overrides": QUICK, "seed": 3, "resume": True}
    result = run_cross_manufacturer(BUNDLE, data, tmp_path / "copy", pairs=[(MIXED, MIXED)], **settings)
    assert [(run["train"], run["test"]) for run in result.runs] == [PAIR, (MIXED, MIXED)]
    assert (tmp_path / "copy" / "table.md").read_text() == (finished / "table.md").read_text()


def test_resuming_with_other_images_is_refused(finished: Path, data: dict[str, list[Item]]):
    fewer = {**data, "shenzhen": data["shenzhen"][:-1]}
    with pytest.raises(ValueError, match="started with another data"):
        run_cross_manufacturer(BUNDLE, fewer, finished, pairs=[PAIR], overrides=QUICK, seed=3, resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [({"max_epoch": 1}, "did you mean max_epochs"), ({"seed": 5}, "seed: set by the experiment itself")],
)
def test_a_wrong_key_is_refused_before_the_folder_is_begun(data, tmp_path, override, message):
    with pytest.raises((ValueError, BundleError), match=message):
        run_cross_manufacturer(BUNDLE, data, tmp_path / "new", overrides=override)
    assert not (tmp_path / "new").exists()


def test_resuming_with_another_seed_is_refused(finished: Path, data: dict[str, list[Item]]):
    with pytest.raises(ValueError, match="started with another seed"):
        run_cross_manufacturer(BUNDLE, data, finished, pairs=[PAIR], overrides=QUICK, seed=4, resume=True)


def test_a_folder_with_files_is_refused_without_resume(data: dict[str, list[Item]], tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty; continue with --resume"):
        run_cross_manufacturer(BUNDLE, data, tmp_path, overrides=QUICK)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("montgomery", "jsrt"), "jsrt: no such data set; there are montgomery, shenzhen, mixed"),
        (("montgomery", "montgomery"), "train on one and test on another"),
        ((MIXED, "shenzhen"), "train on one and test on another, or 'mixed' for both"),
    ],
)
def test_a_pair_that_makes_no_sense_is_refused(
    data: dict[str, list[Item]], tmp_path: Path, pair: tuple[str, str], message: str
):
    with pytest.raises(ValueError, match=message):
        run_cross_manufacturer(BUNDLE, data, tmp_path / "new", pairs=[pair], overrides=QUICK)
    assert not (tmp_path / "new").exists()


def test_one_data_set_is_no_experiment(data: dict[str, list[Item]], tmp_path: Path):
    with pytest.raises(ValueError, match="Give two data sets or more"):
        run_cross_manufacturer(BUNDLE, {"shenzhen": data["shenzhen"]}, tmp_path / "new")
