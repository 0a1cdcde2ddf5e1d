"""TwoStageLoss: the four terms are the paper's formula, of the right voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional

from medseg_monai.losses import TwoStageLoss, border_labels

SCAN = (12, 16, 20)
SIDE = 4
STARTS = torch.tensor([[[0, 0, 0], [8, 12, 16]], [[3, 5, 7], [4, 0, 11]]])
LOBES = 6


def label(*, seed: int = 1) -> torch.Tensor:
    """Boxes of labels, two scans that differ; every label is in some crop."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, LOBES, (2, 1, 3, 4, 5), generator=generator).float()
    return functional.interpolate(coarse, size=SCAN, mode="nearest")


def outputs(*, seed: int = 1, starts: torch.Tensor = STARTS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "stage1_lobes": (2, LOBES, 6, 8, 10),
        "stage1_border": (2, 1, 6, 8, 10),
        "stage2_lobes": (4, LOBES, SIDE, SIDE, SIDE),
        "stage2_border": (4, 1, SIDE, SIDE, SIDE),
    }
    result = {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}
    return {**result, "starts": starts}


def border_by_hand(values: np.ndarray) -> np.ndarray:
    """Voxel by voxel: does any of the 26 neighbours inside the volume differ?"""
    result = np.zeros(values.shape)
    for place in np.ndindex(values.shape):
        around = tuple(slice(max(i - 1, 0), i + 2) for i in place)
        result[place] = np.any(values[around] != values[place])
    return result


