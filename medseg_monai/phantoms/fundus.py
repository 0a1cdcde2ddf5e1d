"""Procedural fundus photographs with exact masks of the vessels, the optic disc, and the field of view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .drawing import Tubes, draw_tubes, smooth_noise
from .vessel_tree import FOVEA, grow_vessels

__all__ = ["CAMERAS", "Camera", "FundusPhantom", "draw_fundus"]

_SMALLEST_SIDE = 64
_WIDEST = 0.1  # disc diameters: the widest veins

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """How a fundus camera sees an eye. Colours are R, G, B; lengths are in disc diameters unless stated otherwise.

    Attributes:
        name: short name, also used in data lists.
        disc_diameter: diameter of the optic disc as a share of the field's radius: the smaller, the wider the field.
        aim: point of the eye at the image's centre (see :func:`~.vessel_tree.grow_vessels`).
        aim_spread: standard deviation of ``aim``.
        field_radius: radius of the circular field as a share of half the image's shorter side.
        flat: share of the field's radius at which it is cut flat above and below; 1 leaves the circle whole.
        notch: whether the field has the orientation notch at its upper right.
        colour: reflectance of the retina, 0 to 1.
        colour_spread: standard deviation of its logarithm between eyes, for each channel; the brightness varies too.
        absorption: optical depth of blood per disc diameter.
        vignetting: loss of light at the rim, 0 to 1.
        choroid: strength of the choroidal vessels seen through the retina.
        flare: probability of a coloured flare at the rim.
        noise: standard deviation of the sensor's noise, 0 to 1.
        blur: standard deviation of the optics' blur.
        black: colour outside the field, 0 to 1.

    Example:
        >>> from dataclasses import replace
        >>> from medseg_monai.phantoms import CAMERAS, draw_fundus
        >>> quiet = replace(CAMERAS["a"], name="quiet", noise=0.0)
        >>> draw_fundus(size=(64, 80), camera=quiet, seed=0).image.shape
        (64, 80, 3)
    """

    name: str
    disc_diameter: float
    aim: tuple[float, float]
    aim_spread: float
    field_radius: float
    flat: float
    notch: bool
    colour: Colour
    colour_spread: Colour
    absorption: Colour
    vignetting: float
    choroid: float
    flare: float
    noise: float
    blur: float
    black: Colour


CAMERAS: dict[str, Camera] = {
    "a": Camera(
        name="a",
        disc_diameter=0.30,
        aim=(2.0, 0.1),
        aim_spread=0.25,
        field_radius=0.95,
        flat=1.0,
        notch=True,
        colour=(0.78, 0.42, 0.23),
        colour_spread=(0.06, 0.06, 0.13),
        absorption=(1.6, 4.0, 3.0),
        vignetting=0.25,
        choroid=0.25,
        flare=0.15,
        noise=0.013,
        blur=0.010,
        black=(0.01, 0.01, 0.015),
    ),
    "b": Camera(
        name="b",
        disc_diameter=0.39,
        aim=(0.35, 0.0),
        aim_spread=0.35,
        field_radius=1.06,
        flat=0.88,
        notch=False,
        colour=(0.52, 0.25, 0.1),
        colour_spread=(0.08, 0.08, 0.2),
        absorption=(1.9, 3.4, 2.0),
        vignetting=0.45,
        choroid=0.5,
        flare=0.35,
        noise=0.008,
        blur=0.014,
        black=(0.0, 0.0, 0.0),
    ),
}
"""``"a"`` has a wide, warm, sharp and noisy field like DRIVE; ``"b"`` a narrow, dark, softer field like DRISHTI-GS."""


@dataclass(frozen=True)
class FundusPhantom:
    """A fundus photograph and its masks.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        vessels: bool ``[H, W]``, inside ``fov``.
        disc: bool ``[H, W]``, optic disc including the vessels over it, inside ``fov``.
        fov: bool ``[H, W]``, the camera's field of view.

    Example:
        >>> from medseg_monai.phantoms import CAMERAS, draw_fundus
        >>> phantom = draw_fundus(size=(64, 80), camera=CAMERAS["b"], seed=0)
        >>> bool((phantom.vessels & ~phantom.fov).any())
        False
    """

    image: npt.NDArray[np.uint8]
    vessels: BoolArray
    disc: BoolArray
    fov: BoolArray


@dataclass(frozen=True)
class _View:
    """One exposure: where each pixel lies in the eye and in the field."""

    size: tuple[int, int]
    scale: float  # pixels per disc diameter
    x: FloatArray  # eye coordinates of the pixels
    y: FloatArray
    rim: FloatArray  # distance from the image's centre in radii of the field
    bearing: FloatArray  # direction from the image's centre, radians
    to_pixels: npt.NDArray[np.float64]  # [2, 2], eye offset to row and column
    aim: npt.NDArray[np.float64]

    def pixels(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Eye coordinates ``[N, 2]`` to rows and columns ``[N, 2]``."""
        centre = (np.array(self.size, dtype=np.float64) - 1) / 2
        return np.asarray((points - self.aim) @ self.to_pixels.T + centre)


