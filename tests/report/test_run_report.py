"""The report of a prediction run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from medseg_monai.files import file_sha256
from medseg_monai.report import CaseReport, RunReport, installed_versions

GOOD = CaseReport(
    "/in/a, b.png",
    ["/out/a, b.png", "/out/a, b_prob.png"],
    "ok",
    1.5,
    120.0,
    phases={"network": 1.25},
    input_sha256="1f",
    output_sha256=["2e", "3d"],
)
BAD = CaseReport("/in/c.tif", [], "failed", 0.1, 0.0, 'OSError: "c.tif" is truncated')


def read(folder: Path) -> tuple[dict, list[dict[str, str]]]:
    with (folder / "report.csv").open(newline="", encoding="utf-8") as stream:
        return json.loads((folder / "report.json").read_text(encoding="utf-8")), list(csv.DictReader(stream))


def test_both_files_hold_every_case_after_each_one(tmp_path):
    report = RunReport(tmp_path / "out", run={"bundle": "vessels", "model_sha256": "ab"})
    report.write()
    assert read(tmp_path / "out") == ({"bundle": "vessels", "model_sha256": "ab", "counts": {}, "cases": []}, [])
    report.add(GOOD)
    content, rows = read(tmp_path / "out")
    assert content["counts"] == {"ok": 1}
    assert len(rows) == 1
    report.add(BAD)
    content, rows = read(tmp_path / "out")
    assert content["bundle"] == "vessels"
    assert content["counts"] == {"ok": 1, "failed": 1}
    assert content["cases"][0] == {
        "input": "/in/a, b.png",
        "outputs": ["/out/a, b.png", "/out/a, b_prob.png"],
        "status": "ok",
        "seconds": 1.5,
        "peak_memory_mib": 120.0,
        "error": "",
        "phases": {"network": 1.25},
        "warnings": [],
        "input_sha256": "1f",
        "output_sha256": ["2e", "3d"],
    }
    assert not rows[0].keys() & {"phases", "input_sha256", "output_sha256"}
    assert [row["input"] for row in rows] == ["/in/a, b.png", "/in/c.tif"]
    assert rows[0]["outputs"].split(os.pathsep) == GOOD.outputs
    assert (rows[1]["status"], rows[1]["outputs"], rows[1]["error"]) == ("failed", "", BAD.error)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.csv", "report.json"]


def test_the_failed_cases_are_those_that_are_not_ok(tmp_path):
    report = RunReport(tmp_path, run={})
    report.add(GOOD)
    assert report.failed == []
    report.add(BAD)
    assert report.failed == [BAD]


def test_a_case_of_which_a_part_could_be_written_counts_as_partial_and_is_not_complete(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    outputs = [str(tmp_path / "a.nii.gz")]
    case = CaseReport("/in/a", outputs, "partial", 1.0, 1.0, "DicomSegWriter: no.", warnings=["odd", "spoilt"])
    report = RunReport(tmp_path, run={})
    report.add(case)
    content, rows = read(tmp_path)
    assert content["counts"] == {"partial": 1}
    assert (content["cases"][0]["outputs"], content["cases"][0]["warnings"]) == (outputs, ["odd", "spoilt"])
    assert (rows[0]["status"], rows[0]["warnings"]) == ("partial", "odd | spoilt")
    assert report.failed == [case]
    assert RunReport(tmp_path, run={}).complete_before() == {}


def test_a_write_that_fails_leaves_the_report_of_the_cases_before(tmp_path, monkeypatch):
    report = RunReport(tmp_path, run={})
    report.add(GOOD)

    def disc_is_full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", disc_is_full)
        with pytest.raises(OSError, match="No space left"):
            report.add(BAD)
    content, rows = read(tmp_path)
    assert len(content["cases"]) == len(rows) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json"]


def test_two_reports_do_not_share_their_cases(tmp_path):
    first = RunReport(tmp_path / "a", run={})
    first.add(GOOD)
    assert RunReport(tmp_path / "b", run={}).cases == []


def test_the_versions_are_those_of_what_decides_about_a_prediction():
    versions = installed_versions()
    assert versions.keys() == {"python", "medseg-monai", "monai", "torch", "numpy"}
    assert torch.__version__.startswith(versions["torch"].partition("+")[0])


def run_of_vessels(folder: Path, **changes: object) -> RunReport:
    run = {"bundle": "vessels", "bundle_version": "1", "model_sha256": "ab", "settings": {"image_size": (64, 80)}}
    return RunReport(folder, run={**run, "versions": {"medseg-monai": "2", "torch": "3"}, **changes})


def written(*paths: Path, content: str = "a mask") -> CaseReport:
    """A case whose results are these files."""
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    digests = [file_sha256(path) for path in paths]
    return CaseReport(f"/in/{paths[0].name}", [str(path) for path in paths], "ok", 1.0, 1.0, output_sha256=digests)


def test_a_later_run_knows_which_cases_are_complete(tmp_path):
    earlier = run_of_vessels(tmp_path)
    earlier.add(written(tmp_path / "a.png", tmp_path / "attention" / "a.png"))
    earlier.add(written(tmp_path / "gone.png"))
    earlier.add(written(tmp_path / "b.png", tmp_path / "gone.csv"))
    earlier.add(BAD)
    for path in tmp_path.glob("gone.*"):
        path.unlink()
    assert run_of_vessels(tmp_path).complete_before() == {"/in/a.png": earlier.cases[0]}


@pytest.mark.parametrize("content", ["", "a mas", "a musk", "a mask "])
def test_a_file_that_is_not_as_it_was_written_makes_its_case_incomplete(tmp_path, content):
    earlier = run_of_vessels(tmp_path)
    earlier.add(written(tmp_path / "a.png", tmp_path / "a.csv"))
    earlier.add(written(tmp_path / "b.png"))
    (tmp_path / "a.csv").write_text(content)
    assert list(run_of_vessels(tmp_path).complete_before()) == ["/in/b.png"]


def test_a_report_that_records_no_hashes_counts_for_nothing(tmp_path):
    """Those of earlier versions."""
    (tmp_path / "a.png").touch()
    run_of_vessels(tmp_path).add(CaseReport("/in/a.png", [str(tmp_path / "a.png")], "ok", 1.0, 1.0))
    assert run_of_vessels(tmp_path).complete_before() == {}


def test_the_copy_of_a_folder_does_not_count_the_files_of_the_first(tmp_path):
    run_of_vessels(tmp_path / "first").add(written(tmp_path / "first" / "a.png"))
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert run_of_vessels(tmp_path / "copy").complete_before() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_sha256": "cd"},
        {"model_settings": {"image_size": [64, 96]}},
        {"settings": {"views": "flips"}},
        {"config_sha256": "ef"},
        {"bundle": "disc"},
        {"bundle_version": "2"},
        {"attention": True},
        {"versions": {"medseg-monai": "3", "torch": "3"}},
    ],
)
def test_what_was_made_otherwise_is_not_complete(tmp_path, changes):
    run_of_vessels(tmp_path).add(written(tmp_path / "a.png"))
    assert run_of_vessels(tmp_path, **changes).complete_before() == {}


@pytest.mark.parametrize("content", [None, "", "[]", '{"cases": [{"input": 1}]}', '{"cases": [], "versions": 1}'])
def test_without_a_readable_report_nothing_is_complete(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert run_of_vessels(tmp_path).complete_before() == {}
