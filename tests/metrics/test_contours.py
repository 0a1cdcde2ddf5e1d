"""V_Rand and V_Info by hand, and on real labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.metrics import adapted_rand_error

from medseg_monai.metrics import CONTOUR_METRICS, contour_scores, score_cells, thin_contours

DATA = Path(os.environ.get("MEDSEG_DATA", "../shared/data"))
LABELS = DATA / "cell_contour_em" / "isbi2012" / "train" / "label"
on_real_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="real data are absent: no isbi2012 below MEDSEG_DATA")


def cells_of(section: int) -> np.ndarray:
    with Image.open(LABELS / f"{section}.png") as file:
        return np.asarray(file) > 127


def test_a_merged_cell_has_the_scores_counted_by_hand():
    scores = score_cells(np.array([[1, 1, 0, 2, 2]]), np.array([[1, 1, 1, 1, 2]]))
    assert scores == pytest.approx((2 / 3, 0.75, 0.6, 0.34371), abs=1e-5)


def test_a_pixel_on_the_proposals_line_is_a_cell_of_its_own():
    """Of one cell of 4 pixels, 3 are found and one is a line: A = 1, B = AB = 9/16 + 1/16."""
    scores = score_cells(np.array([[1, 1, 1, 1]]), np.array([[5, 5, 5, 0]]))
    assert scores[:3] == pytest.approx((2 * 0.625 / 1.625, 0.625, 1.0))


def test_a_proposal_of_nothing_but_lines_has_as_many_cells_as_pixels():
    scores = score_cells(np.array([[1, 1, 2, 2]]), np.zeros((1, 4), int))
    assert scores[:3] == pytest.approx((2 * 0.25 / 0.75, 0.5, 1.0))
    split, merge = 1.0, 0.5  # H(A) = log 2, H(B) = H(A,B) = log 4
    assert scores.v_info == pytest.approx(2 * split * merge / (split + merge))


def test_what_lies_on_the_membranes_of_the_truth_does_not_count():
    truth = np.array([[1, 1, 0, 0, 2, 2]])
    assert score_cells(truth, np.array([[3, 3, 3, 8, 8, 8]])) == (1, 1, 1, 1)


def test_numbers_of_cells_may_be_any():
    truth, proposal = np.array([[1, 1, 0, 2, 2]]), np.array([[1, 1, 1, 1, 2]])
    assert score_cells(truth * 40, 100 - proposal) == pytest.approx(score_cells(truth, proposal))


def test_a_truth_without_cells_has_no_score():
    assert np.isnan(score_cells(np.zeros((2, 3), int), np.ones((2, 3), int))).all()
    scores = contour_scores(torch.rand(1, 4, 5), torch.zeros(1, 4, 5), CONTOUR_METRICS)
    assert np.isnan(list(scores.values())).all()


@pytest.mark.parametrize(
    ("truth", "proposal"), [([1, 1, 1], [1, 1, 1]), ([1, 1, 1], [1, 2, 2]), ([1, 2, 2], [1, 1, 1])]
)
def test_one_cell_alone_carries_no_information(truth, proposal):
    assert score_cells(np.array([truth]), np.array([proposal])).v_info == 0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\), the proposal \(1, 3\)"):
        score_cells(np.ones((1, 2), int), np.ones((1, 3), int))
    with pytest.raises(ValueError, match="both must be the same"):
        contour_scores(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2), CONTOUR_METRICS)


def test_cells_that_touch_at_a_corner_are_two_and_the_line_between_cells_has_one_pixel():
    found = thin_contours(np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=bool))
    assert found.max() == 3
    assert found[0, 0] != found[1, 1]
    assert (found == 0).sum() < 8


def test_the_best_threshold_is_chosen_for_each_section_of_a_stack():
    """The membrane is seen at thresholds from 0.2 in one section and only at 0.8 in the other."""
    cells = torch.ones(1, 2, 9, 12)
    cells[..., 5] = 0
    probability = torch.full_like(cells, 0.25)
    probability[:, 0, :, 5] = 0.15
    probability[:, 1] = 0.85
    probability[:, 1, :, 5] = 0.75
    assert contour_scores(probability, cells, ["v_rand"]) == {"v_rand": 1.0}
    probability[:, 1, :, 5] = 0.85  # never seen: of two cells of 45 and 54 pixels one is made
    truth = label(cells[0, 0].numpy(), connectivity=1)
    merged = score_cells(truth, np.ones_like(truth)).v_rand
    lines = score_cells(truth, np.zeros_like(truth)).v_rand
    assert contour_scores(probability, cells, ["v_rand"])["v_rand"] == pytest.approx((1 + max(merged, lines)) / 2)


@on_real_labels
def test_a_real_label_compared_with_itself_has_the_best_score():
    truth = torch.from_numpy(cells_of(3))[None]
    assert contour_scores(truth.float(), truth, CONTOUR_METRICS) == {"v_rand": 1.0, "v_info": 1.0}


@on_real_labels
def test_real_labels_with_broader_membranes_have_the_known_scores():
    """Where cells grow back from membranes six pixels broader, lines lie a little elsewhere."""
    scores = []
    for section in range(5):
        truth = cells_of(section)
        proposal = thin_contours(ndimage.binary_erosion(truth, iterations=3))
        scores.append(score_cells(label(truth, connectivity=1), proposal))
    assert np.mean([one.v_rand for one in scores]) == pytest.approx(0.99148, abs=5e-6)
    assert np.mean([one.v_info for one in scores]) == pytest.approx(0.99150, abs=5e-6)


@on_real_labels
def test_scikit_images_score_is_near_but_takes_the_lines_for_one_cell():
    truth = label(cells_of(4), connectivity=1)
    proposal = thin_contours(ndimage.binary_erosion(cells_of(4), iterations=3))
    assert score_cells(truth, proposal).v_rand == pytest.approx(0.9921866, abs=5e-8)
    assert 1 - adapted_rand_error(truth, proposal)[0] == pytest.approx(0.9921116, abs=5e-8)
