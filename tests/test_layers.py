"""Layers as classes and as boundaries, by hand."""

import numpy as np
import pytest

from medseg_monai.layers import (
    PAPER_BOUNDARIES,
    boundaries_of_labels,
    boundary_names,
    disordered_columns,
    labels_of_boundaries,
)


def test_a_boundary_is_the_number_of_pixels_above_it():
    labels = np.array([0, 0, 1, 1, 1, 3], dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(boundaries_of_labels(labels, 4), [[2], [5], [5]])  # class 2 is absent


def test_boundaries_of_classes_out_of_order_are_counted_and_never_cross():
    labels = np.array([2, 0, 1, 0, 2], dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(boundaries_of_labels(labels, 3), [[2], [3]])


def test_a_column_with_an_ignored_pixel_has_no_boundaries():
    labels = np.array([[0, 0], [255, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(boundaries_of_labels(labels, 2), [[np.nan, 1]])


def test_classes_that_reach_an_edge_have_boundaries_there():
    np.testing.assert_array_equal(boundaries_of_labels(np.full((5, 1), 1), 3), [[0], [5]])


def test_a_volume_has_boundaries_for_each_of_its_bscans():
    labels = np.random.default_rng(0).integers(0, 5, (3, 20, 7))
    found = boundaries_of_labels(labels, 5)
    assert found.shape == (3, 4, 7)
    np.testing.assert_array_equal(found[1], boundaries_of_labels(labels[1], 5))


def test_labels_in_order_are_those_of_their_boundaries():
    labels = np.sort(np.random.default_rng(1).integers(0, 6, (30, 40)), axis=0).astype(np.uint8)
    labels[:, 11] = 255
    np.testing.assert_array_equal(labels_of_boundaries(boundaries_of_labels(labels, 6), 30), labels)


def test_a_pixel_belongs_to_the_class_that_its_centre_lies_in():
    assert labels_of_boundaries([[1.4]], rows=3)[:, 0].tolist() == [0, 1, 1]
    assert labels_of_boundaries([[1.6]], rows=3)[:, 0].tolist() == [0, 0, 1]


def test_boundaries_that_cross_are_drawn_in_order():
    assert labels_of_boundaries([[3], [1]], rows=4)[:, 0].tolist() == [0, 1, 1, 2]


def test_a_class_below_a_deeper_one_is_found_also_beyond_ignored_pixels():
    labels = np.array([[0, 0, 2], [255, 2, 255], [1, 1, 1]], dtype=np.uint8)
    assert disordered_columns(labels).tolist() == [1, 2]


def test_the_papers_eleven_classes_have_its_names_by_default():
    assert boundary_names(11) == PAPER_BOUNDARIES
    assert len(PAPER_BOUNDARIES) == 10


@pytest.mark.parametrize("names", [["ILM"], ["ILM", "ILM"], ["ILM", "BM", "x"]])
def test_names_that_do_not_fit_the_classes_are_refused(names):
    with pytest.raises(ValueError, match=f"{len(names)} names .*3 classes have 2 boundaries"):
        boundary_names(3, names)


@pytest.mark.parametrize("name", ["NFL/GCL", "@x", "$1", "upper IS", ""])
def test_a_name_that_a_config_could_take_for_something_else_is_refused(name):
    with pytest.raises(ValueError, match="letters, digits"):
        boundary_names(3, ["ILM", name])
