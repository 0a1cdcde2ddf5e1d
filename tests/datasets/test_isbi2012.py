import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg_monai.datasets import read_isbi2012

SHAPE = (20, 31)


def label(number: int) -> np.ndarray:
    """Cells with two membranes, one of which is elsewhere in every section."""
    cells = np.full(SHAPE, 255, np.uint8)
    cells[:, number % 31] = 0
    cells[4] = 0
    return cells


def section(number: int) -> np.ndarray:
    return (label(number) // 3 + np.uint8(number)).astype(np.uint8)


@pytest.fixture
def stacks(tmp_path):
    root = tmp_path / "published"
    root.mkdir()
    for name, draw in (("train-volume.tif", section), ("train-labels.tif", label)):
        tifffile.imwrite(root / name, np.stack([draw(number) for number in range(30)]), photometric="minisblack")
    return root


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "copy"
    for name, draw in (("image", section), ("label", label)):
        (root / name).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(draw(number)).save(root / name / f"{number}.png")
    return root


def numbers(datalist: dict, name: str) -> list[int]:
    return [int(item["image"].rpartition("/")[2].removesuffix(".png")) for item in datalist[name]]


def test_the_last_six_sections_are_held_out_and_the_validation_lies_before_them(folders, tmp_path):
    found = read_isbi2012(folders, derived=tmp_path / "derived", validation_fraction=0.25)
    assert numbers(found, "training") == list(range(18))
    assert numbers(found, "validation") == list(range(18, 24))
    assert numbers(found, "test") == list(range(24, 30))
    assert {item["patient"] for item in found["test"]} == {"sections_24-29"}
    assert not (tmp_path / "derived").exists()


def test_another_block_can_be_held_out(folders, tmp_path):
    found = read_isbi2012(folders, derived=tmp_path, validation_fraction=0, held_out=(10, 12))
    assert numbers(found, "test") == [10, 11, 12]
    assert numbers(found, "training") == [*range(10), *range(13, 30)]
    assert {item["patient"] for item in found["training"]} == {"sections_0-9_13-29"}
    assert found["validation"] == []


def test_page_k_of_the_stacks_becomes_section_k_of_the_list(stacks, tmp_path):
    found = read_isbi2012(stacks, derived=tmp_path / "derived", validation_fraction=0)
    items = [*found["training"], *found["test"]]
    assert len(items) == 30
    for number, item in enumerate(items):
        np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), section(number))
        np.testing.assert_array_equal(np.asarray(Image.open(item["label"])), label(number))


@pytest.mark.parametrize(("kind", "white"), [(np.float32, 1.0), (np.int32, 65535), (np.uint16, 65535)])
def test_sections_and_labels_of_other_numbers_keep_their_greys(kind, white, stacks, tmp_path):
    for name, draw in (("train-volume.tif", section), ("train-labels.tif", label)):
        pages = np.stack([draw(number) for number in range(30)]) / 255 * white
        tifffile.imwrite(stacks / name, pages.astype(kind), photometric="minisblack")
    item = read_isbi2012(stacks, derived=tmp_path / "derived")["test"][0]
    with Image.open(item["image"]) as image, Image.open(item["label"]) as cells:
        np.testing.assert_allclose(np.asarray(image) / 257, section(24), atol=0.01)
        np.testing.assert_array_equal(np.asarray(cells), label(24))


def test_a_stack_in_colour_is_named(stacks, tmp_path):
    pages = np.zeros((30, *SHAPE, 3), np.uint8)
    pages[..., 0] = np.stack([label(number) for number in range(30)])
    tifffile.imwrite(stacks / "train-labels.tif", pages, photometric="rgb")
    with pytest.raises(ValueError, match=r"train-labels\.tif: in colour, expected grey"):
        read_isbi2012(stacks, derived=tmp_path / "derived")


def test_stacks_of_other_lengths_or_sizes_are_named(stacks, tmp_path):
    tifffile.imwrite(stacks / "train-labels.tif", np.stack([label(0)] * 29), photometric="minisblack")
    with pytest.raises(ValueError, match=r"train-labels\.tif: has 29 pages, train-volume\.tif 30"):
        read_isbi2012(stacks, derived=tmp_path / "derived")
    tifffile.imwrite(stacks / "train-labels.tif", np.stack([label(0).T] * 30), photometric="minisblack")
    with pytest.raises(ValueError, match=r"page 1 has another size than that of train-volume\.tif"):
        read_isbi2012(stacks, derived=tmp_path / "derived")
    assert not (tmp_path / "derived").exists()


def test_a_stack_without_its_labels_is_named(stacks, tmp_path):
    (stacks / "train-labels.tif").unlink()
    with pytest.raises(ValueError, match=r"train-labels\.tif: no such file"):
        read_isbi2012(stacks, derived=tmp_path / "derived")


def test_a_label_that_is_not_black_and_white_is_named(folders, tmp_path):
    grey = label(3)
    grey[10, 10] = 128
    Image.fromarray(grey).save(folders / "label" / "3.png")
    with pytest.raises(ValueError, match=r"label/3\.png: has values 0, 128, 255, expected 0 for membranes and 255"):
        read_isbi2012(folders, derived=tmp_path / "derived")


def test_a_page_that_is_not_black_and_white_is_named(stacks, tmp_path):
    labels = np.stack([label(number) for number in range(30)])
    labels[4, 0, 0] = 7
    tifffile.imwrite(stacks / "train-labels.tif", labels, photometric="minisblack")
    with pytest.raises(ValueError, match=r"train-labels\.tif: page 5 has values 0, 7, 255"):
        read_isbi2012(stacks, derived=tmp_path / "derived")


def test_labels_that_are_white_on_membranes_are_told(folders, tmp_path):
    Image.fromarray(255 - label(3)).save(folders / "label" / "3.png")
    with pytest.raises(ValueError, match=r"label/3\.png: is white in 8%; white is the inside of cells"):
        read_isbi2012(folders, derived=tmp_path / "derived")


def test_images_and_labels_are_paired_by_number(folders, tmp_path):
    (folders / "label" / "3.png").rename(folders / "label" / "003.png")
    (folders / "label" / "5.png").unlink()
    Image.fromarray(label(0).T).save(folders / "label" / "7.png")
    with pytest.raises(ValueError, match="2 missing or doubtful files") as caught:
        read_isbi2012(folders, derived=tmp_path / "derived")
    assert "image/5.png: image without label" in str(caught.value)
    assert "label/7.png: is 20x31, its image 31x20" in str(caught.value)


@pytest.mark.parametrize("held_out", [(30, 35), (0, 29)])
def test_a_block_with_nothing_in_it_or_nothing_outside_is_refused(folders, tmp_path, held_out):
    with pytest.raises(ValueError, match="isbi2012: sections 0-29, of which"):
        read_isbi2012(folders, derived=tmp_path, held_out=held_out)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_outside_its_range_is_refused(folders, tmp_path, fraction):
    with pytest.raises(ValueError, match="validation_fraction must be 0 or more and below 1"):
        read_isbi2012(folders, derived=tmp_path, validation_fraction=fraction)


def test_the_real_sections_are_thirty_and_most_of_each_is_cells(real_data, tmp_path):
    found = read_isbi2012(real_data("cell_contour_em/isbi2012"), derived=tmp_path)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [19, 5, 6]
    assert numbers(found, "training") == list(range(19))
    assert 0.7 < np.mean(np.asarray(Image.open(found["test"][0]["label"])) > 0) < 0.85
