"""Procedural chest radiographs with exact masks of both lungs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit

from .drawing import draw_tubes, smooth_noise

__all__ = [
    "MANUFACTURERS",
    "OPACITIES",
    "WHITE",
    "ChestXrayPhantom",
    "Manufacturer",
    "draw_chest_xray",
]

OPACITIES = ("consolidation", "nodules", "effusion")
"""Opacities that :func:`draw_chest_xray` can add to the lungs."""

WHITE = 4095
"""Largest value of an image: 12 bits."""

_SMALLEST_SIDE = 64

# Lengths are in mm of an adult's chest, seen from the front: x points to the image's right, which is the patient's
# left, y down; the origin lies on the spine, at half the height of the lungs. Points are (x, y).
_FIELD = (352.0, 360.0)  # rows, columns: the smallest field shown
_FINEST = 2.0  # pixels wider than this are the mean of several, so that thin bones stay thin
_NOISE_REACH = 420.0  # shapes are regular outside
_AIR_DEPTH = 165.0  # of the lungs along the beam, where they are deepest
_BODY_DEPTH, _NECK_DEPTH, _ARM_DEPTH = 215.0, 120.0, 135.0
_LUNG_GAIN = 0.75  # of a mm of lung over a mm of soft tissue, in mm of water: its density is 0.25
_BONE_GAIN = 1.5  # of a mm of compact bone
_WATER = 0.019  # attenuation per mm of water at 120 kV behind the body
_HILA = ((-38.0, -10.0), (42.0, -20.0))  # of the patient's right and left lung

# Strokes of the lead letters in a box of height 1: x, y of each corner
_LETTERS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "A": (((0.0, 1.0), (0.35, 0.0), (0.7, 1.0)), ((0.15, 0.65), (0.55, 0.65))),
    "L": (((0.0, 0.0), (0.0, 1.0), (0.6, 1.0)),),
    "P": (((0.0, 1.0), (0.0, 0.0), (0.4, 0.0), (0.6, 0.12), (0.6, 0.4), (0.4, 0.52), (0.0, 0.52)),),
    "R": (
        ((0.0, 1.0), (0.0, 0.0), (0.4, 0.0), (0.6, 0.12), (0.6, 0.4), (0.4, 0.52), (0.0, 0.52)),
        ((0.3, 0.52), (0.65, 1.0)),
    ),
}

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Manufacturer:
    """How a manufacturer's unit sees a chest.

    Attributes:
        name: short name, also used in data lists.
        photometric: how its DICOM files store the image, ``"MONOCHROME1"`` (large is dark) or ``"MONOCHROME2"``.
        centre: attenuation that becomes the middle grey.
        latitude: width of the contrast curve in attenuation: the smaller, the steeper.
        spread: standard deviation of ``centre`` between exposures, and of the logarithm of ``latitude``.
        equalisation: share of the coarse differences (lung, heart, abdomen) that the unit removes, 0 to 1.
        sharpening: gain of fine detail that the unit adds.
        blur: standard deviation of the optics' blur in mm.
        noise: standard deviation of the noise in attenuation, at the middle grey; it grows behind dense tissue.
        grain: standard deviation of the noise's smoothing in pixels.
        levels: image values of black and white within the field.
        border: image value of the collimated border; 0 is padding, which differs from all values in the field.
        margins: widest collimated border at the top, the right, the bottom and the left in mm.
        marker: the lead letter for the side on which it lies, ``"R"`` or ``"L"``.
        plate: letters on a bright plate at the upper right; no plate if empty.

    Example:
        >>> from medseg_monai.phantoms import MANUFACTURERS
        >>> {name: unit.photometric for name, unit in MANUFACTURERS.items()}
        {'a': 'MONOCHROME1', 'b': 'MONOCHROME2'}
    """

    name: str
    photometric: str
    centre: float
    latitude: float
    spread: float
    equalisation: float
    sharpening: float
    blur: float
    noise: float
    grain: float
    levels: tuple[int, int]
    border: int
    margins: tuple[float, float, float, float]
    marker: str
    plate: str


MANUFACTURERS: dict[str, Manufacturer] = {
    "a": Manufacturer(
        name="a",
        photometric="MONOCHROME1",
        centre=3.0,
        latitude=0.42,
        spread=0.10,
        equalisation=0.0,
        sharpening=0.0,
        blur=0.9,
        noise=0.03,
        grain=0.9,
        levels=(96, 4000),
        border=0,
        margins=(6.0, 8.0, 24.0, 8.0),
        marker="R",
        plate="PA",
    ),
    "b": Manufacturer(
        name="b",
        photometric="MONOCHROME2",
        centre=1.9,
        latitude=0.62,
        spread=0.12,
        equalisation=0.35,
        sharpening=0.7,
        blur=0.35,
        noise=0.045,
        grain=0.0,
        levels=(220, 3700),
        border=3700,
        margins=(10.0, 10.0, 10.0, 10.0),
        marker="L",
        plate="",
    ),
}
"""``"a"`` is a steep, soft film with black borders like that of Montgomery; ``"b"`` is a bright, wide and sharp digital
detector with white borders, whose lungs look like those of Shenzhen."""


@dataclass(frozen=True)
class ChestXrayPhantom:
    """A frontal chest radiograph and its masks; the patient's right is on the left of the image.

    Attributes:
        image: uint16 ``[H, W]``, 0 to :data:`WHITE`, dense is bright (MONOCHROME2).
        mask: bool ``[H, W]``, both lungs.
        left: bool ``[H, W]``, the patient's left lung.
        right: bool ``[H, W]``, the patient's right lung.
        opacity: bool ``[H, W]``, consolidation and nodules, inside ``mask``.
        field: bool ``[H, W]``, the exposed field; the collimated border lies outside it.
        spacing: edge of a pixel in mm.

    Example:
        >>> from medseg_monai.phantoms import draw_chest_xray
        >>> phantom = draw_chest_xray(size=(64, 80), manufacturer="a", seed=0)
        >>> bool((phantom.mask == (phantom.left | phantom.right)).all()), bool(phantom.opacity.any())
        (True, False)
    """

    image: npt.NDArray[np.uint16]
    mask: BoolArray
    left: BoolArray
    right: BoolArray
    opacity: BoolArray
    field: BoolArray
    spacing: float


@dataclass(frozen=True)
class _View:
    """One exposure: where each pixel lies in the chest. Pixels are finer than the image's by ``factor``."""

    size: tuple[int, int]
    factor: int
    pixel: float  # mm
    x: FloatArray
    y: FloatArray
    to_pixels: Points  # [2, 2], x and y to row and column
    aim: Points  # the point at the middle of the image

    def pixels(self, points: Points) -> Points:
        """Points ``[N, 2]`` to rows and columns ``[N, 2]``."""
        return np.asarray((points - self.aim) @ self.to_pixels.T + (np.array(self.size) - 1) / 2)

    def coverage(self, depth: FloatArray) -> FloatArray:
        """Share of each pixel inside a contour, from the depth inside it in mm."""
        return np.asarray(np.clip(depth / np.float32(self.pixel) + np.float32(0.5), 0, 1), dtype=np.float32)

    def noise(self, rng: Random, *, cell: float) -> FloatArray:
        """Draw a smooth Gaussian field ``[H, W]`` with zero mean and unit variance, the same field in any size."""
        samples = int(8 * np.ceil(_NOISE_REACH / cell)) + 1
        field = smooth_noise(rng, size=(samples, samples), cell=4.0)
        # sampled in the chest's own upright frame, then looked up at each pixel
        at = np.clip(np.stack([self.y, self.x]), -_NOISE_REACH, _NOISE_REACH)
        index = (at + _NOISE_REACH) * ((samples - 1) / (2 * _NOISE_REACH))
        return np.asarray(ndimage.map_coordinates(field, index, order=1), dtype=np.float32)

    def tube(self, points: Points, radii: Points | float) -> FloatArray:
        """Length of the beam in mm ``[H, W]`` inside a tube along points ``[N, 2]`` that lie densely."""
        radius = np.broadcast_to(radii, len(points)) / self.pixel
        # thinner than this, a tube would be drawn with gaps
        tubes = draw_tubes(self.pixels(points), np.maximum(radius, 0.75), size=self.size)
        return np.asarray(tubes.chord * self.pixel, dtype=np.float32)

    def shrink(self, fine: npt.NDArray[np.generic]) -> FloatArray:
        """Mean of the fine pixels in each pixel of the image."""
        height, width = (side // self.factor for side in self.size)
        blocks = fine.astype(np.float32).reshape(height, self.factor, width, self.factor)
        return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


@dataclass(frozen=True)
class _Build:
    """Proportions of one chest in mm."""

    width: float  # half the width of the cavity at its base
    apex: float  # y of the lungs' tops
    base: float  # y of the costophrenic angles
    domes: tuple[float, float]  # y of the diaphragm's tops, right and left
    plump: float
    arms: tuple[float, float]  # how far the elbows are from the body, right and left
    breasts: float  # 0 for none

    def narrowing(self, y: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Share of the squared half width that the cavity lacks at ``y``: 1 at its top, 0 at its base."""
        return np.asarray(np.clip((self.base - y) / (self.base - self.apex), 0, 1.3) ** 2.3)

    def wall(self, y: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Half width of the cavity at ``y``."""
        return np.asarray(self.width * np.sqrt(np.clip(1 - self.narrowing(y), 0, 1)))


@dataclass(frozen=True)
class _Chest:
    """The soft parts of a chest, float32 ``[H, W]``.

    ``x`` and ``y`` are the deformed coordinates. ``lung`` is the depth inside the outlines of the lungs in mm, ``air``
    the length of lung along the beam in mm (also behind the heart and the diaphragm), ``dome`` the y of the diaphragm,
    and ``share`` the part of the lung that is consolidation or nodule, 0 to 1.
    """

    x: FloatArray
    y: FloatArray
    lung: FloatArray
    air: FloatArray
    dome: FloatArray
    share: FloatArray


def draw_chest_xray(
    *,
    size: tuple[int, int],
    manufacturer: str,
    seed: int | Sequence[int],
    opacities: Collection[str] = (),
    noise: float = 1.0,
) -> ChestXrayPhantom:
    """Draw a frontal chest radiograph.

    The image is a projection: layers of soft tissue, lung, gas and bone add up along the beam to an attenuation, and
    the unit then applies its contrast curve. So ribs, clavicles and vessels show through whatever lies over them, and
    no grey value belongs to the lungs alone. Pixels are square and the anatomy keeps its proportions; a field of about
    352 x 360 mm fits into an image of any shape.

    The masks follow those of the public data sets: the part of the lungs that is visible between mediastinum, heart,
    diaphragm and chest wall, including the ribs, clavicles and vessels over it, and without the parts behind the heart
    and behind the diaphragm.

    Args:
        size: rows and columns ``(H, W)``, each at least 64.
        manufacturer: name of the unit, a key of :data:`MANUFACTURERS`. It changes neither the chest nor the masks.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``). The chest and its
            opacities are the same in any ``size``; the noise is not.
        opacities: any of :data:`OPACITIES`. Consolidation (patches that fill the lung and hide its vessels) and nodules
            (round, 6 to 20 mm) belong to the lungs. An effusion (fluid at the base of one lung, with a meniscus) lies
            in the pleural space: it hides the base, and the mask ends where it begins.
        noise: factor on the unit's noise; 0 gives an image without noise.

    Returns:
        The image and its masks.

    Raises:
        ValueError: for a size that is too small, an unknown manufacturer or opacity, or a negative noise.

    Example:
        >>> from medseg_monai.phantoms import draw_chest_xray
        >>> phantom = draw_chest_xray(size=(64, 80), manufacturer="b", seed=0, opacities=["effusion"])
        >>> phantom.image.shape, phantom.image.dtype.name, bool(phantom.mask.any())
        ((64, 80), 'uint16', True)
    """
    _check(size=size, manufacturer=manufacturer, opacities=opacities, noise=noise)
    unit = MANUFACTURERS[manufacturer]
    # One random stream per layer, so that a change in one layer does not change the others.
    streams = np.random.default_rng(seed).spawn(9)
    placing, shaping, illness, covering, boning, growing, framing, lettering, exposing = streams
    view = _place(placing, size=size)
    build = _build(shaping)
    chest = _shape(shaping, view, build)
    fallen_ill = dict(zip(OPACITIES, illness.spawn(len(OPACITIES)), strict=True))
    if "consolidation" in opacities:
        chest = _consolidate(fallen_ill["consolidation"], view, chest)
    if "nodules" in opacities:
        chest = _scatter_nodules(fallen_ill["nodules"], view, chest)
    if "effusion" in opacities:
        chest = _flood(fallen_ill["effusion"], view, build, chest)
    water = _soft_tissue(covering, view, build, chest)
    water += _BONE_GAIN * _bones(boning, view, build)
    water += _LUNG_GAIN * _vessels(growing, view) * np.clip(chest.air / 50, 0, 1) * (1 - chest.share)
    image = _expose(exposing, view, unit, attenuation=_WATER * water, noise=noise)
    image = _burn_in(lettering, view, unit, image)
    field = view.shrink(_collimate(framing, view, unit)) >= 0.5
    image[~field] = unit.border
    lung = chest.lung > 0
    left, right = (_largest(view.shrink(lung & (side * chest.x > 0)) >= 0.5) for side in (1, -1))
    return ChestXrayPhantom(
        image=image,
        mask=left | right,
        left=left,
        right=right,
        opacity=(view.shrink(chest.share) >= 0.5) & (left | right),
        field=field,
        spacing=view.pixel * view.factor,
    )


def _check(*, size: tuple[int, ...], manufacturer: str, opacities: Collection[str], noise: float) -> None:
    if len(size) != 2 or min(size) < _SMALLEST_SIDE:
        raise ValueError(f"size={size} is not a valid size: give rows and columns of at least {_SMALLEST_SIDE}.")
    if manufacturer not in MANUFACTURERS:
        raise ValueError(f"manufacturer='{manufacturer}' is unknown: choose from {', '.join(MANUFACTURERS)}.")
    if isinstance(opacities, str) or (set(opacities) - set(OPACITIES)):
        raise ValueError(f"opacities={opacities!r} is unknown: give a list of any of {', '.join(OPACITIES)}.")
    if noise < 0:
        raise ValueError(f"noise={noise} is negative: give a factor, or 0.")


def _place(rng: Random, *, size: tuple[int, int]) -> _View:
    spacing = max(_FIELD[0] / size[0], _FIELD[1] / size[1]) * rng.uniform(0.95, 1.06)
    factor = int(np.ceil(spacing / _FINEST))
    fine, pixel = (size[0] * factor, size[1] * factor), spacing / factor
    aim = np.array([0.0, 6.0]) + rng.uniform((-4, -8), (4, 6))
    angle = np.deg2rad(np.clip(rng.normal(0, 1.2), -2.5, 2.5))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # x, y to across, down
    rows = (np.arange(fine[0], dtype=np.float32)[:, None] - (fine[0] - 1) / 2) * pixel
    columns = (np.arange(fine[1], dtype=np.float32)[None] - (fine[1] - 1) / 2) * pixel
    return _View(
        size=fine,
        factor=factor,
        pixel=pixel,
        x=np.asarray(turn[0, 0] * columns + turn[1, 0] * rows + aim[0], dtype=np.float32),
        y=np.asarray(turn[0, 1] * columns + turn[1, 1] * rows + aim[1], dtype=np.float32),
        to_pixels=turn[::-1] / pixel,
        aim=aim,
    )


def _build(rng: Random) -> _Build:
    return _Build(
        width=rng.uniform(126, 144),
        apex=rng.normal(-121, 3),
        base=rng.normal(120, 4),
        domes=(rng.normal(72, 5), rng.normal(84, 5)),
        plump=rng.uniform(0.92, 1.1),
        arms=(rng.uniform(35, 75), rng.uniform(35, 75)),
        breasts=rng.uniform(0.7, 1.2) * (rng.random() < 0.4),
    )


def _shape(rng: Random, view: _View, build: _Build) -> _Chest:
    x, y = (axis + 3.5 * view.noise(rng, cell=55) for axis in (view.x, view.y))
    ring = build.narrowing(y) + (x / build.width) ** 2
    cavity = (1 - np.sqrt(ring)) * build.width * 0.95

    # mediastinum: a band that widens at the hila; the aortic knob, and the heart that leans to the patient's left
    bands = rng.uniform((19, 20), (25, 26)).tolist()
    across = x - 2
    middle = np.where(across < 0, *bands) + 5 * np.exp(-(((y + 8) / 38) ** 2)) - np.abs(across)
    knob = rng.uniform(14, 19) - np.hypot(x - rng.uniform(19, 24), y - rng.normal(-60, 4))
    place, radii = rng.normal((23, 58), 4).tolist(), (np.array([70, 47]) * rng.uniform(0.88, 1.1)).tolist()
    lean = np.deg2rad(rng.uniform(30, 44))
    long = np.cos(lean) * (x - place[0]) + np.sin(lean) * (y - place[1])
    short = np.cos(lean) * (y - place[1]) - np.sin(lean) * (x - place[0])
    heart_ring = (long / radii[0]) ** 2 + (short / radii[1]) ** 2
    heart = (1 - np.sqrt(heart_ring)) * 0.5 * sum(radii)

    # steep towards the chest wall, flat towards the middle
    right, left = (
        top + np.where(side * x > at, 0.0088, 0.0032) * (side * x - at) ** 2
        for side, top, at in zip((-1, 1), build.domes, rng.normal(67, 3, 2).tolist(), strict=True)
    )
    dome = right + (left - right) * expit(x / 8)
    free = _round_off(_round_off(-middle, -heart, radius=32), -knob, radius=8)
    outline = _round_off(cavity, free, radius=32)
    air = _AIR_DEPTH * np.sqrt(np.clip(1 - ring, 0, 1))
    air -= 118 * np.sqrt(np.clip(-free / 38, 0, 1))
    # no air in the corner that is rounded off or beside it
    cut_off = np.clip((np.minimum(cavity, free) - outline) / 2, 0, 1) * np.clip(-outline / 5, 0, 1)
    air = np.clip(air, 0, None) * (1 - cut_off)
    # the lung behind the diaphragm tapers downwards
    air *= 1 - 0.66 * view.coverage(np.asarray(y - dome)) - 0.34 * np.clip((y - dome) / 50, 0, 1)
    maps = {"x": x, "y": y, "lung": np.minimum(outline, dome - y), "air": air, "dome": dome, "share": np.zeros_like(x)}
    return _Chest(**{name: np.asarray(values, dtype=np.float32) for name, values in maps.items()})


def _round_off(
    one: npt.NDArray[np.floating], other: npt.NDArray[np.floating], *, radius: float
) -> npt.NDArray[np.floating]:
    """Depth inside two contours at once, with their common corner rounded off."""
    deep = np.clip(np.minimum(one, other) - radius, 0, None)
    return np.asarray(radius + deep - np.hypot(np.clip(radius - one, 0, None), np.clip(radius - other, 0, None)))


def _largest(mask: BoolArray) -> BoolArray:
    """Remove the pixels at the tip of a costophrenic angle that are disconnected in a coarse image."""
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=4) > 0)


