"""RasterReader: every kind of raster file becomes the same float image, and doubtful files are refused."""

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    AsDiscreted,
    Compose,
    Flipd,
    Invertd,
    LoadImage,
    LoadImaged,
    RandAffined,
    Resized,
    SpatialCropd,
)
from PIL import Image

from medseg_monai.data.readers.raster import RasterReader

DRIVE = Path(os.environ.get("MEDSEG_DATA", "../shared/data")) / "retinal_vessel" / "drive"


@pytest.fixture
def rgb() -> np.ndarray:
    """Asymmetric and not square: 5 rows, 7 columns."""
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def load(path: Path, **options: object) -> MetaTensor:
    return LoadImage(reader=RasterReader(**options), ensure_channel_first=True)(path)


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 0).astype(np.float32)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_a_non_square_colour_image_keeps_its_rows_and_values(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(rgb).save(path, lossless=True)
    image = load(path)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), channels_first(rgb))
    assert image.meta["spatial_shape"].tolist() == [5, 7]
    assert image.meta["exif_orientation"] == 1
    assert image.meta["filename_or_obj"] == str(path)
    torch.testing.assert_close(torch.as_tensor(image.affine), torch.eye(4, dtype=torch.float64))


def test_bgr_reverses_the_channels(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "image.png")
    bgr = load(tmp_path / "image.png", channel_order="BGR")
    np.testing.assert_array_equal(bgr.numpy(), channels_first(rgb)[::-1])


def test_grey_becomes_three_equal_channels(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load(tmp_path / "grey.png").numpy(), np.repeat(channels_first(rgb)[:1], 3, axis=0))


def test_colour_becomes_its_luminance_when_one_channel_is_asked_for(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "image.png")
    image = load(tmp_path / "image.png", channels=1)
    expected = 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]
    np.testing.assert_allclose(image.numpy(), expected[None], rtol=1e-5)


