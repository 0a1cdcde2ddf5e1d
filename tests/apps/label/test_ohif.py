"""OHIF's page, which MONAI Label ships, in a headless Chromium, over a real Orthanc."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg_monai.phantoms import write_chest_xray_phantoms, write_thorax_phantoms
from tests.apps.browser import Browser, open_browser
from tests.apps.orthanc import start_orthanc

from .conftest import CXR, LOBES, Server, start_server, stop_server

pytestmark = pytest.mark.label

SLICES, ROWS, COLUMNS = 34, 48, 60

#: OHIF's own services, as it hangs them on its window
SEGMENTS = "window.services.segmentationService"
PANEL = "document.querySelector('.monaiLabelPanel')"
TAB = f"[...{PANEL}.querySelectorAll('.tab')].find(tab => tab.innerText.startsWith('Auto-Segmentation'))"


@dataclass(frozen=True)
class Viewer:
    """A page of OHIF's, the server behind it, and the folder of the browser's own log."""

    browser: Browser
    server: Server
    folder: Path

    def rows(self) -> list[list[str]]:
        """The cells of the study list."""
        cells = "[...row.querySelectorAll('td')].map(cell => cell.innerText.trim())"
        found: list[list[str]] = self.browser.evaluate(
            f"[...document.querySelectorAll('tr:not(:has(tr))')].map(row => {cells})"
        )
        return [[cell for cell in row if cell] for row in found if any("phantom" in cell for cell in row)]

    def choose(self, model: str) -> None:
        """Choose a model as a hand on the list does: React hears of it by the event."""
        setter = "Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, 'value').set"
        self.browser.evaluate(
            f"(() => {{ const list = {TAB}.querySelector('select'); {setter}.call(list, {json.dumps(model)});"
            " list.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory, lobe_model: Path) -> Iterator[Viewer]:
    """The study list over an Orthanc that holds a CT series and a radiograph, both drawn."""
    folder = tmp_path_factory.mktemp("ohif")
    size = (SLICES, ROWS, COLUMNS)
    write_thorax_phantoms(folder / "ct", counts={"training": 1}, size=size, seed=0, image_format="dicom")
    write_chest_xray_phantoms(folder / "dx", counts={"training": 1}, size=(150, 181), seed=0, image_format="dicom")
    orthanc = start_orthanc(folder / "orthanc")
    server = None
    try:
        orthanc.store(sorted(file for kind in ("ct", "dx") for file in (folder / kind / "images").rglob("*.dcm")))
        server = start_server(folder / "work", orthanc.dicomweb, bundles=[CXR, LOBES], weights={LOBES: str(lobe_model)})
        with open_browser(folder / "browser") as browser:
            browser.open(f"{server.url}/ohif/")
            yield Viewer(browser, server, folder / "browser")
    finally:
        if server:
            stop_server(server)
        orthanc.stop()
    asked_for = (folder / "browser" / "netlog.json").read_text(encoding="utf-8", errors="replace")
    assert server.url in asked_for
    assert "fonts.g" not in asked_for  # of which OHIF wants its fonts: not even a connection is tried


def test_the_study_list_shows_the_series_of_orthanc(viewer: Viewer):
    viewer.browser.wait_for_text("phantom_0001")
    assert sorted(row[-2:] for row in viewer.rows()) == [["CT", str(SLICES)], ["DX", "1"]]
    assert all(row[:2] == ["phantom_0001", "phantom_0001"] for row in viewer.rows())
    viewer.browser.click("[...document.querySelectorAll('button')].find(one => one.innerText == 'Confirm and Hide')")
    viewer.browser.wait_for("!document.body.innerText.includes('Confirm and Hide')")
    screenshot = viewer.browser.screenshot()
    assert screenshot.startswith(b"\x89PNG")
    if folder := os.environ.get("MEDSEG_SCREENSHOTS"):
        (Path(folder) / "ohif_study_list.png").write_bytes(screenshot)


def test_auto_segmentation_puts_the_served_mask_onto_the_scan(viewer: Viewer, tmp_path: Path):
    browser, server = viewer.browser, viewer.server
    (series,) = (
        name
        for name, entry in server.ask("GET", "/datastore/?output=all").json["objects"].items()
        if entry["image"]["info"]["Modality"] == "CT"
    )
    study = server.ask("GET", f"/datastore/image/info?image={series}").json["StudyInstanceUID"]
    browser.open(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study}")
    browser.wait_for_text("Thorax phantom")
    browser.wait_for(f"{PANEL} && document.querySelectorAll('canvas').length >= 3")
    # the panel asks port 8000 until its field has been left with another address in it
    browser.evaluate(
        "(() => { const field = document.getElementById('monailabelServerURL');"
        " field.focus(); field.value = location.origin + '/'; field.blur(); })()"
    )
    browser.wait_for(f"{PANEL}.querySelector('a').href.startsWith(location.origin)")
    browser.evaluate(f"{PANEL}.querySelector('button.actionButton').click()")
    browser.wait_for_text("Auto-Segmentation")
    browser.wait_for(f"{SEGMENTS}.getLabelmapVolume('1')")
    viewer.choose(LOBES)
    browser.evaluate(f"{TAB}.querySelector('button').click()")
    volume = f"{SEGMENTS}.getLabelmapVolume('1')"
    values = f"[...{volume}.voxelManager.getCompleteScalarDataArray()]"
    browser.wait_for(f"{values}.some(value => value)", seconds=120)
    shown = shown_labels(browser, values)
    served, origin, directions = served_labels(server, series, tmp_path / "mask.nrrd")
    assert set(np.unique(served)) > {0}
    names = {value: name for name, value in server.ask("GET", "/info/").json["models"][LOBES]["labels"].items()}
    assert [names.get(value, "") for value in served.ravel(order="F")] == shown
    np.testing.assert_allclose(browser.evaluate(f"[...{volume}.origin]"), origin, atol=1e-3)
    columns = np.reshape(browser.evaluate(f"[...{volume}.direction]"), (3, 3))
    spacing = browser.evaluate(f"[...{volume}.spacing]")
    np.testing.assert_allclose(columns * np.reshape(spacing, (3, 1)), directions, atol=1e-3)


def test_the_pages_have_asked_the_server_and_nobody_else(viewer: Viewer):
    requested = viewer.browser.requested()
    assert any("/proxy/dicom/qido/studies" in url for url in requested)
    assert [url for url in requested if not url.startswith(f"{viewer.server.url}/")] == []


def shown_labels(browser: Browser, values: str) -> list[str]:
    """The name of each voxel's segment in the viewer, which numbers segments in an order of its own."""
    segments = f"Object.values({SEGMENTS}.getSegmentations()[0].segments)"
    names = dict(browser.evaluate(f"{segments}.map(one => [one.segmentIndex, one.label])"))
    return [names.get(value, "") for value in browser.evaluate(values)]


def served_labels(server: Server, series: str, path: Path) -> tuple[np.ndarray, Any, Any]:
    """The mask of a series as NRRD, its origin and its directions a row, both in LPS as DICOM has them."""
    import nrrd

    path.write_bytes(server.infer(LOBES, series, result_extension=".nrrd").body)
    values, header = nrrd.read(str(path))
    return values, header["space origin"], header["space directions"]
