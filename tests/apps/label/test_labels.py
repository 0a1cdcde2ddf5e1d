"""Labels that no training could use: refused when they are sent, and left out when they lie there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from .conftest import CXR, LOBES, SCAN_SHAPE, Answer, Server

pytestmark = pytest.mark.label

SIZE = (150, 181)


def save(server: Server, image: str, label: Path, params: str = "{}") -> Answer:
    return server.ask("PUT", f"/datastore/label?image={image}&tag=drawn", label=label, params=params)


def is_kept(server: Server, image: str) -> bool:
    on_disc = any((server.studies / "labels").glob(f"drawn/{image}*"))
    return on_disc or server.ask("GET", f"/datastore/label?label={image}&tag=drawn").status != 404


def write_volume(path: Path, shape: tuple[int, ...] = SCAN_SHAPE, *values: int, shift: float = 0, scan: Path) -> Path:
    affine = nib.load(scan).affine + shift * np.eye(4)[:, [2]] @ np.eye(4)[[3]]
    label = np.zeros(shape, np.uint8)
    for index, value in enumerate(values or (1, 5)):
        label[2:9, 3 + index, 4:7] = value
    nib.Nifti1Image(label, affine).to_filename(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = SIZE, *values: int) -> Path:
    mask = np.zeros(size, np.uint8)
    for index, value in enumerate(values or (255,)):
        mask[10:50, 10 + 30 * index : 30 + 30 * index] = value
    Image.fromarray(mask).save(path)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


class TestSent:
    @pytest.mark.parametrize(
        ("write", "fault"),
        [
            (lambda at, scan: cut(write_mask(at / "a.png")), "truncated or not an image"),
            (lambda at, scan: write_mask(at / "a.png", SIZE[::-1]), "size (181, 150)"),
            (lambda at, scan: write_mask(at / "a.png", (75, 90)), "size (75, 90)"),
            (lambda at, scan: shutil.copy(scan.with_name("phantom_0001.png"), at / "a.png"), "do not say what is"),
            (lambda at, scan: write_volume(at / "a.nii.gz", scan=scan), "a volume of several slices"),
            (lambda at, scan: at.joinpath("a.dcm").write_bytes(b"\0" * 128 + b"DICM") and at / "a.dcm", "not a volume"),
            (lambda at, scan: at.joinpath("a.png").write_bytes(b"") or at / "a.png", "truncated or not an image"),
        ],
        ids=["cut", "turned", "smaller", "photograph", "of a scan", "DICOM", "empty"],
    )
    def test_a_label_that_does_not_fit_a_picture_is_refused_and_not_kept(
        self, server: Server, tmp_path: Path, write: Callable[[Path, Path], Path], fault: str
    ):
        answer = save(server, "phantom_0001", Path(write(tmp_path, server.studies / "scan.nii.gz")))
        assert answer.status == 422, answer.body
        assert fault in answer.detail
        assert str(server.studies) not in answer.detail
        assert "\n" not in answer.detail
        assert not is_kept(server, "phantom_0001")

    @pytest.mark.parametrize(
        ("write", "fault"),
        [
            (lambda at, scan: cut(write_volume(at / "a.nii.gz", scan=scan)), "truncated, damaged"),
            (lambda at, scan: write_volume(at / "a.nii.gz", SCAN_SHAPE[::-1], scan=scan), "size"),
            (
                lambda at, scan: write_volume(at / "a.nii.gz", shift=4.9, scan=scan),
                "lies elsewhere than its image scan",
            ),
            (lambda at, scan: write_volume(at / "a.nii.gz", SCAN_SHAPE, 1, 9, scan=scan), "label 9 has no name"),
            (lambda at, scan: shutil.copy(scan, at / "a.nii.gz"), "not labels; save whole numbers"),
            (lambda at, scan: write_mask(at / "a.png"), "not a volume"),
        ],
        ids=["cut", "turned", "moved", "unnamed", "scan", "picture"],
    )
    def test_a_label_that_does_not_fit_a_scan_is_refused_and_not_kept(
        self, server: Server, tmp_path: Path, write: Callable[[Path, Path], Path], fault: str
    ):
        answer = save(server, "scan", Path(write(tmp_path, server.studies / "scan.nii.gz")))
        assert answer.status == 422, answer.body
        assert fault in answer.detail
        assert str(server.studies) not in answer.detail
        assert not is_kept(server, "scan")

    def test_a_refused_label_leaves_the_earlier_one_as_it_was(self, server: Server, tmp_path: Path):
        good = write_mask(tmp_path / "good.png")
        assert save(server, "phantom_0002", good).status == 200
        assert save(server, "phantom_0002", cut(write_mask(tmp_path / "bad.png"))).status == 422
        kept = server.ask("GET", "/datastore/label?label=phantom_0002&tag=drawn")
        assert kept.body == good.read_bytes()
        assert server.ask("DELETE", "/datastore/label?id=phantom_0002&tag=drawn").status == 200

    @pytest.mark.parametrize(
        ("image", "params"),
        [
            ("phantom_0001", "{}"),
            ("phantom_0001", '{"label_info": [{"name": "lungs", "idx": 1}]}'),
            ("scan", "{}"),
            ("scan", '{"label_info": [{"name": "left upper lobe", "idx": 1}, {"name": "mine", "idx": 5}]}'),
        ],
    )
    def test_a_label_that_fits_is_kept(self, server: Server, tmp_path: Path, image: str, params: str):
        scan = server.studies / "scan.nii.gz"
        label = write_volume(tmp_path / "a.nii.gz", scan=scan) if image == "scan" else write_mask(tmp_path / "a.png")
        assert save(server, image, label, params).status == 200
        assert is_kept(server, image)
        assert server.ask("DELETE", f"/datastore/label?id={image}&tag=drawn").status == 200
        assert not is_kept(server, image)

    def test_what_the_server_predicts_is_a_label_that_fits(self, server: Server, tmp_path: Path):
        for bundle, image, name in ((CXR, "phantom_0001", "a.png"), (LOBES, "scan", "a.nii.gz")):
            (tmp_path / name).write_bytes(server.infer(bundle, image).body)
            assert save(server, image, tmp_path / name).status == 200
            assert server.ask("DELETE", f"/datastore/label?id={image}&tag=drawn").status == 200

    def test_a_viewer_of_volumes_saves_the_label_of_a_picture_as_one_slice(self, server: Server, tmp_path: Path):
        mask = np.zeros((*SIZE[::-1], 1), np.uint8)
        mask[3:9, 100:140] = 1
        nib.Nifti1Image(mask, np.eye(4)).to_filename(tmp_path / "slice.nii.gz")
        assert save(server, "phantom_0001", tmp_path / "slice.nii.gz").status == 200
        assert server.ask("DELETE", "/datastore/label?id=phantom_0001&tag=drawn").status == 200
        nib.Nifti1Image(mask.swapaxes(0, 1), np.eye(4)).to_filename(tmp_path / "turned.nii.gz")
        assert save(server, "phantom_0001", tmp_path / "turned.nii.gz").status == 422

    def test_axes_in_another_order_are_no_fault(self, server: Server, tmp_path: Path):
        scan = server.studies / "scan.nii.gz"
        turned = nib.load(write_volume(tmp_path / "a.nii.gz", scan=scan)).as_reoriented(
            np.array([[2, -1], [0, 1], [1, -1]])
        )
        turned.to_filename(tmp_path / "turned.nii")
        assert save(server, "scan", tmp_path / "turned.nii").status == 200
        assert server.ask("DELETE", "/datastore/label?id=scan&tag=drawn").status == 200

    @pytest.mark.parametrize(
        "params", ['{"label_info": 1}', '{"label_info": ["a"]}', '{"label_names": {"a": []}}', '{"params": [1]}']
    )
    def test_names_in_another_form_are_refused(self, server: Server, tmp_path: Path, params: str):
        label = write_volume(tmp_path / "a.nii.gz", scan=server.studies / "scan.nii.gz")
        answer = save(server, "scan", label, params)
        assert answer.status == 422
        assert answer.detail.startswith("label_")
        assert not is_kept(server, "scan")


class TestLinks:
    """`make label` fills a folder with links, so that the images stay as they are."""

    def test_what_a_link_leads_to_is_neither_deleted_nor_written_to(self, server: Server, tmp_path: Path):
        from .test_server import wait_for

        original = Path(shutil.copy(server.studies / "phantom_0003.png", tmp_path / "original.png"))
        before = original.read_bytes()
        (server.studies / "linked.png").symlink_to(original)
        assert wait_for(lambda: server.ask("GET", "/datastore/image/info?image=linked").json, bool)
        label = write_mask(tmp_path / "a.png")
        drawn = server.studies / "labels" / "drawn" / "linked.png"
        drawn.parent.mkdir(exist_ok=True)
        drawn.symlink_to(original)
        assert save(server, "linked", label).status == 200
        assert drawn.read_bytes() == label.read_bytes()
        assert server.ask("DELETE", "/datastore/image?id=linked").status == 200
        assert not (server.studies / "linked.png").is_symlink()
        assert original.read_bytes() == before

    def test_an_image_is_written_through_no_link_and_over_no_list(self, server: Server, tmp_path: Path):
        (server.studies / "dangling.png").symlink_to(tmp_path / "made.png")
        image = server.studies / "phantom_0001.png"
        assert server.ask("PUT", "/datastore/image?image=dangling", file=image).status == 409
        assert not (tmp_path / "made.png").exists()
        (server.studies / "dangling.png").unlink()
        (tmp_path / "list.json").write_text("{}")
        before = server.ask("GET", "/datastore/?output=all").json
        assert server.ask("PUT", "/datastore/image?image=datastore_v2", file=tmp_path / "list.json").status == 422
        assert server.ask("GET", "/datastore/?output=all").json == before
