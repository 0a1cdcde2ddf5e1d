"""Procedural B-scans of the macula by optical coherence tomography, with the ten boundaries of CE-Net's Table V."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from medseg_monai.layers import labels_of_boundaries

from .case_files import PhantomCase, PhantomFile, check_dimensions, write_phantoms
from .drawing import smooth_noise

__all__ = ["OCTPhantom", "draw_oct", "write_oct_phantoms"]

FloatArray = npt.NDArray[np.float64]

SMALLEST = 64

#: share of the retina beside the fovea, from NFL to RPE: the nine layers between ten boundaries
_THICKNESS = np.array([0.09, 0.21, 0.10, 0.09, 0.21, 0.06, 0.06, 0.08, 0.10])
#: what is left of a layer in the centre of the fovea, where the inner ones are pushed aside and the ONL is thick
_IN_FOVEA = np.array([0.05, 0.06, 0.08, 0.25, 1.35, 1.1, 1.0, 1.3, 1.0])
#: brightness of the eleven parts: vitreous, nine layers, choroid
_BRIGHTNESS = np.array([0.03, 0.72, 0.46, 0.27, 0.44, 0.16, 0.24, 0.85, 0.42, 0.95, 0.5])
_LOOKS = 3.0  # of the gamma distribution of speckle


@dataclass(frozen=True, eq=False)
class OCTPhantom:
    """A B-scan and what is drawn in it.

    Attributes:
        image: uint8 ``[H, W]``.
        boundaries: ``[10, W]`` in pixels from the upper edge, with fractions.
        labels: uint8 ``[H, W]``, classes 0 to 10 from top to bottom.

    Example:
        >>> from medseg_monai.phantoms import OCTPhantom, draw_oct
        >>> phantom: OCTPhantom = draw_oct(size=(64, 80), seed=0)
        >>> phantom.labels[[0, -1], 0].tolist()
        [0, 10]
    """

    image: npt.NDArray[np.uint8]
    boundaries: FloatArray
    labels: npt.NDArray[np.uint8]


def draw_oct(*, size: tuple[int, int], seed: int | tuple[int, ...]) -> OCTPhantom:
    """Draw a B-scan through the macula: layers with a fovea, shadows of vessels, speckle.

    The fovea lies beside the middle, the nerve fibres are thicker on one side, and the retina is bent and tilted, so
    that no mirrored phantom looks like another. Below a vessel the light is missing, as in a patient.

    Args:
        size: rows and columns, each at least 64.
        seed: the same seed draws the same phantom.

    Raises:
        ValueError: the size is too small.

    Example:
        >>> from medseg_monai.phantoms import draw_oct
        >>> phantom = draw_oct(size=(96, 128), seed=0)
        >>> phantom.image.shape, phantom.boundaries.shape, int(phantom.labels.max())
        ((96, 128), (10, 128), 10)
    """
    if min(size) < SMALLEST:
        raise ValueError(f"size={size} is too small for layers: give at least {SMALLEST} rows and columns.")
    rng = np.random.default_rng(seed)
    boundaries = _boundaries(rng, size)
    brightness = _brightness(rng, boundaries, size)
    light = _shadows(rng, boundaries, size)
    coherent = brightness * light * rng.gamma(_LOOKS, 1 / _LOOKS, size)
    blurred = ndimage.gaussian_filter(coherent, (0.4, 0.7)) + 0.02 * rng.random(size)
    image = np.rint(255 * np.clip(blurred, 0, 1.2) ** 0.6 / 1.2**0.6).astype(np.uint8)
    return OCTPhantom(image, boundaries, labels_of_boundaries(boundaries, size[0]))


def _wave(rng: np.random.Generator, columns: int, cell: float) -> FloatArray:
    """A smooth curve along the columns with about unit variance."""
    return np.asarray(smooth_noise(rng, size=(3, columns), cell=cell)[1], dtype=np.float64)


def _boundaries(rng: np.random.Generator, size: tuple[int, int]) -> FloatArray:
    rows, columns = size
    place = np.linspace(-1, 1, columns)
    fovea = rng.uniform(-0.35, 0.35)
    pit = np.exp(-(((place - fovea) / rng.uniform(0.16, 0.24)) ** 2))
    side = rng.choice([-1, 1])
    retina = rows * rng.uniform(0.38, 0.46)
    shares = _THICKNESS[:, None] * (1 + (_IN_FOVEA - 1)[:, None] * pit)
    shares[0] *= 1 + 0.7 * side * place
    wobble = np.stack([_wave(rng, columns, columns / 7) for _ in _THICKNESS])
    thickness = retina * shares * (1 + 0.07 * wobble).clip(0.5)
    # the outer layers follow the wall of the eye; what the fovea lacks is missing at the top
    bend = rng.uniform(0.0, 0.06) * (place**2 - 0.3) - rng.uniform(-0.05, 0.05) * place
    lowest = rows * (rng.uniform(0.72, 0.8) - bend) + 0.004 * rows * _wave(rng, columns, columns / 5)
    above = np.cumsum(thickness[::-1], axis=0)[::-1]
    return np.vstack([lowest - above, lowest])


def _brightness(rng: np.random.Generator, boundaries: FloatArray, size: tuple[int, int]) -> FloatArray:
    rows = size[0]
    labels = labels_of_boundaries(boundaries, rows)
    brightness = _BRIGHTNESS[labels] * (1 + 0.1 * smooth_noise(rng, size=size, cell=max(rows / 30, 2)))
    depth = np.arange(rows)[:, None] + 0.5
    elm = np.exp(-(((depth - boundaries[5]) / max(rows / 300, 0.7)) ** 2))
    below = (depth - boundaries[-1]).clip(0) / rows
    vessels_of_choroid = 0.7 + 0.3 * smooth_noise(rng, size=size, cell=max(rows / 18, 2))
    choroid = np.where(below > 0, np.exp(-below / 0.09) * vessels_of_choroid, 1)
    return np.asarray((brightness + 0.16 * elm) * choroid).clip(0)


def _shadows(rng: np.random.Generator, boundaries: FloatArray, size: tuple[int, int]) -> FloatArray:
    """The share of the light that reaches each pixel, and comes back."""
    rows, columns = size
    place, depth = np.arange(columns), np.arange(rows)[:, None] + 0.5
    light = np.broadcast_to(1 + 0.08 * _wave(rng, columns, columns / 3), size).copy()
    for centre in rng.uniform(0, columns, rng.integers(2, 6)):
        width = columns * rng.uniform(0.006, 0.018)
        profile = np.exp(-(((place - centre) / width) ** 2))
        below = 1 / (1 + np.exp(-(depth - boundaries[1]) / 2))
        light *= 1 - rng.uniform(0.4, 0.75) * profile * below
    return light.clip(0.05)


def write_oct_phantoms(
    folder: str | os.PathLike[str], *, counts: Mapping[str, int], size: tuple[int, ...], seed: int
) -> Path:
    """Write B-scans and their data list.

    ``folder`` gets ``images/phantom_0001.png`` (8-bit grey), ``labels/phantom_0001.png`` (classes 0 to 10) and
    ``datalist.json``. Each phantom is a different patient.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: rows and columns, each at least 64.
        seed: the same seed writes the same files.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``patient`` and ``source``.

    Raises:
        ValueError: for an unknown section, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_oct_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_oct_phantoms(folder, counts={"training": 2}, size=(64, 80), seed=0)
        ...     [item["patient"] for item in load_datalist(path, "training")]
        ['phantom_0001', 'phantom_0002']
    """
    check_dimensions(size, 2)

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        phantom = draw_oct(size=(size[0], size[1]), seed=(seed, case.number))
        return "phantom_oct", {
            "image": PhantomFile("images", ".png", Image.fromarray(phantom.image).save),
            "label": PhantomFile("labels", ".png", Image.fromarray(phantom.labels).save),
        }

    return write_phantoms(folder, counts, draw)
