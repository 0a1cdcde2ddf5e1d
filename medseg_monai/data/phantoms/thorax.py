"""Procedural chest CT with exact masks of the five lobes and of the infected lung."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import BSpline

__all__ = ["ANATOMY", "DISEASES", "LOBES", "ThoraxPhantom", "draw_thorax"]

ANATOMY = (292.0, 262.0, 400.0)
"""Field of view that shows the anatomy in its own proportions: mm in z, y and x."""

LOBES = {"LUL": 1, "LLL": 2, "RUL": 3, "RLL": 4, "RML": 5}
"""The paper's order of the lobes: left upper, left lower, right upper, right lower, right middle; 0 is background."""

DISEASES = ("ground_glass", "consolidation", "effusion", "emphysema")
"""What :func:`draw_thorax` can add to the lungs."""

_SMALLEST_SIDE = 32

# Lengths are in anatomical millimetres: those of a body 340 wide and 230 deep with lungs about 230 high. x points to
# the patient's left, y to the back, z up; the origin is the middle of the body. Tuples are in the order z, y, x.
_NOISE_REACH = 260.0  # noise is constant farther out
_BODY = (115.0, 170.0)
_CAVITY = (92.0, 138.0)
_HEART, _HEART_RADII = (-54.0, -22.0, 33.0), (60.0, 50.0, 60.0)
_CARINA = (38.0, 14.0, 0.0)
_LARYNX = (188.0, 0.0, 0.0)
_HILUM = (12.0, 12.0, 36.0)  # of the left lung, where its arteries enter; the right one is mirrored
_TO_VEIN, _TO_BRONCHUS = (-14.0, -12.0, 0.0), (0.0, 4.5, 0.0)  # from an artery
_SPINE, _SPINE_RADIUS = (74.0, 0.0), 22.0
_AORTA, _AORTA_RADIUS = (46.0, 20.0), 11.0

# Hounsfield units
_AIR, _FAT, _MUSCLE, _SOFT, _BLOOD, _LIVER, _MARROW, _CORTEX = -1000, -95, 50, 35, 45, 58, 220, 620
_LUNG, _FISSURE, _LUMEN = -855, -560, -985
_GROUND_GLASS, _CONSOLIDATION, _FLUID, _BULLA = -600, 30, 8, -975

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class ThoraxPhantom:
    """A chest CT and what is in it; axes are z up, y to the back, x to the patient's left (MONAI's ``"SPL"``).

    Attributes:
        image: int16 ``[D, H, W]``, Hounsfield units.
        label: uint8 ``[D, H, W]``, 0 and the values of :data:`LOBES`.
        infection: uint8 ``[D, H, W]``, 1 in ground glass and consolidation, which lie inside the lobes.
    """

    image: npt.NDArray[np.int16]
    label: LabelArray
    infection: LabelArray


