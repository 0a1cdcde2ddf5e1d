"""Procedural chest CT with exact masks of the five lobes and of the infected lung."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .grid import (
    FloatArray,
    Grid,
    Random,
    Tree,
    branch,
    check_volume,
    draw_spheres,
    draw_tree,
    ellipsoid,
    grain,
    place_grid,
)

__all__ = ["ANATOMY", "DISEASES", "LOBES", "ThoraxPhantom", "draw_thorax"]

ANATOMY = (292.0, 262.0, 400.0)
"""Field of view that shows the anatomy in its own proportions: mm in z, y and x."""

LOBES = {"LUL": 1, "LLL": 2, "RUL": 3, "RLL": 4, "RML": 5}
"""The paper's order of the lobes: left upper, left lower, right upper, right lower, right middle; 0 is background."""

DISEASES = ("ground_glass", "consolidation", "effusion", "emphysema")
"""Diseases that :func:`draw_thorax` can add to the lungs."""

_SMALLEST = (32, 32, 32)

# Lengths are in anatomical millimetres: those of a body 340 wide and 230 deep with lungs about 230 high. x points to
# the patient's left, y to the back, z up; the origin is the centre of the body. Tuples are in the order z, y, x.
_BODY = (115.0, 170.0)
_CAVITY = (92.0, 138.0)
_HEART, _HEART_RADII = (-54.0, -22.0, 33.0), (60.0, 50.0, 60.0)
_CARINA = (38.0, 14.0, 0.0)
_LARYNX = (188.0, 0.0, 0.0)
_HILUM = (12.0, 12.0, 36.0)  # of the left lung, where its arteries enter; that of the right lung is mirrored
_TO_VEIN, _TO_BRONCHUS = (-14.0, -12.0, 0.0), (0.0, 4.5, 0.0)  # from an artery
_SPINE, _SPINE_RADIUS = (74.0, 0.0), 22.0
_AORTA, _AORTA_RADIUS = (46.0, 20.0), 11.0

# Hounsfield units
_AIR, _FAT, _MUSCLE, _SOFT, _BLOOD, _LIVER, _MARROW, _CORTEX = -1000, -95, 50, 35, 45, 58, 220, 620
_LUNG, _FISSURE, _LUMEN = -855, -560, -985
_GROUND_GLASS, _CONSOLIDATION, _FLUID, _BULLA = -600, 30, 8, -975

LabelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ThoraxPhantom:
    """A chest CT and its masks; the axes are z up, y to the back, x to the patient's left (MONAI's ``"SPL"``).

    Attributes:
        image: int16 ``[D, H, W]``, Hounsfield units.
        label: uint8 ``[D, H, W]``, 0 and the values of :data:`LOBES`.
        infection: uint8 ``[D, H, W]``, 1 in ground glass and consolidation, which lie inside the lobes.

    Example:
        >>> from medseg_monai.phantoms import draw_thorax
        >>> phantom = draw_thorax(size=(32, 32, 32), seed=0, disease=["ground_glass"])
        >>> bool(phantom.infection.any()), bool(phantom.infection[phantom.label == 0].any())
        (True, False)
    """

    image: npt.NDArray[np.int16]
    label: LabelArray
    infection: LabelArray


@dataclass(frozen=True)
class _Body:
    """Depths inside the surfaces in mm ``[D, H, W]``, negative outside, and the deformed coordinates."""

    z: FloatArray
    y: FloatArray
    x: FloatArray
    body: FloatArray
    cavity: FloatArray
    heart: FloatArray
    spine: FloatArray
    aorta: FloatArray
    lung: FloatArray


@dataclass(frozen=True)
class _Lobes:
    """The lobes and the signed distances in mm from the fissures between them, ``[D, H, W]``."""

    label: LabelArray
    left: FloatArray  # oblique fissure, positive above
    right: FloatArray  # oblique fissure, positive above
    horizontal: FloatArray  # positive above