def draw_fundus(*, size: tuple[int, int], camera: Camera, seed: int | Sequence[int]) -> FundusPhantom:
    """Draw a fundus phantom.

    The image is a product of physical layers, so that no grey value belongs to one structure alone: the pigment of the
    retina and the vessels of the choroid below it, the fovea, the disc with its cup, lesions (exudates as bright as the
    disc, haemorrhages as dark as the vessels), blood vessels as absorbing tubes with the light reflex of the arteries,
    uneven illumination with flares, and finally the blur of the optics and the noise of the sensor.

    Args:
        size: rows and columns ``(H, W)``, each at least 64.
        camera: the camera, an entry of :data:`CAMERAS` or a :class:`Camera` of your own.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``). Pose, vessels
            and disc are the same in any ``size``; textures and noise are not.

    Returns:
        The image and its masks.

    Raises:
        ValueError: if a side is shorter than 64 pixels.

    Example:
        >>> from medseg_monai.phantoms import CAMERAS, draw_fundus
        >>> phantom = draw_fundus(size=(64, 80), camera=CAMERAS["a"], seed=0)
        >>> phantom.image.shape, phantom.vessels.shape, bool(phantom.disc.any())
        ((64, 80, 3), (64, 80), True)
    """
    if min(size) < _SMALLEST_SIDE:
        raise ValueError(f"size={size} is too small for a fundus: give rows and columns of at least {_SMALLEST_SIDE}.")
    # One random stream per layer, so that a change in one layer does not change the others.
    placing, growing, disc_rng, painting, lesions, lighting, sensor = np.random.default_rng(seed).spawn(7)
    view = _place(placing, size=size, camera=camera)
    fov = _field(view, camera)
    disc, cup = _disc(disc_rng, view)
    vein, artery = _vessels(growing, view)

    colour = _colour(camera.colour) * _colour(
        np.exp(painting.normal(0, camera.colour_spread) + painting.normal(0, 0.13))
    )
    image = _retina(painting, view, colour=colour, choroid_strength=camera.choroid)
    image = _add_disc(disc_rng, image, disc=disc, cup=cup, view=view, colour=colour)
    image = _add_lesions(lesions, image, view=view, camera=camera, keep_free=disc)
    image = _add_vessels(image, vein=vein, artery=artery, view=view, camera=camera)
    image = _light(lighting, image, view=view, camera=camera)
    return FundusPhantom(
        image=_expose(sensor, image, view=view, camera=camera, fov=fov),
        vessels=(np.maximum(vein.coverage, artery.coverage) >= 0.5) & fov,
        disc=(disc >= 0) & fov,
        fov=fov,
    )


