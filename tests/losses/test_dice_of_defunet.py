"""MONAI's DiceLoss, with the options that the DEFU-Net bundle gives it, is Eq. 2 of the paper plus 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceLoss

from medseg_monai.bundle import merged_config


def equation_2(logits: np.ndarray, labels: np.ndarray) -> float:
    """Zhang et al., ICPR 2020, Eq. 2, as it is written; ``i`` runs over the pixels of the whole batch."""
    p = 1 / (1 + np.exp(-logits.ravel().astype(np.float64)))
    g = labels.ravel().astype(np.float64)
    return -(2 * (g * p).sum() + 1) / ((g**2).sum() + (p**2).sum() + 1)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two non-square images whose foregrounds differ in size."""
    rng = np.random.default_rng(6)
    logits = rng.normal(scale=2, size=(2, 1, 6, 9)).astype(np.float32)
    labels = (rng.random((2, 1, 6, 9)) < np.array([0.1, 0.6]).reshape(2, 1, 1, 1)).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(labels)


@pytest.fixture
def loss() -> DiceLoss:
    """The loss of the bundle itself."""
    return ConfigParser(merged_config("lung_cxr_defunet", ["train"])).get_parsed_content("loss")


def test_it_equals_the_formula_but_for_a_constant(loss):
    logits, labels = batch()
    assert loss(logits, labels).item() == pytest.approx(1 + equation_2(logits.numpy(), labels.numpy()), rel=1e-6)


@pytest.mark.parametrize("option", [{"squared_pred": False}, {"batch": False}, {"smooth_nr": 1e-5, "smooth_dr": 1e-5}])
def test_with_another_option_it_is_another_loss(loss, option):
    logits, labels = batch()
    options = {"sigmoid": True, "squared_pred": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    other = DiceLoss(**{**options, **option})
    assert abs(other(logits, labels).item() - loss(logits, labels).item()) > 1e-3


def test_images_without_lungs_and_a_network_that_finds_none_cost_nothing(loss):
    logits, labels = batch()
    assert loss(torch.full_like(logits, -30.0), torch.zeros_like(labels)).item() == pytest.approx(0, abs=1e-6)
    logits.requires_grad_()
    loss(logits, torch.zeros_like(labels)).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