def draw_thorax(
    *,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float] | None = None,
    seed: int | Sequence[int],
    disease: Collection[str] = (),
    incomplete_fissures: float = 0.3,
    noise: float = 22.0,
) -> ThoraxPhantom:
    """Draw a thorax phantom.

    The body is scaled to the field of view, which is ``size`` times ``spacing``: it covers about 0.85 of the width and
    the lungs about 0.8 of the height, whatever the millimetres. So ``size`` decides the resolution, and ``spacing``
    only the proportions of the voxels.

    Shapes are implicit surfaces in coordinates that smooth noise deforms, so that no two phantoms are alike. Each lobe
    has its own vessels and bronchi, which spare the fissures. A fissure is a thin bright sheet of which only a part is
    drawn.

    Args:
        size: ``(D, H, W)``, each at least 32.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``; by default the field of view is that of the anatomy,
            292 x 262 x 400.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``). Lungs, fissures and lobes
            are the same in any ``size``; vessels, positions of disease, and noise are not.
        disease: any of :data:`DISEASES`. Ground glass (about -600 HU) and consolidation (about 30 HU, hides vessels and
            fissures) belong to their lobe. An effusion (about 8 HU, at the back of the base of one lung) lies in the
            pleural space: it is outside the lobes, label 0. Emphysema is dark spots of -975 HU.
        incomplete_fissures: average share of the fissures that is not drawn, 0 to 1; each fissure has its own share.
            The label is the same for any share.
        noise: standard deviation of the scanner's noise in HU.

    Returns:
        The image and its masks.

    Raises:
        ValueError: for a size that is too small, a spacing that is not positive, negative noise, an unknown disease, or
            a share outside 0 to 1.

    Example:
        >>> from medseg_monai.phantoms import LOBES, draw_thorax
        >>> phantom = draw_thorax(size=(32, 32, 48), seed=0, disease=["consolidation"])
        >>> phantom.image.shape, set(phantom.label.ravel().tolist()) == {0, *LOBES.values()}
        ((32, 32, 48), True)
    """
    _check(size=size, spacing=spacing, disease=disease, incomplete_fissures=incomplete_fissures, noise=noise)
    # One random stream per layer, so that a change in one layer does not change the others.
    placing, shaping, splitting, painting, gaps, growing, illness, sensor = np.random.default_rng(seed).spawn(8)
    grid = place_grid(placing, size=size, spacing=spacing, anatomy=ANATOMY)
    body = _shape(shaping, grid)
    lobes = _split(splitting, grid, body)
    illnesses = dict(zip(DISEASES, illness.spawn(len(DISEASES)), strict=True))
    if "effusion" in disease:
        lobes = _flood(illnesses["effusion"], body, lobes)
    image = _tissue(painting, grid, body)
    parenchyma = _parenchyma(painting, gaps, grid, body, lobes, incomplete_fissures=incomplete_fissures)
    infection = np.zeros(size, dtype=np.uint8)
    if "emphysema" in disease:
        parenchyma = _rarefy(illnesses["emphysema"], grid, body, lobes, parenchyma)
    if "ground_glass" in disease:
        share = _patches(illnesses["ground_glass"], grid, lobes, depth=body.lung)
        parenchyma += share * (_GROUND_GLASS - parenchyma)
        infection |= share >= 0.5
    parenchyma, image = _grow(growing, grid, body, lobes, parenchyma, image)
    if "consolidation" in disease:
        share = _patches(illnesses["consolidation"], grid, lobes, depth=body.lung)
        parenchyma += share * (_CONSOLIDATION - parenchyma)
        infection |= share >= 0.5
    # anything inside the pleura and in no lobe is fluid; the margin includes the voxels on the pleura
    fluid = ndimage.binary_dilation((body.lung > 0) & (lobes.label == 0), iterations=2) & (lobes.label == 0)
    parenchyma[fluid] = _FLUID
    image += grid.coverage(body.lung) * (parenchyma - image)
    image += noise * grain(sensor, size)
    infection[lobes.label == 0] = 0
    hounsfield = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return ThoraxPhantom(image=hounsfield, label=lobes.label, infection=infection)


def _check(
    *,
    size: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    disease: Collection[str],
    incomplete_fissures: float,
    noise: float,
) -> None:
    check_volume(name="a thorax", size=size, smallest=_SMALLEST, spacing=spacing, noise=noise)
    if isinstance(disease, str) or (set(disease) - set(DISEASES)):
        raise ValueError(f"disease={disease!r} is unknown: give a list of any of {', '.join(DISEASES)}.")
    if not 0 <= incomplete_fissures <= 1:
        raise ValueError(f"incomplete_fissures={incomplete_fissures} is not a share: give a number from 0 to 1.")


