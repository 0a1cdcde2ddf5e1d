"""``medseg predict`` on chest CT: DICOM and NIfTI in, label map, DICOM SEG and lobe table out."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from medseg_monai.bundle import Predictor, predict_cases
from medseg_monai.cli import main
from medseg_monai.data import DicomSegWriter

from .data.dicom_files import tags, write_series

BUNDLE = "lung_lobe_ct_ctsunet"
SHAPE = (33, 28, 24)


def predict(model: Path, inputs: Path, output: Path, *options: str) -> int:
    return main(["predict", BUNDLE, str(inputs), "-o", str(output), "--checkpoint", str(model), *options])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two oblique NIfTI scans of different sizes."""
    folder = tmp_path / "scans"
    folder.mkdir()
    generator = np.random.default_rng(3)
    affine = np.array([[-2.1, 0.3, 0, 40], [0.2, 2.0, 0.4, -60], [0.1, -0.3, 4.9, 20], [0, 0, 0, 1.0]])
    rotation, _ = np.linalg.qr(affine[:3, :3])
    affine[:3, :3] = rotation * (2.1, 1.9, 4.9)
    for name, shape in (("first.nii.gz", (36, 30, 20)), ("second.v2.nii", (30, 41, 16))):
        nib.Nifti1Image(generator.integers(-1000, 300, shape).astype(np.int16), affine).to_filename(folder / name)
    return folder


