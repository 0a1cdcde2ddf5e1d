"""Overlays: the outlines of masks over an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medseg_monai.visualize import LABEL_COLOR, PREDICTION_COLOR, draw_overlay, save_overlay

HEIGHT, WIDTH = 10, 17


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[rows, columns] = 1
    return mask


def outline(rows: slice, columns: slice) -> np.ndarray:
    """A rectangle without its inside."""
    inner = rectangle(slice(rows.start + 1, rows.stop - 1), slice(columns.start + 1, columns.stop - 1))
    return (rectangle(rows, columns) - inner).astype(bool)


def painted(drawn: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (drawn == color).all(axis=2)


def test_only_the_outline_of_a_mask_is_drawn_inside_of_it():
    rows, columns = slice(2, 6), slice(9, 15)
    drawn = draw_overlay(np.zeros((3, HEIGHT, WIDTH)), {(1, 2, 3): rectangle(rows, columns)})
    np.testing.assert_array_equal(painted(drawn, (1, 2, 3)), outline(rows, columns))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_is_stretched_to_its_range_and_keeps_its_orientation(channels):
    image = np.zeros((channels, HEIGHT, WIDTH), dtype=np.float32) - 1.6
    image[:, 1, 14] = 1.6
    image[:, 7, 2] = 0.0
    drawn = draw_overlay(image, {})
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[1, 14] == 255).all()
    assert (drawn[7, 2] == 127).all()
    assert drawn.sum() == 3 * (255 + 127)


def test_the_channels_are_red_green_and_blue():
    image = np.zeros((3, HEIGHT, WIDTH))
    image[0], image[1] = 1.0, 0.5
    assert draw_overlay(image, {})[4, 3].tolist() == [255, 127, 0]


def test_an_image_of_one_value_is_black():
    assert draw_overlay(np.full((1, HEIGHT, WIDTH), 7.0), {}).max() == 0


def test_a_later_mask_lies_over_an_earlier_one():
    first, second = rectangle(slice(2, 6), slice(3, 9)), rectangle(slice(2, 4), slice(3, 6))
    drawn = draw_overlay(np.zeros((1, HEIGHT, WIDTH)), {(9, 0, 0): first, (0, 9, 0): second})
    assert drawn[2, 3].tolist() == [0, 9, 0]
    assert drawn[5, 8].tolist() == [9, 0, 0]


def test_a_transposed_mask_is_refused():
    with pytest.raises(ValueError, match=r"size \(17, 10\) does not fit an image of size \(10, 17\)"):
        draw_overlay(np.zeros((1, HEIGHT, WIDTH)), {(1, 1, 1): np.zeros((WIDTH, HEIGHT))})


def test_the_file_shows_the_label_under_the_prediction(tmp_path):
    label, prediction = rectangle(slice(1, 5), slice(2, 8)), rectangle(slice(1, 5), slice(5, 12))
    path = tmp_path / "overlays" / "a.png"
    save_overlay(path, np.zeros((3, HEIGHT, WIDTH)), prediction=prediction, label=label)
    drawn = np.asarray(Image.open(path))
    predicted = outline(slice(1, 5), slice(5, 12))
    np.testing.assert_array_equal(painted(drawn, PREDICTION_COLOR), predicted)
    np.testing.assert_array_equal(painted(drawn, LABEL_COLOR), outline(slice(1, 5), slice(2, 8)) & ~predicted)


def test_the_file_without_a_label_shows_the_prediction_alone(tmp_path):
    save_overlay(tmp_path / "a.png", np.zeros((1, HEIGHT, WIDTH)), prediction=rectangle(slice(1, 5), slice(2, 8)))
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert painted(drawn, PREDICTION_COLOR).any()
    assert not painted(drawn, LABEL_COLOR).any()
