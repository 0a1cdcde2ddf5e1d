"""Growth of the retinal vessel trees of a phantom eye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FOVEA", "VesselTree", "grow_vessels"]

FOVEA = (2.5, 0.2)
"""Centre of the fovea in eye coordinates (see :func:`grow_vessels`): 2.5 disc diameters temporal, a little below."""

_STEP = 0.06
_SMALLEST_WIDTH = 0.027
_AVASCULAR_RADIUS = 0.35
_GENERATIONS = 3

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VesselTree:
    """Points on the centre lines of the vessels, in eye coordinates.

    Attributes:
        points: ``[N, 2]``, x and y in disc diameters.
        widths: ``[N]``, diameter of the vessel at the point in disc diameters.
        artery: bool ``[N]``, artery or vein.
    """

    points: FloatArray
    widths: FloatArray
    artery: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Sprouts:
    """Vessels of one generation before they grow, with one row per vessel."""

    start: FloatArray
    heading: FloatArray
    width: FloatArray
    length: FloatArray
    artery: npt.NDArray[np.bool_]
    # +1 and -1 follow the lower and the upper temporal arcade, 0 leaves the disc radially, 2 heads for the fovea
    course: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Vessels:
    """Grown vessels of one generation: ``[vessels, steps]`` arrays, NaN points past a vessel's end."""

    points: FloatArray
    heading: FloatArray
    width: FloatArray
    artery: npt.NDArray[np.bool_]


def grow_vessels(rng: np.random.Generator, *, spacing: float) -> VesselTree:
    """Grow arteries and veins from the disc over the retina.

    Eye coordinates are in disc diameters: the centre of the disc is the origin, x points to the temple (to the fovea),
    y down. Four pairs of an artery and a vein leave the disc, two along the temporal arcades and two to the nose, with
    a few thin vessels between them. Each vessel is a walk whose heading is steered along its course and disturbed by
    smooth noise; it tapers and sprouts branches, which spare the fovea.

    Args:
        rng: source of randomness.
        spacing: largest distance between neighbouring points in disc diameters; a smaller distance gives more points of
            the same vessels.

    Returns:
        The points of all vessels.

    Source: the proportions (widest veins 0.11 disc diameters, arteries 3/4 of that, fovea 2.5 disc diameters from the
    disc) follow the images and expert masks of DRIVE (Staal et al., IEEE TMI 23(4), 2004).
    """
    generation = _walk(rng, _trunks(rng))
    grown = [generation]
    for _ in range(_GENERATIONS):
        generation = _walk(rng, _branches(rng, generation))
        grown.append(generation)
    parts = [_densify(vessels, spacing) for vessels in grown]
    return VesselTree(
        points=np.concatenate([part.points for part in parts]),
        widths=np.concatenate([part.widths for part in parts]),
        artery=np.concatenate([part.artery for part in parts]),
    )


def _trunks(rng: np.random.Generator) -> _Sprouts:
    # heading in degrees (0: temple, 90: down), width, course
    plan: list[tuple[float, float, int]] = []
    for sign in (-1, 1):
        plan += [(sign * 92, 0.102, sign), (sign * 135, 0.074, 0)]
    pairs = len(plan)
    fine = rng.uniform(-55, 55, 3).tolist() + rng.uniform(120, 240, 4).tolist()
    table = np.array(plan + plan + [(angle, rng.uniform(0.028, 0.045), 0) for angle in fine])
    artery = np.concatenate([np.zeros(pairs, bool), np.ones(pairs, bool), rng.random(len(fine)) < 0.5])
    # The artery of a pair lies on either side of its vein and is thinner.
    side = np.concatenate([np.zeros(pairs), rng.choice([-16.0, 16.0], pairs), np.zeros(len(fine))])
    count = len(table)
    return _Sprouts(
        start=np.array([-0.08, 0.0]) + rng.normal(0, 0.05, (count, 2)),
        heading=np.deg2rad(table[:, 0] + side + rng.normal(0, 7, count)),
        width=table[:, 1] * np.where(artery & (table[:, 1] > 0.05), 0.75, 1) * rng.uniform(0.9, 1.12, count),
        length=np.where(table[:, 1] > 0.05, rng.uniform(6.5, 8, count), rng.uniform(1.2, 2.6, count)),
        artery=artery,
        course=table[:, 2].astype(np.int64),
    )