def _place(rng: np.random.Generator, *, size: tuple[int, int], camera: Camera) -> _View:
    radius = camera.field_radius * min(size) / 2
    scale = radius * camera.disc_diameter * rng.uniform(0.92, 1.08)
    aim = np.array(camera.aim) + rng.normal(0, camera.aim_spread, 2).clip(-0.5, 0.5)
    angle = np.deg2rad(rng.normal(0, 5))
    left = rng.random() < 0.5
    cosine, sine = np.cos(angle), np.sin(angle)
    to_pixels = scale * np.array([[sine, cosine], [cosine, -sine]])
    if left:
        to_pixels[1] *= -1
    rows = np.arange(size[0], dtype=np.float32)[:, None] - (size[0] - 1) / 2
    columns = np.arange(size[1], dtype=np.float32)[None] - (size[1] - 1) / 2
    back = np.linalg.inv(to_pixels).astype(np.float32)
    return _View(
        size=size,
        scale=scale,
        x=(back[0, 0] * rows + back[0, 1] * columns + np.float32(aim[0])).astype(np.float32),
        y=(back[1, 0] * rows + back[1, 1] * columns + np.float32(aim[1])).astype(np.float32),
        rim=(np.hypot(rows, columns) / radius).astype(np.float32),
        bearing=np.arctan2(rows, columns).astype(np.float32),
        to_pixels=to_pixels,
        aim=aim,
    )


def _field(view: _View, camera: Camera) -> BoolArray:
    across = np.abs(view.rim * np.sin(view.bearing))
    field = (view.rim <= 1) & (across <= camera.flat)
    if camera.notch:
        field |= np.hypot(view.rim * np.cos(view.bearing) - 0.75, view.rim * np.sin(view.bearing) + 0.68) < 0.05
    return np.asarray(field)


def _disc(rng: np.random.Generator, view: _View) -> tuple[FloatArray, FloatArray]:
    """Signed distances to the margins of disc and cup ``[H, W]`` in disc diameters, positive inside."""
    stretch = np.array([rng.uniform(0.9, 1.0), rng.uniform(1.0, 1.12)])
    angle = np.arctan2(view.y, view.x)
    bumps = sum(
        rng.normal(0, 0.02 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 6)
    )
    radius = np.hypot(view.x / stretch[0], view.y / stretch[1])
    disc = 0.5 * (1 + bumps) - radius
    size = rng.uniform(0.16, 0.33)
    centre = rng.normal((0.05, 0.0), 0.03)
    cup = size - np.hypot(view.x - centre[0], (view.y - centre[1]) / rng.uniform(1.0, 1.2))
    return disc.astype(np.float32), cup.astype(np.float32)


def _vessels(rng: np.random.Generator, view: _View) -> tuple[Tubes, Tubes]:
    tree = grow_vessels(rng, spacing=0.8 / view.scale)
    points, widths = view.pixels(tree.points), tree.widths * view.scale
    # Branches thinner than a pixel are neither seen nor labelled (but a tiny image keeps the large vessels); below 1.5
    # pixels a tube would be drawn with gaps.
    seen, radii = widths > min(1, 0.05 * view.scale), np.maximum(widths / 2, 0.75)
    kinds = (seen & ~tree.artery, seen & tree.artery)
    vein, artery = (draw_tubes(points[kind], radii[kind], size=view.size) for kind in kinds)
    return vein, artery


def _colour(values: Sequence[float] | npt.NDArray[np.floating]) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def _noise(rng: np.random.Generator, view: _View, cell: float) -> FloatArray:
    """Noise ``[H, W]`` with knots every ``cell`` disc diameters."""
    return smooth_noise(rng, size=view.size, cell=max(cell * view.scale, 1.0))


def _step(distance: FloatArray, softness: float) -> FloatArray:
    """Soft step ``[H, W]``: 0 outside, 1 inside, over about four times ``softness``."""
    return np.asarray(1 / (1 + np.exp(-np.clip(distance / softness, -30, 30))), dtype=np.float32)


