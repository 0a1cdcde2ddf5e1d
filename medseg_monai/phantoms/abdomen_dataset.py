"""Data sets of abdomen phantoms on disk: NIfTI with a data list, and the layouts of LiTS and CHAOS."""

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
"""Numbers of liver tumours in the phantoms, in turn."""

_CONTRASTS: dict[str, tuple[Contrast, ...]] = {"ct": CONTRASTS[:1], "mr": CONTRASTS[1:]}

_FIRST_BATCH = 28  # volumes 0 to 27 of LiTS

_GREY = {"liver": 63, "right_kidney": 126, "left_kidney": 189, "spleen": 252}  # values of CHAOS' MRI masks

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

    ``folder`` gets ``images/phantom_0001.nii.gz`` (int16), ``labels/phantom_0001.nii.gz`` (uint8, 1 in the organ; the
    tumours of a liver are liver) and ``datalist.json``. Each phantom is a different patient. Its voxels are
    anisotropic, its grid is rotated, and its position in world space is its own. Files are stored in the axis orders
    ``STORED_AXES`` in turn, an image and its mask in the same order. So training on them only works if the geometry is
    handled correctly.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: ``(D, H, W)`` of the phantoms in the axis order SPL, at least 8 x 32 x 32.
        seed: the same seed writes the same files; the organ does not change the images.
        modality: ``"ct"``, in Hounsfield units, or ``"mr"``: T1 in phase, T1 out of phase and T2, in turn within each
            section, each of a different patient.
        organ: one of :data:`~medseg_monai.phantoms.abdomen.ORGANS`; both kidneys are one organ.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``, the same for all phantoms; by default they fit the
            anatomy and differ between phantoms by up to 10 % along each axis.
        oblique: largest rotation of the grid about each axis in degrees; 0 does not rotate it.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``patient`` and ``source`` (``phantom_ct``,
        ``phantom_t1_in``, ``phantom_t1_out`` or ``phantom_t2``).

    Raises:
        ValueError: for an unknown section, modality or organ, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_abdomen_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_abdomen_phantoms(
        ...         folder, counts={"test": 3}, size=(8, 32, 40), seed=0, modality="mr", organ="spleen"
        ...     )
        ...     [item["source"] for item in load_datalist(path, "test")]
        ['phantom_t1_in', 'phantom_t1_out', 'phantom_t2']
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
    """Write CT phantoms in the layout of LiTS, for :func:`medseg_monai.datasets.read_lits`.

    ``folder`` gets ``Training Batch 1/volume-0.nii`` (int16, Hounsfield units) with ``segmentation-0.nii`` (uint8, 1
    liver, 2 tumour) beside it; the volumes from 28 are in ``Training Batch 2``. Three of five livers have tumours.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        patients: number of phantoms.
        size: as in :func:`write_abdomen_phantoms`.
        seed: the same seed writes the same files.
        spacing: as in :func:`write_abdomen_phantoms`.
        oblique: as in :func:`write_abdomen_phantoms`.

    Returns:
        The folder.

    Raises:
        ValueError: for no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.phantoms import write_lits_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_lits_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     sorted(path.relative_to(root).as_posix() for path in root.rglob("*.nii"))
        ['Training Batch 1/segmentation-0.nii', 'Training Batch 1/volume-0.nii']
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
    """Write phantoms in the layout of CHAOS, for :func:`medseg_monai.datasets.read_chaos`.

    ``folder`` gets ``Train_Sets/CT/1`` ... or ``Train_Sets/MR/1`` ... with the files that the documentation of the
    reader lists: DICOM series and one PNG mask per slice. In CT the liver is 255, and the names of the slices run up
    the body in one patient and down in the next. In MRI the liver is 63, the right kidney 126, the left kidney 189 and
    the spleen 252. Both phases of T1 share a grid and the masks; T2 has its own grid. There are no tumours, since the
    livers of CHAOS are healthy.

    Args:
        folder: folder to write into; created if it is missing. Patients with the same numbers are overwritten.
        patients: number of patients.
        size: as in :func:`write_abdomen_phantoms`.
        seed: the same seed writes the same files.
        modality: ``"ct"``, or ``"mr"`` for all three sequences of each patient.
        spacing: as in :func:`write_abdomen_phantoms`.
        oblique: as in :func:`write_abdomen_phantoms`.

    Returns:
        The folder ``Train_Sets``.

    Raises:
        ValueError: for an unknown modality, no patient at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_chaos_layout(folder, patients=1, size=(8, 32, 40), seed=0)
        ...     {path.name: len(list(path.iterdir())) for path in sorted((root / "CT" / "1").iterdir())}
        {'DICOM_anon': 8, 'Ground': 8}
    """
    _check(size=size, oblique=oblique, patients=patients, modality=modality)
    root = Path(folder) / "Train_Sets"
    for number in range(1, patients + 1):
        case = root / modality.upper() / str(number)
        for contrast in _CONTRASTS[modality]:
            take = 2 if contrast == "t2" else 1  # patients move between two sequences
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
    if contrast != "t1_out":  # one mask for both phases, with the name of the in-phase slice
        grey = _grey(phantom.label)
        _write_masks(grey, case / Path(folder).parts[0] / "Ground", name=lambda number: f"{stem(number)}.png")


def _grey(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels to the grey values of CHAOS, which differ between the kidneys: x points to the left."""
    left = np.arange(label.shape[2]) >= label.shape[2] / 2
    kidney = np.where(left, _GREY["left_kidney"], _GREY["right_kidney"])
    grey = np.where(label == ORGANS["kidney"], kidney, 0)
    for organ in ("liver", "spleen"):
        grey[label == ORGANS[organ]] = _GREY[organ]
    return grey.astype(np.uint8)


def _write_masks(values: npt.NDArray[np.uint8], folder: Path, *, name: Callable[[int], str]) -> None:
    """Write one PNG per slice, named by its number, from 1 at the feet."""
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