def _consolidate(rng: Random, view: _View, chest: _Chest) -> _Chest:
    """Fill patches of lung; the larger bronchi in them stay open."""
    share = np.zeros_like(chest.air)
    rough = 0.3 * view.noise(rng, cell=14)
    for _ in range(int(rng.integers(1, 4))):
        side = rng.choice([-1.0, 1.0])
        across, down = side * rng.uniform(60, 95), rng.uniform(-70, 50)
        radii = rng.uniform(20, 40, 2).tolist()
        inside = 1 - np.hypot((chest.x - across) / radii[0], (chest.y - down) / radii[1]) + rough
        np.maximum(share, np.clip(inside * 1.6 + 0.5, 0, 1), out=share)
    filled = share * np.clip(rng.uniform(0.45, 0.75) + 0.12 * view.noise(rng, cell=8), 0, 1)
    return replace(chest, air=chest.air * (1 - filled), share=np.maximum(chest.share, share))


def _scatter_nodules(rng: Random, view: _View, chest: _Chest) -> _Chest:
    count = int(rng.integers(4, 15))
    centres = rng.uniform((50, -80), (105, 60), (count, 2)) * np.stack(
        [rng.choice([-1.0, 1.0], count), np.ones(count)], axis=1
    )
    radii = rng.uniform(3, 10, count)
    spheres = np.zeros_like(chest.air)
    for centre, radius in zip(centres.tolist(), radii.tolist(), strict=True):
        squared = radius**2 - (chest.x - centre[0]) ** 2 - (chest.y - centre[1]) ** 2
        np.maximum(spheres, 2 * np.sqrt(np.clip(squared, 0, None)), out=spheres)
    share = np.clip(spheres / 4, 0, 1)  # a nodule counts where the beam passes at least 2 mm of it
    # partly calcified: denser than soft tissue that displaces the same amount of lung
    return replace(chest, air=np.clip(chest.air - 2.2 * spheres, 0, None), share=np.maximum(chest.share, share))


