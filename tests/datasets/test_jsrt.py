import numpy as np
import pytest
from PIL import Image

from medseg_monai.data import RadiographReader
from medseg_monai.datasets import jsrt, read_jsrt

NAMES = [f"JPCLN{number:03d}" for number in range(1, 8)] + [f"JPCNN{number:03d}" for number in range(1, 4)]
SIDE = 40


@pytest.fixture
def lungs():
    """Left and right lung at half the images' size; neither is the other's mirror image."""
    left, right = np.zeros((2, SIDE // 2, SIDE // 2), dtype=bool)
    left[2:9, 12:17] = True
    right[3:14, 4:8] = True
    return left, right


@pytest.fixture
def film():
    """Densities from 0 (white) to 4095 (black) that no flip or transposition leaves as they are."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows * SIDE + columns) * 4095 // (SIDE * SIDE - 1)).astype(">u2")


@pytest.fixture
def published(tmp_path, monkeypatch, film, lungs):
    monkeypatch.setattr(jsrt, "SIDE", SIDE)
    root = tmp_path / "published"
    (root / "All247images").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        film.tofile(root / "All247images" / f"{name}.IMG")
        for side, lung in zip(("left lung", "right lung"), lungs, strict=True):
            path = root / "scratch" / f"fold{number % 2 + 1}" / "masks" / side / f"{name}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(lung.astype(np.uint8) * 255).save(path, optimize=False)
    return root


def every(found):
    return sorted((item for section in found.values() for item in section), key=lambda item: item["image"])


def test_a_film_becomes_a_16_bit_image_with_white_for_dense_and_the_whole_range(published, tmp_path, film):
    item = every(read_jsrt(published, derived=tmp_path / "derived"))[0]
    assert item["image"] == str(tmp_path / "derived" / "jsrt" / "image" / "JPCLN001.png")
    with Image.open(item["image"]) as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    np.testing.assert_array_equal(values, np.rint((4095.0 - film) * 65535 / 4095))
    reader = RadiographReader()
    grey = reader.get_data(reader.read(item["image"]))[0][0]
    np.testing.assert_allclose(grey, 255 - film / 4095.0 * 255, atol=0.01)


def test_the_masks_are_merged_and_each_pixel_is_doubled(published, tmp_path, read_mask, lungs):
    item = every(read_jsrt(published, derived=tmp_path / "derived"))[-1]
    expected = (lungs[0] | lungs[1]).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(read_mask(item["label"]), expected)
    assert item["patient"] == NAMES[-1]


def test_both_folds_are_read_and_split_by_a_seed(published, tmp_path):
    found = read_jsrt(published, derived=tmp_path / "derived")
    assert [len(found[name]) for name in ("training", "validation", "test")] == [6, 2, 2]
    assert [item["patient"] for item in every(found)] == NAMES


def test_the_folds_may_lie_beside_the_images(published, tmp_path):
    for fold in ("fold1", "fold2"):
        (published / "scratch" / fold).rename(published / fold)
    assert len(every(read_jsrt(published, derived=tmp_path / "derived"))) == len(NAMES)


def test_single_values_above_12_bits_are_black_and_another_byte_order_is_refused(published, tmp_path, film):
    film[0, 0] = 5000
    film.tofile(published / "All247images" / "JPCLN001.IMG")
    item = every(read_jsrt(published, derived=tmp_path / "derived"))[0]
    assert np.asarray(Image.open(item["image"]))[0, 0] == 0
    film.astype("<u2").tofile(published / "All247images" / "JPCLN001.IMG")
    with pytest.raises(
        ValueError, match=r"JPCLN001\.IMG: has values above 4095, so it is not a 12-bit image in big-endian order"
    ):
        read_jsrt(published, derived=tmp_path / "derived")


def test_missing_and_doubtful_files_are_named_in_one_error(published, tmp_path, film):
    film[:5].tofile(published / "All247images" / "JPCLN001.IMG")
    (published / "scratch" / "fold2" / "masks" / "left lung" / "JPCLN002.gif").unlink()
    (published / "All247images" / "JPCLN003.IMG").unlink()
    (published / "All247images" / "readme.img").touch()
    Image.new("L", (10, 9), 255).save(published / "scratch" / "fold2" / "masks" / "right lung" / "JPCLN004.gif")
    for side in ("left lung", "right lung"):
        Image.new("L", (30, 30), 255).save(published / "scratch" / "fold1" / "masks" / side / "JPCLN005.gif")
    with pytest.raises(ValueError, match="missing or doubtful files in jsrt") as caught:
        read_jsrt(published, derived=tmp_path / "derived")
    message = str(caught.value)
    assert "All247images/JPCLN001.IMG: has 400 bytes, not the 3200 of 40x40 pixels" in message
    assert "All247images/JPCLN002.IMG: image without mask of the left lung" in message
    assert "left lung/JPCLN003.gif: mask of the left lung without image" in message
    assert "All247images/readme.img: unexpected name" in message
    assert "right lung/JPCLN004.gif: is 10x9, its image 20x20" in message
    assert "left lung/JPCLN005.gif: is 30x30, which cannot be scaled to 40x40 by an integer factor" in message


def test_the_published_size_is_2048_and_the_masks_have_half_of_it(tmp_path):
    folder = tmp_path / "JSRT"
    (folder / "All247images").mkdir(parents=True)
    np.full((2048, 2048), 1000, dtype=">u2").tofile(folder / "All247images" / "JPCLN001.IMG")
    for side in ("left lung", "right lung"):
        path = folder / "scratch" / "fold1" / "masks" / side / "JPCLN001.gif"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.eye(1024, dtype=np.uint8) * 255).save(path, optimize=False)
    with pytest.raises(ValueError, match="patients can't fill"):  # all is well but for the number of images
        read_jsrt(tmp_path, derived=tmp_path / "derived")
    with Image.open(tmp_path / "derived" / "jsrt" / "label" / "JPCLN001.png") as mask:
        assert mask.size == (2048, 2048)
        assert np.asarray(mask)[:4, :4].tolist() == [[255] * 2 + [0] * 2] * 2 + [[0] * 2 + [255] * 2] * 2
