"""Procedural sections of nervous tissue in electron microscopy, with exact masks of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from .drawing import smooth_noise

__all__ = ["NeuropilPhantom", "draw_neuropil"]

_SMALLEST_SIDE = 64
_CELL = 26.0  # pixels between neighbouring cells, on average
_MEMBRANE = 1.6  # half of its width in pixels
_DRIFT = 1.3  # pixels that a cell moves from one section to the next

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NeuropilPhantom:
    """Consecutive sections of one block.

    Attributes:
        images: uint8 ``[sections, H, W]``; membranes are dark.
        cells: bool ``[sections, H, W]``, true inside cells and false on membranes.

    Example:
        >>> from medseg_monai.phantoms import draw_neuropil
        >>> phantom = draw_neuropil(sections=2, size=(64, 80), seed=0)
        >>> images, cells = phantom.images.astype(float), phantom.cells
        >>> bool(images[cells].mean() > images[~cells].mean() + 40)
        True
    """

    images: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Organelles:
    """Ellipses in cells: mitochondria, which have dark outlines and cristae, and small vesicles."""

    places: FloatArray  # [N, 2], offset from the centre of the cell
    axes: FloatArray  # [N, 2], half axes in pixels
    angles: FloatArray
    owners: npt.NDArray[np.intp]


def draw_neuropil(*, sections: int, size: tuple[int, int], seed: int | Sequence[int]) -> NeuropilPhantom:
    """Draw sections of one block, so alike as neighbours are: each cell drifts a little from one section to the next.

    Cells of different sizes fill the section, with dark membranes between them whose contrast fades where a membrane is
    cut obliquely. Inside are mitochondria, whose outlines are as dark as membranes and are none, and vesicles. Over all
    lie the unevenness of the stain and the noise of the detector.

    Args:
        sections: number of sections, at least 1.
        size: rows and columns ``(H, W)``, each at least 64.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``).

    Returns:
        the sections and their masks.

    Raises:
        ValueError: if a side is shorter than 64 pixels, or there is no section.

    Example:
        >>> from medseg_monai.phantoms import draw_neuropil
        >>> phantom = draw_neuropil(sections=3, size=(64, 80), seed=0)
        >>> phantom.images.shape
        (3, 64, 80)
        >>> alike = [(phantom.cells[0] == phantom.cells[section]).mean() for section in (1, 2)]
        >>> bool(alike[0] > alike[1])  # the next section is more alike than the one after
        True
    """
    if min(size) < _SMALLEST_SIDE:
        raise ValueError(f"size={size} is too small for cells: give rows and columns of at least {_SMALLEST_SIDE}.")
    if sections < 1:
        raise ValueError(f"sections={sections} asks for no section: give at least 1.")
    placing, filling, bending, painting = np.random.default_rng(seed).spawn(4)
    centres, weights, courses = _place_cells(placing, size)
    organelles = _fill_cells(filling, weights)
    bend = np.stack([3.0 * smooth_noise(bending, size=size, cell=14.0) for _ in range(2)])
    drawn = [
        _draw_section(painting, centres + section * courses, weights, organelles, bend) for section in range(sections)
    ]
    images, cells = zip(*drawn, strict=True)
    return NeuropilPhantom(np.stack(images), np.stack(cells))


def _place_cells(rng: np.random.Generator, size: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centres ``[N, 2]`` on a shaken grid that reaches beyond the section, sizes ``[N]``, and courses ``[N, 2]``."""
    rows, columns = (np.arange(-2 * _CELL, side + 2 * _CELL, _CELL) for side in size)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = grid + rng.uniform(-0.45, 0.45, grid.shape) * _CELL
    kept = rng.random(len(grid)) < 0.8  # larger cells where one is missing
    common = rng.normal(0, 0.5, 2)  # the whole block drifts, and each cell on its own
    courses = _DRIFT * (common + rng.normal(0, 0.7, grid.shape))
    return centres[kept], rng.uniform(0, 0.35, kept.sum()) * _CELL, courses[kept]


def _fill_cells(rng: np.random.Generator, weights: FloatArray) -> _Organelles:
    owners = np.flatnonzero(rng.random(len(weights)) < 0.45)
    vesicles = rng.integers(0, len(weights), 2 * len(weights))
    long = rng.uniform(0.14, 0.26, len(owners)) * _CELL
    return _Organelles(
        places=np.concatenate(
            [rng.normal(0, 0.06, (len(owners), 2)) * _CELL, rng.normal(0, 0.16, (len(vesicles), 2)) * _CELL]
        ),
        axes=np.concatenate([np.stack([long, 0.65 * long], axis=1), np.full((len(vesicles), 2), 1.5)]),
        angles=rng.uniform(0, np.pi, len(owners) + len(vesicles)),
        owners=np.concatenate([owners, vesicles]),
    )


def _draw_section(
    rng: np.random.Generator, centres: FloatArray, weights: FloatArray, organelles: _Organelles, bend: FloatArray
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    size = bend.shape[1:]
    grid = np.moveaxis(np.indices(size), 0, -1) + np.moveaxis(bend, 0, -1)
    depth = _distance_to_membrane(grid, centres, weights)
    cells = depth > _MEMBRANE
    fade = 0.75 + 0.25 * np.tanh(smooth_noise(rng, size=size, cell=9.0))  # membranes that are cut obliquely
    image = 175 + 14 * smooth_noise(rng, size=size, cell=4.0) - 110 * fade * np.exp(-((depth / 1.9) ** 2))
    image = np.minimum(image, _organelle_brightness(grid, centres, organelles, image))
    image += 12 * smooth_noise(rng, size=size, cell=60.0)
    image = ndimage.gaussian_filter(image, 0.6) + rng.normal(0, 9, size)
    return np.rint(image.clip(0, 255)).astype(np.uint8), cells


def _distance_to_membrane(grid: FloatArray, centres: FloatArray, weights: FloatArray) -> FloatArray:
    """About the distance in pixels ``[H, W]`` to where two cells meet; a cell with a larger weight is larger."""
    distances, owners = cKDTree(centres).query(grid, k=6)
    reach = np.sort(distances - weights[owners], axis=-1)
    return np.asarray((reach[..., 1] - reach[..., 0]) / 2)


def _organelle_brightness(
    grid: FloatArray, centres: FloatArray, organelles: _Organelles, image: FloatArray
) -> FloatArray:
    """The brightness that organelles leave; where there are none, that of the image."""
    found = image.copy()
    for place, axes, angle, owner in zip(
        organelles.places, organelles.axes, organelles.angles, organelles.owners, strict=True
    ):
        middle, reach = centres[owner] + place, float(axes.max()) + 6
        rows, columns = (slice(max(0, int(at - reach)), max(0, int(at + reach) + 1)) for at in middle)
        offset = grid[rows, columns] - middle
        if not offset.size:
            continue
        along = offset @ (np.cos(angle), np.sin(angle))
        across = offset @ (-np.sin(angle), np.cos(angle))
        radius = np.hypot(along / axes[0], across / axes[1])
        cristae = 12 * np.sin(2 * np.pi * along / 3.5) * (radius < 0.8)
        outline = 45 * np.exp(-(((radius - 1) * axes.min() / 1.2) ** 2))
        drawn = np.where(radius < 1.15, 128 + cristae - outline, image[rows, columns])
        found[rows, columns] = np.minimum(found[rows, columns], drawn)
    return found
