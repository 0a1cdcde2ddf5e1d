"""Hard-example mining: which patches may be drawn, where they lie, and that a seed repeats them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from medseg_monai.networks.blocks.hard_patches import hard_patches, squared_error
from medseg_monai.networks.blocks.valid_windows import tile_starts

SCAN = (12, 20, 27)
SIZE = 8


def errors(*, batch: int = 2, seed: int = 4) -> torch.Tensor:
    return torch.rand(batch, *SCAN, generator=torch.Generator().manual_seed(seed)) ** 4


def ranked(error: torch.Tensor) -> list[tuple[int, ...]]:
    """All patches of one scan, the one with the largest sum of the error first."""
    corners = itertools.product(*(tile_starts(0, edge, SIZE) for edge in SCAN))

    def integral(corner: tuple[int, ...]) -> float:
        box = tuple(slice(first, first + SIZE) for first in corner)
        return error[box].double().sum().item()

    return sorted(corners, key=integral, reverse=True)


def drawn(error: torch.Tensor, *, coverage: float, times: int = 250) -> list[set[tuple[int, ...]]]:
    """Every patch that is drawn in many rounds, for each scan."""
    rounds = [hard_patches(error, SIZE, coverage=coverage, count=2) for _ in range(times)]
    return [{tuple(start) for starts in rounds for start in starts[scan].tolist()} for scan in range(len(error))]


def test_the_squared_error_is_the_mean_over_the_one_hot_classes():
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.softmax(torch.randn(2, 6, 3, 4, 5, generator=generator), dim=1)
    label = torch.randint(0, 6, (2, 1, 3, 4, 5), generator=generator)
    one_hot = torch.cat([label == k for k in range(6)], dim=1).float()
    torch.testing.assert_close(squared_error(probabilities, label.float()), (probabilities - one_hot).square().mean(1))


def test_a_perfect_prediction_has_no_error_and_a_sure_mistake_the_largest():
    label = torch.tensor([[[[[0.0, 1.0, 1.0]]]]])
    probabilities = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).reshape(1, 2, 1, 1, 3)
    assert squared_error(probabilities, label).flatten().tolist() == [0.0, 0.0, 1.0]


def test_with_the_smallest_coverage_the_patch_with_the_largest_error_is_taken():
    error = errors()
    starts = hard_patches(error, SIZE, coverage=1e-6, count=1)
    assert starts.shape == (2, 1, 3)
    assert starts.dtype == torch.int64
    assert [tuple(start) for start in starts[:, 0].tolist()] == [ranked(scan)[0] for scan in error]
    assert ranked(error[0])[0] != ranked(error[1])[0]


@pytest.mark.parametrize("coverage", [0.2, 0.5, 1.0])
def test_the_hardest_fraction_is_drawn_from_and_all_of_it(coverage):
    error = errors()
    torch.manual_seed(0)
    for scan, seen in zip(error, drawn(error, coverage=coverage), strict=True):
        candidates = ranked(scan)
        assert seen == set(candidates[: math.ceil(coverage * len(candidates))])


def test_an_error_at_the_very_end_of_the_scan_is_found():
    error = torch.zeros(1, *SCAN)
    error[0, -1, -1, -1] = 1
    assert hard_patches(error, SIZE, coverage=1e-6, count=1).tolist() == [[[4, 12, 19]]]


def test_every_patch_lies_inside_the_scan():
    torch.manual_seed(0)
    starts = torch.cat([hard_patches(errors(), SIZE, coverage=1.0, count=9) for _ in range(20)])
    assert starts.min() >= 0
    assert (starts.amax(dim=(0, 1)) + SIZE).tolist() == list(SCAN)


def test_patches_repeat_only_if_fewer_are_left():
    torch.manual_seed(0)
    for _ in range(20):
        starts = hard_patches(errors(batch=1), SIZE, coverage=0.25, count=6)[0].tolist()
        assert len({tuple(start) for start in starts}) == 6
    starts = hard_patches(errors(batch=1), SIZE, coverage=1e-6, count=3)[0].tolist()
    assert starts[0] == starts[1] == starts[2]


def test_a_seed_repeats_the_draw():
    torch.manual_seed(3)
    first = hard_patches(errors(), SIZE, coverage=1.0, count=4)
    second = hard_patches(errors(), SIZE, coverage=1.0, count=4)
    torch.manual_seed(3)
    assert torch.equal(hard_patches(errors(), SIZE, coverage=1.0, count=4), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.01])
def test_a_coverage_that_is_no_fraction_is_refused(coverage):
    with pytest.raises(ValueError, match=f"coverage must be a fraction above 0 and at most 1, got {coverage}"):
        hard_patches(errors(), SIZE, coverage=coverage, count=1)


def test_a_scan_that_is_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"\(12, 20, 27\) voxels has no patch with an edge of 13"):
        hard_patches(errors(), 13, coverage=1.0, count=1)