def _flood(rng: Random, view: _View, build: _Build, chest: _Chest) -> _Chest:
    """Fill the pleural space over one half of the diaphragm; the fluid climbs up the chest wall."""
    side = rng.choice([-1.0, 1.0])
    top = build.domes[0] if side < 0 else build.domes[1]
    outward = side * chest.x
    level = top - rng.uniform(2, 30) - rng.uniform(18, 36) * np.clip((outward - 50) / 75, 0, 1.2) ** 2
    above = np.where(outward > 0, level - chest.y, np.inf).astype(np.float32)
    wet = (1 - view.coverage(np.asarray(above * 0.25))) * np.clip((outward - 4) / 16, 0, 1)
    return replace(
        chest,
        lung=np.minimum(chest.lung, above),
        air=np.asarray(chest.air * (1 - wet), dtype=np.float32),
        share=np.asarray(chest.share * (1 - wet), dtype=np.float32),
    )


def _soft_tissue(rng: Random, view: _View, build: _Build, chest: _Chest) -> FloatArray:
    """Body, lungs and gas in mm of water."""
    x, y = chest.x, chest.y
    shoulder = -178 + 64 * (np.abs(x) / 190) ** 1.4
    below = np.clip((y - shoulder) / 80, 0, 1)
    flank = build.width + 26 * build.plump + 5 * np.sin(y / 60)
    torso = _BODY_DEPTH * np.sqrt(np.clip(1 - np.abs(x / flank) ** 3.4, 0, 1)) * np.sqrt(below)
    neck = _NECK_DEPTH * np.sqrt(np.clip(1 - (x / (56 * build.plump)) ** 2, 0, 1)) * (y < 0)
    parts = [torso * build.plump, neck, *(_arm(view, build, side) for side in (-1, 1))]
    body = sum(part**4 for part in parts) ** 0.25
    for side in (-1, 1):
        lens = 1 - ((x - side * 78) / 60) ** 2 - ((y - 72) / 46) ** 2
        # only the lower edge is visible: above, it fades into the chest wall
        body += 48 * build.breasts * np.sqrt(np.clip(lens, 0, 1)) * np.clip((y - 30) / 60, 0, 1)
    inside = np.clip(body / 40, 0, 1)
    body += inside * (5 * view.noise(rng, cell=40) + 2.5 * view.noise(rng, cell=12))
    body -= _LUNG_GAIN * chest.air * (1 + 0.05 * view.noise(rng, cell=22) + 0.035 * view.noise(rng, cell=6))
    # stomach and colon under the left half of the diaphragm, and the trachea in the middle
    for _ in range(int(rng.integers(1, 5))):
        wide, high = rng.uniform(12, 30), rng.uniform(8, 18)
        at = rng.uniform(50, 100)
        depth = chest.dome + 8 + high + rng.exponential(14)
        bubble = 1 - ((x - at) / wide) ** 2 - ((y - depth) / high) ** 2 + 0.25 * view.noise(rng, cell=16)
        body -= rng.uniform(25, 65) * np.sqrt(np.clip(bubble, 0, 1)) * view.coverage(y - chest.dome - 6)
    windpipe = np.sqrt(np.clip(1 - ((x - 2) / 9) ** 2, 0, 1)) * expit(-(y + 46) / 5)
    return np.asarray(np.clip(body - 17 * windpipe, 0, None), dtype=np.float32)


