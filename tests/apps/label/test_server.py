"""The MONAI Label server, asked as a client asks it."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from medseg_monai.bundle import Predictor

from .conftest import CXR, LOBES, SCAN_SHAPE, Server

pytestmark = pytest.mark.label

LOBE_NAMES = ["left upper lobe", "left lower lobe", "right upper lobe", "right lower lobe", "right middle lobe"]


@pytest.fixture
def still_serves(server: Server):
    """After a request that fails, the next one is answered as if nothing had been."""
    before = server.infer(CXR, "phantom_0001").body
    yield
    after = server.infer(CXR, "phantom_0001")
    assert after.status == 200
    assert after.body == before


def wait_for(look: Callable[[], Any], is_there: Callable[[Any], bool], seconds: float = 10) -> Any:
    """What is seen once it is there, or after some seconds: the server tidies up when it has answered."""
    deadline = time.monotonic() + seconds
    while not is_there(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def kept(server: Server) -> set[Path]:
    """What lies in the folders in which a server keeps files for the time of a request."""
    folders = [server.work_dir.with_suffix(".tmp"), *(server.work_dir / name for name in ("tmp", "uploads"))]
    return {path for folder in folders if folder.is_dir() for path in folder.iterdir()}


def read_png(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def parts(answer) -> dict[str, bytes]:
    """The parts of an answer of several, by their names."""
    boundary = answer.body.split(b"\r\n", 1)[0]
    found = {}
    for part in answer.body.split(boundary)[1:-1]:
        head, content = part.strip(b"\r\n").split(b"\r\n\r\n", 1)
        found[re.search(rb'name="(\w+)"', head).group(1).decode()] = content
    return found


def test_info_lists_each_bundle_with_its_labels_dimension_and_options(server: Server):
    models = server.ask("GET", "/info/").json["models"]
    assert set(models) == {CXR, LOBES}
    assert models[CXR]["labels"] == {"lungs": 1}
    assert models[CXR]["dimension"] == 2
    assert models[CXR]["config"]["threshold"] == 0.5
    assert models[LOBES]["labels"] == {name: value for value, name in enumerate(LOBE_NAMES, start=1)}
    assert models[LOBES]["dimension"] == 3
    assert models[LOBES]["config"]["lung_only"] is True
    assert models[LOBES]["config"]["label_colors"]["left upper lobe"] == [230, 159, 0]


def test_the_next_sample_is_an_image_of_the_studies(server: Server):
    first = server.ask_json("POST", "/activelearning/first", {}).json
    assert first["id"] == "phantom_0001"
    assert Path(first["path"]) == server.studies / "phantom_0001.png"
    assert server.ask_json("POST", "/activelearning/random", {}).json["id"] in {
        "scan",
        *(f"phantom_{number:04d}" for number in range(1, 5)),
    }


def test_a_radiograph_gets_the_mask_of_medseg_predict_with_its_labels_as_values(server: Server, tmp_path: Path):
    answer = server.infer(CXR, "phantom_0002")
    assert answer.status == 200
    served = read_png(answer.body)
    predictor = Predictor(CXR)
    prediction = predictor({"image": str(server.studies / "phantom_0002.png")})
    (offline,) = predictor.save(prediction, tmp_path)
    assert served.shape == (150, 181)
    assert served.dtype == np.uint8
    assert set(np.unique(served)) == {0, 1}
    np.testing.assert_array_equal(served * 255, np.array(Image.open(offline)))


def test_an_uploaded_radiograph_gets_the_mask_that_it_gets_from_the_studies(server: Server):
    image = server.studies / "phantom_0003.png"
    uploaded = server.ask("POST", f"/infer/{CXR}?output=image", file=image)
    np.testing.assert_array_equal(read_png(uploaded.body), read_png(server.infer(CXR, "phantom_0003").body))


def test_a_scan_gets_the_file_and_the_lobe_table_of_medseg_predict(server: Server, lobe_model: Path, tmp_path: Path):
    answer = parts(server.infer(LOBES, "scan", output="all"))
    predictor = Predictor(LOBES, checkpoint=lobe_model)
    written = predictor.save(predictor({"image": str(server.studies / "scan.nii.gz")}), tmp_path)
    offline = nib.load(tmp_path / "scan.nii.gz")
    served = nib.Nifti1Image.from_bytes(gzip.decompress(answer["image"]))
    assert served.shape == SCAN_SHAPE
    assert served.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(served.affine, offline.affine)
    np.testing.assert_array_equal(np.asarray(served.dataobj), np.asarray(offline.dataobj))
    assert np.asarray(served.dataobj).any()
    params = json.loads(answer["params"])
    assert params["label_names"] == {name: value for value, name in enumerate(LOBE_NAMES, start=1)}
    table = next(path for path in written if path.suffix == ".json")
    assert params["lobes"] == json.loads(table.read_text())


def test_a_scan_comes_as_nrrd_in_its_own_grid_for_a_client_that_asks_for_it(server: Server, tmp_path: Path):
    import itk

    path = tmp_path / "mask.nrrd"
    path.write_bytes(server.infer(LOBES, "scan", result_extension=".nrrd").body)
    nrrd = itk.imread(str(path))
    nifti = nib.Nifti1Image.from_bytes(gzip.decompress(server.infer(LOBES, "scan").body))
    np.testing.assert_array_equal(np.asarray(nrrd).T, np.asarray(nifti.dataobj))
    to_ras = np.diag((-1, -1, 1))
    directions = to_ras @ itk.array_from_matrix(nrrd.GetDirection()) * np.asarray(nrrd.GetSpacing())
    np.testing.assert_allclose(directions, nifti.affine[:3, :3], atol=1e-4)
    np.testing.assert_allclose(to_ras @ np.asarray(nrrd.GetOrigin()), nifti.affine[:3, 3], atol=1e-4)


def test_an_option_changes_the_mask_and_is_told(server: Server):
    usual = read_png(server.infer(CXR, "phantom_0001").body)
    strict = read_png(server.infer(CXR, "phantom_0001", threshold=0.9).body)
    assert 0 < strict.sum() < usual.sum()
    assert server.infer(CXR, "phantom_0001", output="json", threshold=0.9).json["settings"] == {"threshold": 0.9}
    np.testing.assert_array_equal(read_png(server.infer(CXR, "phantom_0001").body), usual)


def test_a_detector_gets_outlines_that_enclose_the_mask(server: Server):
    """As CVAT's asks for them: ``output`` among the params."""
    answer = server.ask("POST", f"/infer/{CXR}?image=phantom_0001&output=json", params='{"output": "json"}')
    (annotation,) = answer.json["annotations"]
    (element,) = annotation["annotation"]["elements"]
    assert element["label"] == "lungs"
    mask = read_png(server.infer(CXR, "phantom_0001").body) > 0
    drawn = np.zeros_like(mask)
    for contour in element["contours"]:
        drawn ^= polygon2mask(mask.shape, np.array(contour)[:, ::-1])
    assert 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum()) > 0.97