def targets(truth: torch.Tensor) -> dict[str, np.ndarray]:
    """All four targets ``[rows, d, h, w]``, made by plain loops."""
    whole = truth[:, 0].numpy()
    picks = [np.round(np.arange(side // 2) * (side - 1) / (side // 2 - 1)).astype(int) for side in SCAN]
    coarse = whole[:, picks[0]][:, :, picks[1]][:, :, :, picks[2]]
    edges = np.stack([border_by_hand(scan) for scan in whole])
    crops = {"stage2_lobes": [], "stage2_border": []}
    for scan, places in enumerate(STARTS.tolist()):
        for z, y, x in places:
            box = (scan, slice(z, z + SIDE), slice(y, y + SIDE), slice(x, x + SIDE))
            crops["stage2_lobes"].append(whole[box])
            crops["stage2_border"].append(edges[box])
    return {
        "stage1_lobes": coarse,
        "stage1_border": np.stack([border_by_hand(scan) for scan in coarse]),
        **{name: np.stack(boxes) for name, boxes in crops.items()},
    }


def gld(probability: np.ndarray, truth: np.ndarray, *, power: int = 2) -> float:
    """Xie et al., Section III-E, as it is written; the labels in the first axis, the voxels of the batch behind it."""
    weight = 1 / truth.sum(axis=1) ** power
    return 1 - 2 * (weight @ (truth * probability).sum(axis=1)) / (weight @ (truth + probability).sum(axis=1))


def terms_by_hand(logits: dict[str, torch.Tensor], truth: torch.Tensor, *, power: int = 2) -> dict[str, float]:
    result = {}
    for name, target in targets(truth).items():
        values = logits[name].detach().double().movedim(1, 0).flatten(1).numpy()
        if name.endswith("border"):
            values = np.concatenate([np.zeros_like(values), values])  # the softmax with 0 is the sigmoid
        probability = np.exp(values) / np.exp(values).sum(axis=0)
        masks = np.stack([target.ravel() == kind for kind in range(len(values))])
        result[name] = gld(probability, masks.astype(float), power=power)
    return result


def perfect(truth: torch.Tensor) -> dict[str, torch.Tensor]:
    result = {}
    for name, target in targets(truth).items():
        values = torch.from_numpy(target)
        if name.endswith("lobes"):
            result[name] = functional.one_hot(values.long(), LOBES).movedim(-1, 1) * 60.0
        else:
            result[name] = (values[:, None].float() - 0.5) * 120
    return {**result, "starts": STARTS}


def test_the_border_is_marked_on_both_sides_of_every_change():
    values = torch.zeros(1, 1, 3, 4, 7)
    values[..., 3:] = 2
    values[..., 2:, 3:] = 5
    expected = torch.zeros(3, 4, 7)
    expected[:, :, 2:4] = 1
    expected[:, 1:3, 3:] = 1
    border = border_labels(values)
    assert torch.equal(border[0, 0], expected)
    assert border.dtype == torch.float32


def test_the_border_of_any_label_map_equals_a_search_among_the_26_neighbours():
    truth = label()
    truth[0, 0, 5, 5, 5] = 3 if truth[0, 0, 5, 5, 5] != 3 else 4
    border = border_labels(truth.long())
    assert border.shape == truth.shape
    for scan in range(2):
        assert np.array_equal(border[scan, 0].numpy(), border_by_hand(truth[scan, 0].numpy()))


def test_the_edge_of_the_image_is_no_border_and_a_single_slice_is_enough():
    assert border_labels(torch.full((1, 1, 4, 5, 6), 3.0)).sum() == 0
    single = torch.tensor([[0.0, 0, 0, 1, 1]]).expand(1, 1, 1, 4, 5)
    assert torch.equal(border_labels(single)[0, 0, 0, 0], torch.tensor([0.0, 0, 1, 1, 0]))


def test_the_loss_is_the_sum_of_the_four_terms_of_the_formula():
    logits, truth = outputs(), label()
    terms = terms_by_hand(logits, truth)
    assert TwoStageLoss()(logits, truth).item() == pytest.approx(sum(terms.values()), abs=1e-6)


@pytest.mark.parametrize(("w_type", "power"), [("square", 2), ("simple", 1), ("uniform", 0)])
def test_a_label_weighs_by_the_chosen_power_of_its_number_of_voxels(w_type, power):
    logits, truth = outputs(), label()
    terms = terms_by_hand(logits, truth, power=power)
    assert TwoStageLoss(w_type=w_type)(logits, truth).item() == pytest.approx(sum(terms.values()), abs=1e-6)


@pytest.mark.parametrize("name", ["stage1_lobes", "stage1_border", "stage2_lobes", "stage2_border"])
def test_each_term_is_exactly_the_generalised_dice_of_the_formula(name):
    logits, truth = outputs(), label()
    other = {**logits, name: perfect(truth)[name]}
    difference = TwoStageLoss()(logits, truth) - TwoStageLoss()(other, truth)
    assert difference.item() == pytest.approx(terms_by_hand(logits, truth)[name], abs=1e-6)


def test_one_lobe_of_two_voxels_gives_the_value_counted_by_hand():
    """Two labels: the formula with weights 1 / 62^2 and 1 / 2^2; the other terms are perfect."""
    truth = torch.zeros(1, 1, 4, 4, 4)
    truth[0, 0, 0, 0, :2] = 1
    probability = torch.tensor([0.75, 0.25])  # of background and of the lobe, everywhere
    logits = {
        "stage1_lobes": functional.one_hot(truth[:, 0].long(), 2).movedim(-1, 1) * 60.0,
        "stage1_border": (border_labels(truth) - 0.5) * 120,
        "stage2_lobes": probability.log()[None, :, None, None, None].expand(1, 2, 4, 4, 4),
        "stage2_border": (border_labels(truth) - 0.5) * 120,
        "starts": torch.zeros(1, 1, 3, dtype=torch.int64),
    }
    w0, w1 = 1 / 62**2, 1 / 2**2
    expected = 1 - 2 * (w0 * 62 * 0.75 + w1 * 2 * 0.25) / (w0 * (62 + 48) + w1 * (2 + 16))
    assert TwoStageLoss()(logits, truth).item() == pytest.approx(expected, abs=1e-5)


def test_a_label_that_the_whole_batch_lacks_takes_no_part():
    truth = torch.zeros(1, 1, 4, 4, 4)
    truth[0, 0, 0, 0, :2] = 1
    probability = torch.tensor([0.5, 0.3, 0.2])
    logits = {
        "stage1_lobes": functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1) * 60.0,
        "stage1_border": (border_labels(truth) - 0.5) * 120,
        "stage2_lobes": probability.log()[None, :, None, None, None].expand(1, 3, 4, 4, 4),
        "stage2_border": (border_labels(truth) - 0.5) * 120,
        "starts": torch.zeros(1, 1, 3, dtype=torch.int64),
    }
    w0, w1 = 1 / 62**2, 1 / 2**2
    overlap = w0 * 62 * 0.5 + w1 * 2 * 0.3
    expected = 1 - 2 * overlap / (w0 * (62 + 32) + w1 * (2 + 64 * 0.3))
    assert TwoStageLoss()(logits, truth).item() == pytest.approx(expected, abs=1e-5)


def test_a_perfect_prediction_costs_nothing():
    truth = label()
    assert TwoStageLoss(top_k=0.3)(perfect(truth), truth).item() == pytest.approx(0, abs=1e-5)


def test_each_output_receives_a_gradient_in_all_its_rows():
    logits = outputs()
    TwoStageLoss()(logits, label()).backward()
    for name, values in logits.items():
        if name != "starts":
            assert values.grad is not None
            assert bool((values.grad.flatten(1).abs().sum(dim=1) > 0).all()), name
            assert bool(values.grad.isfinite().all()), name


def test_a_crop_without_lobes_and_borders_still_teaches():
    truth = torch.zeros(2, 1, *SCAN)
    truth[:, :, :, :, 12:] = 2
    logits = outputs(starts=torch.zeros(2, 2, 3, dtype=torch.int64))
    loss = TwoStageLoss()(logits, truth)
    loss.backward()
    assert torch.isfinite(loss)
    for name in ("stage2_lobes", "stage2_border"):
        assert logits[name].grad.abs().max() > 1e-6
    with torch.no_grad():
        right = {**logits, "stage2_border": torch.full_like(logits["stage2_border"], -60.0)}
        background = torch.full_like(logits["stage2_lobes"], -60.0)
        background[:, 0] = 60
        right["stage2_lobes"] = background
        assert TwoStageLoss()(right, truth) < loss - 1


def test_nothing_is_gained_by_calling_every_voxel_border():
    """The plain Dice of the border alone would be, by which a network that knows nothing yet saturates."""
    truth = label()
    ignorant = {
        **perfect(truth),
        **{name: torch.zeros_like(outputs()[name]) for name in ("stage1_border", "stage2_border")},
    }
    everywhere = {**ignorant, "stage1_border": torch.full_like(ignorant["stage1_border"], 3.0)}
    loss = TwoStageLoss()
    assert loss(everywhere, truth).item() == pytest.approx(loss(ignorant, truth).item(), abs=0.02)


def test_a_crop_knows_the_lobe_that_begins_beside_it():
    """The border between the last voxel of a crop and its neighbour outside is in the crop's target."""
    truth = torch.zeros(2, 1, *SCAN)
    truth[..., SIDE:] = 1
    starts = torch.zeros(2, 2, 3, dtype=torch.int64)
    logits = outputs(starts=starts)
    flat = torch.full((4, 1, SIDE, SIDE, SIDE), -60.0)
    aware = flat.clone()
    aware[..., -1] = 60
    loss = TwoStageLoss()
    difference = loss({**logits, "stage2_border": flat}, truth) - loss({**logits, "stage2_border": aware}, truth)
    w0, w1 = 1 / 192**2, 1 / 64**2  # in four crops of 64 voxels, a quarter of each is border
    assert difference.item() == pytest.approx(1 - 2 * w0 * 192 / (w0 * (192 + 256) + w1 * 64), abs=1e-5)


@pytest.mark.parametrize("share", [0.3, 1.0, 1e-9])
def test_the_top_k_term_is_the_mean_of_the_largest_cross_entropies_of_each_output(share):
    logits, truth = outputs(), label()
    expected = 0.0
    for name, target in targets(truth).items():
        values = logits[name].detach().double().movedim(1, -1).flatten(0, -2).numpy()
        if name.endswith("border"):
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        losses = np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(values)), target.ravel().astype(int)]
        expected += np.sort(losses)[::-1][: max(1, round(share * len(losses)))].mean()
    added = TwoStageLoss(top_k=share)(logits, truth) - TwoStageLoss()(logits, truth)
    assert added.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_chosen_voxels_are_propagated_back_by_the_top_k_term():
    logits, truth = outputs(), label()
    values = logits["stage2_lobes"]
    (with_top_k,) = torch.autograd.grad(TwoStageLoss(top_k=0.3)(logits, truth), values)
    (without,) = torch.autograd.grad(TwoStageLoss()(logits, truth), values)
    touched = ((with_top_k - without).abs().sum(dim=1) > 1e-7).sum().item()
    assert touched == round(0.3 * values[:, 0].numel())


