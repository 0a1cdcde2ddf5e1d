"""Paths are filled as scikit-image fills them, in a fraction of its time."""

import inspect

import numpy as np
import pytest
from skimage.draw import polygon2mask

from medseg_monai.datasets import _common, v7_darwin
from medseg_monai.datasets._common import fill_path

WIDTH, HEIGHT = 97, 61


def outline(rng, decimals, centre, radius, points=90):
    """A wavy closed path like one drawn by hand, with points to so many decimals."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    wave = 1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.04 * rng.standard_normal(points)
    around = np.stack([np.cos(angle) * radius[0], np.sin(angle) * radius[1]], axis=1) * wave[:, None]
    return np.round(around + centre, decimals).clip(0, (WIDTH, HEIGHT))


def as_scikit_image_does(points):
    return polygon2mask((HEIGHT, WIDTH), points[:, ::-1])


@pytest.mark.parametrize("decimals", [0, 1, 2, 12])
def test_an_outline_is_filled_to_the_same_pixels(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(20):
        path = outline(rng, decimals, rng.uniform((20, 20), (80, 45)), rng.uniform(8, 30, size=2))
        np.testing.assert_array_equal(fill_path(path, (WIDTH, HEIGHT)), as_scikit_image_does(path))


@pytest.mark.parametrize("decimals", [3, 6, 12])  # with fewer, a path may cross itself on a pixel's centre
def test_a_path_that_crosses_itself_is_filled_by_the_same_rule(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(20):
        path = np.round(rng.uniform((0, 0), (WIDTH, HEIGHT), size=(12, 2)), decimals)
        np.testing.assert_array_equal(fill_path(path, (WIDTH, HEIGHT)), as_scikit_image_does(path))


@pytest.mark.parametrize(
    "path",
    [
        [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)],
        [(0, 0), (WIDTH - 1, 0), (WIDTH - 1, HEIGHT - 1), (0, HEIGHT - 1)],
        [(5, 5), (20, 5), (20, 5), (20, 15), (5, 15), (5, 5)],
        [(5, 5), (40, 5), (40, 30), (30, 30), (30, 12), (15, 12), (15, 30), (5, 30)],
        [(3.5, 4.5), (3.5, 20.5), (31.5, 20.5), (31.5, 4.5)],
    ],
    ids=["the image", "its last pixels", "points twice", "a comb", "between the pixels"],
)
def test_level_and_upright_edges_belong_to_what_they_enclose(path):
    points = np.array(path, dtype=np.float64)
    np.testing.assert_array_equal(fill_path(points, (WIDTH, HEIGHT)), as_scikit_image_does(points))


def test_a_pixel_where_a_path_crosses_itself_lies_on_it():
    crossing = np.array([(2, 2), (8, 8), (8, 2), (2, 8)], dtype=np.float64)
    assert fill_path(crossing, (WIDTH, HEIGHT))[5, 5]


def test_no_reader_asks_every_pixel_about_every_edge():
    assert "polygon2mask(" not in inspect.getsource(_common) + inspect.getsource(v7_darwin)