def _branches(rng: np.random.Generator, parents: _Vessels) -> _Sprouts:
    steps = np.isfinite(parents.points[..., 0]).sum(axis=1)
    expected = steps * _STEP * 1.25
    parent = np.repeat(np.arange(len(steps)), rng.poisson(expected))
    # One uniform draw per branch; its position along the parent leaves out the first and last few steps.
    at = (rng.uniform(0.06, 0.97, len(parent)) * steps[parent]).astype(np.int64)
    side = rng.choice([-1.0, 1.0], len(parent))
    start, width = parents.points[parent, at], parents.width[parent, at] * rng.uniform(0.42, 0.85, len(parent))
    heading = parents.heading[parent, at] + side * np.deg2rad(rng.uniform(28, 68, len(parent)))
    to_fovea = np.asarray(FOVEA) - start
    inward = (np.cos(heading - np.arctan2(to_fovea[:, 1], to_fovea[:, 0])) > 0.4) & (start[:, 0] > 0.3)
    keep = (width > _SMALLEST_WIDTH) & (np.hypot(*start.T) > 0.62)
    width = np.where(inward, np.minimum(width, 0.05), width)
    return _Sprouts(
        start=start[keep],
        heading=heading[keep],
        width=width[keep],
        length=(np.minimum(42 * width, 3.5) * rng.uniform(0.6, 1.3, len(parent)))[keep],
        artery=parents.artery[parent][keep],
        course=np.where(inward, 2, 0)[keep],
    )


def _target(points: FloatArray, course: npt.NDArray[np.int64], arcade: FloatArray) -> FloatArray:
    """Heading that a vessel's course requires at each point: radians ``[N]``."""
    from_fovea = points - np.asarray(FOVEA)
    # The arcades are ellipses around the fovea through the disc, stretched towards the temple.
    half_width = np.where(from_fovea[:, 0] < 0, FOVEA[0] + 0.1, 5.5)
    normal = from_fovea / np.stack([half_width**2, arcade**2], axis=1)
    along = np.arctan2(-normal[:, 0] * course, normal[:, 1] * course)
    # A vessel that leaves its ellipse is turned back to it.
    along -= course * np.clip(1.2 * (np.hypot(*(from_fovea / np.stack([half_width, arcade], axis=1)).T) - 1), -1, 1)
    away = points - np.array([0.9, 0.0])
    outward = np.arctan2(away[:, 1], away[:, 0])
    inward = np.arctan2(-from_fovea[:, 1], -from_fovea[:, 0])
    target: FloatArray = np.where(np.abs(course) == 1, along, np.where(course == 2, inward, outward))
    return target


def _walk(rng: np.random.Generator, sprouts: _Sprouts) -> _Vessels:
    count = len(sprouts.width)
    steps = np.ceil(sprouts.length / _STEP).astype(np.int64)
    total = int(steps.max(initial=1))
    points = np.full((count, total, 2), np.nan)
    headings = np.zeros((count, total))
    # Wiggles: an autoregressive curvature in radians per disc diameter.
    shocks = rng.normal(0, 1, (total, count))
    arcade = rng.uniform(1.7, 2.3, count)
    strength = np.where(np.abs(sprouts.course) == 1, 1.8, 0.35)
    tortuosity = np.where(sprouts.width > 0.05, 1.0, 1.7) * rng.uniform(0.6, 1.4, count)
    curvature = np.zeros(count)
    position, heading, alive = sprouts.start.copy(), sprouts.heading.copy(), np.ones(count, bool)
    for step in range(total):
        alive = alive & (step < steps)
        points[alive, step], headings[:, step] = position[alive], heading
        curvature = 0.86 * curvature + 0.51 * shocks[step] * tortuosity
        pull = strength * np.sin(_target(position, sprouts.course, arcade) - heading)
        heading = heading + _STEP * (pull + curvature)
        position = position + _STEP * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        alive = alive & (np.hypot(*(position - np.asarray(FOVEA)).T) > _AVASCULAR_RADIUS)
    progress = np.arange(total) * _STEP / sprouts.length[:, None]
    width = sprouts.width[:, None] * (1 - 0.5 * np.minimum(progress, 1))
    return _Vessels(points=points, heading=headings, width=width, artery=sprouts.artery)


def _densify(vessels: _Vessels, spacing: float) -> VesselTree:
    pieces = max(1, int(np.ceil(_STEP / spacing)))
    share = (np.arange(pieces) / pieces)[:, None]
    head, tail = vessels.points[:, :-1, None], vessels.points[:, 1:, None]
    points = (head + (tail - head) * share).reshape(-1, 2)
    widths = np.repeat(vessels.width[:, :-1], pieces, axis=1).reshape(-1)
    artery = np.repeat(vessels.artery, (vessels.width.shape[1] - 1) * pieces)
    drawn = np.isfinite(points[:, 0])
    return VesselTree(points=points[drawn], widths=widths[drawn], artery=artery[drawn])
