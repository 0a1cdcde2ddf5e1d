"""MONAI's DiceLoss, with the options that the CE-Net bundles give it, is Eq. 2 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss


def equation_2(logits: np.ndarray, labels: np.ndarray, weights: list[float]) -> float:
    """Gu et al., IEEE TMI 2019, Eq. 2, as it is written; ``i`` runs over the pixels of the whole batch."""
    loss = 1.0
    for k, weight in enumerate(weights):
        p = 1 / (1 + np.exp(-logits[:, k].ravel().astype(np.float64)))
        g = labels[:, k].ravel().astype(np.float64)
        loss -= 2 * weight * (p * g).sum() / ((p**2).sum() + (g**2).sum())
    return loss


def batch(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two non-square images whose foregrounds differ in size, from image to image and from class to class."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=2, size=(2, classes, 6, 9)).astype(np.float32)
    share = np.array([0.1, 0.6]).reshape(2, 1, 1, 1) * np.linspace(1, 0.4, classes).reshape(1, classes, 1, 1)
    labels = (rng.random((2, classes, 6, 9)) < share).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [1, 3])
def test_it_equals_the_formula_with_equal_class_weights(classes):
    logits, labels = batch(classes)
    loss = DiceLoss(sigmoid=True, squared_pred=True, batch=True, smooth_nr=0.0, smooth_dr=0.0)
    expected = equation_2(logits.numpy(), labels.numpy(), [1 / classes] * classes)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_equal_weights_written_out_and_summed_are_the_same():
    logits, labels = batch(3)
    loss = DiceLoss(
        sigmoid=True, squared_pred=True, batch=True, smooth_nr=0.0, smooth_dr=0.0, weight=[1 / 3] * 3, reduction="sum"
    )
    # the formula's leading 1 is the sum of the class weights
    assert loss(logits, labels).item() == pytest.approx(
        equation_2(logits.numpy(), labels.numpy(), [1 / 3] * 3), rel=1e-6
    )


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("option", ["squared_pred", "batch"])
def test_without_an_option_it_is_another_loss(option, classes):
    logits, labels = batch(classes)
    options = {"squared_pred": True, "batch": True, option: False}
    loss = DiceLoss(sigmoid=True, smooth_nr=0.0, smooth_dr=0.0, **options)
    expected = equation_2(logits.numpy(), labels.numpy(), [1 / classes] * classes)
    assert abs(loss(logits, labels).item() - expected) > 1e-3


def test_the_default_smoothing_shifts_it_by_less_than_a_millionth_and_keeps_an_absent_class_finite():
    logits, labels = batch(3)
    loss = DiceLoss(sigmoid=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    expected = equation_2(logits.numpy(), labels.numpy(), [1 / 3] * 3)
    assert loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    labels[:, 1] = 0
    logits.requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
