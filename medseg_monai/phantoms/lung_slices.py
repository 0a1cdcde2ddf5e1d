"""Axial slices of thorax phantoms on disk: TIFF in Hounsfield units, masks of the lungs, and the data list."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tifffile import imwrite

from .case_files import PhantomCase, PhantomFile, check_dimensions, write_phantoms
from .thorax import draw_thorax
from .thorax_dataset import DISEASE_CYCLE

__all__ = ["write_finding_lungs_layout", "write_lung_slice_phantoms"]

_DEPTH = 32  # slices of the volume from which one is taken
_SMALLEST_SHARE = 0.3  # a slice shows so much of the lungs' largest section, or more


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice as a radiologist sees it: rows to the back, columns to the patient's left.

    Attributes:
        image: int16 ``[H, W]``, Hounsfield units.
        lungs: bool ``[H, W]``.
        number: position in the scan, from 1 at the feet.
    """

    image: npt.NDArray[np.int16]
    lungs: npt.NDArray[np.bool_]
    number: int


def write_lung_slice_phantoms(
    folder: str | os.PathLike[str], *, counts: Mapping[str, int], size: tuple[int, ...], seed: int
) -> Path:
    """Write slices of thorax phantoms and their data list.

    ``folder`` gets ``images/phantom_0001.tif`` (int16, Hounsfield units), ``labels/phantom_0001.tif`` (8 bits, 0 and
    255) and ``datalist.json``. Each phantom is a different patient, with one slice at a height of its own. The mask is
    that of both lungs with their vessels, and with what is ill in them but for an effusion.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: rows and columns ``(H, W)``, each at least 32.
        seed: the same seed writes the same files.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``patient`` and ``source`` (``phantom_healthy``,
        ``phantom_ground_glass`` ...).

    Raises:
        ValueError: for an unknown section, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_lung_slice_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_lung_slice_phantoms(folder, counts={"training": 2}, size=(48, 64), seed=0)
        ...     [item["source"] for item in load_datalist(path, "training")]
        ['phantom_healthy', 'phantom_ground_glass']
    """
    check_dimensions(size, 2)

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        disease = DISEASE_CYCLE[case.index % len(DISEASE_CYCLE)]
        (one,) = _draw((seed, case.number), size=size, count=1, disease=disease)
        return f"phantom_{'_and_'.join(disease) or 'healthy'}", {
            "image": PhantomFile("images", ".tif", partial(imwrite, data=one.image, photometric="minisblack")),
            "label": PhantomFile("labels", ".tif", _picture(one.lungs).save),
        }

    return write_phantoms(folder, counts, draw)


def write_finding_lungs_layout(
    folder: str | os.PathLike[str], *, patients: int, size: tuple[int, ...], seed: int, slices: int = 2
) -> Path:
    """Write phantoms in the layout of "Finding and Measuring Lungs in CT Data", for :func:`.datasets.read_lung_ct2d`.

    ``folder`` gets ``2d_images/ID_0000_Z_0142.tif`` (int16, Hounsfield units) and ``2d_masks`` with files of the same
    names (8 bits, 0 and 255).

    Args:
        folder: folder to write into; created if it is missing.
        patients: number of patients.
        size: as in :func:`write_lung_slice_phantoms`.
        seed: the same seed writes the same files.
        slices: slices of each patient, from the feet up.

    Returns:
        The folder.

    Raises:
        ValueError: no patient or slice at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.phantoms import write_finding_lungs_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_finding_lungs_layout(folder, patients=1, size=(48, 64), seed=0)
        ...     sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tif"))[1:3]
        ['2d_images/ID_0000_Z_0020.tif', '2d_masks/ID_0000_Z_0011.tif']
    """
    if min(patients, slices) < 1:
        raise ValueError(f"patients={patients}, slices={slices} ask for no phantom: give positive numbers.")
    check_dimensions(size, 2)
    root = Path(folder)
    for patient in range(patients):
        disease = DISEASE_CYCLE[patient % len(DISEASE_CYCLE)]
        for one in _draw((seed, patient), size=size, count=slices, disease=disease):
            name = f"ID_{patient:04d}_Z_{one.number:04d}.tif"
            for kind in ("2d_images", "2d_masks"):
                (root / kind).mkdir(parents=True, exist_ok=True)
            imwrite(root / "2d_images" / name, one.image, photometric="minisblack")
            _picture(one.lungs).save(root / "2d_masks" / name)
    return root


def _draw(seed: tuple[int, int], *, size: tuple[int, ...], count: int, disease: tuple[str, ...]) -> list[_Slice]:
    """Slices of one patient in which much of the lungs is seen, from the feet up and each at most once."""
    phantom = draw_thorax(size=(_DEPTH, size[0], size[1]), seed=seed, disease=disease)
    lungs = phantom.label > 0
    areas = lungs.sum(axis=(1, 2))
    seen = np.flatnonzero(areas >= _SMALLEST_SHARE * areas.max())
    rng = np.random.default_rng((*seed, 2))
    numbers = np.sort(rng.choice(seen, size=min(count, len(seen)), replace=False))
    return [_Slice(phantom.image[number], lungs[number], int(number) + 1) for number in numbers]


def _picture(mask: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
