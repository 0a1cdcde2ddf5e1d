"""DICOM SEGs of every kind, judged by programs that others wrote: dicom3tools, DCMTK and dcmqi (3D Slicer's reader)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg_monai.data import LUNG_LOBES, LUNGS, find_organ, write_dicom_seg, write_radiograph_seg
from tests.data.dicom_files import WrittenSeries, tags, write_series
from tests.data.radiograph_files import asymmetric, write_radiograph

SHAPE = (7, 5, 6)
ALGORITHM = {"algorithm_name": "CTSU-Net", "algorithm_version": "0.1.0"}
NO_PATIENT = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"))


def run(program: str, *arguments: object) -> str:
    """All that a program says; skip the test where it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: dicom3tools, dcmtk; PyPI: dcmqi).")
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lobes() -> np.ndarray:
    labels = np.random.default_rng(1).integers(0, 6, SHAPE).astype(np.uint8)
    labels[:, :, 2] = 0
    return labels


def seg_of_series(folder: Path, labels: np.ndarray, **tags_of_source: object) -> tuple[Path, WrittenSeries]:
    series = write_series(folder / "ct", shape=SHAPE, edit=tags(**tags_of_source))
    write_dicom_seg(folder / "a.seg.dcm", labels, source_files=series.files, segments=LUNG_LOBES, **ALGORITHM)
    return folder / "a.seg.dcm", series


def seg_of_organ(folder: Path) -> Path:
    series = write_series(folder / "mr", shape=SHAPE, modality="MR")
    segments = [find_organ("spleen")]
    labels = (lobes() > 3).astype(np.uint8)
    write_dicom_seg(folder / "a.seg.dcm", labels, source_files=series.files, segments=segments, **ALGORITHM)
    return folder / "a.seg.dcm"


def seg_of_radiograph(folder: Path, **tags_of_source: object) -> Path:
    source = write_radiograph(folder / "x.dcm", asymmetric(31, 47), **tags_of_source)
    mask = (asymmetric(31, 47) > 2000).astype(np.uint8)
    write_radiograph_seg(folder / "a.seg.dcm", mask, source_file=source, segments=LUNGS, **ALGORITHM)
    return folder / "a.seg.dcm"


KINDS: dict[str, Callable[[Path], Path]] = {
    "lobes": lambda folder: seg_of_series(folder, lobes())[0],
    "empty": lambda folder: seg_of_series(folder, np.zeros(SHAPE, np.uint8))[0],
    "nobody": lambda folder: seg_of_series(folder, lobes(), **NO_PATIENT)[0],
    "no frame of reference": lambda folder: seg_of_series(folder, lobes(), FrameOfReferenceUID=None)[0],
    "negative spacing": lambda folder: seg_of_series(folder, lobes(), SpacingBetweenSlices="-3")[0],
    "organ": seg_of_organ,
    "radiograph": seg_of_radiograph,
    "radiograph with a place": lambda folder: seg_of_radiograph(
        folder, FrameOfReferenceUID="1.2.3", PixelSpacing=[0.2, 0.3], PatientOrientation=["L", "F"]
    ),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_dciodvfy_finds_no_error_in_a_seg(tmp_path, make):
    said = run("dciodvfy", make(tmp_path))
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_dcmdump_reads_a_seg_to_its_end_without_a_word_of_doubt(tmp_path, make):
    said = run("dcmdump", make(tmp_path))
    assert [line for line in said.splitlines() if line.startswith(("W:", "E:", "F:"))] == []
    assert "(7fe0,0010)" in said


@pytest.mark.parametrize("stated", [None, "-3", "0.5"])
def test_dcmqi_puts_every_voxel_where_it_lies_in_the_scan_whatever_spacing_the_source_states(tmp_path, stated):
    labels = lobes()
    edit = {} if stated is None else {"SpacingBetweenSlices": stated}
    path, series = seg_of_series(tmp_path, labels, **edit)
    out = tmp_path / "out"
    out.mkdir()
    said = ("--inputDICOM", path, "--outputDirectory", out, "-t", "nifti", "--prefix", "a", "--mergeSegments")
    run("segimage2itkimage", *said)
    image = nib.load(out / "a-1.nii.gz")
    found = np.asarray(image.dataobj)
    to_voxels = np.linalg.inv(series.affine) @ image.affine
    voxels = np.rint(nib.affines.apply_affine(to_voxels, np.argwhere(found))).astype(int)
    expected = np.zeros(SHAPE, np.uint8)
    expected[tuple(voxels.T)] = found[found > 0]
    np.testing.assert_array_equal(expected, labels)
    assert abs(np.linalg.det(image.affine[:3, :3])) == pytest.approx(0.7 * 0.9 * 2.5, rel=1e-4)
