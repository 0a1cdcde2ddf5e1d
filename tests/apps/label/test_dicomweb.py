"""The server over a real Orthanc: series by their UID, masks and labels as DICOM SEG, training from these."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.uid import RLELossless

from medseg_monai.bundle import Predictor
from medseg_monai.networks.nets import ResCRNet
from medseg_monai.phantoms import write_chest_xray_phantoms
from tests.apps.orthanc import Orthanc, start_orthanc
from tests.data.dicom_files import WrittenSeries, tags
from tests.data.dicom_files import write_series as write_any_series
from tests.data.radiograph_files import write_radiograph

from .conftest import CXR, LOBES, Answer, Server, start_server, stop_server
from .test_server import read_png
from .test_training import train

pytestmark = pytest.mark.label

SHAPE = (36, 30, 20)
LOBE_NAMES = ["left upper lobe", "left lower lobe", "right upper lobe", "right lower lobe", "right middle lobe"]


def write_series(folder: Path, **how: Any) -> WrittenSeries:
    return write_any_series(folder, name=lambda z: f"{(z * 7) % SHAPE[2]:04d}.dcm", **how)


@dataclass(frozen=True)
class Archive:
    """Orthanc, and what was stored in it by STOW."""

    orthanc: Orthanc
    scans: tuple[WrittenSeries, WrittenSeries]  # of two patients, oblique and anisotropic
    gap: WrittenSeries  # a slice is missing
    mr: WrittenSeries  # no bundle that is served reads it
    radiographs: tuple[Path, Path]  # DX, and CR that is stored compressed; of two patients

    def series_of(self, path: Path) -> str:
        return str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID)

    def segs(self, image: str) -> dict[str, Any]:
        """The DICOM SEG for a series, by their SeriesInstanceUID, from Orthanc."""
        from dicomweb_client import DICOMwebClient

        client = DICOMwebClient(self.orthanc.dicomweb)
        found = {}
        for series in client.search_for_series(search_filters={"Modality": "SEG"}):
            study, uid = (series[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
            (seg,) = client.retrieve_series(study, uid)
            if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image:
                found[uid] = seg
        return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    volumes = [np.random.default_rng(seed).integers(-500, 150, SHAPE) * 2 for seed in (3, 4)]
    first = write_series(folder / "first", volume=volumes[0], edit=tags(PatientID="P1"))
    second = write_series(folder / "second", volume=volumes[1], edit=tags(PatientID="P2"))
    gap = write_series(folder / "gap", volume=volumes[0], skip=[7])
    mr = write_series(folder / "mr", volume=volumes[0], modality="MR")
    write_chest_xray_phantoms(folder / "chest", counts={"training": 2}, size=(150, 181), seed=0)
    pictures = [np.array(Image.open(path)) for path in sorted((folder / "chest" / "images").iterdir())]
    dx = write_radiograph(folder / "dx.dcm", pictures[0], PatientID="P3")
    cr = write_radiograph(folder / "cr.dcm", pictures[1], modality="CR", PatientID="P4")
    compressed = dcmread(cr)
    compressed.compress(RLELossless, generate_instance_uid=False)
    compressed.save_as(cr)
    orthanc = start_orthanc(folder / "orthanc")
    for files in (first.files, second.files, gap.files, mr.files, (dx, cr)):
        orthanc.store(files)
    yield Archive(orthanc, (first, second), gap, mr, (dx, cr))
    orthanc.stop()


@pytest.fixture(scope="module")
def lung_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small Res-CR-Net, which finds something everywhere but no lungs."""
    path = tmp_path_factory.mktemp("lung_model") / "model.pt"
    torch.manual_seed(0)
    state = ResCRNet(spatial_dims=2, in_channels=1, out_channels=2, filters=4, num_blocks=1).state_dict()
    torch.save({"model": state, "settings": {"filters": 4, "num_blocks": 1, "image_size": [40, 52]}}, path)
    return path


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, archive: Archive, lobe_model: Path, lung_model: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("dicomweb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "0")
        patch.delenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", raising=False)
        running = start_server(
            folder / "work",
            archive.orthanc.dicomweb,
            bundles=[CXR, LOBES],
            weights={LOBES: str(lobe_model), CXR: str(lung_model)},
        )
    yield running
    stop_server(running)


def voxels(seg: Any, files: tuple[Path, ...], folder: Path) -> np.ndarray:
    """Segment numbers ``[slices, rows, columns]`` of a DICOM SEG, at the instances of its source."""
    import highdicom as hd

    path = folder / "seg.dcm"
    seg.save_as(path)
    uids = [str(dcmread(file).SOPInstanceUID) for file in files]
    return np.asarray(
        hd.seg.segread(path).get_pixels_by_source_instance(
            uids, combine_segments=True, relabel=False, assert_missing_frames_are_empty=True
        )
    )


def nifti(answer: Answer) -> nib.Nifti1Image:
    assert answer.status == 200, answer.body
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.body))


