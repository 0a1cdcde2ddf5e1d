import numpy as np
import pytest
from PIL import Image

from medseg_monai.data.datalist import load_datalist
from medseg_monai.layers import boundaries_of_labels, disordered_columns
from medseg_monai.phantoms import PHANTOMS, draw_oct, write_oct_phantoms

SIZE = (160, 224)


@pytest.fixture(scope="module")
def phantoms():
    return [draw_oct(size=SIZE, seed=seed) for seed in range(12)]


def test_eleven_classes_lie_in_order_of_depth_and_inside_the_image(phantoms):
    for phantom in phantoms:
        assert np.unique(phantom.labels).tolist() == list(range(11))
        assert not disordered_columns(phantom.labels).size
        assert phantom.boundaries.min() > 2
        assert phantom.boundaries.max() < SIZE[0] - 10
        assert np.diff(phantom.boundaries, axis=0).min() >= 0


def test_labels_are_those_of_the_boundaries_to_half_a_pixel(phantoms):
    for phantom in phantoms:
        counted = boundaries_of_labels(phantom.labels, 11)
        assert np.abs(counted - phantom.boundaries).max() <= 0.5


def test_the_retina_has_a_pit_where_the_inner_layers_are_thin(phantoms):
    for phantom in phantoms:
        inner = phantom.boundaries[4] - phantom.boundaries[0]
        pit = inner.argmin()
        assert 0.25 * SIZE[1] < pit < 0.75 * SIZE[1]
        assert inner[pit] < 0.5 * np.median(inner)


def test_no_mirrored_phantom_looks_like_itself(phantoms):
    for phantom in phantoms:
        assert np.abs(phantom.boundaries - phantom.boundaries[:, ::-1]).mean() > 0.5


def test_layers_differ_in_brightness_and_light_is_missing_below_vessels(phantoms):
    for phantom in phantoms:
        mean = [phantom.image[phantom.labels == label].mean() for label in range(11)]
        assert mean[0] < min(mean[1:10])
        assert mean[1] > mean[3]
        assert mean[9] > mean[5]
        outer = [phantom.image[phantom.labels[:, column] == 9, column].mean() for column in range(SIZE[1])]
        assert min(outer) < 0.8 * np.median(outer)


def test_the_seed_decides(phantoms):
    again = draw_oct(size=SIZE, seed=3)
    np.testing.assert_array_equal(again.image, phantoms[3].image)
    assert not np.array_equal(phantoms[3].image, phantoms[4].image)


def test_what_is_read_back_is_what_was_drawn(tmp_path):
    path = PHANTOMS["retinal_layer_oct"](tmp_path, counts={"training": 1, "test": 1}, size=(64, 96), seed=7)
    (item,) = load_datalist(path, "test")
    phantom = draw_oct(size=(64, 96), seed=(7, 2))
    for key, expected in {"image": phantom.image, "label": phantom.labels}.items():
        with Image.open(item[key]) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), expected)
    assert item["patient"] == "phantom_0002"


@pytest.mark.parametrize("size", [(63, 80), (64, 80, 80)])
def test_a_size_without_room_for_layers_is_refused(size, tmp_path):
    with pytest.raises(ValueError, match="size="):
        write_oct_phantoms(tmp_path, counts={"test": 1}, size=size, seed=0)