@dataclass(frozen=True)
class _Grid:
    """The voxels in anatomical millimetres."""

    axes: tuple[FloatArray, FloatArray, FloatArray]  # centres along z, y, x
    voxel: Points  # [3], edge lengths

    @property
    def blur(self) -> float:
        """Return the edge of a cube of a voxel's volume: how wide an edge is in the image."""
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
        """Draw a smooth Gaussian field ``[D, H, W]`` of zero mean and unit variance, the same one on any grid.

        It is a tensor product of uniform cubic B-splines with white coefficients, ``cell`` mm apart.
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


@dataclass(frozen=True)
class _Tree:
    """A tree of tubes: one row a segment."""

    head: Points  # [N, 3]
    tail: Points  # [N, 3]
    radius: Points  # [N]


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

    The body is scaled to the field of view, which is ``size`` times ``spacing``: it takes about 0.85 of the width and
    the lungs about 0.8 of the height, whatever the millimetres. So the resolution is decided by ``size``, and by
    ``spacing`` only how the voxels are proportioned to one another.

    Shapes are implicit surfaces in coordinates that smooth noise deforms, so that no two phantoms are alike. Each lobe
    has vessels and bronchi of its own which spare the fissures; a fissure is a thin bright sheet, drawn in part only.

    Args:
        size: ``(D, H, W)``, each at least 32.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``; by default the field of view is that of the anatomy,
            292 x 262 x 400.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``). Lungs, fissures and the
            lobes are the same in any ``size``; vessels, the places of disease and noise are not.
        disease: any of :data:`DISEASES`. Ground glass (about -600 HU) and consolidation (about 30 HU, hides vessels and
            fissures) belong to their lobe. An effusion (about 8 HU, at the back of the base of one lung) lies in the
            pleural space: it is outside the lobes, label 0. Emphysema is dark spots of -975 HU.
        incomplete_fissures: share of the fissures that is not drawn, 0 to 1, on average; each fissure has its own. The
            label is the same for any share.
        noise: standard deviation of the scanner's noise in HU.

    Returns:
        The image and its masks.

    Raises:
        ValueError: for a size that is too small, a spacing that is not positive, negative noise, an unknown disease, or
            a share outside 0 to 1.
    """
    _check(size=size, spacing=spacing, disease=disease, incomplete_fissures=incomplete_fissures, noise=noise)
    # One stream a layer: a change in one leaves the others as they were.
    placing, shaping, splitting, painting, gaps, growing, illness, sensor = np.random.default_rng(seed).spawn(8)
    grid = _place(placing, size=size, spacing=spacing)
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
    # what is inside the pleura and in no lobe is fluid; the margin takes in the voxels that the pleura cuts
    fluid = ndimage.binary_dilation((body.lung > 0) & (lobes.label == 0), iterations=2) & (lobes.label == 0)
    parenchyma[fluid] = _FLUID
    image += grid.coverage(body.lung) * (parenchyma - image)
    image += noise * _grain(sensor, size)
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
    if len(size) != 3 or min(size) < _SMALLEST_SIDE:
        raise ValueError(f"size={size} is no size of a thorax: give D, H and W of at least {_SMALLEST_SIDE}.")
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise ValueError(f"spacing={spacing} is no spacing: give three positive lengths in mm, z, y and x.")
    if isinstance(disease, str) or (set(disease) - set(DISEASES)):
        raise ValueError(f"disease={disease!r} is unknown: give a list of any of {', '.join(DISEASES)}.")
    if not 0 <= incomplete_fissures <= 1:
        raise ValueError(f"incomplete_fissures={incomplete_fissures} is not a share: give 0 to 1.")
    if noise < 0:
        raise ValueError(f"noise={noise} is negative: give a standard deviation in HU, or 0.")


def _place(rng: Random, *, size: tuple[int, int, int], spacing: tuple[float, float, float] | None) -> _Grid:
    anatomy = np.array(ANATOMY) * rng.uniform(0.94, 1.06, 3)
    voxel = anatomy / size
    if spacing is not None:
        # z is scaled on its own; a field deeper than the body keeps the body's proportions
        voxel[1] = max(voxel[1], voxel[2] * spacing[1] / spacing[2])
    centre = rng.normal(0, 2.5, 3)
    axes = [(np.arange(n) - (n - 1) / 2) * edge + at for n, edge, at in zip(size, voxel, centre, strict=True)]
    z, y, x = (axis.astype(np.float32) for axis in axes)
    return _Grid(axes=(z, y, x), voxel=voxel)


def _shape(rng: Random, grid: _Grid) -> _Body:
    z, y, x = (axis + 7 * grid.noise(rng, cell=75) for axis in grid.open())
    _, flat_y, flat_x = grid.open()
    plump = rng.uniform(0.95, 1.03)
    radius = np.hypot(flat_y / _BODY[0], flat_x / _BODY[1]) / plump + 0.012 * grid.noise(rng, cell=110)
    body = ((1 - radius) * 0.5 * sum(_BODY)).astype(np.float32)

    rise = np.clip((z + 60) / rng.uniform(178, 190), 0, 0.995)
    taper = (1 - rise**4) ** 0.4
    ring = ((np.abs(y) / _CAVITY[0]) ** 2.3 + (np.abs(x) / _CAVITY[1]) ** 2.3) ** (1 / 2.3)
    cavity = np.minimum((taper - ring) * 0.5 * sum(_CAVITY), 118 - z)

    # lists of Python numbers, which leave arrays of single precision as they are
    place = (np.array(_HEART) + rng.normal(0, 4, 3)).tolist()
    heart_radii = (np.array(_HEART_RADII) * rng.uniform(0.88, 1.1, 3)).tolist()
    scaled = [(axis - at) / r for axis, at, r in zip((z, y, x), place, heart_radii, strict=True)]
    heart = (1 - np.sqrt(sum(part * part for part in scaled))) * (sum(heart_radii) / 3)
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


def _split(rng: Random, grid: _Grid, body: _Body) -> _Lobes:
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
    """Make each lobe one component: what is cut off from it goes to the nearest lobe, or out of a cut-off lung."""
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


