"""Distances of boundaries and overlap of classes, by hand on a drawn B-scan."""

import math

import numpy as np
import pytest
import torch

from medseg_monai.layers import labels_of_boundaries
from medseg_monai.metrics import BoundaryError, LayerDice, boundary_distances

ROWS, COLUMNS = 40, 31


def drawn(*, lower: float = 0) -> torch.Tensor:
    """A B-scan of three boundaries that lie aslant, the second of them lowered."""
    slope = np.arange(COLUMNS) // 4
    boundaries = np.stack([8 + slope, 15 + slope + lower, 24 + slope])
    return torch.from_numpy(labels_of_boundaries(boundaries, ROWS))[None, None]


def test_a_boundary_that_is_shifted_by_3_pixels_has_an_error_of_3():
    errors = BoundaryError(classes=4)(y_pred=drawn(lower=3), y=drawn())
    assert errors.tolist() == [[0, 3, 0]]
    errors = BoundaryError(classes=4)(y_pred=drawn(lower=-3), y=drawn())
    assert errors.tolist() == [[0, 3, 0]]


def test_the_mean_is_over_the_boundaries_and_then_over_the_cases():
    metric = BoundaryError(classes=4)
    metric(y_pred=drawn(lower=3), y=drawn())
    metric(y_pred=drawn(), y=drawn())
    assert metric.aggregate().item() == pytest.approx(0.5)


def test_columns_without_truth_do_not_count():
    label, found = drawn(), drawn()
    label[..., 5:9] = 255
    found[..., 5:9] = 0  # whatever is predicted there
    assert BoundaryError(classes=4)(y_pred=found, y=label).tolist() == [[0, 0, 0]]
    found[..., 9] = 0  # all boundaries at the lower edge
    counted = COLUMNS - 4
    expected = [(ROWS - place) / counted for place in (8 + 2, 15 + 2, 24 + 2)]
    assert BoundaryError(classes=4)(y_pred=found, y=label).tolist()[0] == pytest.approx(expected)


def test_a_class_that_is_absent_has_boundaries_that_coincide():
    label = drawn()
    found = torch.where(label == 2, 1, label)  # class 2 is not found: its upper boundary is where its lower one is
    errors = BoundaryError(classes=4)(y_pred=found, y=label)
    assert errors.tolist() == [[0, 24 - 15, 0]]


def test_a_case_without_truth_is_left_out_of_the_mean():
    metric = BoundaryError(classes=4)
    metric(y_pred=drawn(), y=torch.full_like(drawn(), 255))
    metric(y_pred=drawn(lower=3), y=drawn())
    assert metric.aggregate().item() == pytest.approx(1.0)


def test_distances_need_the_same_boundaries():
    with pytest.raises(ValueError, match="both must be the same"):
        boundary_distances(np.zeros((3, 5)), np.zeros((2, 5)))


def test_dice_counts_every_class_and_no_ignored_pixel():
    found = torch.tensor([0, 0, 1, 2, 2, 2])[None, None]
    label = torch.tensor([0, 1, 1, 2, 255, 255])[None, None]
    assert LayerDice(classes=4)(y_pred=found, y=label)[0].tolist() == pytest.approx(
        [2 / 3, 2 / 3, 1.0, math.nan], nan_ok=True
    )