def test_what_a_client_sends_beside_the_options_changes_nothing(server: Server):
    everything = server.ask("GET", "/info/").json["models"][CXR]["config"]
    answer = server.infer(CXR, "phantom_0001", device="cuda", result_dtype="uint8", client_id="me", **everything)
    assert answer.body == server.infer(CXR, "phantom_0001").body


def test_a_label_is_saved_and_comes_back_as_it_was(server: Server, tmp_path: Path):
    label = tmp_path / "mine.png"
    label.write_bytes(server.infer(CXR, "phantom_0004").body)
    assert server.ask("PUT", "/datastore/label?image=phantom_0004&tag=final", label=label, params="{}").status == 200
    assert server.ask("GET", "/datastore/label?label=phantom_0004&tag=final").body == label.read_bytes()
    assert (server.studies / "labels" / "final" / "phantom_0004.png").read_bytes() == label.read_bytes()
    assert server.ask("GET", "/datastore/").json["completed"] == 1
    assert server.ask("DELETE", "/datastore/label?id=phantom_0004&tag=final").status == 200


@pytest.mark.usefixtures("still_serves")
class TestWhatGoesWrong:
    def test_a_wrong_model_is_answered_with_the_names_of_those_that_there_are(self, server: Server):
        answer = server.infer("lung_cxr_resnet", "phantom_0001")
        assert (answer.status, answer.detail) == (404, f"lung_cxr_resnet: no such model; there are {CXR}, {LOBES}.")

    @pytest.mark.parametrize("image", ["phantom_9999", "/etc/hostname", "../work/app/main.py"])
    def test_an_image_that_is_not_of_the_studies_is_not_found(self, server: Server, image: str):
        answer = server.infer(CXR, image)
        assert answer.status == 404
        assert answer.detail.startswith(f"{image}: no such image")

    def test_an_unknown_strategy_is_not_found(self, server: Server):
        answer = server.ask_json("POST", "/activelearning/best", {})
        assert answer.status == 404
        assert "first, random" in answer.detail

    def test_a_truncated_upload_is_refused_in_one_line_without_a_path_of_the_server(
        self, server: Server, tmp_path: Path
    ):
        broken = tmp_path / "broken.png"
        broken.write_bytes((server.studies / "phantom_0001.png").read_bytes()[:3000])
        answer = server.ask("POST", f"/infer/{CXR}", file=broken)
        assert answer.status == 422
        assert "truncated or not an image" in answer.detail
        assert "/" not in answer.detail

    def test_a_truncated_scan_is_refused(self, server: Server, tmp_path: Path):
        broken = tmp_path / "broken.nii.gz"
        broken.write_bytes((server.studies / "scan.nii.gz").read_bytes()[:3000])
        answer = server.ask("POST", f"/infer/{LOBES}", file=broken)
        assert answer.status == 422
        assert "damaged" in answer.detail

    def test_a_radiograph_is_no_scan(self, server: Server):
        answer = server.infer(LOBES, "phantom_0001")
        assert answer.status == 422
        assert "not a volume" in answer.detail

    @pytest.mark.parametrize(
        "params",
        [{"threshold": "much"}, {"keep_largest": "$__import__('os').getpid()"}, {"model_version": "@checkpoint"}],
    )
    def test_an_option_of_another_type_is_refused_and_never_run(self, server: Server, params: dict[str, str]):
        answer = server.infer(CXR, "phantom_0001", **params)
        assert answer.status == 422
        assert next(iter(params)) in answer.detail

    def test_params_that_are_no_json_are_refused(self, server: Server):
        answer = server.ask("POST", f"/infer/{CXR}?image=phantom_0001", params="{threshold}")
        assert answer.status == 400
        assert "not JSON" in answer.detail

    def test_a_label_for_an_image_that_is_not_there_is_refused(self, server: Server):
        answer = server.ask(
            "PUT", "/datastore/label?image=phantom_9999&tag=final", label=server.studies / "phantom_0001.png"
        )
        assert (answer.status, answer.detail) == (404, "Image phantom_9999 not found")

    @pytest.mark.parametrize(
        "path", ["label?image=phantom_0001&tag=../../../out", "image?image=../out", "image?image=/tmp/out"]
    )
    def test_nothing_is_written_outside_the_folder_of_images(self, server: Server, path: str):
        field = path.partition("?")[0]
        image = server.studies / "phantom_0002.png"
        answer = server.ask("PUT", f"/datastore/{path}", **{"file" if field == "image" else "label": image})
        assert answer.status == 422
        assert not list(server.studies.parents[1].rglob("out*"))

    def test_an_image_that_is_there_is_not_written_over(self, server: Server):
        before = (server.studies / "phantom_0001.png").read_bytes()
        answer = server.ask("PUT", "/datastore/image?image=phantom_0001", file=server.studies / "phantom_0002.png")
        assert answer.status == 409
        assert (server.studies / "phantom_0001.png").read_bytes() == before


