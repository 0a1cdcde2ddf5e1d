"""RasterMaskWriter: the mask has the image's pixels, and its file is whole or absent."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Invertd, LoadImaged, Resized, SaveImaged
from PIL import Image, ImageOps

from medseg_monai.data import PNGWriter, SaveResultsd
from medseg_monai.data.readers.raster import RasterReader
from medseg_monai.data.results.masks import RasterMaskWriter, write_volume_nifti


@pytest.fixture
def mask() -> np.ndarray:
    """Asymmetric and not square: 5 rows, 7 columns, values 0 and 1."""
    labels = np.zeros((5, 7), np.uint8)
    labels[1, 2:], labels[4, 0] = 1, 1
    return labels


def save_config(output_dir: Path, **options: object) -> dict:
    """What a bundle's JSON says."""
    return {
        "_target_": "SaveImaged",
        "keys": "pred",
        "writer": "medseg_monai.data.results.masks.RasterMaskWriter",
        "output_dir": str(output_dir),
        "output_ext": ".png",
        "output_postfix": "",
        "separate_folder": False,
        "resample": False,
        "scale": 255,
        "print_log": False,
        **options,
    }


def saver(output_dir: Path, **options: object) -> SaveImaged:
    parser = ConfigParser({"save": save_config(output_dir, **options)})
    return parser.get_parsed_content("save")


def write(labels: np.ndarray, path: Path, *, meta: dict | None = None, scale: int | None = None) -> None:
    writer = RasterMaskWriter(scale=scale)
    writer.set_data_array(labels[None])
    writer.set_metadata(meta)
    writer.write(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_bundles_save_step_writes_a_mask_of_the_images_name_size_and_orientation(
    tmp_path: Path, mask: np.ndarray, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image_path = tmp_path / "in" / "eye.v1.jpg"
    image_path.parent.mkdir()
    size = (7, 5) if orientation < 5 else (5, 7)
    Image.new("RGB", size, (90, 40, 10)).save(image_path, exif=exif)
    load = Compose([LoadImaged("image", reader=RasterReader()), Resized("image", (32, 64))])
    (batch,) = DataLoader(Dataset([{"image": str(image_path)}], load), batch_size=1)
    batch["pred"] = batch["image"][:, :1].clone()
    (case,) = decollate_batch(batch)
    case = Invertd("pred", transform=load, orig_keys="image")(case)
    case["pred"] = MetaTensor(torch.from_numpy(mask[None]).float(), meta=case["pred"].meta)
    saver(tmp_path / "out")(case)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["eye.v1.png"]
    written = Image.open(tmp_path / "out" / "eye.v1.png")
    assert written.mode == "L"
    assert written.size == size
    assert written.getexif().get(0x0112, 1) == orientation
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(written)), mask * 255)


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_upright_mask_has_no_orientation(tmp_path: Path, mask: np.ndarray, orientation: int) -> None:
    meta = {"filename_or_obj": "eye.jpg", "exif_orientation": orientation, "spatial_shape": (5, 7)}
    pred = MetaTensor(torch.from_numpy(mask[None]), meta=meta)
    save = SaveResultsd("pred", tmp_path, [PNGWriter(scale=255, upright=True)], image_key="pred")
    (path,) = save.save({"pred": pred})
    with Image.open(path) as written:
        assert written.getexif().get(0x0112) is None
        np.testing.assert_array_equal(np.asarray(written), mask * 255)


def test_class_indices_are_written_as_they_are_without_a_scale(tmp_path: Path) -> None:
    labels = torch.arange(35, dtype=torch.float32).reshape(1, 5, 7)
    saver(tmp_path, scale=None)({"pred": MetaTensor(labels, meta={"filename_or_obj": "a/scan.tif"})})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scan.png")), labels[0].numpy())


def test_the_reader_reads_back_what_was_written(tmp_path: Path, mask: np.ndarray) -> None:
    write(mask, tmp_path / "mask.png", meta={"exif_orientation": 8, "spatial_shape": (5, 7)}, scale=255)
    case = LoadImaged("label", reader=RasterReader(channels=1))({"label": tmp_path / "mask.png"})
    np.testing.assert_array_equal(case["label"].numpy()[0], mask * 255)
    assert case["label"].meta["exif_orientation"] == 8