def test_a_grey_image_stored_as_colour_keeps_its_exact_values(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(np.repeat(rgb[..., :1], 3, axis=-1)).save(tmp_path / "grey_as_rgb.png")
    np.testing.assert_array_equal(load(tmp_path / "grey_as_rgb.png", channels=1).numpy()[0], rgb[..., 0])


def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(np.dstack([rgb, np.full((5, 7), 255, np.uint8)])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(load(tmp_path / "rgba.png").numpy(), channels_first(rgb))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_translucent_image_is_laid_over_black(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    alpha = np.zeros((5, 7), np.uint8)
    alpha[:2], alpha[2] = 255, 51
    colour = rgb if mode == "RGBA" else rgb[..., :1]
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "image.png")
    image = load(tmp_path / "image.png").numpy()
    expected = np.broadcast_to(channels_first(colour), (3, 5, 7))
    np.testing.assert_array_equal(image[:, :2], expected[:, :2])
    np.testing.assert_allclose(image[:, 2], expected[:, 2] / 5, rtol=1e-6)
    assert not image[:, 3:].any()


def test_a_palette_image_gives_its_colours_not_its_indices(tmp_path: Path, rgb: np.ndarray) -> None:
    palette = Image.fromarray(rgb).quantize(6)
    palette.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    expected = channels_first(np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(load(tmp_path / "palette.png").numpy(), expected)


def test_a_palette_gif_mask_with_indices_0_and_1_reads_as_0_and_255(tmp_path: Path) -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[1, 2:] = 1
    image = Image.fromarray(mask, mode="P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(load(tmp_path / "mask.gif", channels=1).numpy()[0], mask * 255.0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_1_bit_mask_reads_as_0_and_255(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    mask = rgb[..., 0] > 127
    Image.fromarray(mask).save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(load(tmp_path / f"mask.{suffix}", channels=1).numpy()[0], mask * 255.0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (7, 5), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    image = load(tmp_path / "cmyk.tif")
    assert image[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_without_rounding(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (5, 7), dtype=np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    image = load(tmp_path / f"deep.{suffix}", channels=1).numpy()[0]
    assert (image[0, 0], image[0, 1]) == (0, 255)
    np.testing.assert_allclose(image, values / 257, rtol=1e-6)


def test_a_tiff_that_declares_zero_as_white_is_inverted(tmp_path: Path) -> None:
    values = np.full((5, 7), 65535, np.uint16)
    values[0, 0] = 257
    Image.fromarray(values).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "inverted.tif").tag_v2[262] == 0
    image = load(tmp_path / "inverted.tif", channels=1)[0]
    assert (float(image[0, 0]), float(image[1, 0])) == (254, 0)


def test_a_12_bit_tiff_is_scaled_by_its_declared_depth(tmp_path: Path) -> None:
    path = tmp_path / "twelve.tif"
    Image.fromarray(np.full((1, 2), 0xFFFF, np.uint16)).save(path)
    # two 12-bit pixels of 0xFFF need three of the four bytes; only the declared depth (tag 258, SHORT) changes
    entry = (258).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(entry + b"\x10\x00") == 1
    path.write_bytes(data.replace(entry + b"\x10\x00", entry + b"\x0c\x00"))
    assert load(path, channels=1)[0].tolist() == [[255, 255]]


def test_a_float_image_in_0_to_1_is_scaled_and_others_are_refused(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    Image.fromarray(values).save(tmp_path / "unit.tif")
    np.testing.assert_allclose(load(tmp_path / "unit.tif", channels=1).numpy()[0], values * 255, rtol=1e-6)
    Image.fromarray(values * 1000).save(tmp_path / "counts.tif")
    with pytest.raises(ValueError, match=r"counts\.tif: 32-bit values 0\.0 to 1000\.0.*8 or 16 bits"):
        load(tmp_path / "counts.tif")


def test_32_bit_integers_are_read_as_16_bit_or_refused(tmp_path: Path) -> None:
    values = np.arange(35, dtype=np.int32).reshape(5, 7) * 257
    Image.fromarray(values).save(tmp_path / "whole.tif")
    np.testing.assert_array_equal(load(tmp_path / "whole.tif", channels=1).numpy()[0], values / 257)
    Image.fromarray(values - 1).save(tmp_path / "negative.tif")
    with pytest.raises(ValueError, match=r"negative\.tif: 32-bit values -1 to"):
        load(tmp_path / "negative.tif")


def test_a_colour_space_without_a_conversion_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (7, 5)).save(tmp_path / "lab.tif")
    with pytest.raises(ValueError, match=r"lab\.tif: colour mode 'LAB'"):
        load(tmp_path / "lab.tif")


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of a stored matrix, as EXIF words it: where the first row and the first column are seen."""
    ways = {
        1: array,
        2: array[:, ::-1],  # top, right
        3: array[::-1, ::-1],  # bottom, right
        4: array[::-1],  # bottom, left
        5: array.swapaxes(0, 1),  # left, top
        6: array.swapaxes(0, 1)[:, ::-1],  # right, top
        7: array.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: array.swapaxes(0, 1)[::-1],  # left, bottom
    }
    return ways[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["png", "raw", "tiff_lzw"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_read_as_a_viewer_shows_it_whatever_its_exif_orientation(
    tmp_path: Path, rgb: np.ndarray, orientation: int, compression: str, channels: int
) -> None:
    stored = rgb if channels == 3 else rgb[..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    if compression == "png":
        path = tmp_path / "turned.png"
        Image.fromarray(stored).save(path, exif=exif)
    else:
        path = tmp_path / "turned.tif"
        Image.fromarray(stored).save(path, tiffinfo={0x0112: orientation}, compression=compression)
    image = load(path, channels=channels)
    seen = upright(stored.reshape(5, 7, channels), orientation)
    np.testing.assert_array_equal(image.numpy(), channels_first(seen))
    assert image.meta["exif_orientation"] == orientation
    assert image.meta["spatial_shape"].tolist() == list(seen.shape[:2])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_deep_tiff_with_zero_as_white_is_inverted_whatever_its_orientation(tmp_path: Path, orientation: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "inverted.tif", tiffinfo={262: 0, 0x0112: orientation})
    image = load(tmp_path / "inverted.tif", channels=1).numpy()[0]
    np.testing.assert_allclose(image, 255 - upright(values, orientation) / 257, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_colours_in_planes_are_read_as_their_colours(
    tmp_path: Path, orientation: int, channels: int, compression: str | None
) -> None:
    planes = np.random.default_rng(1).integers(0, 65536, (channels, 5, 7), dtype=np.uint16)
    planes[3:] = 65535
    tifffile.imwrite(
        tmp_path / "planes.tif",
        planes,
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["unassalpha"] * (channels - 3),
        compression=compression,
        extratags=[(0x0112, 3, 1, orientation, True)],
    )
    expected = [upright(plane, orientation) / 257 for plane in planes[:3]]
    np.testing.assert_allclose(load(tmp_path / "planes.tif").numpy(), expected, atol=1)  # Pillow drops eight bits


def test_planes_of_grey_and_alpha_are_refused(tmp_path: Path) -> None:
    planes = np.random.default_rng(1).integers(0, 256, (2, 5, 7), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "planes.tif",
        planes,
        photometric="minisblack",
        planarconfig="separate",
        extrasamples=["unassalpha"],
        compression="zlib",
    )
    with pytest.raises(ValueError, match=r"planes\.tif: colour mode 'LA' is not supported"):
        load(tmp_path / "planes.tif")


def test_a_nonsense_exif_orientation_counts_as_none(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 11
    Image.fromarray(rgb).save(tmp_path / "image.png", exif=exif)
    assert load(tmp_path / "image.png").meta["exif_orientation"] == 1


def test_a_one_pixel_wide_image_is_read(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb[:, :1]).save(tmp_path / "line.png")
    assert load(tmp_path / "line.png").shape == (3, 5, 1)


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"many.{suffix}"
    Image.fromarray(rgb).save(path, save_all=True, append_images=[Image.fromarray(255 - rgb)])
    with pytest.raises(ValueError, match=rf"many\.{suffix}: 2 pages or frames"):
        load(path)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("jpg", {}),
        ("bmp", {}),
        ("gif", {}),
        ("webp", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_or_empty_file_is_named(tmp_path: Path, suffix: str, options: dict, share: float) -> None:
    path = tmp_path / f"broken.{suffix}"
    noise = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"^\S+broken\.{suffix}: truncated or not an image; replace the file\.$"):
        load(path)


def test_a_text_file_with_an_image_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"notes\.png: truncated or not an image"):
        load(tmp_path / "notes.png")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file"):
        load(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="a folder, expected one image file"):
        load(tmp_path)


def test_an_image_beyond_pillows_pixel_limit_is_refused(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(rgb).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"bomb\.png: more pixels than Pillow's limit"):
        load(tmp_path / "bomb.png")


def test_two_files_for_one_key_are_refused(tmp_path: Path, rgb: np.ndarray) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(rgb).save(tmp_path / name)
    with pytest.raises(ValueError, match="one image per key, got 2 files"):
        LoadImage(reader=RasterReader())([tmp_path / "a.png", tmp_path / "b.png"])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="channels=4"):
        RasterReader(channels=4)
    with pytest.raises(ValueError, match="'GRB'"):
        RasterReader(channel_order="GRB")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "known"), [("a.TIFF", True), ("a.gif", True), ("a.webp", True), ("a.nii.gz", False)])
def test_suffixes_of_raster_files_are_known(name: str, known: bool) -> None:
    assert RasterReader().verify_suffix(name) is known


def test_the_reader_can_be_pickled_and_copied(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "image.png")
    reader = copy.deepcopy(pickle.loads(pickle.dumps(RasterReader(channels=1, channel_order="BGR"))))
    assert (reader.channels, reader.channel_order) == (1, "BGR")
    assert LoadImage(reader=reader)(tmp_path / "image.png").shape == (1, 5, 7)


def test_loader_workers_read_images_and_their_orientation(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.png"):
        Image.fromarray(rgb).save(tmp_path / name, exif=exif)
    cases = [{"image": str(tmp_path / name)} for name in ("a.png", "b.png")]
    loader = DataLoader(Dataset(cases, LoadImaged("image", reader=RasterReader())), batch_size=2, num_workers=1)
    (batch,) = loader
    assert batch["image"].shape == (2, 3, 7, 5)
    assert [int(case["image"].meta["exif_orientation"]) for case in decollate_batch(batch)] == [6, 6]


def test_spatial_transforms_act_on_rows_and_columns_and_invert(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:48, :64]
    smooth = (rows * 3 + columns).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    chain = Compose(
        [
            LoadImaged("image", reader=RasterReader(channels=1)),
            Flipd("image", spatial_axis=0),
            SpatialCropd("image", roi_start=(8, 4), roi_end=(40, 60)),
            Resized("image", (64, 56)),
            RandAffined("image", prob=1, rotate_range=0.1, mode="bilinear", padding_mode="border"),
        ]
    )
    chain.set_random_state(0)
    case = chain({"image": tmp_path / "smooth.png"})
    assert case["image"].shape == (1, 64, 56)
    case["pred"] = case["image"].clone()
    back = Invertd("pred", transform=chain, orig_keys="image", nearest_interp=False)(case)["pred"]
    assert back.shape == (1, 48, 64)
    inner = (slice(16, 32), slice(16, 48))
    np.testing.assert_allclose(back.numpy()[0][inner], smooth[inner], atol=2)


def test_drive_annotations_become_0_and_1_with_monais_threshold() -> None:
    manuals = sorted((DRIVE / "training" / "1st_manual").glob("*.gif"))
    if not manuals:
        pytest.skip(f"DRIVE is not at {DRIVE}; set MEDSEG_DATA.")
    chain = Compose([LoadImaged("label", reader=RasterReader(channels=1)), AsDiscreted("label", threshold=127.5)])
    label = chain({"label": manuals[0]})["label"]
    assert label.shape == (1, 584, 565)
    assert label.unique().tolist() == [0, 1]
    assert 0.05 < float(label.mean()) < 0.25