def _arm(view: _View, build: _Build, side: int) -> FloatArray:
    """Shoulder and upper arm, mm along the beam."""
    shoulder, elbow = _arm_axis(build, side)
    along = (elbow - shoulder) / np.linalg.norm(elbow - shoulder)
    length = float(np.linalg.norm(elbow - shoulder))
    at = np.clip((view.x - shoulder[0]) * along[0] + (view.y - shoulder[1]) * along[1], 0, length)
    off = np.hypot(view.x - shoulder[0] - at * along[0], view.y - shoulder[1] - at * along[1])
    thickness = _ARM_DEPTH * np.sqrt(np.clip(1 - (off / (48 - 0.06 * at)) ** 2, 0, 1))
    return np.asarray(thickness * build.plump, dtype=np.float32)


def _arm_axis(build: _Build, side: int) -> tuple[Points, Points]:
    """Centre of the humeral head and of the elbow."""
    apart = build.arms[0] if side < 0 else build.arms[1]
    head = np.array([side * (build.width + 34), -76.0])
    return head, head + np.array([side * apart, 210.0])


def _along(*corners: tuple[float, float] | Points) -> Points:
    """Dense points ``[N, 2]`` along straight lines between corners."""
    ends = np.asarray(corners, dtype=np.float64)
    pieces = [
        head + (tail - head) * np.linspace(0, 1, int(np.ceil(np.linalg.norm(tail - head))) + 1)[:, None]
        for head, tail in pairwise(ends)
    ]
    return np.concatenate(pieces)