def test_an_orientation_of_1_leaves_no_exif_in_the_file(tmp_path: Path, mask: np.ndarray) -> None:
    write(mask, tmp_path / "mask.png", meta={"exif_orientation": 1})
    assert b"eXIf" not in (tmp_path / "mask.png").read_bytes()


@pytest.mark.parametrize(
    ("labels", "scale", "message"),
    [
        (np.full((1, 5, 7), 256), None, "from 0 to 255, got 256 to 256"),
        (np.full((1, 5, 7), -1), None, "got -1 to -1"),
        (np.full((1, 5, 7), 0.5), None, "got 0.5 to 0.5"),
        (np.full((1, 5, 7), np.nan), None, "got nan to nan"),
        (np.full((1, 5, 7), 2), 255, "from 0 to 1, got 2 to 2"),
        (np.zeros((2, 5, 7)), None, r"\[1, H, W\], got \[2, 5, 7\]"),
        (np.zeros((1, 5, 7, 3)), None, r"got \[1, 5, 7, 3\]"),
        (np.zeros((1, 0, 7)), None, r"got \[1, 0, 7\]"),
    ],
)
def test_anything_but_a_label_map_is_refused(labels: np.ndarray, scale: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RasterMaskWriter(scale=scale).set_data_array(labels)


def test_a_map_without_a_channel_dimension_is_taken(tmp_path: Path, mask: np.ndarray) -> None:
    writer = RasterMaskWriter(scale=7)
    writer.set_data_array(mask.astype(bool), channel_dim=None)
    writer.write(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), mask * 7)


def test_a_mask_of_another_size_than_the_image_is_refused(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"mask is \(5, 7\), the image \(7, 5\); apply Invertd"):
        write(mask, tmp_path / "mask.png", meta={"spatial_shape": np.asarray((7, 5))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [0, 256, 65535, 1.5])
def test_a_foreground_value_that_8_bits_cannot_hold_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        RasterMaskWriter(scale=scale)  # type: ignore[arg-type]


def test_another_output_type_or_ending_is_refused(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        RasterMaskWriter(output_dtype=np.uint16)
    with pytest.raises(ValueError, match=r"mask\.jpg: masks are written as PNG"):
        write(mask, tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="call set_data_array first"):
        RasterMaskWriter().write(tmp_path / "mask.png")


def test_a_failure_while_writing_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mask.png"
    write(mask, path)
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match=r"mask\.png: cannot be written \(No space left on device\)"):
        write(1 - mask, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]
    assert path.read_bytes() == before


def test_an_existing_mask_is_replaced(tmp_path: Path, mask: np.ndarray) -> None:
    write(mask, tmp_path / "mask.png")
    write(1 - mask, tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), 1 - mask)


def test_a_folder_that_cannot_hold_files_is_named(tmp_path: Path, mask: np.ndarray) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in ("absent", "file"):
        with pytest.raises(OSError, match=rf"{folder}/mask\.png: cannot be written"):
            write(mask, tmp_path / folder / "mask.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_named(tmp_path: Path, mask: np.ndarray) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"mask\.png: cannot be written \(Permission denied\)"):
            write(mask, tmp_path / "mask.png")
    finally:
        tmp_path.chmod(0o700)


def test_the_file_has_the_usual_permissions(tmp_path: Path, mask: np.ndarray) -> None:
    write(mask, tmp_path / "mask.png")
    (tmp_path / "plain").write_text("for comparison")
    assert (tmp_path / "mask.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_monais_error_quotes_the_writers_reason(tmp_path: Path) -> None:
    two_classes = MetaTensor(torch.zeros(2, 5, 7), meta={"filename_or_obj": "eye.png"})
    with pytest.raises(RuntimeError, match=r"Expected one label map \[1, H, W\], got \[2, 5, 7\]"):
        saver(tmp_path)({"pred": two_classes})


def test_a_volume_is_written_in_its_type_and_place_and_always_as_the_same_bytes(tmp_path):
    affine = np.array([[-1.5, 0.1, 0.02, 5], [0.1, 0.9, 0.3, -7], [0.05, -0.2, 3, 11], [0, 0, 0, 1]])
    values = np.arange(-100, 110, dtype=np.int16).reshape(5, 6, 7)
    for name in ("one.nii.gz", "two.nii.gz"):
        write_volume_nifti(tmp_path / name, values, affine)
    image = nib.load(tmp_path / "one.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
