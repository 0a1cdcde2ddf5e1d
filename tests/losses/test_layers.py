"""The Dice loss of Eq. 2 for K classes and cross-entropy, with pixels that do not count."""

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from medseg_monai.losses import LayerLoss


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label() -> torch.Tensor:
    drawn = torch.randint(0, 4, (2, 1, 9, 7), generator=torch.Generator().manual_seed(1))
    return drawn.sort(dim=2).values


def test_without_ignored_pixels_it_is_the_mean_of_the_classes_dice_losses(logits, label):
    monai = DiceLoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True, include_background=True)
    assert LayerLoss()(logits, label).item() == pytest.approx(monai(logits, label).item())
    p = logits.softmax(dim=1)
    each = [
        1 - 2 * (p[:, k] * (label[:, 0] == k)).sum() / ((p[:, k] ** 2).sum() + (label == k).sum()) for k in range(4)
    ]
    assert LayerLoss()(logits, label).item() == pytest.approx(float(sum(each)) / 4, abs=1e-5)


@pytest.mark.parametrize("weights", [{}, {"lambda_dice": 0, "lambda_ce": 1}, {"lambda_ce": 0.5}], ids=str)
def test_ignored_columns_count_as_if_they_were_cut_off(logits, label, weights):
    loss = LayerLoss(**weights)
    ignoring = label.clone()
    ignoring[..., 4:] = 255
    assert loss(logits, ignoring).item() == pytest.approx(loss(logits[..., :4], label[..., :4]).item(), abs=1e-6)


def test_ignored_pixels_have_no_gradient(logits, label):
    label[..., 2] = 255
    logits.requires_grad_()
    LayerLoss(lambda_ce=1)(logits, label).backward()
    assert logits.grad[..., 2].abs().max() == 0
    assert logits.grad[..., 3].abs().max() > 0


def test_cross_entropy_is_that_of_pytorch(logits, label):
    label[0, :, :, 1] = 255
    expected = functional.cross_entropy(logits, label[:, 0], ignore_index=255)
    assert LayerLoss(lambda_dice=0, lambda_ce=1)(logits, label).item() == pytest.approx(expected.item())


def test_a_batch_without_truth_costs_nothing_and_is_finite(logits):
    nobody = torch.full((2, 1, 9, 7), 255)
    assert LayerLoss(lambda_dice=0, lambda_ce=1)(logits, nobody).item() == 0
    assert torch.isfinite(LayerLoss()(logits, nobody))


def test_labels_as_they_are_loaded_are_floats(logits, label):
    assert LayerLoss()(logits, label.float()).item() == LayerLoss()(logits, label).item()


@pytest.mark.parametrize("weights", [{"lambda_dice": -1}, {"lambda_dice": 0}, {"lambda_ce": -0.1}])
def test_weights_that_make_no_loss_are_refused(weights):
    with pytest.raises(ValueError, match="not both 0"):
        LayerLoss(**weights)


def test_a_label_of_another_size_is_refused(logits, label):
    with pytest.raises(ValueError, match="give one map of classes"):
        LayerLoss()(logits, label[:, :, :-1])
