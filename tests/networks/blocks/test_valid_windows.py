"""Windows of valid convolutions: legal sizes, tiles that cover a range, crops over the border."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medseg_monai.networks.blocks.valid_windows import (
    MARGIN,
    SMALLEST_OUTPUT,
    check_window,
    crop_zero_padded,
    legal_output,
    tile_starts,
)

LEGAL = range(SMALLEST_OUTPUT, 400, 8)


def test_every_window_of_a_legal_output_is_legal():
    for output in LEGAL:
        check_window(output + 2 * MARGIN)


@pytest.mark.parametrize(
    ("window", "remedy"), [(93, "92 or 100"), (99, "92 or 100"), (101, "100 or 108"), (128, "124 or 132"), (136, "132")]
)
def test_an_illegal_window_is_refused_with_its_neighbours(window, remedy):
    with pytest.raises(ValueError, match=f"A window of {window} voxels does not fit .* take {remedy}") as error:
        check_window(window)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("window", [84, 12, 0, -4])
def test_a_window_that_leaves_no_output_is_refused_with_the_smallest(window):
    with pytest.raises(ValueError, match="92"):
        check_window(window)


@pytest.mark.parametrize("extent", range(1, 60))
def test_the_smallest_legal_output_that_covers_is_chosen(extent):
    assert legal_output(extent) == next(output for output in LEGAL if output >= extent)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("output", [4, 12, 20])
@pytest.mark.parametrize("extent", [1, 4, 5, 12, 13, 24, 25, 39])
def test_tiles_cover_a_range_none_is_beyond_it_and_none_is_needless(start, output, extent):
    starts = tile_starts(start, start + extent, output)
    covered = {place for first in starts for place in range(first, first + output)}
    assert covered >= set(range(start, start + extent))
    assert len(starts) == -(-extent // output)
    assert starts == sorted(set(starts))
    assert starts[0] == start
    if extent >= output:
        assert starts[-1] + output == start + extent


def test_only_the_last_tile_is_shifted_back():
    assert tile_starts(3, 30, 12) == [3, 15, 18]


@pytest.mark.parametrize(
    "start", [(0, 0, 0), (1, 2, 3), (-2, -3, -4), (2, 4, 5), (-9, 1, 1), (1, 6, 1), (1, -4, 20), (-3, 4, -30)]
)
@pytest.mark.parametrize("size", [(2, 3, 1), (4, 6, 8), (9, 3, 12)])
def test_a_crop_is_a_slice_of_the_padded_volume(start, size):
    x = torch.arange(1.0, 2 * 2 * 5 * 6 * 7 + 1).reshape(2, 2, 5, 6, 7)
    far = 40
    padded = functional.pad(x, [far] * 6)
    box = tuple(slice(far + first, far + first + edge) for first, edge in zip(start, size, strict=True))
    assert torch.equal(crop_zero_padded(x, list(start), list(size)), padded[(..., *box)])
