"""TanimotoLoss is the authors' to the last digit of their vectors, and the paper's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.losses import DiceLoss

from medseg_monai.losses import TanimotoCoefficient, TanimotoLoss, contour_weights, contour_window, tanimoto_coefficient
from tests.networks.reference import load_vectors


@pytest.fixture(scope="module")
def vectors() -> dict[str, torch.Tensor]:
    """The authors' values; maps are turned from ``[B, H, W, C]`` to ``[B, C, H, W]``."""
    arrays = load_vectors("res_cr_net", "losses_io.npz")
    return {name: values.movedim(-1, 1) if values.ndim == 4 else values for name, values in arrays.items()}


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    """Logits whose softmax is ``probability``; any number can be added to both of a pixel."""
    return probability.log() + torch.linspace(-3, 3, probability.shape[-1])


def label_of(truth: torch.Tensor) -> torch.Tensor:
    return truth.argmax(dim=1, keepdim=True)


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and label of two non-square images with a rectangle each, at different places."""
    generator = torch.Generator().manual_seed(3)
    label = torch.zeros(2, 1, 30, 45)
    label[0, :, 3:17, 20:41] = 1
    label[1, :, 12:, 5:11] = 1
    return torch.randn(2, 2, 30, 45, generator=generator), label


def weights_by_hand(truth: np.ndarray, window: int) -> np.ndarray:
    """Pixel by pixel, the part of the window inside the image."""
    weights = np.ones(truth.shape)
    half = window // 2
    for b, c, y, x in np.ndindex(truth.shape):
        around = truth[b, c, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        if 0.005 < around.mean() < 0.995:
            weights[b, c, y, x] = 3
    return (weights / weights.mean()) ** 2


@pytest.mark.parametrize("short_axis", [100, 300, 400])
def test_the_weights_are_the_authors(vectors, short_axis):
    weights = contour_weights(vectors["y_true"], contour_window(short_axis))
    torch.testing.assert_close(weights, vectors[f"weights_{short_axis}"], rtol=1e-6, atol=0)


def test_the_coefficients_are_the_authors(vectors):
    truth, probability = vectors["y_true"], vectors["y_pred"]
    assert tanimoto_coefficient(probability, truth).item() == pytest.approx(vectors["tani_coeff"].item(), rel=1e-6)
    weighted = tanimoto_coefficient(probability, truth, contour_weights(truth, contour_window(300)))
    assert weighted.item() == pytest.approx(vectors["weighted_tani_coeff"].item(), rel=1e-6)


@pytest.mark.parametrize(("weighted", "name"), [(False, "tani_loss"), (True, "weighted_tani_loss")])
def test_the_loss_of_logits_and_class_numbers_is_the_authors(vectors, weighted, name):
    loss = TanimotoLoss(softmax=True, to_onehot_y=True, weighted=weighted, window=21)
    value = loss(logits_of(vectors["y_pred"]), label_of(vectors["y_true"]))
    assert value.item() == pytest.approx(vectors[name].item(), rel=1e-5)


def test_the_authors_dice_is_monais_with_the_classes_side_by_side(vectors):
    truth, probability = (vectors[name].flatten(1)[:, None] for name in ("y_true", "y_pred"))
    dice = 1 - DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)(probability, truth)
    assert dice.item() == pytest.approx(vectors["dice_coeff"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("short_axis", "window"), [(40, 11), (150, 11), (151, 21), (300, 21), (301, 31), (600, 31), (601, 41), (4000, 41)]
)
def test_the_window_grows_with_the_short_axis(short_axis, window):
    assert contour_window(short_axis) == window


@pytest.mark.parametrize("window", [1, 7, 11, 61])
def test_the_weights_are_those_of_a_plain_loop_over_pixels(window):
    _, label = random_batch()
    truth = torch.cat([1 - label, label], dim=1)
    np.testing.assert_allclose(contour_weights(truth, window).numpy(), weights_by_hand(truth.numpy(), window), 1e-5)


def test_the_window_is_chosen_by_the_shorter_side():
    truth = torch.zeros(1, 1, 160, 140)
    truth[..., 60:] = 1
    near = contour_weights(truth) > 1
    assert near[0, 0, 80].sum() == 10  # eleven pixels wide: five before the edge and five behind it


def test_the_weights_of_a_volume_follow_the_same_rule():
    truth = torch.zeros(1, 1, 6, 7, 8)
    truth[:, :, 3:] = 1
    near = (contour_weights(truth, 3) > 1)[0, 0]
    assert near.any(dim=(1, 2)).tolist() == near.all(dim=(1, 2)).tolist() == [False, False, True, True, False, False]


def test_a_batch_without_a_contour_has_the_plain_loss_and_a_gradient():
    logits, label = random_batch()
    logits.requires_grad_()
    value = TanimotoLoss(softmax=True, to_onehot_y=True)(logits, torch.zeros_like(label))
    plain = TanimotoLoss(softmax=True, to_onehot_y=True, weighted=False)(logits, torch.zeros_like(label))
    assert value.item() == pytest.approx(plain.item(), rel=1e-6)
    value.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_an_error_at_a_contour_costs_more_than_one_far_from_it():
    _, label = random_batch()
    right = torch.where(label == 1, 20.0, -20.0)
    at_contour, far_away = right.clone(), right.clone()
    at_contour[0, :, 3:5, 22:24] *= -1
    far_away[0, :, 27:29, 2:4] *= -1
    loss = TanimotoLoss(sigmoid=True, window=5)
    assert loss(at_contour, label) > 2 * loss(far_away, label) > 0
    plain = TanimotoLoss(sigmoid=True, weighted=False)
    assert plain(at_contour, label).item() == pytest.approx(plain(far_away, label).item(), rel=0.1)


def test_one_channel_with_a_sigmoid_follows_the_formula_with_its_complement():
    logits, label = random_batch()
    p = 1 / (1 + np.exp(-logits[:, :1].double().numpy()))
    y = label.double().numpy()
    terms = [((a * b).sum() + 0.5) / ((a**2 + b**2).sum() - (a * b).sum() + 0.5) for a, b in ((p, y), (1 - p, 1 - y))]
    value = TanimotoLoss(sigmoid=True, weighted=False, smooth=0.5)(logits[:, :1], label)
    assert value.item() == pytest.approx(1 - sum(terms) / 2, rel=1e-5)
    assert not math.isclose(terms[0], terms[1], rel_tol=0.1)


def test_a_perfect_prediction_costs_nothing_and_its_opposite_almost_one():
    _, label = random_batch()
    logits = torch.where(label == 1, 30.0, -30.0)
    loss = TanimotoLoss(softmax=True, to_onehot_y=True)
    assert loss(torch.cat([-logits, logits], dim=1), label).item() == pytest.approx(0, abs=1e-6)
    assert loss(torch.cat([logits, -logits], dim=1), label).item() == pytest.approx(1, abs=0.01)


def test_metatensors_whole_numbers_and_half_precision_give_the_same_loss():
    logits, label = random_batch()
    loss = TanimotoLoss(softmax=True, to_onehot_y=True)
    expected = loss(logits, label)
    result = loss(MetaTensor(logits), MetaTensor(label.to(torch.uint8)))
    assert not isinstance(result, MetaTensor)
    assert result.item() == pytest.approx(expected.item(), rel=1e-6)
    half = loss(logits.bfloat16(), label)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected.item(), rel=0.01)


def test_wrong_shapes_windows_and_activations_are_refused():
    logits, label = random_batch()
    with pytest.raises(ValueError, match=r"label has shape \(2, 1, 45, 30\), .* needs \(2, 1, 30, 45\)"):
        TanimotoLoss(softmax=True, to_onehot_y=True)(logits, label.transpose(2, 3))
    with pytest.raises(ValueError, match=r"label has shape \(2, 1, 30, 45\), .* needs \(2, 2, 30, 45\)"):
        TanimotoLoss(softmax=True)(logits, label)
    for window in (0, 4, -3):
        with pytest.raises(ValueError, match=f"window must be odd and positive, got {window}"):
            contour_weights(label, window)
    with pytest.raises(ValueError, match="sigmoid and softmax exclude each other"):
        TanimotoLoss(sigmoid=True, softmax=True)


def test_the_coefficient_is_one_for_the_label_and_weighs_all_pixels_alike():
    label = torch.zeros(2, 1, 7, 11)
    label[0, :, 1:4, 2:9], label[1, :, 5:, 3:5] = 1, 1
    sure = 40 * torch.cat([1 - 2 * label, 2 * label - 1], dim=1)
    coefficient = TanimotoCoefficient(softmax=True, to_onehot_y=True)
    assert coefficient(sure, label).item() == pytest.approx(1)
    logits = torch.randn(2, 2, 7, 11, generator=torch.Generator().manual_seed(3))
    truth = torch.cat([1 - label, label], dim=1)
    torch.testing.assert_close(coefficient(logits, label), tanimoto_coefficient(logits.softmax(dim=1), truth))