def _bones(rng: Random, view: _View, build: _Build) -> FloatArray:
    """Compact bone along the beam in mm."""
    bone = _ribs(rng, view, build)
    bone += _spine(rng, view)
    for side in (-1, 1):
        bone += _clavicle(rng, view, build, side)
        bone += _scapula(rng, view, build, side)
    return bone


def _hollow(view: _View, points: Points, radius: float, *, wall: float) -> FloatArray:
    """Compact bone of a tube whose marrow is a fifth as dense."""
    bone = view.tube(points, radius)
    # the length of the beam in the marrow follows from that in the whole tube
    marrow = 2 * np.sqrt(np.clip((bone / 2) ** 2 - (radius**2 - (radius - wall) ** 2), 0, None))
    return np.asarray(bone - 0.8 * marrow, dtype=np.float32)


def _ribs(rng: Random, view: _View, build: _Build) -> FloatArray:
    """Twelve pairs of loops that run from the spine outwards and down, and at the front back to the middle."""
    bone = np.zeros(view.size, dtype=np.float32)
    period = (build.base - build.apex) / rng.uniform(10.2, 11.4)
    steep = rng.uniform(0.85, 1.15)
    backs, fronts = [], []
    for side in (-1, 1):
        for number in range(12):
            start = build.apex + 4 + number * period
            drop = steep * min(36 + 13 * number, 108)
            end = np.deg2rad(rng.uniform(132, 146) if number < 9 else 100)
            angle = np.linspace(0.1, end, int(np.ceil(140 * end / np.pi)))
            y = start + drop * (1 - np.cos(angle)) / 2 - 5 * np.sin(np.minimum(2 * angle, np.pi))
            x = side * (build.wall(np.asarray(start + drop / 2)) + 3.5) * np.sin(angle)
            points = np.stack([x, y], axis=1) + rng.normal(0, 1, 2)
            backs.append(points[angle < np.pi / 2])
            fronts.append(points[angle >= np.pi / 2])
    bone += 1.1 * _hollow(view, np.concatenate(backs), 5.4, wall=1.6)
    bone += 0.7 * _hollow(view, np.concatenate(fronts), 6.6, wall=1.6)
    return bone


