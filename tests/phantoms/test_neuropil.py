import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from medseg_monai.data import load_datalist
from medseg_monai.phantoms import draw_neuropil, write_neuropil_phantoms


def test_the_same_seed_draws_the_same_sections_and_another_draws_others():
    first, again, other = (draw_neuropil(sections=2, size=(64, 90), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.cells != other.cells).mean() > 0.1


def test_membranes_are_dark_closed_and_a_fifth_of_the_section():
    phantom = draw_neuropil(sections=1, size=(160, 200), seed=0)
    cells = phantom.cells[0]
    assert 0.6 < cells.mean() < 0.9
    assert phantom.images[0][cells].mean() > phantom.images[0][~cells].mean() + 40
    assert 30 < label(cells, connectivity=1).max() < 120


def test_some_of_the_inside_is_as_dark_as_membranes():
    phantom = draw_neuropil(sections=1, size=(160, 200), seed=0)
    dark = phantom.images[0] < np.median(phantom.images[0][~phantom.cells[0]])
    assert 0.005 < dark[phantom.cells[0]].mean() < 0.2


def test_neighbours_are_more_alike_than_distant_sections():
    cells = draw_neuropil(sections=6, size=(120, 150), seed=0).cells
    alike = [(cells[0] == other).mean() for other in cells[1:]]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > 0.8


@pytest.mark.parametrize(("sections", "size", "wrong"), [(1, (63, 90), "too small"), (0, (64, 90), "no section")])
def test_impossible_drawings_are_refused(sections, size, wrong):
    with pytest.raises(ValueError, match=wrong):
        draw_neuropil(sections=sections, size=size, seed=0)


def test_the_files_are_the_drawing_and_each_part_of_the_list_is_a_block_of_its_own(tmp_path):
    path = write_neuropil_phantoms(tmp_path, counts={"training": 2, "test": 2}, size=(64, 90), seed=5)
    for number, section in ((0, "training"), (2, "test")):
        drawn = draw_neuropil(sections=2, size=(64, 90), seed=(5, number))
        for index, item in enumerate(load_datalist(path, section)):
            np.testing.assert_array_equal(np.asarray(Image.open(item["image"])), drawn.images[index])
            np.testing.assert_array_equal(np.asarray(Image.open(item["label"])) > 0, drawn.cells[index])
