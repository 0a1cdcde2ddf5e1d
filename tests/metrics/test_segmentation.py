"""The formulas, against NumPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medseg_monai.metrics import (
    COUNT_METRICS,
    METRICS,
    count_scores,
    count_voxels,
    metrics_from_counts,
    roc_auc,
    roc_auc_from_counts,
)

PREDICTION = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0]])
LABEL = torch.tensor([[1, 0, 0, 0, 1], [1, 0, 0, 1, 0]])


def test_the_counts_are_those_of_the_four_cases():
    tp, fp, tn, fn = count_voxels(PREDICTION, LABEL).tolist()
    assert (tp, fp, tn, fn) == (3, 1, 5, 1)


def test_a_few_voxels_count_in_a_volume_of_more_than_float32_can_count():
    label = torch.zeros(2**24 + 2**20, dtype=torch.bool)
    prediction = torch.zeros_like(label)
    label[:6] = prediction[:9] = True  # 6 right, 3 stray
    counts = count_voxels(prediction, label)
    assert counts.tolist() == [6, 3, label.numel() - 9, 0]
    assert metrics_from_counts(counts, ["precision", "dice"]) == pytest.approx({"precision": 6 / 9, "dice": 12 / 15})
    assert metrics_from_counts(counts, ["accuracy"])["accuracy"] < 1


def test_the_metrics_are_those_counted_by_hand():
    values = metrics_from_counts(count_voxels(PREDICTION, LABEL), [name for name in METRICS if name != "auc"])
    assert values == pytest.approx(
        {
            "dice": 6 / 8,
            "f1": 2 * (3 / 4) * (3 / 4) / (3 / 4 + 3 / 4),
            "iou": 3 / 5,
            "sensitivity": 3 / 4,
            "recall": 3 / 4,
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
        "f1": 2 * (tp / (tp + fp)) * (tp / (tp + fn)) / (tp / (tp + fp) + tp / (tp + fn)),
        "iou": tp / (tp + fp + fn),
        "sensitivity": tp / (tp + fn),
        "recall": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "accuracy": (tp + tn) / label.size,
        "overlap_error": 1 - tp / (tp + fp + fn),
    }
    counts = count_voxels(torch.from_numpy(prediction), torch.from_numpy(label).float())
    assert metrics_from_counts(counts, list(expected)) == pytest.approx(expected)


def test_defu_nets_equations_are_these_but_for_a_smoothing_that_no_printed_digit_shows():
    rng = np.random.default_rng(2)
    truth = np.zeros((300, 340), dtype=bool)
    truth[60:240, 40:140] = truth[70:230, 190:300] = True
    prediction = truth ^ (rng.random(truth.shape) < 0.05)
    common, both = (truth & prediction).sum(), truth.sum() + prediction.sum()
    counts = count_voxels(torch.from_numpy(prediction), torch.from_numpy(truth))
    values = metrics_from_counts(counts, ["dice", "iou", "f1"])
    assert values["dice"] == pytest.approx((2 * common + 1) / (both + 1), abs=5e-5)  # Eq. 3
    assert values["iou"] == pytest.approx((common + 1) / (both - common + 1), abs=5e-5)  # Eq. 4
    assert values["f1"] == values["dice"] > values["iou"]


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
    with pytest.raises(ValueError, match="hausdorff: no such metric; known metrics: dice, f1, iou"):
        metrics_from_counts(torch.ones(4), ["hausdorff"])


@pytest.mark.parametrize("compare", [count_voxels, roc_auc, count_scores])
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


def scores_of(label: np.ndarray, sharpness: float, seed: int) -> torch.Tensor:
    """Probabilities that crowd at 0 and 1 the more, the sharper; some are exactly 0 and exactly 1."""
    noise = np.random.default_rng(seed).normal(size=label.shape)
    return torch.sigmoid(torch.from_numpy(sharpness * (label - 0.5 + 0.6 * noise))).float()


@pytest.mark.parametrize("sharpness", [0.1, 3, 40])
def test_the_area_of_counted_scores_is_that_of_all_pixels_of_all_cases(sharpness):
    labels = [np.random.default_rng(seed).random((90, 70)) < share for seed, share in ((0, 0.3), (1, 0.05))]
    scores = [scores_of(label, sharpness, seed) for seed, label in enumerate(labels)]
    truths = [torch.from_numpy(label) for label in labels]
    counts = sum(count_scores(score, truth) for score, truth in zip(scores, truths, strict=True))
    exact = roc_auc(torch.cat(scores), torch.cat(truths))
    assert 0.6 < exact < 0.99
    assert roc_auc_from_counts(counts) == pytest.approx(exact, abs=1e-5)
    assert counts.sum(dim=1).tolist() == [sum((truth == value).sum().item() for truth in truths) for value in (0, 1)]


def test_counted_scores_keep_their_order_from_end_to_end():
    steps = torch.tensor([0.0, 1e-30, 1e-8, 1e-7, 0.2, 0.4999, 0.5, 0.5001, 0.8, 0.999999, 1.0])
    bins = [count_scores(step[None], torch.ones(1))[1].argmax().item() for step in steps]
    assert bins == sorted(set(bins))
    ends = count_scores(torch.tensor([-0.0, -1e-9, 1.0 + 1e-6]), torch.tensor([1, 1, 0]))
    assert ends[1, 0] == 2
    assert ends[0, -1] == 1


def test_equal_counted_scores_count_a_half_and_one_class_has_no_area():
    label = torch.tensor([[1, 0, 0]])
    assert roc_auc_from_counts(count_scores(torch.full((1, 3), 0.3), label)) == 0.5
    assert math.isnan(roc_auc_from_counts(count_scores(torch.rand(1, 3), torch.ones(1, 3))))


def test_every_count_metric_is_among_the_metrics():
    assert set(COUNT_METRICS) < set(METRICS)