def _shape(rng: Random, grid: Grid) -> _Body:
    z, y, x = (axis + 7 * grid.noise(rng, cell=75) for axis in grid.open())
    _, flat_y, flat_x = grid.open()
    plump = rng.uniform(0.95, 1.03)
    radius = np.hypot(flat_y / _BODY[0], flat_x / _BODY[1]) / plump + 0.012 * grid.noise(rng, cell=110)
    body = ((1 - radius) * 0.5 * sum(_BODY)).astype(np.float32)

    rise = np.clip((z + 60) / rng.uniform(178, 190), 0, 0.995)
    taper = (1 - rise**4) ** 0.4
    ring = ((np.abs(y) / _CAVITY[0]) ** 2.3 + (np.abs(x) / _CAVITY[1]) ** 2.3) ** (1 / 2.3)
    cavity = np.minimum((taper - ring) * 0.5 * sum(_CAVITY), 118 - z)

    # lists of Python numbers, which keep arrays in single precision
    place = (np.array(_HEART) + rng.normal(0, 4, 3)).tolist()
    heart_radii = (np.array(_HEART_RADII) * rng.uniform(0.88, 1.1, 3)).tolist()
    heart = ellipsoid((z, y, x), centre=place, radii=heart_radii)
    spine = _SPINE_RADIUS - np.hypot(y - _SPINE[0], x - _SPINE[1])
    aorta = _AORTA_RADIUS - np.hypot(y - _AORTA[0], x - _AORTA[1])
    middle = rng.uniform(17, 22) + 14 * np.exp(-(((y - 12) / 42) ** 2)) - np.abs(x - 3)

    height = rng.normal((-50, -46), 4).tolist()  # left, right
    dome = np.where(
        x > 0,
        _dome(y, x, centre=(4, 70), height=height[0]),
        _dome(y, x, centre=(4, -68), height=height[1]),
    )
    lung = cavity - 1.5
    for structure in (middle, heart, spine + 3, aorta + 2, (dome - z) * np.float32(0.75)):
        lung = np.minimum(lung, -structure)
    surfaces = {"body": body, "cavity": cavity, "heart": heart, "spine": spine, "aorta": aorta, "lung": lung}
    return _Body(z=z, y=y, x=x, **{name: np.asarray(depth, dtype=np.float32) for name, depth in surfaces.items()})


def _dome(y: FloatArray, x: FloatArray, *, centre: tuple[float, float], height: float) -> FloatArray:
    return np.asarray(height - 0.0085 * ((x - centre[1]) ** 2 + 1.3 * (y - centre[0]) ** 2), dtype=np.float32)


def _split(rng: Random, grid: Grid, body: _Body) -> _Lobes:
    def surface(height: float, *, rise: float, tilt: float, bend: float, middle: float) -> FloatArray:
        """Signed distance of a curved, tilted sheet z = height + rise * y + ..., positive above."""
        across = body.x - middle
        sheet = height + rise * body.y + tilt * across + bend * (across / 60) ** 2 + 6 * grid.noise(rng, cell=60)
        return np.asarray((body.z - sheet) / np.sqrt(1 + rise**2 + tilt**2), dtype=np.float32)

    left = surface(
        rng.normal(-6, 7), rise=rng.uniform(0.95, 1.35), tilt=rng.normal(0, 0.12), bend=rng.normal(-4, 5), middle=75
    )
    right = surface(
        rng.normal(-12, 7), rise=rng.uniform(0.95, 1.35), tilt=rng.normal(0, 0.12), bend=rng.normal(-4, 5), middle=-75
    )
    horizontal = surface(
        rng.normal(4, 7), rise=rng.normal(0, 0.1), tilt=rng.normal(0.05, 0.1), bend=rng.normal(-4, 4), middle=-75
    )
    label = np.where(
        body.x > 0,
        np.where(left > 0, LOBES["LUL"], LOBES["LLL"]),
        np.where(right <= 0, LOBES["RLL"], np.where(horizontal > 0, LOBES["RUL"], LOBES["RML"])),
    ).astype(np.uint8)
    label[body.lung <= 0] = 0
    return _Lobes(label=_connected(label), left=left, right=right, horizontal=horizontal)