def save(server: Server, image: str, label: Path, tag: str = "final", **params: Any) -> Answer:
    return server.ask("PUT", f"/datastore/label?image={image}&tag={tag}", label=label, params=json.dumps(params))


def write_mask(path: Path, series: WrittenSeries, *boxes: tuple[int, tuple[slice, slice, slice]]) -> np.ndarray:
    """A mask of boxes in the grid of a series, as NIfTI."""
    mask = np.zeros(series.volume.shape, dtype=np.uint8)
    for value, box in boxes:
        mask[box] = value
    nib.Nifti1Image(mask, series.affine).to_filename(path)
    return mask


SOME = (slice(3, 9), slice(5, 20), slice(2, 6))
OTHER = (slice(20, 30), slice(4, 11), slice(9, 17))


def test_series_of_the_modalities_that_the_bundles_read_are_listed_and_no_others(server: Server, archive: Archive):
    listed = server.ask("GET", "/datastore/?output=all").json["objects"]
    radiographs = [archive.series_of(path) for path in archive.radiographs]
    assert set(listed) == {archive.scans[0].uid, archive.scans[1].uid, archive.gap.uid, *radiographs}
    assert listed[archive.scans[1].uid]["image"]["info"]["PatientID"] == "P2"
    assert listed[radiographs[1]]["image"]["info"]["Modality"] == "CR"


def test_nothing_is_downloaded_at_the_start(server: Server):
    assert not list((server.work_dir / "app" / "bin").iterdir())


def test_a_series_gets_the_mask_of_medseg_predict_on_its_folder(
    server: Server, archive: Archive, lobe_model: Path, tmp_path: Path
):
    scan = archive.scans[0]
    served = nifti(server.infer(LOBES, scan.uid))
    predictor = Predictor(LOBES, checkpoint=lobe_model)
    written = predictor.save(predictor({"image": str(scan.files[0].parent)}), tmp_path)
    offline = nib.load(next(path for path in written if path.name.endswith(".nii.gz")))
    assert served.shape == SHAPE
    assert served.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(served.dataobj), np.asarray(offline.dataobj))
    np.testing.assert_array_equal(served.affine, offline.affine)
    np.testing.assert_allclose(served.affine, scan.affine, atol=1e-3)
    assert np.asarray(served.dataobj).any()


def test_the_dicom_seg_of_a_series_comes_back_from_the_archive_as_the_mask_that_was_served(
    server: Server, archive: Archive, tmp_path: Path
):
    scan = archive.scans[1]
    completed = server.ask("GET", "/datastore/").json["completed"]
    mask = np.asarray(nifti(server.infer(LOBES, scan.uid)).dataobj)
    answer = server.infer(LOBES, scan.uid, output="dicom_seg")
    assert answer.status == 200, answer.body
    (tmp_path / "seg.dcm").write_bytes(answer.body)
    archive.orthanc.store([tmp_path / "seg.dcm"])
    (seg,) = archive.segs(scan.uid).values()
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == list(enumerate(LOBE_NAMES, 1))
    assert set(np.unique(mask)) < set(range(6))  # so a class is absent, and the others keep their numbers
    np.testing.assert_array_equal(voxels(seg, scan.files, tmp_path), mask.T)
    referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {one.ReferencedSOPInstanceUID for one in referenced} == {dcmread(file).SOPInstanceUID for file in scan.files}
    assert server.ask("GET", "/datastore/").json["completed"] == completed  # nobody has seen it yet


@pytest.mark.parametrize("number", [0, 1], ids=["DX", "compressed CR"])
def test_a_radiograph_gets_the_mask_of_medseg_predict_as_png_and_as_dicom_seg(
    server: Server, archive: Archive, lung_model: Path, tmp_path: Path, number: int
):
    radiograph = archive.radiographs[number]
    uid = archive.series_of(radiograph)
    served = read_png(server.infer(CXR, uid).body)
    predictor = Predictor(CXR, checkpoint=lung_model)
    written = predictor.save(predictor({"image": str(radiograph)}), tmp_path)
    assert served.shape == (150, 181)
    assert set(np.unique(served)) == {0, 1}
    np.testing.assert_array_equal(served * 255, np.array(Image.open(next(p for p in written if p.suffix == ".png"))))
    (tmp_path / "served.dcm").write_bytes(server.infer(CXR, uid, output="dicom_seg").body)
    archive.orthanc.store([tmp_path / "served.dcm"])
    (seg,) = archive.segs(uid).values()
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["lungs"]
    np.testing.assert_array_equal(voxels(seg, (radiograph,), tmp_path)[0], served)