def test_metatensors_whole_numbers_and_half_precision_give_the_same_loss():
    logits, truth = outputs(), label()
    expected = TwoStageLoss(top_k=0.3)(logits, truth)
    wrapped = {name: MetaTensor(values) for name, values in logits.items()}
    result = TwoStageLoss(top_k=0.3)(wrapped, MetaTensor(truth.to(torch.uint8)))
    assert not isinstance(result, MetaTensor)
    assert result.item() == pytest.approx(expected.item(), abs=1e-6)
    half = {name: values.bfloat16() if name != "starts" else values for name, values in logits.items()}
    assert TwoStageLoss(top_k=0.3)(half, truth).dtype == torch.float32
    assert TwoStageLoss(top_k=0.3)(half, truth).item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("stage1_border", torch.zeros(2, 1, 6, 8, 9), r"stage1_border has shape \(2, 1, 6, 8, 9\)"),
        ("stage1_lobes", torch.zeros(2, LOBES, 8, 10), r"stage1_lobes has shape \(2, 6, 8, 10\)"),
        (
            "stage2_lobes",
            torch.zeros(3, LOBES, SIDE, SIDE, SIDE),
            r"stage2_lobes has shape \(3, .* fit \(4, 6, 4, 4, 4\)",
        ),
        ("stage2_lobes", torch.zeros(4, 5, SIDE, SIDE, SIDE), r"stage2_lobes has shape \(4, 5, 4, 4, 4\)"),
        ("stage2_border", torch.zeros(4, 2, SIDE, SIDE, SIDE), r"stage2_border has shape \(4, 2, 4, 4, 4\)"),
        ("starts", STARTS[:1], r"starts has shape \(1, 2, 3\); give \[2, P, 3\]"),
        ("starts", STARTS + torch.tensor([0, 0, 1]), r"starts must be from 0 to \[8, 12, 16\]"),
        ("starts", STARTS - torch.tensor([0, 1, 0]), r"a crop reaches beyond the scan of size \(12, 16, 20\)"),
    ],
)
def test_outputs_that_do_not_belong_together_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        TwoStageLoss()({**outputs(), name: values}, label())


def test_a_wrong_label_a_wrong_share_and_unknown_weights_are_refused():
    with pytest.raises(ValueError, match=r"label has shape \(2, 12, 16, 20\); give \[B, 1, D, H, W\]"):
        TwoStageLoss()(outputs(), label()[:, 0])
    with pytest.raises(ValueError, match="label has values 0 to 6; the network has 0 to 5"):
        TwoStageLoss()(outputs(), label().index_fill(4, torch.tensor([3]), 6).index_fill(4, torch.tensor([4]), 0))
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"top_k must be from 0 to 1, got {share}"):
            TwoStageLoss(top_k=share)
    with pytest.raises(ValueError, match="squared"):
        TwoStageLoss(w_type="squared")