def _retina(rng: np.random.Generator, view: _View, *, colour: FloatArray, choroid_strength: float) -> FloatArray:
    # Optical depths: pigment absorbs more green and blue than red.
    pigment = 0.05 * _noise(rng, view, 1.3) + 0.035 * _noise(rng, view, 0.45) + 0.02 * _noise(rng, view, 0.12)
    grain = 0.015 * _noise(rng, view, 0.045)
    fovea = np.hypot(view.x - FOVEA[0], view.y - FOVEA[1])
    depth = rng.uniform(0.7, 1.3)
    macula = depth * (0.16 * np.exp(-((fovea / 0.75) ** 2)) + 0.22 * np.exp(-((fovea / 0.28) ** 2)))
    # Choroidal vessels: the zero crossings of a noise field, seen as bright reddish bands; the macula hides them.
    bands = np.exp(-((_noise(rng, view, 0.2) / 0.6) ** 2)) + 0.5 * _noise(rng, view, 0.09) - 0.5
    amount = choroid_strength * rng.uniform(0, 1) ** 2 * (1 - np.exp(-((fovea / 1.2) ** 2)))
    choroid = amount * bands * np.clip(0.6 + 0.3 * _noise(rng, view, 1.2), 0, 1)
    depths = [
        (pigment + grain)[..., None] * _colour((0.6, 1.0, 1.1)),
        macula[..., None] * _colour((0.7, 1.0, 0.9)),
        -choroid[..., None] * _colour((0.5, 0.5, 0.3)),
        (0.05 * _noise(rng, view, 1.8))[..., None] * _colour((1.0, -0.4, -0.9)),
    ]
    return np.asarray(colour * np.exp(-sum(depths)), dtype=np.float32)


def _add_disc(
    rng: np.random.Generator, image: FloatArray, *, disc: FloatArray, cup: FloatArray, view: _View, colour: FloatArray
) -> FloatArray:
    pallor = rng.uniform(0.55, 1.0)
    rim = colour * (1 + pallor * _colour((0.4, 0.5, 0.45)))
    inner = colour * (1 + pallor * _colour((0.65, 1.15, 1.3)))
    texture = (1 + 0.04 * _noise(rng, view, 0.12))[..., None]
    # A halo of nerve fibres, and on one side a crescent of bare sclera: bright, but not part of the disc.
    halo = 0.1 * np.exp(np.minimum(disc, 0) / 0.35)
    side = np.cos(np.arctan2(view.y, view.x) - rng.uniform(0, 2 * np.pi)).clip(0, 1)
    crescent = rng.uniform(0, 0.4) * (rng.random() < 0.5) * side * _step(disc + 0.13, 0.03)
    around = image * (1 + (halo + crescent)[..., None] * _colour((0.5, 1.0, 0.9)))
    weight = (_step(disc, rng.uniform(0.012, 0.035)) * rng.uniform(0.8, 0.97))[..., None]
    inside = rim + (inner - rim) * _step(cup, rng.uniform(0.03, 0.07))[..., None]
    return np.asarray(around * (1 - weight) + inside * texture * weight, dtype=np.float32)


def _blots(rng: np.random.Generator, view: _View, *, groups: int, spread: float, largest: float) -> Tubes:
    """Groups of roundish irregular spots anywhere on the retina."""
    centres = np.repeat(rng.uniform((-3, -3), (5, 3), (groups, 2)), rng.integers(3, 16, groups), axis=0)
    spots = centres + rng.normal(0, spread, centres.shape)
    lobes = np.repeat(spots, 4, axis=0)
    radii = np.repeat(largest * rng.uniform(0.15, 1, len(spots)) ** 2, 4) * rng.uniform(0.5, 1, len(lobes))
    lobes = lobes + rng.normal(0, 0.6, lobes.shape) * radii[:, None]
    return draw_tubes(view.pixels(lobes), np.maximum(radii * view.scale, 0.6), size=view.size)