def _spine(rng: Random, view: _View) -> FloatArray:
    bend = rng.uniform(-5, 5) * np.sin(view.y / 90 + rng.uniform(0, 2 * np.pi))
    across = np.abs(view.x - bend)
    number = (view.y + 200) / (22 + 0.008 * view.y) + rng.uniform(0, 1)
    disc = np.abs(np.mod(number, 1) - 0.5) > 0.4
    half = 17 + 0.016 * view.y
    body = view.coverage(half - across) * np.where(disc, 5, 11)
    edge = view.coverage(2 - np.abs(half - 1 - across)) * np.where(disc, 0, 5)
    offset = (np.mod(number, 1) - 0.4) * 22
    pedicle = view.coverage(np.asarray(4.5 - np.hypot(across - 12, offset)))
    process = view.coverage(np.asarray(4 - np.hypot(1.6 * across, 0.5 * (offset - 4))))
    return np.asarray(body + edge + 6 * pedicle + 5 * process, dtype=np.float32)


def _clavicle(rng: Random, view: _View, build: _Build, side: int) -> FloatArray:
    share = np.linspace(0, 1, 80)
    inner, outer = build.apex + rng.uniform(26, 36), build.apex + rng.uniform(2, 16)
    x = side * (15 + (build.width + 2) * share)
    y = inner + (outer - inner) * share - 7 * np.sin(2 * np.pi * share)
    return 1.3 * _hollow(view, np.stack([x, y], axis=1), 6.8, wall=1.9)