def _tissue(rng: Random, grid: _Grid, body: _Body) -> FloatArray:
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
    # ribs run down to the front round the cavity; a vertebra is as high as a rib and the gap below it
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
    rng: Random, gaps: Random, grid: _Grid, body: _Body, lobes: _Lobes, *, incomplete_fissures: float
) -> FloatArray:
    """Lung tissue with its fissures, drawn without regard to where the lung ends."""
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


def _rarefy(rng: Random, grid: _Grid, body: _Body, lobes: _Lobes, parenchyma: FloatArray) -> FloatArray:
    """Emphysema: many small dark spots, more of them above."""
    inside = np.argwhere(lobes.label > 0)
    points = grid.to_points(inside[rng.integers(0, len(inside), 900)])
    points = points[rng.random(len(points)) < np.clip((points[:, 0] + 110) / 200, 0.1, 1)]
    share = _draw_tubes(grid, points, np.asarray(rng.uniform(2.5, 7.5, len(points))))
    return np.asarray(parenchyma + share * (_BULLA - parenchyma), dtype=np.float32)


def _patches(rng: Random, grid: _Grid, lobes: _Lobes, *, depth: FloatArray) -> FloatArray:
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
    rng: Random, grid: _Grid, body: _Body, lobes: _Lobes, parenchyma: FloatArray, image: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Draw vessels and bronchi: in the lungs those of each lobe in that lobe only, and the large ones in between."""
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
        artery = _branch(rng, hilum, targets[0], scale=0.62)
        vein = _branch(rng, hilum + np.array(_TO_VEIN), targets[1], scale=0.62)
        vessels = [_tubes(grid, artery, 1.0), _tubes(grid, vein, 1.0)]
        trunks = _Tree(*(part[artery.radius > 1.5] for part in (artery.head, artery.tail, artery.radius)))
        beside = _Tree(trunks.head + np.array(_TO_BRONCHUS), trunks.tail + np.array(_TO_BRONCHUS), trunks.radius)
        wall, lumen = _tubes(grid, beside, 1.15), _tubes(grid, beside, 0.75)
        for share, colour in ((np.maximum(*vessels), _BLOOD), (wall, -150), (lumen, _LUMEN)):
            parenchyma += share * lobe * (colour - parenchyma)
    trunk = _airway()
    image += _tubes(grid, trunk, 1.25) * (_SOFT - image)
    image += _tubes(grid, trunk, 1.0) * (_LUMEN - image)
    return parenchyma, image


def _airway() -> _Tree:
    """Trachea and main bronchi."""
    left = np.array(_HILUM) + np.array(_TO_BRONCHUS)
    ends = np.stack([np.array(_LARYNX), left, left * (1, 1, -1)])
    return _Tree(head=np.stack([np.array(_CARINA)] * 3), tail=ends, radius=np.array([8.5, 5.5, 6.0]))


def _branch(rng: Random, root: Points, leaves: Points, *, scale: float) -> _Tree:
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
    return _Tree(head=np.stack(head), tail=np.stack(tail), radius=np.array(radius))


def _tubes(grid: _Grid, tree: _Tree, widen: float) -> FloatArray:
    if len(tree.radius) == 0:
        return np.zeros([len(axis) for axis in grid.axes], dtype=np.float32)
    length = np.linalg.norm(tree.tail - tree.head, axis=1)
    step = np.maximum(0.6 * grid.voxel.min(), 0.5 * tree.radius)
    pieces = np.ceil(length / step).astype(np.int64) + 1
    segment = np.repeat(np.arange(len(pieces)), pieces)
    first = np.cumsum(pieces) - pieces
    share = ((np.arange(len(segment)) - first[segment]) / np.maximum(pieces[segment] - 1, 1))[:, None]
    points = tree.head[segment] + share * (tree.tail - tree.head)[segment]
    return _draw_tubes(grid, points, widen * tree.radius[segment])


def _draw_tubes(grid: _Grid, points: Points, radii: Points) -> FloatArray:
    """Share of each voxel that spheres round points cover; ones thinner than a voxel are faint."""
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


def _grain(rng: Random, size: tuple[int, int, int]) -> FloatArray:
    """Noise of unit variance that is a little smooth in plane, as a reconstruction kernel leaves it."""
    white = rng.standard_normal(size, dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, (0, 0.6, 0.6))
    return np.asarray(smooth / smooth.std(), dtype=np.float32)