def test_a_dicom_folder_gives_label_map_seg_and_table_in_its_grid(lobe_model: Path, tmp_path: Path):
    written = write_series(tmp_path / "chest", shape=SHAPE, name="{:04d}.dcm".format)
    output = tmp_path / "out"
    assert predict(lobe_model, tmp_path / "chest", output) == 0
    label = nib.load(output / "chest.nii.gz")
    assert label.shape == SHAPE
    np.testing.assert_allclose(label.affine, written.affine, atol=1e-3)
    labels = np.asarray(label.dataobj)
    assert labels.any()
    segmentation = hd.seg.segread(output / "chest.seg.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == written.uid
    with (output / "chest_lobes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    voxel = abs(np.linalg.det(written.affine[:3, :3])) / 1000
    for number, row in enumerate(rows[:5], start=1):
        assert float(row["volume_ml"]) == pytest.approx((labels == number).sum() * voxel, rel=1e-4)
        if (labels == number).any():
            assert float(row["mean_hu"]) == pytest.approx(written.volume[labels == number].mean(), abs=0.01)
    report = json.loads((output / "report.json").read_text())
    names = {"chest.nii.gz", "chest.seg.dcm", "chest_lobes.json", "chest_lobes.csv"}
    assert {Path(path).name for path in report["cases"][0]["outputs"]} == names
    assert {path.name for path in output.iterdir()} == names | {"report.json", "report.csv"}


def test_a_folder_of_nifti_files_gives_a_label_map_and_a_table_each(lobe_model: Path, scans: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert predict(lobe_model, scans, output) == 0
    for name, stem in (("first.nii.gz", "first"), ("second.v2.nii", "second.v2")):
        scan, label = nib.load(scans / name), nib.load(output / f"{stem}.nii.gz")
        assert label.shape == scan.shape
        np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
        assert (output / f"{stem}_lobes.json").is_file()
    assert not list(output.glob("*.dcm"))


def test_two_series_one_with_a_missing_slice_are_refused_with_both_facts(
    lobe_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = write_series(tmp_path / "exam" / "a", description="LUNG")
    holed = write_series(tmp_path / "exam" / "b", description="BONE", skip=[3])
    assert predict(lobe_model, tmp_path / "exam", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert whole.uid in error
    assert holed.uid in error
    assert "--series" in error
    assert "missing" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0, 130, 180, 420, -1])
def test_a_series_with_one_file_cut_off_ends_in_a_line_that_names_it(
    length: int, lobe_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cut = write_series(tmp_path / "scan", name="{:04d}.dcm".format).files[3]
    cut.write_bytes(cut.read_bytes()[:length])
    assert predict(lobe_model, tmp_path / "scan", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = [line for line in told.err.splitlines() if line.startswith("medseg: ")]
    assert cut.name in line
    assert "copy it again" in line
    assert "ConfigExpression" not in told.err
    assert not (tmp_path / "out").exists()


def test_a_series_is_chosen_by_its_uid(lobe_model: Path, tmp_path: Path):
    write_series(tmp_path / "exam" / "a", shape=SHAPE, name="{:04d}.dcm".format)
    second = write_series(tmp_path / "exam" / "b", shape=(28, 33, 24), name="{:04d}.dcm".format)
    assert predict(lobe_model, tmp_path / "exam", tmp_path / "out", "--series", second.uid) == 0
    assert nib.load(tmp_path / "out" / f"{second.uid}.nii.gz").shape == (28, 33, 24)


def test_a_case_whose_seg_cannot_be_written_is_partial_with_the_tag_named_and_predicted_again(
    lobe_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_series(tmp_path / "chest", shape=SHAPE, edit=tags(1, 4, SOPInstanceUID="1.2.3"), name="{:04d}.dcm".format)
    output = tmp_path / "out"
    assert predict(lobe_model, tmp_path / "chest", output) == 1
    answer = capsys.readouterr().out
    assert "0 of 1 predicted" in answer
    assert f"partial: {tmp_path / 'chest'}: DicomSegWriter: " in answer
    assert str(output / "chest.nii.gz") in answer
    written = ["chest.nii.gz", "chest_lobes.csv", "chest_lobes.json"]
    assert sorted(path.name for path in output.glob("chest*")) == written
    report = json.loads((output / "report.json").read_text())
    (case,) = report["cases"]
    assert report["counts"] == {"partial": 1}
    assert "SOPInstanceUID of 0001.dcm and 0004.dcm is the same" in case["error"]
    assert [text for text in case["warnings"] if text.startswith("not to be written: DicomSegWriter: ")]
    assert sorted(Path(path).name for path in case["outputs"]) == written
    before = (output / "chest.nii.gz").stat().st_mtime_ns
    assert predict(lobe_model, tmp_path / "chest", output, "--skip-existing") == 1
    assert (output / "chest.nii.gz").stat().st_mtime_ns != before


def test_what_none_of_the_results_can_be_written_of_never_reaches_the_network(
    lobe_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_series(tmp_path / "chest", shape=SHAPE, edit=tags(1, 4, SOPInstanceUID="1.2.3"), name="{:04d}.dcm".format)
    predictor = Predictor(BUNDLE, checkpoint=lobe_model)
    (saver,) = predictor.savers
    saver.writers = [writer for writer in saver.writers if isinstance(writer, DicomSegWriter)]
    monkeypatch.setattr(Predictor, "infer", lambda *_: pytest.fail("the network has run"))
    report = predict_cases(predictor, [{"image": str(tmp_path / "chest")}], tmp_path / "out")
    (case,) = report.cases
    assert case.status == "failed"
    assert "SOPInstanceUID" in case.error


def test_the_warnings_of_a_case_are_in_its_report(lobe_model: Path, scans: Path, tmp_path: Path):
    scan = nib.load(scans / "first.nii.gz")
    stored = (np.asarray(scan.dataobj) + 1024).astype(np.int16)
    nib.Nifti1Image(stored, scan.affine).to_filename(scans / "first.nii.gz")
    predict(lobe_model, scans, tmp_path / "out")
    said = {Path(case["input"]).name: case["warnings"] for case in report_cases(tmp_path / "out")}
    assert said["second.v2.nii"] == []
    (warning,) = said["first.nii.gz"]
    assert "so neither air nor fat; check that they are Hounsfield units" in warning


def test_infection_masks_give_severity_scores(lobe_model: Path, scans: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in scans.iterdir():
        scan = nib.load(path)
        everywhere = np.ones(scan.shape, np.uint8)
        nib.Nifti1Image(everywhere, scan.affine).to_filename(masks / f"{path.name.split('.nii')[0]}.nii.gz")
    assert predict(lobe_model, scans, tmp_path / "out", "--set", f"infection_dir={masks}") == 0
    content = json.loads((tmp_path / "out" / "first_lobes.json").read_text())
    present = [row for row in content["lobes"] if row["volume_ml"] > 0]
    assert present
    assert all(row["severity_score"] == 5 for row in present)
    assert content["all_lobes"]["severity_score"] == 5 * len(present)


def test_a_replaced_infection_mask_makes_its_table_anew_and_no_other(lobe_model: Path, scans: Path, tmp_path: Path):
    masks, output = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for path in scans.iterdir():
        scan = nib.load(path)
        nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine).to_filename(masks / path.name)
    options = ["--skip-existing", "--set", f"infection_dir={masks}"]
    assert predict(lobe_model, scans, output, *options) == 0
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    scan = nib.load(scans / "second.v2.nii")
    nib.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine).to_filename(masks / "second.v2.nii")
    assert predict(lobe_model, scans, output, *options) == 0
    changed = {path.name for path in output.glob("*.nii.gz") if path.stat().st_mtime_ns != before[path.name]}
    assert changed == {"second.v2.nii.gz"}
    rows = json.loads((output / "second.v2_lobes.json").read_text())["lobes"]
    assert {row["severity_score"] for row in rows} <= {0, None}


def test_probabilities_may_be_brought_back_instead_of_labels(lobe_model: Path, scans: Path, tmp_path: Path):
    for restore in ("labels", "probabilities"):
        assert predict(lobe_model, scans / "first.nii.gz", tmp_path / restore, "--set", f"restore={restore}") == 0
    labels, probabilities = (
        np.asarray(nib.load(tmp_path / restore / "first.nii.gz").dataobj) for restore in ("labels", "probabilities")
    )
    assert labels.shape == probabilities.shape
    assert (labels == probabilities).mean() > 0.8
    assert not np.array_equal(labels, probabilities)


def test_only_missing_cases_are_predicted_with_skip_existing(lobe_model: Path, scans: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert predict(lobe_model, scans / "first.nii.gz", output) == 0
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.name.startswith("first")}
    assert predict(lobe_model, scans, output, "--skip-existing") == 0
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert (output / "second.v2.nii.gz").is_file()
    report = json.loads((output / "report.json").read_text())
    assert report["counts"] == {"ok": 2}


def test_skip_existing_predicts_again_what_is_gone_or_was_made_otherwise(lobe_model: Path, scans: Path, tmp_path: Path):
    output = tmp_path / "out"
    predict(lobe_model, scans, output)
    (output / "first_lobes.csv").unlink()
    kept = (output / "second.v2.nii.gz").stat().st_mtime_ns
    predict(lobe_model, scans, output, "--skip-existing")
    assert (output / "first_lobes.csv").is_file()
    assert (output / "second.v2.nii.gz").stat().st_mtime_ns == kept
    predict(lobe_model, scans, output, "--skip-existing", "--set", "lung_only=false")
    assert (output / "second.v2.nii.gz").stat().st_mtime_ns != kept


def test_an_interrupted_prediction_leaves_no_half_written_file(lobe_model: Path, scans: Path, tmp_path: Path):
    for number in range(20):
        os.link(scans / "first.nii.gz", scans / f"case{number}.nii.gz")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "medseg_monai.cli", "predict", BUNDLE, str(scans), "-o", str(output)]
    command += ["--checkpoint", str(lobe_model)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a suite that a shell runs in the background ignores the interrupt, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    # the first case is in the report at the latest when the second has its files
    while len(list(output.glob("*_lobes.csv"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)  # again, should Python be where it cannot raise the interrupt
        time.sleep(0.2)
    assert process.wait(60) in (130, -signal.SIGINT)
    complete = {Path(path) for case in report_cases(output) for path in case["outputs"]}
    assert 0 < len(complete) < 3 * len(list(scans.iterdir()))
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    for path in output.glob("*.nii.gz"):
        assert np.asarray(nib.load(path).dataobj).shape
    assert predict(lobe_model, scans, output, "--skip-existing") == 0
    assert {case["status"] for case in report_cases(output)} == {"ok"}
    assert len(report_cases(output)) == len(list(scans.iterdir()))


def report_cases(output: Path) -> list[dict]:
    return json.loads((output / "report.json").read_text())["cases"]
