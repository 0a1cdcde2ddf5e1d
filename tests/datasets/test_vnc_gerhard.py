import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import read_vnc_gerhard


def cells(number: int) -> np.ndarray:
    found = np.full((20, 31), 255, np.uint8)
    found[:, number] = 0
    return found


def write(root, images, labels, invert):
    for number in range(3):
        values = cells(number)
        for folder, stored in ((images, values // 2), (labels, 255 - values if invert else values)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(stored).save(root / folder / f"{number:02d}.{'tif' if folder == 'raw' else 'png'}")
    return root


def test_all_sections_are_for_testing(tmp_path):
    found = read_vnc_gerhard(write(tmp_path / "copy", "images", "masks", False), derived=tmp_path / "derived")
    assert (found["training"], found["validation"], len(found["test"])) == ([], [], 3)
    assert not (tmp_path / "derived").exists()


def test_published_labels_become_white_in_cells(tmp_path):
    write(tmp_path / "stack1", "raw", "membranes", True)
    found = read_vnc_gerhard(tmp_path, derived=tmp_path / "derived")
    for number, item in enumerate(found["test"]):
        np.testing.assert_array_equal(np.asarray(Image.open(item["label"])), cells(number))
        assert item["label"].startswith(str(tmp_path / "derived"))


def test_labels_that_are_white_on_membranes_are_told_in_either_layout(tmp_path):
    with pytest.raises(ValueError, match=r"masks/00\.png: is white in 3%; white is the inside of cells"):
        read_vnc_gerhard(write(tmp_path / "copy", "images", "masks", True), derived=tmp_path / "derived")
    with pytest.raises(ValueError, match=r"membranes/00\.png: is white in 3%"):
        read_vnc_gerhard(write(tmp_path / "stack1", "raw", "membranes", False), derived=tmp_path / "derived")


def test_the_real_sections_are_of_another_size_than_isbis(real_data, tmp_path):
    found = read_vnc_gerhard(real_data("cell_contour_em/vnc_gerhard"), derived=tmp_path)
    with Image.open(found["test"][0]["image"]) as image:
        assert image.size == (1024, 1024)
