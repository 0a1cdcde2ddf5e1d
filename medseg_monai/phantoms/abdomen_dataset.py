"""Data sets of abdomen phantoms on disk: NIfTI with a data list, and as LiTS and CHAOS are published."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from .abdomen import ANATOMY, CONTRASTS, ORGANS, AbdomenPhantom, Contrast, draw_abdomen
from .case_files import PhantomCase, PhantomFile, check_dimensions, write_phantoms
from .volume_files import (
    STORED_AXES,
    Place,
    SeriesKind,
    check_oblique,
    nifti_file,
    place_volume,
    write_nifti,
    write_series,
)

__all__ = ["TUMOUR_CYCLE", "Modality", "write_abdomen_phantoms", "write_chaos_layout", "write_lits_layout"]

Modality = Literal["ct", "mr"]

TUMOUR_CYCLE = (0, 2, 0, 1, 4)
"""Numbers of liver tumours of the phantoms, in turn."""

_CONTRASTS: dict[str, tuple[Contrast, ...]] = {"ct": CONTRASTS[:1], "mr": CONTRASTS[1:]}

_FIRST_BATCH = 28  # of LiTS: volumes 0 to 27

_GREY = {"liver": 63, "right_kidney": 126, "left_kidney": 189, "spleen": 252}  # of CHAOS' masks in MRI

_CT = SeriesKind("CT", "Abdomen phantom", "ABDOMEN", tags={"KVP": "120", "WindowCenter": "60", "WindowWidth": "400"})
_GRADIENT_ECHO = {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "2D", "RepetitionTime": "130"}
_SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "RepetitionTime": "1600"}
_MR: dict[Contrast, SeriesKind] = {
    "t1_in": SeriesKind("MR", "Abdomen phantom T1 in phase", "ABDOMEN", tags=_GRADIENT_ECHO | {"EchoTime": "4.6"}),
    "t1_out": SeriesKind("MR", "Abdomen phantom T1 out of phase", "ABDOMEN", tags=_GRADIENT_ECHO | {"EchoTime": "2.3"}),
    "t2": SeriesKind("MR", "Abdomen phantom T2-SPIR", "ABDOMEN", tags=_SPIN_ECHO | {"EchoTime": "70"}),
}


def write_abdomen_phantoms(
    folder: str | os.PathLike[str],
    *,
    counts: Mapping[str, int],
    size: tuple[int, ...],
    seed: int,
    modality: Modality = "ct",
    organ: str = "liver",
    spacing: tuple[float, float, float] | None = None,
    oblique: float = 8.0,
) -> Path:
    """Write abdomen phantoms of one modality, the masks of one organ and their data list.

    ``folder`` gets ``images/phantom_0001.nii.gz`` (int16), ``labels/phantom_0001.nii.gz`` (uint8, 1 in the organ; a
    liver's tumours are liver) and ``datalist.json``. Each phantom is a patient of its own. Its voxels are anisotropic,
    its grid is rotated and it lies somewhere else in the world; files are stored in the axis orders ``STORED_AXES`` in
    turn, an image and its mask in the same one. So whoever trains on them handles geometry, or fails.

    Args:
        folder: where to; made if missing. Phantoms of the same number are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: ``(D, H, W)`` of the phantoms in the axis order SPL, at least 8 x 32 x 32.
        seed: the same seed writes the same files; the organ does not change the images.
        modality: ``"ct"``, in Hounsfield units, or ``"mr"``: T1 in phase, T1 out of phase and T2, in turn within each
            section, each of another patient.
        organ: one of :data:`~medseg_monai.phantoms.abdomen.ORGANS`; both kidneys are one.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``, the same for all; by default they fit the anatomy and
            differ from phantom to phantom by up to 10 % an axis.
        oblique: the grid is rotated by up to so many degrees about each axis; 0 rotates none.

    Returns:
        Path of the data list, items with ``image``, ``label``, ``patient`` and ``source`` (``phantom_ct``,
        ``phantom_t1_in``, ``phantom_t1_out`` or ``phantom_t2``).

    Raises:
        ValueError: for an unknown section, modality or organ, a negative count, no phantom at all, or a bad size.
    """
    if organ not in ORGANS:
        raise ValueError(f"organ='{organ}' is not drawn: choose from {', '.join(ORGANS)}.")
    _check(size=size, oblique=oblique, modality=modality)
    contrasts = _CONTRASTS[modality]

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        contrast = contrasts[case.index % len(contrasts)]
        place = _place(case.number, size=size, seed=seed, spacing=spacing, oblique=oblique)
        phantom = _draw(case.number, place, size=size, seed=seed, contrast=contrast)
        label = (phantom.label == ORGANS[organ]).astype(np.uint8)
        return f"phantom_{contrast}", {
            "image": nifti_file("images", phantom.image, place, case),
            "label": nifti_file("labels", label, place, case),
        }

    return write_phantoms(folder, counts, draw)


def write_lits_layout(
    folder: str | os.PathLike[str],
    *,
    patients: int,
    size: tuple[int, ...],
    seed: int,
    spacing: tuple[float, float, float] | None = None,
    oblique: float = 8.0,
) -> Path:
    """Write CT phantoms as LiTS is published, for :func:`medseg_monai.datasets.read_lits`.

    ``folder`` gets ``Training Batch 1/volume-0.nii`` (int16, Hounsfield units) and ``segmentation-0.nii`` (uint8, 1
    liver, 2 tumour) beside it, from 28 on in ``Training Batch 2``. Of five livers three have tumours.

    Args:
        folder: where to; made if missing. Phantoms of the same number are overwritten.
        patients: number of phantoms.
        size: as of :func:`write_abdomen_phantoms`.
        seed: the same seed writes the same files.
        spacing: as of :func:`write_abdomen_phantoms`.
        oblique: as of :func:`write_abdomen_phantoms`.

    Returns:
        The folder.

    Raises:
        ValueError: for no phantom at all, or a bad size.
    """
    _check(size=size, oblique=oblique, patients=patients)
    root = Path(folder)
    for number in range(patients):
        place = _place(number, size=size, seed=seed, spacing=spacing, oblique=oblique)
        phantom = _draw(number, place, size=size, seed=seed, contrast="ct")
        batch = root / f"Training Batch {1 if number < _FIRST_BATCH else 2}"
        batch.mkdir(parents=True, exist_ok=True)
        axes = STORED_AXES[number % len(STORED_AXES)]
        labels = (phantom.label == ORGANS["liver"]).astype(np.uint8) + phantom.tumour
        write_nifti(phantom.image, batch / f"volume-{number}.nii", place, axes=axes)
        write_nifti(labels, batch / f"segmentation-{number}.nii", place, axes=axes)
    return root


def write_chaos_layout(
    folder: str | os.PathLike[str],
    *,
    patients: int,
    size: tuple[int, ...],
    seed: int,
    modality: Modality = "ct",
    spacing: tuple[float, float, float] | None = None,
    oblique: float = 8.0,
) -> Path:
    """Write phantoms as CHAOS is published, for :func:`medseg_monai.datasets.read_chaos`.

    ``folder`` gets ``Train_Sets/CT/1`` ... or ``Train_Sets/MR/1`` ... with what the reader's documentation lists: DICOM
    series and a PNG mask a slice. In CT the liver is 255, and the names of the slices lead up the body in one patient
    and down in the next. In MRI the liver is 63, the right kidney 126, the left one 189, the spleen 252. Both phases of
    T1 share a grid and the masks; T2 has a grid of its own. There are no tumours: CHAOS' livers are healthy.

    Args:
        folder: where to; made if missing. Patients of the same number are overwritten.
        patients: number of patients.
        size: as of :func:`write_abdomen_phantoms`.
        seed: the same seed writes the same files.
        modality: ``"ct"`` or ``"mr"``: all three sequences of each patient.
        spacing: as of :func:`write_abdomen_phantoms`.
        oblique: as of :func:`write_abdomen_phantoms`.

    Returns:
        The folder ``Train_Sets``.

    Raises:
        ValueError: for an unknown modality, no patient at all, or a bad size.
    """
    _check(size=size, oblique=oblique, patients=patients, modality=modality)
    root = Path(folder) / "Train_Sets"
    for number in range(1, patients + 1):
        case = root / modality.upper() / str(number)
        for contrast in _CONTRASTS[modality]:
            take = 2 if contrast == "t2" else 1  # a patient moves between two sequences
            place = _place(number, size=size, seed=seed, spacing=spacing, oblique=oblique, take=take)
            phantom = _draw(number, place, size=size, seed=seed, contrast=contrast, tumours=0)
            if contrast == "ct":
                _write_chaos_ct(phantom, case, place, down=number % 2 == 0)
            else:
                _write_chaos_mr(phantom, case, place, contrast=contrast)
    return root


def _write_chaos_ct(phantom: AbdomenPhantom, case: Path, place: Place, *, down: bool) -> None:
    def rank(number: int) -> int:
        return len(phantom.image) - number if down else number - 1

    patient = f"ct_{case.name}"
    write_series(
        phantom.image,
        case / "DICOM_anon",
        place,
        patient=patient,
        kind=_CT,
        name=lambda number: f"i{rank(number):04d},0000b.dcm",
    )
    liver = (phantom.label == ORGANS["liver"]).astype(np.uint8) * np.uint8(255)
    _write_masks(liver, case / "Ground", name=lambda number: f"liver_GT_{rank(number):03d}.png")


def _write_chaos_mr(phantom: AbdomenPhantom, case: Path, place: Place, *, contrast: Contrast) -> None:
    folder, stem = {
        "t1_in": ("T1DUAL/DICOM_anon/InPhase", lambda number: f"IMG-0004-{2 * number:05d}"),
        "t1_out": ("T1DUAL/DICOM_anon/OutPhase", lambda number: f"IMG-0004-{2 * number - 1:05d}"),
        "t2": ("T2SPIR/DICOM_anon", lambda number: f"IMG-0002-{number:05d}"),
    }[contrast]
    patient = f"mr_{case.name}"
    write_series(
        phantom.image,
        case / folder,
        place,
        patient=patient,
        kind=_MR[contrast],
        name=lambda number: f"{stem(number)}.dcm",
    )
    if contrast != "t1_out":  # one mask for both phases, named after the slices in phase
        grey = _grey(phantom.label)
        _write_masks(grey, case / Path(folder).parts[0] / "Ground", name=lambda number: f"{stem(number)}.png")


def _grey(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels to the grey values of CHAOS, which tell the kidneys apart: x points to the left."""
    left = np.arange(label.shape[2]) >= label.shape[2] / 2
    kidney = np.where(left, _GREY["left_kidney"], _GREY["right_kidney"])
    grey = np.where(label == ORGANS["kidney"], kidney, 0)
    for organ in ("liver", "spleen"):
        grey[label == ORGANS[organ]] = _GREY[organ]
    return grey.astype(np.uint8)


def _write_masks(values: npt.NDArray[np.uint8], folder: Path, *, name: Callable[[int], str]) -> None:
    """Write one PNG a slice, named by its number, from 1 at the feet."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for number, rows in enumerate(values, start=1):
        Image.fromarray(rows).save(folder / name(number))


def _check(*, size: tuple[int, ...], oblique: float, patients: int = 1, modality: str = "ct") -> None:
    if modality not in get_args(Modality):
        raise ValueError(f"modality='{modality}' is not drawn: choose from {', '.join(get_args(Modality))}.")
    if patients < 1:
        raise ValueError(f"patients={patients} asks for no phantom: give a positive number.")
    check_dimensions(size, 3)
    check_oblique(oblique)


def _place(
    number: int,
    *,
    size: tuple[int, ...],
    seed: int,
    spacing: tuple[float, float, float] | None,
    oblique: float,
    take: int = 1,
) -> Place:
    return place_volume((seed, number, take), size=size, spacing=spacing, oblique=oblique, anatomy=ANATOMY)


def _draw(
    number: int, place: Place, *, size: tuple[int, ...], seed: int, contrast: Contrast, tumours: int | None = None
) -> AbdomenPhantom:
    return draw_abdomen(
        size=(size[0], size[1], size[2]),
        spacing=place.spacing,
        seed=(seed, number),
        contrast=contrast,
        tumours=TUMOUR_CYCLE[(number - 1) % len(TUMOUR_CYCLE)] if tumours is None else tumours,
    )