def test_an_uploaded_radiograph_gets_its_dicom_seg_too(server: Server, archive: Archive, tmp_path: Path):
    answer = server.ask("POST", f"/infer/{CXR}?output=dicom_seg", file=archive.radiographs[0])
    assert answer.status == 200, answer.body
    (tmp_path / "uploaded.dcm").write_bytes(answer.body)
    referenced = dcmread(tmp_path / "uploaded.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == archive.series_of(archive.radiographs[0])


def test_a_final_label_becomes_a_dicom_seg_with_the_bundles_number_for_each_name(
    server: Server, archive: Archive, tmp_path: Path
):
    scan = archive.scans[0]
    write_mask(tmp_path / "label.nii.gz", scan, (1, SOME), (3, OTHER))
    named = [{"name": "Right middle lobe", "idx": 1}, {"name": "left lower lobe", "idx": 3}]
    answer = save(server, scan.uid, tmp_path / "label.nii.gz", label_info=named)
    assert answer.status == 200, answer.body
    (seg,) = archive.segs(scan.uid).values()
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == list(enumerate(LOBE_NAMES, 1))
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    expected = write_mask(tmp_path / "expected.nii.gz", scan, (5, SOME), (2, OTHER))
    np.testing.assert_array_equal(voxels(seg, scan.files, tmp_path), expected.T)
    back = nifti(server.ask("GET", f"/datastore/label?label={scan.uid}&tag=final"))
    np.testing.assert_array_equal(np.asarray(back.dataobj), expected)
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-3)
    assert server.ask("GET", "/datastore/").json["completed"] == 1
    assert server.ask_json("POST", "/activelearning/first", {}).json["id"] != scan.uid


def test_of_two_labels_the_newer_counts_and_its_axes_may_run_otherwise(
    server: Server, archive: Archive, tmp_path: Path
):
    scan = archive.scans[0]
    expected = write_mask(tmp_path / "label.nii.gz", scan, (4, SOME))
    turned = nib.load(tmp_path / "label.nii.gz").as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    turned.to_filename(tmp_path / "turned.nii.gz")
    # as an answer of /infer names the labels
    names = {name: value for value, name in enumerate(LOBE_NAMES, 1)}
    assert save(server, scan.uid, tmp_path / "turned.nii.gz", label_names=names).status == 200
    assert len(archive.segs(scan.uid)) == 2
    back = nifti(server.ask("GET", f"/datastore/label?label={scan.uid}&tag=final"))
    np.testing.assert_array_equal(np.asarray(back.dataobj), expected)


def test_an_empty_label_and_a_name_that_no_bundle_knows_are_stored(server: Server, archive: Archive, tmp_path: Path):
    scan = archive.scans[1]
    before = set(archive.segs(scan.uid))
    write_mask(tmp_path / "empty.nii.gz", scan)
    assert save(server, scan.uid, tmp_path / "empty.nii.gz", model=LOBES).status == 200
    ((uid, seg),) = ((uid, seg) for uid, seg in archive.segs(scan.uid).items() if uid not in before)
    assert not voxels(seg, scan.files, tmp_path).any()
    before.add(uid)
    expected = write_mask(tmp_path / "other.nii.gz", scan, (2, SOME))
    # the one value that occurs has the one name that was sent
    assert save(server, scan.uid, tmp_path / "other.nii.gz", label_info=[{"name": "nodule"}]).status == 200
    (seg,) = (seg for uid, seg in archive.segs(scan.uid).items() if uid not in before)
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["nodule"]
    np.testing.assert_array_equal(voxels(seg, scan.files, tmp_path), (expected.T > 0).astype(int))


def test_a_label_with_another_tag_stays_out_of_the_archive(server: Server, archive: Archive, tmp_path: Path):
    scan = archive.scans[0]
    before = set(archive.segs(scan.uid))
    mask = write_mask(tmp_path / "label.nii.gz", scan, (2, OTHER))
    assert save(server, scan.uid, tmp_path / "label.nii.gz", tag="original").status == 200
    back = nifti(server.ask("GET", f"/datastore/label?label={scan.uid}&tag=original"))
    np.testing.assert_array_equal(np.asarray(back.dataobj), mask)
    assert set(archive.segs(scan.uid)) == before