def _connected(label: LabelArray) -> LabelArray:
    """Make each lobe one component: a part that is cut off goes to the nearest lobe, or is removed with its lung."""
    main = np.zeros_like(label)
    for value in LOBES.values():
        main[cc3d.largest_k(label == value, k=1, connectivity=6) > 0] = value
    stray = (label > 0) & (main == 0)
    if stray.any():
        nearest = ndimage.distance_transform_edt(main == 0, return_distances=False, return_indices=True)
        main[stray] = main[tuple(nearest[:, stray])]
        for value in LOBES.values():
            lobe = main == value
            main[lobe & (cc3d.largest_k(lobe, k=1, connectivity=6) == 0)] = 0
    return main


def _flood(rng: Random, body: _Body, lobes: _Lobes) -> _Lobes:
    """Take the back of the base of one lung from its lobes."""
    low, high = (1, 2) if rng.random() < 0.5 else (3, 5)
    lung = (lobes.label >= low) & (lobes.label <= high)
    dependent = 0.8 * body.y - 0.6 * body.z
    level = np.quantile(dependent[lung], 1 - rng.uniform(0.06, 0.16))
    label = lobes.label.copy()
    label[lung & (dependent > level)] = 0
    return replace(lobes, label=_connected(label))


def _tissue(rng: Random, grid: Grid, body: _Body) -> FloatArray:
    """Everything but the lungs."""
    image = np.full(body.lung.shape, _AIR, dtype=np.float32)

    def paint(depth: FloatArray, value: FloatArray | float) -> None:
        image[...] += grid.coverage(depth) * (value - image)

    texture = grid.noise(rng, cell=14)
    paint(body.body, _FAT + 8 * texture)
    muscle = body.body - rng.uniform(7, 20) - 4 * grid.noise(rng, cell=40)
    paint(muscle, _MUSCLE + 18 * np.minimum(texture, 0.5) - 60 * (texture > 1.6))
    paint(body.cavity, np.where(texture > 0.4, _FAT + 10, _SOFT).astype(np.float32))
    # liver and spleen below the domes
    paint(np.minimum(body.cavity, -60 - body.z), _LIVER + 5 * texture)
    paint(body.heart, _BLOOD + 4 * texture)
    paint(body.aorta, _BLOOD)
    # ribs run down to the front around the cavity; a vertebra is as high as a rib and the gap below it
    period = rng.uniform(24, 29)
    along = (body.z + 0.35 * body.y) / period + rng.uniform(0, 1)
    rib = 4.5 - np.hypot((np.mod(along, 1) - 0.5) * period * 0.85, body.cavity + 7.5)
    rib[np.abs(body.x) < 12] = -10
    paint(rib, _CORTEX)
    paint(rib - 2, _MARROW)
    sternum = 6 - np.hypot((body.cavity + 9).clip(-50, 50), np.maximum(np.abs(body.x) - 12, 0))
    sternum[(body.y > 0) | (body.z < -50)] = -10
    paint(sternum, _MARROW)
    disc = np.mod(body.z / period, 1) < 0.2
    paint(body.spine, np.where(disc, 90, _CORTEX * 0.7).astype(np.float32))
    paint(body.spine - 2.5, np.where(disc, 80, _MARROW + 25 * texture).astype(np.float32))
    canal = 8 - np.hypot(body.y - _SPINE[0] - 22, body.x)
    paint(canal + 5, _CORTEX)
    paint(canal, _SOFT)
    return image


def _parenchyma(
    rng: Random, gaps: Random, grid: Grid, body: _Body, lobes: _Lobes, *, incomplete_fissures: float
) -> FloatArray:
    """Lung tissue with its fissures, drawn as if the lung had no end."""
    air = _LUNG + rng.normal(0, 12) + 0.25 * body.y - 0.1 * body.z + 12 * grid.noise(rng, cell=30)
    left_lung = body.x > 0
    upper_right = ~left_lung & (lobes.right > 0)
    thickness = max(0.9, 0.3 * grid.blur)
    for distance, place in ((lobes.left, left_lung), (lobes.right, ~left_lung), (lobes.horizontal, upper_right)):
        sheet = grid.coverage(thickness - np.abs(distance)) * min(1.0, 2 * thickness / grid.blur)
        missing = min(1.0, incomplete_fissures * gaps.uniform(0.5, 1.5))
        field = grid.noise(gaps, cell=28)
        on_sheet = place & (sheet > 0) & (body.lung > 0)
        threshold = np.quantile(field[on_sheet], missing) if on_sheet.any() else 0.0
        sheet *= place & ((field > threshold) if missing > 0 else True)
        air += sheet * (_FISSURE - air)
    return np.asarray(air, dtype=np.float32)