def test_neither_a_mask_nor_an_uploaded_image_stays_behind(server: Server, tmp_path: Path):
    before = wait_for(lambda: kept(server), lambda found: not any(one.name.startswith("medseg_") for one in found))
    broken = tmp_path / "broken.png"
    broken.write_bytes((server.studies / "phantom_0001.png").read_bytes()[:3000])
    assert server.infer(CXR, "phantom_0001").status == 200
    assert server.ask("POST", f"/infer/{CXR}", file=server.studies / "phantom_0001.png").status == 200
    assert server.ask("POST", f"/infer/{CXR}", file=broken).status == 422
    assert wait_for(lambda: kept(server), lambda found: found == before) == before


def test_a_page_from_elsewhere_gets_no_leave_to_ask(server: Server):
    import urllib.request

    request = urllib.request.Request(server.url + "/info/", headers={"Origin": "http://elsewhere.example"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert "access-control-allow-origin" not in response.headers


def test_the_least_certain_image_comes_next_and_scans_are_passed_over_by_a_2d_bundle(server: Server):
    for _ in range(5):  # on a slow machine a request may measure no more than one of the five
        answer = server.ask_json("POST", f"/activelearning/uncertainty_{CXR}", {}).json
    known = {
        name: entry["image"]["info"][f"uncertainty_{CXR}"]["entropy"]
        for name, entry in server.ask("GET", "/datastore/?output=all").json["objects"].items()
    }
    assert known.pop("scan") is None
    assert len(set(known.values())) == 4
    assert all(0 < entropy < 1 for entropy in known.values())
    assert answer["id"] == max(known, key=known.get)
    assert answer["uncertainty"] == known[answer["id"]]


def test_the_3d_bundle_names_the_scan_as_the_one_to_label(server: Server):
    assert server.ask_json("POST", f"/activelearning/uncertainty_{LOBES}", {}).json["id"] == "scan"
