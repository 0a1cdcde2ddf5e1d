"""What a prediction needs is read once: the model file, the headers of a series, the scan."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from medseg_monai.cli import main
from medseg_monai.data.dicom import files as files_module
from medseg_monai.data.readers import volume as volume_module
from tests.data.dicom_files import write_series

OPENED: Counter[str] = Counter()


def count_opening(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], (str, bytes, Path)):
        OPENED[str(arguments[0])] += 1


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(count_opening)  # it cannot be taken off again


def test_the_model_file_of_a_png_is_opened_once(model: Path, tmp_path: Path):
    Image.linear_gradient("L").resize((220, 200)).convert("RGB").save(tmp_path / "eye.png")
    OPENED.clear()
    arguments = [str(tmp_path / "eye.png"), "-o", str(tmp_path / "out"), "--checkpoint", str(model)]
    assert main(["predict", "retinal_vessel_fundus_cenet", *arguments]) == 0
    assert OPENED[str(model)] == 1


def test_the_model_file_headers_and_voxels_of_a_series_are_read_once(lobe_model: Path, tmp_path: Path, monkeypatch):
    series = write_series(tmp_path / "series", shape=(48, 40, 33), name=lambda z: f"{z:04d}.dcm")
    headers, volumes = [], []

    def read_header(file: Path, read=files_module._read_header) -> object:
        headers.append(file)
        return read(file)

    def read_series(geometry: object, read=volume_module.read_series) -> object:
        volumes.append(geometry)
        return read(geometry)

    monkeypatch.setattr(files_module, "_read_header", read_header)
    monkeypatch.setattr(volume_module, "read_series", read_series)
    OPENED.clear()
    arguments = [str(tmp_path / "series"), "-o", str(tmp_path / "out"), "--checkpoint", str(lobe_model)]
    assert main(["predict", "lung_lobe_ct_ctsunet", *arguments]) == 0
    assert (tmp_path / "out" / "series_lobes.csv").is_file()
    assert OPENED[str(lobe_model)] == 1
    assert sorted(headers) == sorted(series.files)
    assert len(volumes) == 1


def test_a_header_that_has_changed_is_read_again(tmp_path: Path, monkeypatch):
    series = write_series(tmp_path / "series", shape=(8, 8, 4))
    file = series.files[0]
    first = files_module.read_slice_header(file)
    assert files_module.read_slice_header(file) is first
    written = file.read_bytes()
    file.write_bytes(written[: len(written) // 2])
    assert files_module.read_slice_header(file) is not first