def _rarefy(rng: Random, grid: Grid, body: _Body, lobes: _Lobes, parenchyma: FloatArray) -> FloatArray:
    """Emphysema: many small dark spots, more of them in the upper lung."""
    inside = np.argwhere(lobes.label > 0)
    points = grid.to_points(inside[rng.integers(0, len(inside), 900)])
    points = points[rng.random(len(points)) < np.clip((points[:, 0] + 110) / 200, 0.1, 1)]
    share = draw_spheres(grid, points, np.asarray(rng.uniform(2.5, 7.5, len(points))))
    return np.asarray(parenchyma + share * (_BULLA - parenchyma), dtype=np.float32)


def _patches(rng: Random, grid: Grid, lobes: _Lobes, *, depth: FloatArray) -> FloatArray:
    """Soft-edged blobs near the pleura, 0 to 1, inside the lobes."""
    share = np.zeros(depth.shape, dtype=np.float32)
    near = np.argwhere((lobes.label > 0) & (depth < 18))
    rough = 0.35 * grid.noise(rng, cell=16)
    z, y, x = grid.open()
    for centre in grid.to_points(near[rng.integers(0, len(near), int(rng.integers(2, 6)))]).tolist():
        radii = rng.uniform(15, 36, 3).tolist()
        parts = [((axis - at) / r) ** 2 for axis, at, r in zip((z, y, x), centre, radii, strict=True)]
        inside = (1 - np.sqrt(parts[0] + parts[1] + parts[2]) + rough) * (sum(radii) / 3)
        np.maximum(share, np.clip(inside / 4 + 0.5, 0, 1), out=share)
    return np.asarray(share * (lobes.label > 0), dtype=np.float32)


def _grow(
    rng: Random, grid: Grid, body: _Body, lobes: _Lobes, parenchyma: FloatArray, image: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Draw vessels and bronchi: those of each lobe only inside that lobe, and the large airways between the lungs."""
    to_fissure = np.where(
        body.x > 0,
        np.abs(lobes.left),
        np.minimum(np.abs(lobes.right), np.where(lobes.right > 0, np.abs(lobes.horizontal), np.inf)),
    )
    free = np.minimum(body.lung, to_fissure) > 5
    for value in LOBES.values():
        lobe = lobes.label == value
        leaves = np.argwhere(lobe & free)
        if len(leaves) == 0:
            continue
        side = 1 if value in (LOBES["LUL"], LOBES["LLL"]) else -1
        hilum = np.array(_HILUM) * (1, 1, side)
        count = max(20, int(110 * len(leaves) * np.prod(grid.voxel) / 7e5))
        targets = grid.to_points(leaves[rng.integers(0, len(leaves), (2, count))])
        artery = branch(rng, hilum, targets[0], scale=0.62)
        vein = branch(rng, hilum + np.array(_TO_VEIN), targets[1], scale=0.62)
        vessels = [draw_tree(grid, artery, 1.0), draw_tree(grid, vein, 1.0)]
        trunks = Tree(*(part[artery.radius > 1.5] for part in (artery.head, artery.tail, artery.radius)))
        beside = Tree(trunks.head + np.array(_TO_BRONCHUS), trunks.tail + np.array(_TO_BRONCHUS), trunks.radius)
        wall, lumen = draw_tree(grid, beside, 1.15), draw_tree(grid, beside, 0.75)
        for share, colour in ((np.maximum(*vessels), _BLOOD), (wall, -150), (lumen, _LUMEN)):
            parenchyma += share * lobe * (colour - parenchyma)
    trunk = _airway()
    image += draw_tree(grid, trunk, 1.25) * (_SOFT - image)
    image += draw_tree(grid, trunk, 1.0) * (_LUMEN - image)
    return parenchyma, image


def _airway() -> Tree:
    """Trachea and main bronchi."""
    left = np.array(_HILUM) + np.array(_TO_BRONCHUS)
    ends = np.stack([np.array(_LARYNX), left, left * (1, 1, -1)])
    return Tree(head=np.stack([np.array(_CARINA)] * 3), tail=ends, radius=np.array([8.5, 5.5, 6.0]))
