"""The Dice coefficient of a validation: the same as that of the tables, for what is absent too."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from medseg_monai.handlers import mean_dice
from medseg_monai.metrics import LabelDice, LabelIoU, label_dice


def masks(*values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(len(values), 1, 2, 3)


EMPTY, LEFT, BOTH = [0] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (LEFT, LEFT, [1, math.nan]),
        (BOTH, LEFT, [1, 0]),
        (LEFT, BOTH, [1, 0]),
        (EMPTY, LEFT, [0, math.nan]),
        (EMPTY, EMPTY, [math.nan, math.nan]),
        ([1, 0, 0, 2, 2, 0], BOTH, [2 / 3, 1 / 2]),
    ],
)
def test_a_label_that_both_lack_is_undefined_and_one_that_one_lacks_is_zero(prediction, reference, expected):
    (found,) = LabelDice(labels=2)(masks(prediction), masks(reference)).tolist()
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_mean_leaves_out_what_is_undefined_first_of_a_case_and_then_of_all():
    dice = LabelDice(labels=2)
    for prediction, reference in ((BOTH, LEFT), (LEFT, LEFT), (EMPTY, EMPTY)):
        dice(masks(prediction), masks(reference))
    assert float(dice.aggregate()) == pytest.approx((0.5 + 1) / 2)


def test_nothing_defined_is_the_worst_that_a_model_can_be():
    dice = LabelDice()
    dice(masks(EMPTY), masks(EMPTY))
    assert float(dice.aggregate()) == 0


def test_the_examples_of_the_docstrings_hold():
    for module in (label_dice, mean_dice):
        result = doctest.testmod(module)
        assert (result.failed, result.attempted > 0) == (0, True)


def test_the_iou_follows_the_same_convention_and_is_the_papers():
    truth = torch.zeros(3, 1, 4, 5)
    truth[0, :, 1:3, 1:4] = 1
    prediction = torch.zeros(3, 1, 4, 5)
    prediction[0, :, 2:4, 1:4], prediction[1, :, 0, 0] = 1, 1  # 3 of 9 shared; one invented; both without
    iou = LabelIoU()
    torch.testing.assert_close(iou(prediction, truth), torch.tensor([[3 / 9], [0.0], [torch.nan]]), equal_nan=True)
    assert float(iou.aggregate()) == pytest.approx((3 / 9 + 0) / 2)
