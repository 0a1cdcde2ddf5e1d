"""V_Rand and V_Info: how well contours separate cells, whatever the width of the contours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from skimage.measure import label as label_components
from skimage.segmentation import watershed

__all__ = ["CONTOUR_METRICS", "CellScores", "contour_scores", "score_cells", "thin_contours"]

CONTOUR_METRICS = ("v_rand", "v_info")
"""Metrics of contours, which need the probability of "cell" and not only the mask."""

_THRESHOLDS = tuple(step / 10 for step in range(11))

Labels = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.float64]


class CellScores(NamedTuple):
    """How well the cells of a proposal are those of the truth; 1 is best, 0 worst.

    Attributes:
        v_rand: foreground-restricted Rand score, the harmonic mean of the next two.
        rand_split: 1 if no cell of the truth is split.
        rand_merge: 1 if no cells of the truth are merged.
        v_info: foreground-restricted information theoretic score.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.metrics import score_cells
        >>> score_cells(np.array([1, 1, 2, 2]), np.array([1, 1, 2, 2]))
        CellScores(v_rand=1.0, rand_split=1.0, rand_merge=1.0, v_info=1.0)
    """

    v_rand: float
    rand_split: float
    rand_merge: float
    v_info: float


def score_cells(truth: Labels, proposal: Labels) -> CellScores:
    """Compare two divisions of an image into cells.

    Only the ``n`` pixels inside the cells of the truth count. With ``p_ij`` the share of them in cell ``i`` of the
    truth and cell ``j`` of the proposal, ``a_i`` and ``b_j`` its sums, and ``z`` the share of pixels on the proposal's
    lines, of which each is a cell of its own::

        A = sum a_i^2, B = sum b_j^2 + z/n, AB = sum p_ij^2 + z/n
        V_Rand = 2 AB / (A + B), its split score AB / A, its merge score AB / B

        H(A) = -sum a log a, H(B) = -sum b log b + z log n, H(A,B) = -sum p log p + z log n
        I = H(A) + H(B) - H(A,B), P = I / H(A), R = I / H(B), V_Info = 2 P R / (P + R)

    As Fiji has it, V_Info is 0 where the truth or the proposal has one cell alone.

    Args:
        truth: number of the cell at each pixel, any shape; 0 is the membrane.
        proposal: the same of the proposal; 0 is a line between cells.

    Returns:
        the scores, ``nan`` if the truth has no cell.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.metrics import score_cells
        >>> scores = score_cells(np.array([1, 1, 0, 2, 2]), np.array([1, 1, 1, 1, 2]))
        >>> [round(score, 5) for score in scores]
        [0.66667, 0.75, 0.6, 0.34371]

    Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
    Frontiers in Neuroanatomy 9, 2015, with both weights 1/2.
    """
    if truth.shape != proposal.shape:
        raise ValueError(f"The truth has shape {truth.shape}, the proposal {proposal.shape}: both must be the same.")
    inside = truth > 0
    n = int(inside.sum())
    if n == 0:
        return CellScores(*[float("nan")] * 4)
    pairs, counts = np.unique(np.stack([truth[inside], proposal[inside]]), axis=1, return_counts=True)
    is_line = pairs[1] == 0
    a, b = (_totals(cells, counts) / n for cells in (pairs[0], np.where(is_line, -1, pairs[1])))
    p, z = counts[~is_line] / n, float(counts[is_line].sum() / n)
    squares = [float((shares**2).sum()) for shares in (a, b, p)]
    of_truth, of_proposal, of_both = squares[0], squares[1] + z / n, squares[2] + z / n
    v_rand = 2 * of_both / (of_truth + of_proposal)
    lines = z * float(np.log(n))
    v_info = _v_info(_entropy(a), _entropy(b) + lines, _entropy(p) + lines)
    return CellScores(v_rand, of_both / of_truth, of_both / of_proposal, v_info)


def _totals(cells: Labels, counts: Labels) -> Labels:
    """Pixels of each cell; the number -1 stands for none."""
    _, index = np.unique(cells, return_inverse=True)
    totals: Labels = np.bincount(index.ravel(), counts).astype(np.int64)
    return totals[1:] if cells.min() < 0 else totals


def _entropy(shares: FloatArray) -> float:
    return float(-(shares * np.log(shares)).sum())


def _v_info(h_truth: float, h_proposal: float, h_both: float) -> float:
    information = h_truth + h_proposal - h_both
    if information <= 0 or min(h_truth, h_proposal) <= 0:
        return 0.0
    split, merge = information / h_truth, information / h_proposal
    return 2 * split * merge / (split + merge)


def thin_contours(cells: npt.NDArray[np.bool_]) -> Labels:
    """Number the cells of a mask, and let them grow until lines of one pixel are left between them.

    Cells are 4-connected; they grow by a watershed over the membranes. How broad the membranes are drawn then has
    little effect on a score.

    Args:
        cells: ``[H, W]``, true inside cells.

    Returns:
        number of the cell at each pixel, 0 on the lines; 0 everywhere if there is no cell.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.metrics import thin_contours
        >>> thin_contours(np.array([[1, 1, 0, 0, 0, 1]] * 2, dtype=bool)).tolist()
        [[1, 1, 1, 0, 2, 2], [1, 1, 1, 0, 2, 2]]
    """
    markers = label_components(cells, connectivity=1)
    if not markers.any():
        return np.zeros(cells.shape, dtype=np.int64)
    flat = np.zeros(cells.shape, dtype=np.uint8)
    grown: Labels = watershed(flat, markers, connectivity=1, watershed_line=True)
    return grown


def contour_scores(probability: torch.Tensor, cells: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    """Score a map of probabilities as the ISBI 2012 challenge does.

    Each section gets the best of the thresholds 0, 0.1 ... 1, each score its own; a stack gets the mean of its
    sections. Sections whose truth has no cell are left out.

    Args:
        probability: probability of "cell" ``[1, H, W]``, or of a stack ``[1, pages, H, W]``.
        cells: the truth of the same shape, 1 inside cells and 0 on membranes.
        names: names from :data:`CONTOUR_METRICS`.

    Returns:
        the scores by their names, ``nan`` if no section has a cell in its truth.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from medseg_monai.metrics import contour_scores
        >>> cells = torch.ones(1, 8, 9)
        >>> cells[:, :, 4] = 0
        >>> contour_scores(0.3 * cells, cells, ["v_rand", "v_info"])
        {'v_rand': 1.0, 'v_info': 1.0}

    Source: Arganda-Carreras et al., see :func:`score_cells`. For V_Info the challenge's evaluation takes the mean of
    the sections; for V_Rand it is taken here too.
    """
    if probability.shape != cells.shape:
        raise ValueError(
            f"A probability of shape {tuple(probability.shape)} has a label of shape {tuple(cells.shape)}: "
            "both must be the same."
        )
    pairs = zip(_sections(probability), _sections(cells), strict=True)
    found = [best for section, truth in pairs if (best := _best(section, truth > 0)) is not None]
    if not found:
        return dict.fromkeys(names, float("nan"))
    return {name: float(np.mean([best[name] for best in found])) for name in names}


def _sections(images: torch.Tensor) -> Iterator[npt.NDArray[np.float32]]:
    yield from images.reshape(-1, *images.shape[-2:]).float().cpu().numpy()


def _best(probability: npt.NDArray[np.float32], cells: npt.NDArray[np.bool_]) -> dict[str, float] | None:
    """The best scores of a section over the thresholds; ``None`` if its truth has no cell."""
    if not cells.any():
        return None
    truth = label_components(cells, connectivity=1)
    proposals = (thin_contours(np.asarray(probability > threshold)) for threshold in _THRESHOLDS)
    scores = [score_cells(truth, proposal)._asdict() for proposal in proposals]
    return {name: max(one[name] for one in scores) for name in CONTOUR_METRICS}
