"""Shared by the volume phantoms: a grid in anatomical millimetres, smooth noise, ellipsoids, trees of tubes, grain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import BSpline

__all__ = [
    "FloatArray",
    "Grid",
    "Points",
    "Random",
    "Tree",
    "branch",
    "check_volume",
    "draw_spheres",
    "draw_tree",
    "ellipsoid",
    "grain",
    "place_grid",
]

_NOISE_REACH = 260.0  # mm; noise is constant outside

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Grid:
    """The voxels of a phantom in anatomical millimetres: those of a body of fixed size, whatever the spacing.

    Attributes:
        axes: centres of the voxels along z, y and x.
        voxel: ``[3]``, edge lengths along z, y and x.
    """

    axes: tuple[FloatArray, FloatArray, FloatArray]
    voxel: Points

    @property
    def blur(self) -> float:
        """Return the edge of a cube with a voxel's volume: the width of an edge in the image."""
        return float(np.prod(self.voxel) ** (1 / 3))

    def open(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the coordinates z, y, x, shaped to broadcast to ``[D, H, W]``."""
        z, y, x = self.axes
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def to_voxels(self, points: Points) -> Points:
        """Anatomical points ``[N, 3]`` to indices ``[N, 3]``."""
        return np.asarray((points - [axis[0] for axis in self.axes]) / self.voxel)

    def to_points(self, indices: npt.NDArray[np.integer]) -> Points:
        """Indices ``[N, 3]`` to anatomical points ``[N, 3]``."""
        return np.asarray(indices * self.voxel + [axis[0] for axis in self.axes])

    def coverage(self, depth: npt.NDArray[np.floating]) -> FloatArray:
        """Share of each voxel inside a surface, from the depth inside it in mm."""
        return np.asarray(np.clip(depth / np.float32(self.blur) + np.float32(0.5), 0, 1), dtype=np.float32)

    def noise(self, rng: Random, *, cell: float) -> FloatArray:
        """Draw a smooth Gaussian field ``[D, H, W]`` with zero mean and unit variance, the same field on any grid.

        It is a tensor product of uniform cubic B-splines with white coefficients, which are ``cell`` mm apart.
        """
        intervals = int(np.ceil(2 * _NOISE_REACH / cell))
        knots = np.arange(-3, intervals + 4, dtype=np.float64)
        field = rng.standard_normal((intervals + 3,) * 3, dtype=np.float32)
        for axis in self.axes:
            at = (np.clip(axis, -_NOISE_REACH, _NOISE_REACH) + _NOISE_REACH) / cell
            basis = BSpline.design_matrix(at.astype(np.float64), knots, 3).toarray().astype(np.float32)
            field = np.tensordot(field, basis, axes=(0, 1))
        # 151/315 is the mean variance of a one-dimensional uniform cubic B-spline with white coefficients.
        return np.asarray(field / np.float32((151 / 315) ** 1.5), dtype=np.float32)


@dataclass(frozen=True)
class Tree:
    """A tree of tubes, with one row per segment.

    Attributes:
        head: ``[N, 3]``, where the segments begin, mm along z, y and x.
        tail: ``[N, 3]``, where the segments end.
        radius: ``[N]``, mm.
    """

    head: Points
    tail: Points
    radius: Points


def check_volume(
    *, name: str, size: tuple[int, ...], smallest: tuple[int, int, int], spacing: tuple[float, ...] | None, noise: float
) -> None:
    """Refuse a volume that cannot be drawn.

    Args:
        name: name of the phantom for the message.
        size: voxels along z, y and x.
        smallest: smallest number of voxels along z, y and x.
        spacing: mm along z, y and x, or ``None``.
        noise: standard deviation.

    Raises:
        ValueError: for another number of axes, a size below the smallest, a spacing that is not positive, or negative
            noise.
    """
    if len(size) != 3 or any(length < least for length, least in zip(size, smallest, strict=True)):
        raise ValueError(f"size={size} is not valid for {name}: give D, H and W of at least {_by(smallest)}.")
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise ValueError(f"spacing={spacing} is not valid: give three positive lengths in mm, z, y and x.")
    if noise < 0:
        raise ValueError(f"noise={noise} is negative: give a standard deviation, or 0.")


def _by(size: tuple[int, ...]) -> str:
    return str(size[0]) if len(set(size)) == 1 else " x ".join(map(str, size))


def place_grid(
    rng: Random,
    *,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float] | None,
    anatomy: tuple[float, float, float],
) -> Grid:
    """Lay a grid over an anatomy; the grid is a little larger or smaller than the anatomy and off its centre.

    Args:
        rng: source of randomness.
        size: voxels along z, y and x.
        spacing: mm along z, y and x; only the ratio of y to x matters. By default the grid fits the anatomy.
        anatomy: field of view that shows the anatomy in its own proportions, mm along z, y and x.

    Returns:
        The grid.
    """
    view = np.array(anatomy) * rng.uniform(0.94, 1.06, 3)
    voxel = view / size
    if spacing is not None:
        # z is scaled independently; a field deeper than the body keeps the body's proportions
        voxel[1] = max(voxel[1], voxel[2] * spacing[1] / spacing[2])
    centre = rng.normal(0, 2.5, 3)
    axes = [(np.arange(n) - (n - 1) / 2) * edge + at for n, edge, at in zip(size, voxel, centre, strict=True)]
    z, y, x = (axis.astype(np.float32) for axis in axes)
    return Grid(axes=(z, y, x), voxel=voxel)


def ellipsoid(axes: Sequence[FloatArray], *, centre: Sequence[float], radii: Sequence[float]) -> FloatArray:
    """Depth inside an ellipsoid in mm, negative outside.

    Args:
        axes: coordinates z, y and x that broadcast to ``[D, H, W]``.
        centre: centre along z, y and x, as Python numbers, which keep arrays in single precision.
        radii: radii along z, y and x.
    """
    scaled = [(axis - at) / radius for axis, at, radius in zip(axes, centre, radii, strict=True)]
    distance = np.sqrt(scaled[0] * scaled[0] + scaled[1] * scaled[1] + scaled[2] * scaled[2])
    return np.asarray((1 - distance) * (sum(radii) / 3))


def branch(rng: Random, root: Points, leaves: Points, *, scale: float) -> Tree:
    """Grow a tree from a root to its leaves by halving them along their longest direction.

    A segment's radius is ``scale * leaves ** (1 / 2.7)``, close to Murray's law.
    """
    head, tail, radius = [], [], []
    waiting = [(root, leaves)]
    while waiting:
        start, group = waiting.pop()
        centre = group.mean(axis=0)
        end = group[0] if len(group) == 1 else start + (centre - start) * rng.uniform(0.4, 0.6)
        end = end + (0 if len(group) == 1 else 1.0) * rng.normal(0, 2.0, 3)
        head.append(start)
        tail.append(end)
        radius.append(scale * len(group) ** (1 / 2.7))
        if len(group) > 1:
            along = np.linalg.svd(group - centre, full_matrices=False)[2][0]
            order = np.argsort((group - centre) @ along)
            cut = int(np.clip(round(len(group) * rng.uniform(0.35, 0.65)), 1, len(group) - 1))
            waiting += [(end, group[order[:cut]]), (end, group[order[cut:]])]
    return Tree(head=np.stack(head), tail=np.stack(tail), radius=np.array(radius))


def draw_tree(grid: Grid, tree: Tree, widen: float) -> FloatArray:
    """Share of each voxel ``[D, H, W]`` inside a tree whose radii are multiplied by ``widen``."""
    if len(tree.radius) == 0:
        return np.zeros([len(axis) for axis in grid.axes], dtype=np.float32)
    length = np.linalg.norm(tree.tail - tree.head, axis=1)
    step = np.maximum(0.6 * grid.voxel.min(), 0.5 * tree.radius)
    pieces = np.ceil(length / step).astype(np.int64) + 1
    segment = np.repeat(np.arange(len(pieces)), pieces)
    first = np.cumsum(pieces) - pieces
    share = ((np.arange(len(segment)) - first[segment]) / np.maximum(pieces[segment] - 1, 1))[:, None]
    points = tree.head[segment] + share * (tree.tail - tree.head)[segment]
    return draw_spheres(grid, points, widen * tree.radius[segment])


def draw_spheres(grid: Grid, points: Points, radii: Points) -> FloatArray:
    """Share of each voxel that spheres around points cover; spheres thinner than a voxel are faint."""
    shape = np.array([len(axis) for axis in grid.axes])
    at = grid.to_voxels(points)
    reach = np.ceil((radii[:, None] + grid.blur / 2) / grid.voxel).astype(np.int64)
    canvas = np.zeros(int(shape.prod()), dtype=np.float32)
    for half in np.unique(reach, axis=0):
        chosen = (reach == half).all(axis=1)
        spans = [np.arange(-n, n + 1) for n in half]
        offsets = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
        cells = np.rint(at[chosen]).astype(np.int64)[:, None] + offsets
        distance = np.linalg.norm((cells - at[chosen][:, None]) * grid.voxel, axis=-1)
        radius = radii[chosen][:, None]
        share = np.clip((radius - distance) / grid.blur + 0.5, 0, 1) * np.minimum(1, 2 * radius / grid.blur)
        hit = (share > 0) & ((cells >= 0) & (cells < shape)).all(axis=-1)
        index = np.ravel_multi_index(tuple(np.moveaxis(cells[hit], -1, 0)), tuple(shape))
        np.maximum.at(canvas, index, share[hit].astype(np.float32))
    return canvas.reshape(tuple(shape))


def grain(rng: Random, size: tuple[int, int, int]) -> FloatArray:
    """Noise of unit variance that is slightly smooth in plane, as after a reconstruction kernel."""
    white = rng.standard_normal(size, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, (0, 0.6, 0.6))
    return np.asarray(smooth / smooth.std(), dtype=np.float32)
