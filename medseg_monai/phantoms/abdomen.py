"""Procedural abdomen in CT and three MRI contrasts, with exact masks of liver, spleen, kidneys, and liver tumours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .grid import (
    FloatArray,
    Grid,
    Points,
    Random,
    branch,
    check_volume,
    draw_tree,
    ellipsoid,
    grain,
    place_grid,
)

__all__ = ["ANATOMY", "CONTRASTS", "ORGANS", "AbdomenPhantom", "Contrast", "draw_abdomen"]

ANATOMY = (240.0, 262.0, 400.0)
"""Field of view that shows the anatomy in its own proportions: mm in z, y and x."""

ORGANS = {"liver": 1, "spleen": 2, "kidney": 3}
"""Values of the organs in the label, with both kidneys as one; 0 is background."""

Contrast = Literal["ct", "t1_in", "t1_out", "t2"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
"""Portal venous CT, T1 in and out of phase, and T2 with fat suppressed: the contrasts of CHAOS."""

LabelArray = npt.NDArray[np.uint8]
_Depth = npt.NDArray[np.floating]
_Axes = tuple[FloatArray, FloatArray, FloatArray]
_Triple = tuple[float, float, float]

_SMALLEST = (8, 32, 32)

# Lengths are in anatomical millimetres: those of a body 340 wide and 230 deep, seen over a height of 240. x points to
# the patient's left, y to the back, z up; the origin is the centre of the body. Tuples are in the order z, y, x.
_BODY = (115.0, 170.0)
_SPINE, _SPINE_RADIUS = (66.0, 0.0), 21.0
_AORTA, _AORTA_RADIUS = (36.0, 13.0), 10.0
_CAVA, _CAVA_RADIUS = (32.0, -19.0), 11.0
_PSOAS = (62.0, 35.0)
_RIGHT_DOME, _LEFT_DOME = (86.0, 4.0, -66.0), (76.0, 4.0, 70.0)
_HEART, _HEART_RADII = (108.0, -28.0, 26.0), (38.0, 44.0, 56.0)
_RIGHT_LOBE, _RIGHT_LOBE_RADII = (28.0, 4.0, -76.0), (86.0, 78.0, 70.0)
_LEFT_LOBE, _LEFT_LOBE_RADII = (48.0, -40.0, -6.0), (32.0, 32.0, 70.0)
_PORTA, _PORTA_RADII = (2.0, 8.0, -20.0), (46.0, 32.0, 38.0)  # the hollow from which the portal vein enters
_CAVAL_OPENING = (74.0, 26.0, -22.0)
_GALLBLADDER, _GALLBLADDER_RADII = (0.0, -32.0, -48.0), (28.0, 13.0, 14.0)
_SPLEEN, _SPLEEN_RADII = (24.0, 36.0, 100.0), (50.0, 44.0, 30.0)
_SPLEEN_HOLLOW, _SPLEEN_HOLLOW_RADII = (24.0, 8.0, 60.0), (40.0, 38.0, 26.0)
_LEFT_KIDNEY, _RIGHT_KIDNEY, _KIDNEY_RADII = (-24.0, 40.0, 66.0), (-38.0, 40.0, -66.0), (54.0, 26.0, 28.0)
_SINUS, _SINUS_RADII = (0.0, -6.0, -20.0), (26.0, 10.0, 15.0)  # from the centre of the left kidney
_STOMACH, _STOMACH_RADII = (44.0, -28.0, 58.0), (44.0, 42.0, 50.0)

_CT_NOISE = 16.0  # HU
_MR_NOISE = 0.03  # of the signal of fat in T1
_MR_LARGEST = 4095  # 12 bits


@dataclass(frozen=True)
class _Tissue:
    """The appearance of a tissue."""

    hounsfield: float
    spread: float  # of the Hounsfield units between patients
    t1: float
    t2: float  # with fat suppressed
    fat: float = 0.0  # share of the T1 signal; out of phase it is subtracted from that of water


# CT: portal venous phase. MRI: the relative brightness of tissues is that of gradient echo and T2-SPIR at 1.5 T.
_TISSUES = {
    "air": _Tissue(-1000, 0, 0.01, 0.01),
    "lung": _Tissue(-855, 20, 0.06, 0.06),
    "fat": _Tissue(-102, 6, 0.95, 0.14, fat=0.92),
    "muscle": _Tissue(60, 7, 0.46, 0.18, fat=0.03),
    "bone": _Tissue(560, 60, 0.10, 0.06),
    "vertebra": _Tissue(410, 40, 0.16, 0.10),
    "marrow": _Tissue(190, 40, 0.56, 0.26, fat=0.4),
    "disc": _Tissue(90, 8, 0.38, 0.45),
    "blood": _Tissue(155, 16, 0.28, 0.10),
    "heart": _Tissue(135, 16, 0.40, 0.24),
    "liver": _Tissue(104, 16, 0.60, 0.30, fat=0.06),
    "spleen": _Tissue(118, 12, 0.44, 0.58),
    "cortex": _Tissue(178, 18, 0.54, 0.60),
    "medulla": _Tissue(146, 18, 0.42, 0.76),
    "tumour": _Tissue(62, 12, 0.40, 0.62),
    "bile": _Tissue(10, 5, 0.30, 1.25),
    "bowel": _Tissue(92, 12, 0.50, 0.44),
    "chyme": _Tissue(60, 35, 0.38, 0.70),
    "gas": _Tissue(-940, 20, 0.02, 0.02),
    "fluid": _Tissue(20, 4, 0.22, 1.20),
}


@dataclass(frozen=True)
class AbdomenPhantom:
    """An abdomen and its masks; the axes are z up, y to the back, x to the patient's left (MONAI's ``"SPL"``).

    Attributes:
        image: int16 ``[D, H, W]``, Hounsfield units, or 0 to 4095 in MRI, where the scale differs between patients.
        label: uint8 ``[D, H, W]``, 0 and the values of :data:`ORGANS`.
        tumour: uint8 ``[D, H, W]``, 1 in liver tumours, which lie inside the liver.

    Example:
        >>> from medseg_monai.phantoms import draw_abdomen
        >>> phantom = draw_abdomen(size=(8, 32, 40), seed=0)
        >>> phantom.image.dtype.name, phantom.label.dtype.name, bool(phantom.tumour.any())
        ('int16', 'uint8', False)
    """

    image: npt.NDArray[np.int16]
    label: LabelArray
    tumour: LabelArray


@dataclass(frozen=True)
class _Anatomy:
    """Depths inside the surfaces in mm ``[D, H, W]``, negative outside, and the deformed coordinates."""

    z: FloatArray
    y: FloatArray
    x: FloatArray
    body: FloatArray
    wall: FloatArray  # muscle and everything inside it
    cavity: FloatArray
    lung: FloatArray
    heart: FloatArray
    spine: FloatArray
    psoas: FloatArray
    aorta: FloatArray
    cava: FloatArray
    liver: FloatArray
    gallbladder: FloatArray
    spleen: FloatArray
    kidney: FloatArray
    stomach: FloatArray


class _Canvas:
    """An image that is painted one tissue over the other, with the share of fat in its signal."""

    def __init__(self, rng: Random, grid: Grid, *, contrast: Contrast) -> None:
        shape = [len(axis) for axis in grid.axes]
        self.grid, self.contrast = grid, contrast
        self.values, self.shares = _intensities(rng, contrast)
        self.signal = np.full(shape, self.values["air"], dtype=np.float32)
        self.fat = np.zeros(shape, dtype=np.float32)

    def paint(self, depth: _Depth, tissue: str, texture: FloatArray | float = 0.0) -> None:
        """Paint the inside of a surface; ``texture`` is in Hounsfield units, of which 500 correspond to 1 in MRI."""
        self.cover(self.grid.coverage(depth), tissue, texture)

    def cover(self, share: FloatArray, tissue: str, texture: FloatArray | float = 0.0) -> None:
        """Paint a share of each voxel."""
        scale = 1 if self.contrast == "ct" else 1 / 500
        self.signal += share * (self.values[tissue] + scale * texture - self.signal)
        self.fat += share * (self.shares[tissue] - self.fat)


def draw_abdomen(
    *,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float] | None = None,
    seed: int | Sequence[int],
    contrast: Contrast = "ct",
    tumours: int = 0,
    noise: float = 1.0,
) -> AbdomenPhantom:
    """Draw an abdomen phantom.

    The body is scaled to the field of view, which is ``size`` times ``spacing``: it covers about 0.85 of the width, and
    the height reaches from above the diaphragm to below the kidneys, whatever the millimetres. So ``size`` decides the
    resolution, and ``spacing`` only the proportions of the voxels.

    Shapes are implicit surfaces in coordinates that smooth noise deforms, so that no two phantoms are alike.
    Intensities differ between patients as well, and those of the liver overlap with spleen, heart and bowel.

    MRI has a smooth coil bias, Rician noise and a different scale in each patient. Out of phase, the signal of fat is
    subtracted from that of water, which darkens a fatty liver and draws a dark line where the two meet.

    Args:
        size: ``(D, H, W)``, at least 8 x 32 x 32.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``; by default the field of view is that of the anatomy,
            240 x 262 x 400.
        seed: seed of everything random, one number or several (``numpy.random.default_rng``). The anatomy is the same
            in any contrast, and the organs are the same in any ``size``; vessels, positions of tumours, and noise are
            not.
        contrast: one of :data:`CONTRASTS`. The two phases of T1 are one acquisition: they differ in fat and noise.
        tumours: number of liver tumours, 6 to 22 mm in radius; they may merge.
        noise: multiple of the usual noise, which is 16 HU in CT and 3 % of the T1 signal of fat in MRI.

    Returns:
        The image and its masks.

    Raises:
        ValueError: for a size that is too small, a spacing that is not positive, an unknown contrast, a negative number
            of tumours or negative noise.

    Example:
        >>> from medseg_monai.phantoms import ORGANS, draw_abdomen
        >>> phantom = draw_abdomen(size=(8, 32, 40), seed=0, contrast="t2", tumours=2)
        >>> bool((phantom.label[phantom.tumour > 0] == ORGANS["liver"]).all())
        True
    """
    check_volume(name="an abdomen", size=size, smallest=_SMALLEST, spacing=spacing, noise=noise)
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast='{contrast}' is unknown: choose from {', '.join(CONTRASTS)}.")
    if tumours < 0:
        raise ValueError(f"tumours={tumours} is negative: give the number of liver tumours, or 0.")
    # One random stream per layer, so that a change in one layer does not change the others. The two phases of T1 share
    # everything except the noise.
    placing, shaping, growing, lesions, texture, ct, t1, t2, *sensors = np.random.default_rng(seed).spawn(12)
    values = {"ct": ct, "t1_in": t1, "t1_out": t1, "t2": t2}[contrast]
    sensor = sensors[CONTRASTS.index(contrast)]
    grid = place_grid(placing, size=size, spacing=spacing, anatomy=ANATOMY)
    anatomy = _shape(shaping, grid)
    tumour = _tumours(lesions, grid, anatomy, number=tumours)
    canvas = _Canvas(values, grid, contrast=contrast)
    _paint_body(texture, canvas, anatomy)
    _paint_organs(texture, growing, canvas, anatomy, tumour)
    if contrast == "ct":
        scanned = canvas.signal + _CT_NOISE * noise * grain(sensor, size)
        image = np.clip(np.rint(scanned), -1024, 3071).astype(np.int16)
    else:
        image = _receive(values, sensor, canvas, anatomy, noise=_MR_NOISE * noise)
    label = np.zeros(size, dtype=np.uint8)
    for organ, depth in (("liver", anatomy.liver), ("spleen", anatomy.spleen), ("kidney", anatomy.kidney)):
        label[depth > 0] = ORGANS[organ]
    return AbdomenPhantom(image=image, label=label, tumour=(tumour > 0).astype(np.uint8))


@dataclass(frozen=True)
class _Shaper:
    """Draws surfaces in deformed coordinates."""

    rng: Random
    axes: _Axes  # z, y, x

    def organ(self, middle: npt.ArrayLike, radii: npt.ArrayLike, *, moved: float, axes: _Axes | None = None) -> _Depth:
        """Depth inside an ellipsoid that is moved (``moved`` mm, standard deviation) and scaled at random."""
        centre = (np.array(middle) + self.rng.normal(0, moved, 3)).tolist()
        scaled = (np.array(radii) * self.rng.uniform(0.86, 1.12, 3)).tolist()
        return ellipsoid(axes or self.axes, centre=centre, radii=scaled)

    def tube(self, middle: tuple[float, float], radius: FloatArray | float) -> _Depth:
        """Depth inside a tube that runs along the body."""
        _, y, x = self.axes
        return np.asarray(radius - np.hypot(y - middle[0], x - middle[1]))

    def below(self, top: _Triple) -> _Depth:
        """Depth below one dome of the diaphragm."""
        z, y, x = self.axes
        height = top[0] + self.rng.normal(0, 4)
        return np.asarray((height - 0.006 * ((x - top[2]) ** 2 + 1.3 * (y - top[1]) ** 2) - z) * 0.8)


def _shape(rng: Random, grid: Grid) -> _Anatomy:
    z, y, x = (axis + 6 * grid.noise(rng, cell=75) for axis in grid.open())
    shaper = _Shaper(rng, (z, y, x))
    _, flat_y, flat_x = grid.open()
    radius = np.hypot(flat_y / _BODY[0], flat_x / _BODY[1]) / rng.uniform(0.95, 1.03)
    body = (1 - radius - 0.012 * grid.noise(rng, cell=110)) * (0.5 * sum(_BODY))
    wall = body - rng.uniform(6, 22) - 3 * grid.noise(rng, cell=50)
    within = wall - rng.uniform(8, 13)
    cavity = np.minimum(within, 76 + 0.003 * x**2 - y)  # the muscles of the back are thicker
    below = np.maximum(shaper.below(_RIGHT_DOME), shaper.below(_LEFT_DOME))
    psoas_radius = np.clip(10 + 0.11 * (20 - z), 0, 24)
    surfaces = {
        "body": body,
        "wall": wall,
        "cavity": cavity,
        # the diaphragm is at least as thick as a voxel, so that no voxel has both lung and liver
        "lung": _inside(within, -below - max(4.0, grid.blur)),
        "heart": _inside(shaper.organ(_HEART, _HEART_RADII, moved=4), -below - 3),
        "spine": shaper.tube(_SPINE, _SPINE_RADIUS),
        "psoas": np.maximum(*(shaper.tube((_PSOAS[0], side * _PSOAS[1]), psoas_radius) for side in (1, -1))),
        "aorta": shaper.tube(_AORTA, _AORTA_RADIUS),
        "cava": shaper.tube(_CAVA, _CAVA_RADIUS),
    }
    avoided = [(surfaces["spine"], 4), (surfaces["psoas"], 2), (surfaces["aorta"], 3), (surfaces["cava"], 1)]
    surfaces |= _organs(shaper, room=_inside(cavity - 3, below - 2, out=avoided))
    return _Anatomy(z=z, y=y, x=x, **{name: np.asarray(depth, dtype=np.float32) for name, depth in surfaces.items()})


def _organs(shaper: _Shaper, *, room: _Depth) -> dict[str, _Depth]:
    """Shape the organs, each in the room that the previous ones left."""
    kidney = np.maximum(_kidney(shaper, 1, _LEFT_KIDNEY, room=room), _kidney(shaper, -1, _RIGHT_KIDNEY, room=room))
    bladder = shaper.organ(_GALLBLADDER, _GALLBLADDER_RADII, moved=4)
    right = shaper.organ(_RIGHT_LOBE, _RIGHT_LOBE_RADII, moved=5)
    left = shaper.organ(_LEFT_LOBE, _LEFT_LOBE_RADII, moved=6)
    lobes = 8 * np.logaddexp(right / 8, left / 8)  # a union with no crease
    porta = shaper.organ(_PORTA, _PORTA_RADII, moved=3)
    liver = _whole(_inside(lobes, room, out=[(kidney, 3), (bladder, 1), (porta, 0)]))
    bladder = _inside(bladder, room, out=[(kidney, 3), (liver, 0)])
    hollow = shaper.organ(_SPLEEN_HOLLOW, _SPLEEN_HOLLOW_RADII, moved=3)
    whole = shaper.organ(_SPLEEN, _SPLEEN_RADII, moved=4)
    spleen = _whole(_inside(whole, room, out=[(kidney, 3), (hollow, 0), (liver, 2)]))
    full = shaper.organ(_STOMACH, _STOMACH_RADII, moved=5)
    stomach = _inside(full, room, out=[(liver, 1), (spleen, 1.5), (kidney, 4), (bladder, 2)])
    return {"kidney": kidney, "liver": liver, "gallbladder": bladder, "spleen": spleen, "stomach": stomach}


def _kidney(shaper: _Shaper, side: int, middle: _Triple, *, room: _Depth) -> _Depth:
    """Shape one kidney around its sinus, with the upper pole closer to the spine; ``side`` is 1 left and -1 right."""
    z, y, x = shaper.axes
    place = np.array(middle) + shaper.rng.normal(0, 4, 3)
    tilted = (z, y, np.asarray(x + side * shaper.rng.uniform(0.08, 0.25) * (z - place[0]), dtype=np.float32))
    sinus = shaper.organ(place + np.array(_SINUS) * (1, 1, side), _SINUS_RADII, moved=1.5, axes=tilted)
    whole = shaper.organ(place, _KIDNEY_RADII, moved=0, axes=tilted)
    return _whole(_inside(whole, room, out=[(sinus, 0)]))


def _inside(*depths: _Depth, out: Sequence[tuple[_Depth, float]] = ()) -> FloatArray:
    """Depth inside several surfaces at once, and away from other surfaces by a gap in mm."""
    return np.asarray(np.minimum.reduce([*depths, *(-(depth + gap) for depth, gap in out)]), dtype=np.float32)


def _whole(depth: FloatArray) -> FloatArray:
    """Keep the largest component of an organ."""
    main = cc3d.largest_k(depth > 0, k=1, connectivity=6) > 0
    stray = (depth > 0) & ~main
    if not stray.any():
        return depth
    gone = ndimage.binary_dilation(stray, np.ones((3, 3, 3))) & ~main
    return np.where(gone, np.float32(-100), depth)


def _tumours(rng: Random, grid: Grid, anatomy: _Anatomy, *, number: int) -> FloatArray:
    """Depth inside round lesions with rough edges, anywhere in the liver except at its edge."""
    depth = np.full(anatomy.liver.shape, -100, dtype=np.float32)
    rough = 0.15 * grid.noise(rng, cell=16)
    candidates = np.argwhere(anatomy.liver > np.median(anatomy.liver[anatomy.liver > 0]))
    for centre in grid.to_points(candidates[rng.integers(0, len(candidates), number)]).tolist():
        radii = (rng.uniform(6, 22) * rng.uniform(0.8, 1.2, 3)).tolist()
        lesion = ellipsoid(grid.open(), centre=centre, radii=radii) + rough * (sum(radii) / 3)
        np.maximum(depth, lesion, out=depth)
    return _inside(depth, anatomy.liver)


def _intensities(rng: Random, contrast: Contrast) -> tuple[dict[str, float], dict[str, float]]:
    """Draw the signal of each tissue in one patient and the share of fat in it, at random."""
    signal, fat = {}, {}
    for name, tissue in _TISSUES.items():
        deviation = float(np.clip(rng.standard_normal(), -2, 2))
        if contrast == "ct":
            signal[name] = tissue.hounsfield + tissue.spread * deviation
        else:
            signal[name] = (tissue.t2 if contrast == "t2" else tissue.t1) * (1 + 0.12 * deviation)
        fat[name] = tissue.fat * float(rng.uniform(0.4, 2.2)) if tissue.fat < 0.5 else tissue.fat
    return signal, fat


def _paint_body(rng: Random, canvas: _Canvas, anatomy: _Anatomy) -> None:
    """Paint everything except the organs, from the skin inwards."""
    texture = canvas.grid.noise(rng, cell=14)
    canvas.paint(anatomy.body, "fat", 8 * texture)
    canvas.paint(anatomy.wall, "muscle", 12 * np.minimum(texture, 0.5))
    # the muscles of the wall are layers with fat between them
    layer = 1.2 - np.abs(anatomy.cavity + rng.uniform(4, 6))
    canvas.paint(_inside(layer, 40 - anatomy.y), "fat")
    canvas.paint(anatomy.cavity, "fat", 10 * texture)
    _paint_bowel(rng, canvas, anatomy)
    canvas.paint(anatomy.lung, "lung", 15 * texture)
    # the diaphragm is visible where it lies on lung
    canvas.paint(_inside(anatomy.lung + 3, -anatomy.lung, anatomy.wall - 10), "muscle")
    canvas.paint(anatomy.heart, "heart", 8 * texture)
    canvas.paint(anatomy.psoas, "muscle", 8 * texture)
    # ribs run down to the front and end above the navel; a vertebra is as high as a rib and the gap below it
    period = rng.uniform(24, 29)
    along = (anatomy.z + 0.35 * anatomy.y) / period + rng.uniform(0, 1)
    across = np.hypot((np.mod(along, 1) - 0.5) * period * 0.85, anatomy.cavity + 5.5)
    rib = _inside(4.5 - across, np.abs(anatomy.x) - 35, anatomy.z + 1.1 * anatomy.y + rng.uniform(0, 30))
    canvas.paint(rib, "bone")
    canvas.paint(rib - 2, "marrow")
    between = np.mod(anatomy.z / period, 1) < 0.2
    canvas.paint(anatomy.spine, "vertebra")
    canvas.paint(anatomy.spine - 2.5, "marrow", 25 * texture)
    canvas.paint(np.where(between, anatomy.spine, -100), "disc")
    canal = 8 - np.hypot(anatomy.y - _SPINE[0] - 20, anatomy.x)
    canvas.paint(canal + 5, "bone")
    canvas.paint(canal, "fluid")
    canvas.paint(np.maximum(anatomy.aorta, anatomy.cava), "blood")


def _paint_bowel(rng: Random, canvas: _Canvas, anatomy: _Anatomy) -> None:
    """Paint loops of bowel with their content, whose gas rises to the front, wherever there is no organ."""
    grid = canvas.grid
    organs = np.maximum.reduce([anatomy.liver, anatomy.spleen, anatomy.kidney, anatomy.stomach, anatomy.gallbladder])
    vessels = np.maximum(anatomy.aorta, anatomy.cava)
    room = _inside(anatomy.cavity - 3, 55 - anatomy.z, out=[(organs, 1.5), (vessels, 3), (anatomy.spine, 6)])
    loops = _inside(room, 11 * (grid.noise(rng, cell=19) + rng.uniform(-0.1, 0.4)), out=[(anatomy.psoas, 2)])
    content = grid.noise(rng, cell=16)
    canvas.paint(loops, "bowel", 10 * grid.noise(rng, cell=10))
    canvas.paint(_inside(loops - 3, 10 * content), "chyme", 20 * content)
    # never within a voxel of an organ, since its edge would then be partly gas
    gas = _inside(loops - max(3.0, grid.blur), 12 * (content - anatomy.y / 60 - rng.uniform(1.2, 2.4)))
    canvas.paint(gas, "gas")


def _paint_organs(rng: Random, growing: Random, canvas: _Canvas, anatomy: _Anatomy, tumour: FloatArray) -> None:
    """Paint the organs and their contents."""
    grid = canvas.grid
    texture, coarse = grid.noise(rng, cell=9), grid.noise(rng, cell=30)
    canvas.paint(anatomy.stomach, "bowel", 10 * texture)
    canvas.paint(anatomy.stomach - 4, "chyme", 15 * coarse)
    level = rng.uniform(-70, -35)
    canvas.paint(_inside(anatomy.stomach - max(4.0, grid.blur), level - anatomy.y), "gas")
    canvas.paint(anatomy.gallbladder, "bile")
    canvas.paint(anatomy.liver, "liver", 5 * texture + 6 * coarse)
    _paint_vessels(growing, canvas, anatomy)
    canvas.paint(tumour, "tumour", 12 * texture)
    canvas.paint(anatomy.spleen, "spleen", 5 * texture)
    canvas.paint(anatomy.kidney, "cortex", 6 * texture)
    canvas.paint(_inside(anatomy.kidney - 6, 12 * (grid.noise(rng, cell=13) + 0.4)), "medulla")


def _paint_vessels(rng: Random, canvas: _Canvas, anatomy: _Anatomy) -> None:
    """Paint portal and hepatic veins inside the liver."""
    grid = canvas.grid
    leaves = np.argwhere(anatomy.liver > 0)
    within = grid.coverage(anatomy.liver - 2)
    for root in (np.array(_PORTA) - (-10, 0, 14), np.array(_CAVAL_OPENING)):
        targets: Points = grid.to_points(leaves[rng.integers(0, len(leaves), 60)])
        canvas.cover(draw_tree(grid, branch(rng, root, targets, scale=1.5), 1.0) * within, "blood")


def _receive(rng: Random, sensor: Random, canvas: _Canvas, anatomy: _Anatomy, *, noise: float) -> npt.NDArray[np.int16]:
    """Turn the signal into an MR image: phase, coil bias, noise of the magnitude, and the scanner's scale."""
    phased = canvas.signal * np.abs(1 - 2 * canvas.fat) if canvas.contrast == "t1_out" else canvas.signal
    bias = np.exp(0.22 * canvas.grid.noise(rng, cell=200) + rng.uniform(0.1, 0.5) * np.exp(-anatomy.body.clip(0) / 45))
    scale = 10 ** rng.uniform(2.2, 3.0)
    size = phased.shape
    real = phased * bias + noise * grain(sensor, size)
    return np.clip(np.rint(scale * np.hypot(real, noise * grain(sensor, size))), 0, _MR_LARGEST).astype(np.int16)