def _scapula(rng: Random, view: _View, build: _Build, side: int) -> FloatArray:
    """Shoulder blade beside the lung, its spine, and the humerus."""
    head, elbow = _arm_axis(build, side)
    inner = build.width - rng.uniform(18, 32)
    socket = (head[0] - side * 20, head[1] + 4)
    upper = (side * inner, head[1] - rng.uniform(2, 12))
    lower = (side * (inner + rng.uniform(14, 26)), rng.uniform(10, 32))
    blade = 4.5 * view.coverage(_polygon_depth(view, (socket, upper, lower)))
    rims = 1.2 * view.tube(_along(socket, upper, lower, socket), 2.4)
    ridge = _hollow(view, _along(upper, (head[0] + side * 4, head[1] - 24)), 5.0, wall=1.5)
    humerus = 0.9 * _hollow(view, _along(head + (elbow - head) * 0.05, elbow), 11.0, wall=3.5)
    ball = 6 * view.coverage(np.asarray(22 - np.hypot(view.x - head[0], view.y - head[1]), dtype=np.float32))
    return np.asarray(blade + rims + ridge + np.maximum(humerus, ball), dtype=np.float32)


def _polygon_depth(view: _View, corners: Sequence[tuple[float, float]]) -> FloatArray:
    """Depth in mm inside a convex polygon, negative outside."""
    ends = np.asarray(corners, dtype=np.float64)
    middle = ends.mean(axis=0)
    depth = np.full(view.size, np.inf, dtype=np.float32)
    for head, tail in zip(ends, np.roll(ends, -1, axis=0), strict=True):
        normal = np.array([head[1] - tail[1], tail[0] - head[0]]) / np.linalg.norm(tail - head)
        normal *= np.sign(normal @ (middle - head))
        depth = np.minimum(depth, (view.x - head[0]) * normal[0] + (view.y - head[1]) * normal[1])
    return np.asarray(depth, dtype=np.float32)


def _vessels(rng: Random, view: _View) -> FloatArray:
    """Arteries and veins that fan out from the hila, mm along the beam."""
    points, radii = [], []
    for side, hilum in zip((-1, 1), np.array(_HILA), strict=True):
        count = 60
        heading = np.deg2rad(rng.uniform(-70, 95, count))
        length = rng.uniform(35, 115, count) * (1 - 0.25 * np.abs(np.sin(heading)))
        thickest = np.minimum(0.9 + 0.028 * length, 4.0) * rng.uniform(0.6, 1.15, count)
        bend = rng.normal(0, 0.22, count) * length
        along = np.stack([side * np.cos(heading), np.sin(heading)], axis=1)
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
        share = np.linspace(0, 1, int(np.ceil(110 / view.pixel)))[:, None, None]
        start = hilum + rng.normal(0, 5, (count, 2))
        path = start + share * along * length[:, None] + 4 * share * (1 - share) * normal * bend[:, None]
        points.append(path.reshape(-1, 2))
        radii.append((thickest * (1 - 0.8 * share[..., 0])).reshape(-1))
    at, radius = np.concatenate(points), np.concatenate(radii)
    seen = radius > 0.45
    knot = sum(np.exp(-(np.hypot(view.x - x, (view.y - y) / 1.5) ** 2) / 150) for x, y in _HILA)
    # where tubes cross, only the thicker one is drawn: the factor makes up for the others
    return np.asarray(2.2 * view.tube(at[seen], radius[seen]) + 16 * knot, dtype=np.float32)


