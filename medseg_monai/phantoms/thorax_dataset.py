"""Data sets of thorax phantoms on disk: NIfTI or DICOM series, masks, and the data list that training reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from .case_files import PhantomCase, PhantomFile, check_dimensions, check_format, write_phantoms
from .thorax import ANATOMY, draw_thorax
from .volume_files import STORED_AXES, SeriesKind, check_oblique, nifti_file, place_volume, write_series

__all__ = ["DISEASE_CYCLE", "STORED_AXES", "VolumeFormat", "write_thorax_phantoms"]

VolumeFormat = Literal["nii.gz", "dicom"]

DISEASE_CYCLE: tuple[tuple[str, ...], ...] = (
    (),
    ("ground_glass",),
    ("emphysema",),
    ("ground_glass", "consolidation"),
    ("effusion",),
    ("consolidation",),
)
"""Diseases of the phantoms, in turn within each section."""

_KIND = SeriesKind("CT", "Thorax phantom", "CHEST", tags={"KVP": "120", "WindowCenter": "-600", "WindowWidth": "1500"})


def write_thorax_phantoms(
    folder: str | os.PathLike[str],
    *,
    counts: Mapping[str, int],
    size: tuple[int, ...],
    seed: int,
    spacing: tuple[float, float, float] | None = None,
    image_format: VolumeFormat = "nii.gz",
    oblique: float = 8.0,
    diseases: Sequence[Collection[str]] = DISEASE_CYCLE,
    incomplete_fissures: float = 0.3,
) -> Path:
    """Write thorax phantoms and their data list.

    ``folder`` gets ``images/phantom_0001.nii.gz`` (int16, Hounsfield units) or ``images/phantom_0001/0001.dcm`` ...
    (a CT series), ``labels/phantom_0001.nii.gz`` (uint8, the lobes in the paper's order),
    ``infections/phantom_0001.nii.gz`` (uint8, empty for a healthy lung) and ``datalist.json``. Each phantom is a
    different patient. Its voxels are anisotropic, its grid is rotated, and its position in world space is its own.
    NIfTI files are stored in the axis orders ``STORED_AXES`` in turn, an image and its masks in the same order. So
    training on them only works if the geometry is handled correctly.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: ``(D, H, W)`` of the phantoms in the axis order SPL, each at least 32.
        seed: the same seed writes the same files; the format does not change the phantoms.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``, the same for all phantoms; by default they fit the
            anatomy and differ between phantoms by up to 10 % along each axis.
        image_format: format of the images, ``"nii.gz"`` or ``"dicom"``; masks are always NIfTI.
        oblique: largest rotation of the grid about each axis in degrees; 0 does not rotate it.
        diseases: diseases of the phantoms, in turn within each section; each entry is an argument ``disease`` of
            :func:`.draw_thorax`.
        incomplete_fissures: see :func:`.draw_thorax`.

    Returns:
        Path of the data list, whose items have ``image`` (a file, or the folder of a series), ``label``,
        ``label_infection``, ``patient`` and ``source`` (``phantom_healthy``, ``phantom_ground_glass`` ...).

    Raises:
        ValueError: for an unknown section, format or disease, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_thorax_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_thorax_phantoms(folder, counts={"training": 2}, size=(32, 32, 40), seed=0)
        ...     [item["source"] for item in load_datalist(path, "training")]
        ['phantom_healthy', 'phantom_ground_glass']
    """
    check_format(image_format, get_args(VolumeFormat))
    check_dimensions(size, 3)
    check_oblique(oblique)
    if not diseases:
        raise ValueError("diseases is empty: give [()] for healthy phantoms.")

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        disease = diseases[case.index % len(diseases)]
        place = place_volume((seed, case.number, 1), size=size, spacing=spacing, oblique=oblique, anatomy=ANATOMY)
        phantom = draw_thorax(
            size=(size[0], size[1], size[2]),
            spacing=place.spacing,
            seed=(seed, case.number),
            disease=disease,
            incomplete_fissures=incomplete_fissures,
        )
        nifti = partial(nifti_file, place=place, case=case)
        series = partial(write_series, phantom.image, place=place, patient=case.patient, kind=_KIND)
        is_dicom = image_format == "dicom"
        return f"phantom_{'_and_'.join(disease) or 'healthy'}", {
            "image": PhantomFile("images", "", series) if is_dicom else nifti("images", phantom.image),
            "label": nifti("labels", phantom.label),
            "label_infection": nifti("infections", phantom.infection),
        }

    return write_phantoms(folder, counts, draw)
