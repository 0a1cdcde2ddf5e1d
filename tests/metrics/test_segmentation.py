"""The formulas, against NumPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medseg_monai.metrics import COUNT_METRICS, METRICS, count_voxels, metrics_from_counts, roc_auc

PREDICTION = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0]])
LABEL = torch.tensor([[1, 0, 0, 0, 1], [1, 0, 0, 1, 0]])


def test_the_counts_are_those_of_the_four_cases():
    tp, fp, tn, fn = count_voxels(PREDICTION, LABEL).tolist()
    assert (tp, fp, tn, fn) == (3, 1, 5, 1)


def test_the_metrics_are_those_counted_by_hand():
    values = metrics_from_counts(count_voxels(PREDICTION, LABEL), [name for name in METRICS if name != "auc"])
    assert values == pytest.approx(
        {
            "dice": 6 / 8,
            "iou": 3 / 5,
            "sensitivity": 3 / 4,
            "specificity": 5 / 6,
            "precision": 3 / 4,
            "accuracy": 8 / 10,
            "overlap_error": 2 / 5,
        }
    )


def test_the_metrics_of_random_masks_equal_numpys():
    rng = np.random.default_rng(8)
    prediction, label = rng.random((2, 3, 7, 11)) > np.array([0.3, 0.6]).reshape(2, 1, 1, 1)
    tp, fp = (prediction & label).sum(), (prediction & ~label).sum()
    tn, fn = (~prediction & ~label).sum(), (~prediction & label).sum()
    expected = {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "accuracy": (tp + tn) / label.size,
        "overlap_error": 1 - tp / (tp + fp + fn),
    }
    counts = count_voxels(torch.from_numpy(prediction), torch.from_numpy(label).float())
    assert metrics_from_counts(counts, list(expected)) == pytest.approx(expected)


def test_a_metric_without_a_denominator_is_undefined_and_the_others_are_not():
    empty = torch.zeros(1, 2, 3)
    values = metrics_from_counts(count_voxels(empty, empty), ["dice", "iou", "overlap_error", "sensitivity"])
    assert all(math.isnan(value) for value in values.values())
    values = metrics_from_counts(count_voxels(empty, empty), ["specificity", "accuracy"])
    assert values == {"specificity": 1.0, "accuracy": 1.0}


def test_a_prediction_of_what_an_empty_label_lacks_scores_zero():
    prediction = torch.tensor([[1.0, 0.0, 0.0]])
    values = metrics_from_counts(count_voxels(prediction, torch.zeros(1, 3)), ["dice", "overlap_error", "sensitivity"])
    assert values["dice"] == 0.0
    assert values["overlap_error"] == 1.0
    assert math.isnan(values["sensitivity"])


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="hausdorff: no such metric; there are dice, iou"):
        metrics_from_counts(torch.ones(4), ["hausdorff"])


@pytest.mark.parametrize("compare", [count_voxels, roc_auc])
def test_a_transposed_label_is_refused_though_it_has_as_many_pixels(compare):
    with pytest.raises(ValueError, match=r"shape \(2, 3\) has a label of shape \(3, 2\)"):
        compare(torch.ones(2, 3), torch.eye(3, 2))


def test_the_area_is_the_probability_that_a_foreground_pixel_scores_above_a_background_pixel():
    probability = torch.tensor([[0.9, 0.4, 0.4], [0.1, 0.6, 0.2]])
    label = torch.tensor([[1, 1, 0], [0, 0, 1]])
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in probability[label == 1].tolist()
        for n in probability[label == 0].tolist()
    ]
    assert roc_auc(probability, label) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("value", [0, 1])
def test_the_area_is_undefined_for_one_class(value):
    assert math.isnan(roc_auc(torch.rand(2, 3), torch.full((2, 3), value)))


def test_every_count_metric_is_among_the_metrics():
    assert set(COUNT_METRICS) < set(METRICS)