def _collimate(rng: Random, view: _View, unit: Manufacturer) -> BoolArray:
    """Exposed field ``[H, W]``: a rectangle between the blades, slightly askew."""
    down, across = _film(view)
    low, far = (side * view.pixel / 2 for side in view.size)
    sides = ((low + down, across), (far - across, down), (low - down, across), (far + across, down))
    field = np.ones(view.size, dtype=bool)
    for (distance, along), widest in zip(sides, unit.margins, strict=True):
        askew = np.tan(np.deg2rad(np.clip(rng.normal(0, 0.4), -0.8, 0.8)))
        field &= distance + askew * along > widest * rng.uniform(0.1, 1)
    return field


def _expose(
    rng: Random, view: _View, unit: Manufacturer, *, attenuation: FloatArray, noise: float
) -> npt.NDArray[np.uint16]:
    # drawn before the noise, since the noise takes as many numbers as there are pixels
    centre = unit.centre + rng.normal(0, unit.spread)
    latitude = unit.latitude * np.exp(rng.normal(0, unit.spread))
    spacing = view.pixel * view.factor
    depth = view.shrink(attenuation)
    depth = ndimage.gaussian_filter(depth, max(unit.blur / spacing, 0.3), truncate=3)
    grain = rng.standard_normal(depth.shape, dtype=np.float32)
    if unit.grain > 0:
        grain = ndimage.gaussian_filter(grain, unit.grain, truncate=3)
        grain /= grain.std()
    # there are fewer photons behind dense tissue; scatter keeps the noise from growing as fast as the square root
    depth += noise * unit.noise * grain * np.exp(0.2 * (depth - unit.centre)).clip(0.5, 2)
    coarse = depth
    for _ in range(3):  # three boxes are close to a Gaussian, at a cost that does not depend on its width
        coarse = ndimage.uniform_filter(coarse, size=2 * round(20 / spacing) + 1, mode="nearest")
    detail = depth - ndimage.gaussian_filter(depth, max(2.5 / spacing, 0.6), truncate=3)
    depth = depth - unit.equalisation * (coarse - unit.centre) + unit.sharpening * detail
    grey = expit((depth - centre) / latitude)
    black, white = unit.levels
    return np.asarray(np.rint(black + (white - black) * grey).clip(black, white), dtype=np.uint16)


def _burn_in(rng: Random, view: _View, unit: Manufacturer, image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Draw the lead letter and the plate over the image, upright whatever the patient's pose."""
    black, white = unit.levels
    side = -1 if unit.marker == "R" else 1
    values = image.astype(np.float32)
    letter = view.shrink(_write(view, unit.marker, (side * rng.uniform(128, 142), rng.uniform(-148, -132)), height=17))
    values += letter * np.clip(rng.uniform(0.85, 1) * white - values, 0, None)
    if unit.plate:
        place = (rng.uniform(122, 134), rng.uniform(-148, -132))
        rows, columns = _film(view)
        half = (9.0, 4.0 + 8.0 * len(unit.plate))
        depth = np.minimum(half[0] - np.abs(rows - place[1]), half[1] - np.abs(columns - place[0]))
        plate = view.coverage(depth)
        paper = plate * (1 - _write(view, unit.plate, place, height=11))
        values += view.shrink(plate) * (black - values) + view.shrink(paper) * (white - black)
    return np.asarray(np.rint(values).clip(black, white), dtype=np.uint16)


def _film(view: _View) -> tuple[FloatArray, FloatArray]:
    """Position of each pixel on the film in mm from its centre, ``[H, 1]`` and ``[1, W]``."""
    rows, columns = ((np.arange(side, dtype=np.float32) - (side - 1) / 2) * view.pixel for side in view.size)
    return np.asarray(rows[:, None]), np.asarray(columns[None])


def _write(view: _View, text: str, place: tuple[float, float], *, height: float) -> FloatArray:
    """Coverage by letters around a point on the film (across and down from its centre, in mm)."""
    strokes = []
    for index, letter in enumerate(text):
        for stroke in _LETTERS[letter]:
            corners = (np.asarray(stroke) - (0.35, 0.5) + (1.0 * (index - (len(text) - 1) / 2), 0)) * height + place
            strokes.append(_along(*corners))
    middle = (np.array(view.size) - 1) / 2
    points = np.concatenate(strokes)[:, ::-1] / view.pixel + middle
    radii = np.full(len(points), max(0.09 * height / view.pixel, 0.75))
    return draw_tubes(points, radii, size=view.size).coverage
