"""All images of a folder at once, asked for as clients ask."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import CXR, LOBES, Server, start_server, stop_server, write_scan

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, chest_xrays: Path, lobe_model: Path) -> Iterator[Server]:
    """A server over radiographs, one of them broken, and a scan."""
    folder = tmp_path_factory.mktemp("batch")
    studies = folder / "studies"
    shutil.copytree(chest_xrays / "images", studies)
    whole = (studies / "phantom_0002.png").read_bytes()
    (studies / "phantom_0002.png").write_bytes(whole[: len(whole) // 3])
    write_scan(studies / "scan.nii.gz")
    server = start_server(folder / "work", studies, bundles=[CXR, LOBES], weights={LOBES: str(lobe_model)})
    yield server
    stop_server(server)


@pytest.mark.parametrize("params", [None, {"label_tag": "first_draft", "multi_gpu": True, "device": "cuda"}])
def test_every_image_gets_its_mask_whatever_devices_there_are(filled: Server, params: dict[str, Any] | None):
    path = f"/batch/infer/{CXR}"
    answer = filled.ask("POST", path) if params is None else filled.ask_json("POST", path, params)
    assert answer.status == 200
    task = filled.finished("/batch/infer")
    assert task["status"] == "DONE", list(task["details"])
    labels = filled.studies / "labels" / ((params or {}).get("label_tag") or "original")
    # neither the broken image nor the scan, which is none for this bundle, keeps the others from theirs
    assert {file.name for file in labels.iterdir()} == {f"phantom_000{number}.png" for number in (1, 3, 4)}
    for file in labels.iterdir():
        alone = Image.open(io.BytesIO(filled.infer(CXR, file.stem).body))
        np.testing.assert_array_equal(np.array(Image.open(file)), np.array(alone))
    shutil.rmtree(labels)


def test_a_3d_bundle_goes_through_the_scans(filled: Server):
    assert filled.ask_json("POST", f"/batch/infer/{LOBES}", {"label_tag": "lobes"}).status == 200
    task = filled.finished("/batch/infer")
    assert task["status"] == "DONE", list(task["details"])
    (label,) = (filled.studies / "labels" / "lobes").iterdir()
    assert label.name == "scan.nii.gz"
    assert label.read_bytes() == filled.infer(LOBES, "scan").body


def test_a_batch_of_a_bundle_that_there_is_not_is_refused(filled: Server):
    answer = filled.ask_json("POST", "/batch/infer/lung_cxr_resnet", {})
    assert (answer.status, answer.detail.split(";")[0]) == (404, "lung_cxr_resnet: no such model")
