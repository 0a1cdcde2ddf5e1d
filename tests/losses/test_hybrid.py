"""HybridLoss is the formula of its docstring: value, limits and gradient, and a case of it the authors' loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional

from medseg_monai.losses import HybridLoss

PIXELS = 2 * 7 * 11


def label() -> torch.Tensor:
    """Two images of 7x11 with a rectangle each, at different places and of different size."""
    truth = torch.zeros(2, 1, 7, 11)
    truth[0, :, 1:4, 2:9] = 1
    truth[1, :, 5:, 3:5] = 1
    return truth


def random_logits(*, seed: int = 4, channels: int = 1) -> torch.Tensor:
    return 2 * torch.randn(2, channels, 7, 11, generator=torch.Generator().manual_seed(seed))


def by_hand(
    logits: torch.Tensor,
    truth: torch.Tensor,
    *,
    alpha: float = 0.5,
    gamma: float = 2.0,
    s: float = 1.0,
    squared_pred: bool = True,
) -> float:
    """The formula of one head, in float64."""
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), truth.double().numpy()
    axes = (2, 3)
    power = 2 if squared_pred else 1
    dice = (2 * (p * y).sum(axes) + s) / ((p**power).sum(axes) + (y**power).sum(axes) + s)
    p_t, alpha_t = np.where(y == 1, p, 1 - p), np.where(y == 1, alpha, 1 - alpha)
    return float(np.mean(1 - dice) - np.mean(alpha_t * (1 - p_t) ** gamma * np.log(p_t)))


SETTINGS = [
    {},
    {"alpha": 0.8, "gamma": 0.0, "smooth": 3.0},
    {"alpha": 0.25, "gamma": 2.0, "smooth": 0.5},
    {"alpha": 1.0, "gamma": 1.5, "smooth": 1e-5},
    {"gamma": 0.0, "smooth": 1e-5, "squared_pred": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_loss_of_one_head_is_the_formula(settings, channels):
    logits, truth = random_logits(channels=channels), label().expand(-1, channels, -1, -1)
    expected = by_hand(logits, truth, **{key.replace("smooth", "s"): value for key, value in settings.items()})
    assert HybridLoss(**settings)(logits, truth).item() == pytest.approx(expected, rel=1e-5)


def test_the_heads_are_summed_with_equal_weights():
    heads = [random_logits(seed=seed) for seed in range(4)]
    expected = sum(by_hand(head, label()) for head in heads)
    assert HybridLoss()(heads, label()).item() == pytest.approx(expected, rel=1e-5)
    assert HybridLoss()(tuple(heads[:1]), label()).item() == HybridLoss()(heads[0], label()).item()


def test_without_focus_and_weights_it_is_the_loss_of_the_authors_code():
    logits, truth = random_logits(), label()
    p = torch.sigmoid(logits)
    dice = (2 * (p * truth).sum() + 1) / (p.square().sum() + truth.sum() + 1)
    expected = 0.5 * functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice
    torch.testing.assert_close(HybridLoss(gamma=0, batch=True)(logits, truth), expected)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_costs_nothing():
    logits = 40 * (2 * label() - 1)
    assert HybridLoss()([logits] * 4, label()).item() == pytest.approx(0, abs=1e-6)


def test_the_inverted_prediction_costs_most_and_stays_finite():
    truth = label()
    surely_wrong = 30 * (1 - 2 * truth)
    value = HybridLoss(smooth=1e-5)(surely_wrong, truth).item()
    assert value == pytest.approx(1 + 0.5 * 30, rel=1e-4)  # no overlap, and -log p_t = 30 at full focus
    assert value > HybridLoss(smooth=1e-5)(torch.zeros_like(truth), truth).item()
    huge = (1e5 * (1 - 2 * truth)).requires_grad_()
    loss = HybridLoss()(huge, truth)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(huge.grad).all()


def test_at_a_half_where_the_printed_formula_is_infinite_it_is_finite_and_has_a_gradient():
    truth = label()
    logits = torch.zeros_like(truth, requires_grad=True)
    loss = HybridLoss(alpha=0.8)(logits, truth)
    sizes, quarter = truth.sum((1, 2, 3)), PIXELS / 2 / 4
    dice = ((sizes + 1) / (quarter + sizes + 1)).mean().item()
    focal = 0.25 * math.log(2) * (0.8 * sizes.sum().item() + 0.2 * (PIXELS - sizes.sum().item())) / PIXELS
    assert loss.item() == pytest.approx(1 - dice + focal, rel=1e-5)
    loss.backward()
    assert (logits.grad[truth == 1] < 0).all()
    assert (logits.grad[truth == 0] > 0).all()


def test_an_image_of_background_costs_nothing_if_left_empty_and_little_for_a_pixel():
    truth = torch.zeros(1, 1, 16, 24)
    empty = torch.full_like(truth, -40.0)
    assert HybridLoss()(empty, truth).item() == pytest.approx(0, abs=1e-6)
    one = empty.clone()
    one[0, 0, 3, 20] = 40
    one.requires_grad_()
    loss = HybridLoss(gamma=0, alpha=1)(one, truth)  # which leaves the Dice part alone
    assert loss.item() == pytest.approx(1 - 1 / (1 + 1), rel=1e-5)
    unsure = torch.zeros_like(truth, requires_grad=True)
    HybridLoss()(unsure, truth).backward()
    assert (unsure.grad > 0).all()


def test_an_image_of_foreground_has_the_same_limits():
    truth = torch.ones(1, 1, 5, 8)
    assert HybridLoss()(40 * truth, truth).item() == pytest.approx(0, abs=1e-6)
    assert HybridLoss()(-30 * truth, truth).item() == pytest.approx(1 - 1 / 41 + 15, rel=1e-4)


# --- what the hyperparameters do --------------------------------------------------------------------------------------


def cross_entropy_part(p_t: float, **settings: float) -> float:
    """The part beside Dice, for a foreground pixel of which the network gives the right class this probability."""
    logits = torch.full((1, 1, 1, 1), math.log(p_t / (1 - p_t)))
    truth = torch.ones_like(logits)
    return (HybridLoss(**settings)(logits, truth) - HybridLoss(**{**settings, "alpha": 0.0})(logits, truth)).item()


def test_focus_takes_weight_from_simple_pixels_and_keeps_that_of_surely_wrong_ones():
    kept = {p_t: cross_entropy_part(p_t) / cross_entropy_part(p_t, gamma=0.0) for p_t in (0.02, 0.5, 0.9)}
    assert kept[0.02] == pytest.approx(0.98**2, rel=1e-3)
    assert kept[0.5] == pytest.approx(0.5**2, rel=1e-3)
    assert kept[0.9] == pytest.approx(0.1**2, rel=1e-2)


def test_alpha_weighs_a_missed_pixel_against_a_false_one():
    truth = torch.zeros(1, 1, 9, 13)
    truth[..., 2:6, 3:10] = 1
    right = torch.where(truth == 1, 12.0, -12.0)
    missed, false = right.clone(), right.clone()
    missed[0, 0, 3, 4] *= -1
    false[0, 0, 8, 0] *= -1

    def cost(logits: torch.Tensor, alpha: float) -> float:
        return HybridLoss(alpha=alpha)(logits, truth).item()

    assert cost(missed, 0.9) - cost(missed, 0.1) == pytest.approx(0.8 * 12 / truth.numel(), rel=1e-2)
    assert cost(false, 0.9) - cost(false, 0.1) == pytest.approx(-0.8 * 12 / truth.numel(), rel=1e-2)


def test_an_empty_image_counts_alone_unless_the_batch_is_one_sum():
    truth = label()
    truth[1] = 0
    logits = 40 * (2 * truth - 1)
    logits[1, 0, 0, :3] = 40
    settings = {"gamma": 0.0, "alpha": 1.0, "smooth": 1.0}
    assert HybridLoss(**settings)(logits, truth).item() == pytest.approx((1 - 1 / 4) / 2, rel=1e-5)
    assert HybridLoss(**settings, batch=True)(logits, truth).item() == pytest.approx(1 - 43 / (24 + 21 + 1), rel=1e-5)


# --- gradient ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_gradient_is_that_of_the_formula(settings):
    logits, truth, step = random_logits(), label(), 1e-5
    heads = [logits.clone().requires_grad_(), random_logits(seed=9).requires_grad_()]
    HybridLoss(**settings)(heads, truth).backward()
    by_hand_settings = {key.replace("smooth", "s"): value for key, value in settings.items()}
    for place in [(0, 0, 1, 2), (0, 0, 6, 10), (1, 0, 5, 3), (1, 0, 0, 0)]:
        sides = []
        for sign in (1, -1):
            moved = logits.double()
            moved[place] += sign * step
            sides.append(by_hand(moved, truth, **by_hand_settings))
        assert heads[0].grad[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-3, abs=1e-8)


def test_descending_the_gradient_finds_the_label():
    logits = torch.zeros(2, 1, 7, 11, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        HybridLoss()(logits, label()).backward()
        optimizer.step()
    assert torch.equal((logits > 0).float(), label())


# --- input ------------------------------------------------------------------------------------------------------------


def test_metatensors_whole_numbers_and_half_precision_give_the_same_loss():
    logits, truth = random_logits(), label()
    expected = HybridLoss()([logits], truth)
    result = HybridLoss()([MetaTensor(logits)], MetaTensor(truth.to(torch.uint8)))
    assert not isinstance(result, MetaTensor)
    assert result.item() == pytest.approx(expected.item(), rel=1e-6)
    half = HybridLoss()(logits.bfloat16(), truth)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected.item(), rel=0.01)


def test_a_label_of_another_shape_is_refused_and_not_resized():
    logits, truth = random_logits(), label()
    with pytest.raises(ValueError, match=r"label has shape \(2, 1, 11, 7\), but an output has shape \(2, 1, 7, 11\)"):
        HybridLoss()([logits, logits], truth.transpose(2, 3))
    with pytest.raises(ValueError, match=r"label has shape \(2, 1, 7, 11\), but an output has shape \(2, 3, 7, 11\)"):
        HybridLoss()([logits, random_logits(channels=3)], truth)
    with pytest.raises(ValueError, match="no head"):
        HybridLoss()([], truth)


@pytest.mark.parametrize("settings", [{"alpha": 1.1}, {"alpha": -0.1}, {"gamma": -1.0}, {"smooth": 0.0}])
def test_hyperparameters_out_of_their_range_are_refused(settings):
    with pytest.raises(ValueError, match="alpha must be from 0 to 1, gamma 0 or more and smooth above 0"):
        HybridLoss(**settings)