def test_a_client_can_open_a_series_as_one_file(server: Server, archive: Archive):
    scan = archive.scans[0]
    volume = nifti(server.ask("GET", f"/datastore/image?image={scan.uid}"))
    np.testing.assert_array_equal(np.asarray(volume.dataobj), scan.volume)
    np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-3)
    unlabelled = {image for image in server.ask("GET", "/datastore/?output=all").json["objects"] if image != scan.uid}
    sample = server.ask_json("POST", "/activelearning/first", {}).json
    assert sample["id"] in unlabelled
    assert sample["StudyInstanceUID"]
    assert Path(sample["path"]).is_file() == (sample["id"] != archive.gap.uid)


class TestProxy:
    """What OHIF asks of the archive through the server."""

    def test_a_search_finds_what_it_asks_for(self, server: Server, archive: Archive):
        study = str(dcmread(archive.scans[1].files[0]).StudyInstanceUID)
        found = server.ask("GET", f"/proxy/dicom/qido/studies?StudyInstanceUID={study}&includefield=00081030").json
        assert [one["0020000D"]["Value"] for one in found] == [[study]]
        assert found[0]["00081190"]["Value"] == [f"{server.url}/proxy/dicom/wado/studies/{study}"]

    def test_frames_come_as_they_are(self, server: Server, archive: Archive):
        file = dcmread(archive.scans[1].files[0])
        path = f"studies/{file.StudyInstanceUID}/series/{file.SeriesInstanceUID}/instances/{file.SOPInstanceUID}"
        answer = server.ask("GET", f"/proxy/dicom/wado/{path}/frames/1")
        assert answer.status == 200
        assert file.PixelData in answer.body
        assert server.ask("GET", f"/proxy/dicom/wado/{path}/metadata").json[0]["00100020"]["Value"] == ["P2"]

    @pytest.mark.parametrize("path", ["%2e%2e/system", "studies/%2e%2e/%2e%2e/system", "servers", "studies/../servers"])
    def test_nothing_but_dicomweb_is_asked_of_the_archive(self, server: Server, path: str):
        assert server.ask("GET", f"/proxy/dicom/wado/{path}").status == 404

    def test_orders_to_the_archive_are_not_passed_on(self, server: Server):
        for path in ("%2e%2e/tools/shutdown", "servers/x/store", "series"):
            assert server.ask_json("POST", f"/proxy/dicom/stow/{path}", {}).status == 404


class TestWhatGoesWrong:
    @pytest.fixture(autouse=True)
    def still_serves(self, server: Server, archive: Archive) -> Iterator[None]:
        yield
        assert server.infer(CXR, archive.series_of(archive.radiographs[0])).status == 200

    @pytest.mark.parametrize("image", ["1.2.3.4", "../app/main.py", "*"])
    def test_a_series_that_is_not_there_is_not_found(self, server: Server, image: str):
        answer = server.infer(LOBES, image)
        assert (answer.status, answer.json["detail"].split(":")[0]) == (404, image)

    def test_a_series_with_a_missing_slice_is_refused_in_one_line_without_a_path(
        self, server: Server, archive: Archive
    ):
        answer = server.infer(LOBES, archive.gap.uid)
        assert answer.status == 422
        assert "missing" in answer.detail
        assert "\n" not in answer.detail
        assert str(server.work_dir) not in answer.detail

    def test_a_slice_that_arrives_later_is_fetched(self, server: Server, archive: Archive, tmp_path: Path):
        whole = write_series(
            tmp_path / "late", volume=archive.scans[0].volume.astype(int), modality="CT", edit=tags(PatientID="P9")
        )
        archive.orthanc.store(whole.files[:7] + whole.files[8:])
        assert server.infer(LOBES, whole.uid).status == 422
        archive.orthanc.store(whole.files[7:8])
        assert server.infer(LOBES, whole.uid).status == 200

    def test_a_series_of_another_modality_is_refused(self, server: Server, archive: Archive):
        answer = server.infer(LOBES, archive.mr.uid)
        assert answer.status == 422
        assert "modality MR, expected CT" in answer.detail

    def test_a_label_that_does_not_fit_its_image_is_refused_and_not_stored(
        self, server: Server, archive: Archive, tmp_path: Path
    ):
        scan = archive.scans[0]
        before = set(archive.segs(scan.uid))
        write_mask(tmp_path / "mine.nii.gz", scan, (7, SOME))
        answer = save(server, scan.uid, tmp_path / "mine.nii.gz")
        assert answer.status == 422
        assert answer.detail.startswith("label 7 has no name")
        shifted = scan.affine + np.eye(4)[:, [3]] @ [[0, 0, 0, 2.5]]
        shifted[:3, 3] += 2.5
        shifted[3, 3] = 1
        nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), shifted).to_filename(tmp_path / "shifted.nii.gz")
        answer = save(server, scan.uid, tmp_path / "shifted.nii.gz")
        assert answer.status == 422
        assert answer.detail.startswith("label: not in the grid of its image (36 x 30 x 20)")
        (tmp_path / "other.dcm").write_bytes(
            server.infer(CXR, archive.series_of(archive.radiographs[0]), output="dicom_seg").body
        )
        answer = save(server, scan.uid, tmp_path / "other.dcm")
        assert answer.status == 422
        assert "it is of another image" in answer.detail
        assert save(server, "1.2.3.4", tmp_path / "mine.nii.gz").status == 404
        assert save(server, scan.uid, tmp_path / "mine.nii.gz", tag="../mine").status == 422
        assert set(archive.segs(scan.uid)) == before

    def test_nothing_is_deleted_in_the_archive(self, server: Server, archive: Archive):
        uid = archive.scans[0].uid
        assert server.ask("DELETE", f"/datastore/label?id={uid}&tag=final").status == 405
        assert server.ask("DELETE", f"/datastore/image?id={uid}").status == 405
        assert archive.segs(uid)

    def test_a_mask_without_dicom_has_no_dicom_seg(self, server: Server, tmp_path: Path):
        Image.fromarray(np.arange(30000, dtype=np.uint16).reshape(150, 200).astype(np.uint8)).save(tmp_path / "x.png")
        answer = server.ask("POST", f"/infer/{CXR}?output=dicom_seg", file=tmp_path / "x.png")
        assert answer.status == 422
        assert "no DICOM SEG: the image is not DICOM" in answer.detail


