"""Drawing primitives that the phantoms share: band-limited noise and anti-aliased tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

__all__ = ["Tubes", "draw_tubes", "smooth_noise"]

FloatArray = npt.NDArray[np.float32]

# Variance of a 1D uniform cubic B-spline with white coefficients, averaged over a knot interval: 151/315. In 2D the
# variances multiply, so the standard deviation of the field equals this number.
_BSPLINE_2D_STD = 151 / 315


def _spline_basis(length: int, cell: float) -> FloatArray:
    intervals = int(np.ceil(length / cell))
    knots = np.arange(-3, intervals + 4, dtype=np.float64)
    basis = BSpline.design_matrix((np.arange(length) + 0.5) / cell, knots, 3)
    return np.asarray(basis.toarray(), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, *, size: tuple[int, int], cell: float) -> FloatArray:
    """Draw a smooth Gaussian random field with zero mean and unit variance.

    The field is a uniform cubic B-spline surface with white coefficients, so it costs two small matrix products at any
    scale.

    Args:
        rng: source of randomness.
        size: rows and columns ``(H, W)`` in pixels.
        cell: distance between the knots in pixels; structures are about twice as large.

    Returns:
        float32 ``[H, W]``.

    Raises:
        ValueError: if ``cell`` is not positive.
    """
    if cell <= 0:
        raise ValueError(f"cell must be positive, got {cell}: give the scale of the noise in pixels.")
    rows, columns = _spline_basis(size[0], cell), _spline_basis(size[1], cell)
    coefficients = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    field = rows @ coefficients @ columns.T / np.float32(_BSPLINE_2D_STD)
    return np.asarray(field, dtype=np.float32)


@dataclass(frozen=True)
class Tubes:
    """The maps that :func:`draw_tubes` returns; each is float32 ``[H, W]``.

    Attributes:
        coverage: share of the pixel that the tubes cover, 0 to 1; at least 0.5 is inside.
        chord: length of the line of sight inside the thickest tube at the pixel, in pixels.
        axis: 1 on the centre line of a tube, falling to 0 at 0.7 of its radius.
    """

    coverage: FloatArray
    chord: FloatArray
    axis: FloatArray


def draw_tubes(points: npt.NDArray[np.floating], radii: npt.NDArray[np.floating], *, size: tuple[int, int]) -> Tubes:
    """Draw the union of discs around points; if the points lie densely, this is the projection of transparent tubes.

    Args:
        points: ``[N, 2]``, row and column of each point in pixels; points outside the canvas are left out.
        radii: ``[N]``, radius of each point in pixels.
        size: rows and columns ``(H, W)`` of the canvas.

    Returns:
        The maps of :class:`Tubes`; where tubes cross, the larger value of each.
    """
    reach = np.ceil(radii + 0.5).astype(np.int64)
    largest = int(reach.max(initial=0))
    # A point may lie outside the canvas by the largest radius, and its patch extends by the same length again.
    margin = 2 * largest + 1
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    canvas = np.zeros((3, height * width), dtype=np.float32)
    nearest = np.rint(points)
    near = ((nearest >= -largest) & (nearest < np.array(size) + largest)).all(axis=1)
    for half in np.unique(reach[near]):
        chosen = near & (reach == half)
        _stamp(canvas, points[chosen], radii[chosen], half=int(half), margin=margin, width=width)
    maps = canvas.reshape(3, height, width)[:, margin:-margin, margin:-margin]
    return Tubes(coverage=maps[0], chord=maps[1], axis=maps[2])


def _stamp(
    canvas: FloatArray,
    points: npt.NDArray[np.floating],
    radii: npt.NDArray[np.floating],
    *,
    half: int,
    margin: int,
    width: int,
) -> None:
    # All points whose patch has the same size are drawn at once.
    offsets = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    cells = np.rint(points).astype(np.int64)[:, None] + offsets
    distance = np.hypot(*np.moveaxis(cells - points[:, None], -1, 0)).astype(np.float32)
    radius = radii[:, None].astype(np.float32)
    coverage = np.clip(radius + 0.5 - distance, 0, 1)
    hit = coverage > 0
    index = ((cells[..., 0] + margin) * width + cells[..., 1] + margin)[hit]
    # A pixel on the edge still sees part of the tube, so its chord must not vanish.
    chord = 2 * np.sqrt(np.maximum(radius**2 - distance**2, (0.3 * radius) ** 2)) * coverage
    axis = np.clip(1 - (distance / (0.7 * radius)) ** 2, 0, 1)
    for layer, values in zip(canvas, (coverage, chord, axis), strict=True):
        np.maximum.at(layer, index, values[hit])
