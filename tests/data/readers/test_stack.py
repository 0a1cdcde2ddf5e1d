"""Stacks of sections, page for page, and what is no stack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from medseg_monai.data import RasterReader, StackReader
from medseg_monai.data.limits import TooLargeError
from medseg_monai.data.readers.fingerprint import input_files, input_sha256
from medseg_monai.data.readers.stack import natural_order, sections_of

HEIGHT, WIDTH = 20, 31


def pages(count: int = 12) -> np.ndarray:
    """Pages that differ, of more columns than rows."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, HEIGHT, WIDTH)).astype(np.uint8)


def read(path: Path, **options: object) -> tuple[np.ndarray, dict]:
    return StackReader(**options).get_data([path])


@pytest.mark.parametrize(
    "how", [{}, {"imagej": True}, {"compression": "zlib"}, {"bigtiff": True}, {"metadata": None}], ids=str
)
def test_the_pages_of_a_tiff_come_in_their_order(tmp_path, how):
    tifffile.imwrite(tmp_path / "volume.tif", pages(), photometric="minisblack", **how)
    values, meta = read(tmp_path / "volume.tif")
    np.testing.assert_array_equal(values[0], pages())
    assert values.dtype == np.float32
    assert list(meta["spatial_shape"]) == [12, HEIGHT, WIDTH]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 65535), (np.float32, 1.0)])
def test_each_page_has_the_scale_of_a_single_picture(tmp_path, dtype, white):
    deep = (pages() / 255 * white).astype(dtype)
    tifffile.imwrite(tmp_path / "volume.tif", deep, photometric="minisblack")
    tifffile.imwrite(tmp_path / "page.tif", deep[7])
    alone, _ = RasterReader(channels=1).get_data([tmp_path / "page.tif"])
    np.testing.assert_array_equal(read(tmp_path / "volume.tif")[0][:, 7], alone)


def test_a_picture_is_a_stack_of_one_page(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.fromarray(pages()[0]).save(tmp_path / "section.png", exif=turned)
    values, meta = read(tmp_path / "section.png")
    np.testing.assert_array_equal(values[0, 0], np.rot90(pages()[0], -1))
    assert list(meta["spatial_shape"]) == [1, WIDTH, HEIGHT]
    assert meta["exif_orientation"] == 6


def test_the_pictures_of_a_folder_are_pages_in_the_order_of_their_numbers(tmp_path):
    for number, page in enumerate(pages()):
        Image.fromarray(page).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".0.png").write_bytes(b"")
    np.testing.assert_array_equal(read(tmp_path)[0][0], pages())


def test_numbers_of_any_form_have_a_natural_order():
    names = ["t.png", "s10.png", "S2.png", "s01b.png", "10.png", "s1.png", "2.png"]
    assert sorted(names, key=natural_order) == [
        "2.png",
        "10.png",
        "s1.png",
        "s01b.png",
        "S2.png",
        "s10.png",
        "t.png",
    ]


def test_a_page_of_another_size_is_named(tmp_path):
    odd = [Image.fromarray(page) for page in pages(4)]
    odd[2] = odd[2].crop((0, 0, 30, 20))
    odd[0].save(tmp_path / "odd.tif", save_all=True, append_images=odd[1:])
    with pytest.raises(ValueError, match=r"odd\.tif: page 3 is 30x20, page 1 31x20; a stack has pages of one size"):
        read(tmp_path / "odd.tif")


def test_a_section_of_another_size_is_named(tmp_path):
    for number, page in enumerate(pages(3)):
        Image.fromarray(page[: HEIGHT - number // 2]).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"2\.png: 31x19, 0\.png 31x20; a stack has pages of one size"):
        read(tmp_path)


def test_pages_with_an_orientation_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "turned.tif") as file:
        for number, page in enumerate(pages(3)):
            tag = [(274, "H", 1, 6, True)] if number == 1 else []
            file.write(page, photometric="minisblack", extratags=tag, contiguous=False)
    with pytest.raises(ValueError, match=r"turned\.tif: page 2 has EXIF orientation 6; save all pages upright\."):
        read(tmp_path / "turned.tif")


def test_a_section_of_a_folder_with_an_orientation_is_refused(tmp_path):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    Image.fromarray(pages()[0]).save(tmp_path / "0.png", exif=turned)
    with pytest.raises(ValueError, match=r"0\.png: EXIF orientation 3; save all sections upright"):
        read(tmp_path)


@pytest.mark.parametrize("reader", [StackReader(), RasterReader(channels=1)], ids=lambda one: type(one).__name__)
def test_a_stack_whose_pages_have_no_headers_is_not_taken_for_its_first_page(tmp_path, reader):
    """As ImageJ writes more than 4 GiB."""
    tifffile.imwrite(tmp_path / "large.tif", pages(), imagej=True, truncate=True)
    with pytest.raises(ValueError, match=r"large\.tif: 12 pages"):
        reader.get_data([tmp_path / "large.tif"])


@pytest.mark.parametrize("reader", [StackReader(), RasterReader(channels=1)], ids=lambda one: type(one).__name__)
def test_a_page_that_was_cut_out_of_a_stack_is_read_whatever_its_description_says(tmp_path, reader):
    tifffile.imwrite(tmp_path / "page.tif", pages(1)[0], description="ImageJ=1.54f\nimages=12\n", metadata=None)
    values, _ = reader.get_data([tmp_path / "page.tif"])
    np.testing.assert_array_equal(values.squeeze(), pages(1)[0])


def test_an_animation_is_no_stack(tmp_path):
    frames = [Image.fromarray(page) for page in pages(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.gif: 3 pages or frames"):
        read(tmp_path / "a.gif")


def test_a_stack_that_ends_early_is_damaged(tmp_path):
    tifffile.imwrite(tmp_path / "cut.tif", pages(), compression="zlib", photometric="minisblack")
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.tif: (truncated or not an image|page)"):
        read(tmp_path / "cut.tif")


def test_a_small_file_of_many_pages_is_refused_before_it_is_unpacked(tmp_path):
    tifffile.imwrite(
        tmp_path / "many.tif", np.zeros((40, 512, 512), np.uint8), compression="zlib", photometric="minisblack"
    )
    with pytest.raises(TooLargeError, match=r"many\.tif: 40 x 512 x 512 takes 40 MiB, more than max_image_mib=39"):
        read(tmp_path / "many.tif", max_image_mib=39)
    assert read(tmp_path / "many.tif", max_image_mib=40)[0].shape == (1, 40, 512, 512)


def test_several_paths_a_folder_without_pictures_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="StackReader loads one stack per key, got 2 files"):
        StackReader().get_data([tmp_path, tmp_path])
    with pytest.raises(ValueError, match="no image in this folder"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "gone.tif")


def test_the_fingerprint_of_a_folder_is_that_of_its_sections(tmp_path):
    for number, page in enumerate(pages(3)):
        Image.fromarray(page).save(tmp_path / f"{number}.png")
    before = input_sha256([tmp_path])
    assert input_files(tmp_path) == sections_of(tmp_path)
    assert len(before) == 64
    Image.fromarray(pages(4)[3]).save(tmp_path / "1.png")
    assert input_sha256([tmp_path]) != before
