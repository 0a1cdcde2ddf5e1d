"""What counts as the input of a case, and its fingerprint."""

from __future__ import annotations

import os
from pathlib import Path

import itk
import numpy as np
import pytest
from PIL import Image

from medseg_monai.data import VolumeReader
from medseg_monai.data.readers.fingerprint import input_files, input_sha256
from medseg_monai.files import file_sha256
from tests.data.dicom_files import write_series
from tests.data.oct_files import bscans, reflectivity, write_e2e, write_xml


def write_detached(folder: Path, header: str) -> Path:
    volume = itk.image_from_array(np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3))
    itk.imwrite(volume, str(folder / header))
    return folder / header


def test_a_file_has_its_own_hash(tmp_path):
    path = tmp_path / "eye.png"
    path.write_bytes(b"pixels")
    (tmp_path / "link.png").symlink_to(path)
    assert input_sha256([path]) == input_sha256([tmp_path / "link.png"]) == file_sha256(path)


@pytest.mark.parametrize("header", ["ct.mhd", "ct.nhdr"])
def test_the_voxels_of_a_detached_header_are_a_part_of_the_input(tmp_path, header):
    path = write_detached(tmp_path, header)
    (voxels,) = {file for file in tmp_path.iterdir() if file != path}
    assert input_files(path) == [path, voxels]
    before = input_sha256([path])
    voxels.write_bytes(voxels.read_bytes()[::-1])
    assert input_sha256([path]) != before


@pytest.mark.parametrize("header", ["ct.mhd", "ct.nhdr"])
def test_a_pattern_of_files_stands_for_all_of_them(tmp_path, header):
    path = write_detached(tmp_path, header)
    key, sign = ("ElementDataFile", " = ") if header == "ct.mhd" else ("data file", ": ")
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith((key, "encoding"))]
    raw = [] if header == "ct.mhd" else ["encoding: raw"]
    path.write_text("\n".join([*kept, *raw, f"{key}{sign}ct[%02d].raw 1 5 1", ""]))
    for file in set(tmp_path.iterdir()) - {path}:
        file.unlink()
    slices = [tmp_path / f"ct[{number:02d}].raw" for number in range(1, 6)]
    for number, file in enumerate(slices):
        file.write_bytes(np.full((4, 3), number, np.int16).tobytes())
    assert input_files(path) == [path, *slices]
    before = input_sha256([path])
    first, second = slices[0].read_bytes(), slices[1].read_bytes()
    slices[0].write_bytes(second)
    slices[1].write_bytes(first)
    assert input_sha256([path]) != before
    assert VolumeReader().get_data(VolumeReader().read(path))[0].shape == (3, 4, 5)


def test_a_header_never_makes_us_open_a_file_elsewhere(tmp_path):
    path = tmp_path / "ct.mhd"
    path.write_text("ObjectType = Image\nElementDataFile = /dev/zero\n")
    with pytest.raises(ValueError, match="must lie beside it"):
        input_sha256([path])


def test_a_series_is_all_its_files_by_its_folder_and_by_its_uid(tmp_path):
    written = write_series(tmp_path / "exam" / "scan", name="{:04d}.dcm".format)
    (tmp_path / "exam" / "notes.txt").write_text("not a part of it")
    assert input_files(tmp_path / "exam") == sorted(written.files)
    assert input_files(tmp_path / "exam" / written.uid) == sorted(written.files)
    before = input_sha256([tmp_path / "exam"])
    content = bytearray(written.files[3].read_bytes())
    content[-1] ^= 1
    times = os.stat(written.files[3])
    written.files[3].write_bytes(content)
    os.utime(written.files[3], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert input_sha256([tmp_path / "exam"]) != before


def test_what_is_not_there_has_no_hash(tmp_path):
    assert input_sha256([tmp_path / "gone.png"]) == input_sha256([tmp_path / "no" / "1.2.3"]) == ""


def test_the_pictures_that_an_xml_export_of_oct_names_are_a_part_of_the_input(tmp_path):
    path = write_xml(tmp_path / "eyes.xml", {4: bscans(2), 9: bscans(1)})
    pictures = {"NIR4.tif", "B4_0.tif", "B4_1.tif", "NIR9.tif", "B9_0.tif"}
    assert {file.name for file in input_files(path / "4")} == {"eyes.xml", *pictures}
    before = input_sha256([path / "4"])
    Image.fromarray(bscans(1)[0] + 1).save(tmp_path / "B4_1.tif")
    assert input_sha256([path / "4"]) != before


def test_a_scan_in_a_file_with_several_is_told_by_the_whole_file(tmp_path):
    path = write_e2e(tmp_path / "eyes.e2e", {4: reflectivity(bscans()), 9: reflectivity(bscans(1))})
    assert input_files(path / "9") == [path]
    assert input_sha256([path / "9"]) == file_sha256(path)