def _add_lesions(
    rng: np.random.Generator, image: FloatArray, *, view: _View, camera: Camera, keep_free: FloatArray
) -> FloatArray:
    free = 1 - _step(keep_free + 0.12, 0.02)
    exudates = _blots(rng, view, groups=int(rng.integers(0, 4)), spread=0.22, largest=0.09)
    haemorrhages = _blots(rng, view, groups=int(rng.integers(0, 4)), spread=0.45, largest=0.13)
    thickness = 1 - np.exp(-exudates.chord / view.scale / 0.05)
    image = image * np.exp((rng.uniform(0.5, 1) * thickness * free)[..., None] * _colour((0.45, 0.85, 0.7)))
    # The blood of a blot is thin: its depth saturates long before that of a tube of the same width.
    blood = 0.09 * (1 - np.exp(-haemorrhages.chord / view.scale / 0.06)) * free
    return np.asarray(image * np.exp(-blood[..., None] * _colour(camera.absorption)), dtype=np.float32)


def _add_vessels(image: FloatArray, *, vein: Tubes, artery: Tubes, view: _View, camera: Camera) -> FloatArray:
    # Oxygenated blood is brighter, and an artery's wall throws a reflex along its axis.
    depth = vein.chord + 0.75 * artery.chord * (1 - 0.45 * artery.axis)
    # Light scattered from the sides brightens wide vessels: their depth grows more slowly than their diameter.
    depth = _WIDEST * (depth / view.scale / _WIDEST) ** 0.7
    return np.asarray(image * np.exp(-depth[..., None] * _colour(camera.absorption)), dtype=np.float32)


def _light(rng: np.random.Generator, image: FloatArray, *, view: _View, camera: Camera) -> FloatArray:
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.16)
    tilt = 1 + slope * view.rim * np.cos(view.bearing - direction)
    uneven = np.exp(0.07 * _noise(rng, view, 2.5))
    light = (1 - camera.vignetting * rng.uniform(0.6, 1.2) * view.rim**2.5).clip(0.1) * tilt * uneven
    # The rim of a badly centred pupil: bluish green loses less than red.
    image = image * light[..., None] ** _colour((1.1, 0.95, 0.8))
    if rng.random() < camera.flare:
        toward = np.cos(view.bearing - rng.uniform(0, 2 * np.pi)).clip(0, 1) ** 4
        flare = rng.uniform(0.3, 0.8) * toward * np.exp((view.rim - 1) / rng.uniform(0.08, 0.2))
        image = image + flare[..., None] * _colour((0.6, 0.42, 0.12))
    return np.asarray(image, dtype=np.float32)


def _expose(
    rng: np.random.Generator, image: FloatArray, *, view: _View, camera: Camera, fov: BoolArray
) -> npt.NDArray[np.uint8]:
    sigma = max(camera.blur * view.scale * rng.uniform(0.7, 1.3), 0.4)
    image = ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3)
    # The edge of the field is a stop in the camera, so it is sharp whatever the optics of the eye.
    edge = ndimage.gaussian_filter(fov.astype(np.float32), 0.5, truncate=3)[..., None]
    image = image * edge + _colour(camera.black) * (1 - edge)
    # Grey noise at two scales (shot noise and the residue of demosaicking), weaker outside the field.
    fine = rng.standard_normal((*view.size, 3), dtype=np.float32)
    coarse = smooth_noise(rng, size=view.size, cell=1.8)[..., None]
    noise = camera.noise * (0.7 * fine + 0.8 * coarse) * np.where(fov, 1, 0.15)[..., None]
    exposed = image + noise
    # A soft shoulder instead of hard clipping: film and sensors saturate slowly.
    exposed = np.where(exposed > 0.8, 0.8 + 0.2 * np.tanh((exposed - 0.8) / 0.2), exposed)
    return np.asarray(np.rint(exposed.clip(0, 1) * 255), dtype=np.uint8)