def test_a_bundle_learns_from_the_dicom_seg_in_the_archive(server: Server, archive: Archive, tmp_path: Path):
    for radiograph, name, output in zip(archive.radiographs, ("a.png", "b.dcm"), ("image", "dicom_seg"), strict=True):
        uid = archive.series_of(radiograph)
        (tmp_path / name).write_bytes(server.infer(CXR, uid, output=output).body)
        assert save(server, uid, tmp_path / name).status == 200
    task = train(server, max_epochs=1)
    assert task["status"] == "DONE", list(task["details"])
    (run,) = (server.work_dir / "models" / CXR / "runs").iterdir()
    sections = json.loads((run / "datalist.json").read_text())
    items = [*sections["training"], *sections["validation"]]
    assert len(sections["validation"]) == 1
    # the scans are labelled too, but no radiographs; and a list that MLflow may keep tells no patient's number
    assert {Path(item["image"]).parent.name for item in items} == {archive.series_of(p) for p in archive.radiographs}
    assert not {item["patient"] for item in items} & {"P3", "P4"}
    for item in items:
        mask = np.array(Image.open(run / item["label"]))
        assert mask.shape == (150, 181)
        assert set(np.unique(mask)) == {0, 255}


def test_what_was_downloaded_lies_in_the_work_dir_and_is_the_users_own(server: Server, archive: Archive):
    (cache,) = (server.work_dir / "dicomweb").iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {file.name for file in (cache / archive.scans[0].uid).iterdir()} == {
        f"{dcmread(file).SOPInstanceUID}.dcm" for file in archive.scans[0].files
    }
    left = {path.name for path in server.work_dir.with_suffix(".tmp").iterdir()}
    assert not {name for name in left if name.startswith("medseg_label_") or name.endswith((".dcm", ".gz"))}


def test_a_server_that_is_gone_is_told_in_one_line_and_uploads_are_served_all_the_same(
    server: Server, archive: Archive, tmp_path: Path
):
    archive.orthanc.stop()
    answer = server.infer(LOBES, archive.scans[0].uid)
    assert answer.status == 502
    assert answer.detail == f"{archive.orthanc.dicomweb}: no DICOMweb server can be reached there."
    assert answer.detail == server.ask("GET", "/info/").json["datastore"]["error"]
    assert server.ask("GET", "/proxy/dicom/qido/studies").status == 502
    shutil.copy(archive.radiographs[0], tmp_path / "upload.dcm")
    assert server.ask("POST", f"/infer/{CXR}?output=image", file=tmp_path / "upload.dcm").status == 200
