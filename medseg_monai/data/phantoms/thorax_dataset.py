"""Data sets of thorax phantoms on disk: NIfTI or DICOM series, masks and the data list that training reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

from medseg_monai.data.datalist import write_datalist

from .dataset import SECTIONS, check_counts
from .thorax import ANATOMY, ThoraxPhantom, draw_thorax

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

STORED_AXES = ("LPS", "RAS", "SPL", "PIR")
"""Axis orders in which the NIfTI files are stored, in turn: the directions to which their axes point."""

_INTERCEPT = -1024

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Place:
    """Where a phantom lies in the world."""

    spacing: tuple[float, float, float]  # mm, z y x
    directions: Affine  # [3, 3], columns: unit vectors of the axes z, y, x in LPS
    origin: Affine  # [3], centre of the first voxel in LPS, mm

    @property
    def affine(self) -> Affine:
        """Return indices z, y, x to RAS, ``[4, 4]``, as nibabel has it."""
        affine = np.eye(4)
        affine[:3, :3] = self.directions * self.spacing
        affine[:3, 3] = self.origin
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


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
    (a CT series), ``labels/phantom_0001.nii.gz`` (uint8, the paper's order of the lobes),
    ``infections/phantom_0001.nii.gz`` (uint8, empty in a healthy lung) and ``datalist.json``. Each phantom is a patient
    of its own. Its voxels are anisotropic, its grid is rotated and it lies somewhere else in the world; NIfTI files are
    stored in the axis orders :data:`STORED_AXES` in turn, an image and its masks in the same one. So whoever trains on
    them handles geometry, or fails.

    Args:
        folder: where to; made if missing. Phantoms of the same number are overwritten.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: ``(D, H, W)`` of the phantoms in the axis order SPL, each at least 32.
        seed: the same seed writes the same files; the format does not change the phantoms.
        spacing: edge lengths of the voxels in mm, ``(z, y, x)``, the same for all; by default they fit the anatomy and
            differ from phantom to phantom by up to 10 % an axis.
        image_format: of the images, ``"nii.gz"`` or ``"dicom"``; masks are NIfTI always.
        oblique: the grid is rotated by up to so many degrees about each axis; 0 rotates none.
        diseases: of the phantoms, in turn within each section; each an argument ``disease`` of :func:`.draw_thorax`.
        incomplete_fissures: see :func:`.draw_thorax`.

    Returns:
        Path of the data list, items with ``image`` (a file, or the folder of a series), ``label``,
        ``label_infection``, ``patient`` and ``source`` (``phantom_healthy``, ``phantom_ground_glass`` ...).

    Raises:
        ValueError: for an unknown section, format or disease, a negative count, no phantom at all, or a bad size.
    """
    _check(counts=counts, size=size, image_format=image_format, oblique=oblique, diseases=diseases)
    root = Path(folder)
    datalist: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    number = 0
    for section in SECTIONS:
        for index in range(counts.get(section, 0)):
            number += 1
            disease = diseases[index % len(diseases)]
            place = _place((seed, number, 1), size=size, spacing=spacing, oblique=oblique)
            phantom = draw_thorax(
                size=(size[0], size[1], size[2]),
                spacing=place.spacing,
                seed=(seed, number),
                disease=disease,
                incomplete_fissures=incomplete_fissures,
            )
            axes = STORED_AXES[(number - 1) % len(STORED_AXES)]
            files = _write(phantom, root, place, patient=f"phantom_{number:04d}", image_format=image_format, axes=axes)
            datalist[section].append({**files, "source": f"phantom_{'_and_'.join(disease) or 'healthy'}"})
    path = root / "datalist.json"
    write_datalist(datalist, path)
    return path


def _check(
    *,
    counts: Mapping[str, int],
    size: tuple[int, ...],
    image_format: str,
    oblique: float,
    diseases: Sequence[Collection[str]],
) -> None:
    if image_format not in get_args(VolumeFormat):
        raise ValueError(
            f"image_format='{image_format}' is not written: choose from {', '.join(get_args(VolumeFormat))}."
        )
    check_counts(counts)
    if len(size) != 3:
        raise ValueError(f"size={size} is not a 3D size: give D, H and W.")
    if not 0 <= oblique <= 20:  # beyond, three rotations together could turn an axis into another
        raise ValueError(f"oblique={oblique} is no small rotation: give 0 to 20 degrees.")
    if not diseases:
        raise ValueError("diseases is empty: give [()] for healthy phantoms.")


def _place(
    seed: tuple[int, ...], *, size: tuple[int, ...], spacing: tuple[float, float, float] | None, oblique: float
) -> _Place:
    rng = np.random.default_rng(seed)
    edges = np.array(ANATOMY) / size * rng.uniform(0.9, 1.1, 3) if spacing is None else np.array(spacing)
    # NIfTI stores its affine in single precision; rounding the spacing keeps DICOM's decimal strings short
    z, y, x = (float(edge) for edge in np.round(edges, 4))
    turn = Rotation.from_euler("xyz", rng.uniform(-oblique, oblique, 3), degrees=True).as_matrix()
    directions = turn[:, ::-1]  # unrotated: z is S, y is P, x is L
    centre = rng.uniform((-30, -180, -900), (30, -120, 200))
    origin = centre - directions @ ((np.array(size) - 1) / 2 * (z, y, x))
    return _Place(spacing=(z, y, x), directions=directions, origin=origin)


def _write(
    phantom: ThoraxPhantom, root: Path, place: _Place, *, patient: str, image_format: VolumeFormat, axes: str
) -> dict[str, str]:
    image = root / "images" / (patient if image_format == "dicom" else f"{patient}.nii.gz")
    files = {
        "image": image,
        "label": root / "labels" / f"{patient}.nii.gz",
        "label_infection": root / "infections" / f"{patient}.nii.gz",
    }
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    if image_format == "dicom":
        _write_series(phantom.image, image, place, patient=patient)
    else:
        _write_nifti(phantom.image, image, place, axes=axes)
    _write_nifti(phantom.label, files["label"], place, axes=axes)
    _write_nifti(phantom.infection, files["label_infection"], place, axes=axes)
    return {**{key: str(path) for key, path in files.items()}, "patient": patient}


def _write_nifti(
    values: npt.NDArray[np.int16] | npt.NDArray[np.uint8], path: Path, place: _Place, *, axes: str
) -> None:
    volume = nib.Nifti1Image(values, place.affine)
    turned = volume.as_reoriented(ornt_transform(io_orientation(place.affine), axcodes2ornt(axes)))
    turned.set_data_dtype(values.dtype)
    turned.header.set_xyzt_units("mm", "sec")
    nib.save(turned, path)


def _write_series(image: npt.NDArray[np.int16], folder: Path, place: _Place, *, patient: str) -> None:
    """Write one CT series, a file a slice from the feet up."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    # UIDs follow from the content, so that the same phantom is the same series
    content = [patient, image.tobytes().hex(), np.round(place.affine, 6).tobytes().hex()]
    study, series, frame = (generate_uid(entropy_srcs=[*content, name]) for name in ("study", "series", "frame"))
    up, back, left = place.directions.T
    for index, values in enumerate(image):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{index + 1:04d}.dcm"
        written = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        written.update(_attributes(place, shape=values.shape))
        written.PatientID = written.PatientName = patient
        written.StudyInstanceUID, written.SeriesInstanceUID, written.FrameOfReferenceUID = study, series, frame
        written.SOPClassUID, written.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        written.InstanceNumber = index + 1
        written.ImageOrientationPatient = _decimals([*left, *back])
        written.ImagePositionPatient = _decimals(place.origin + index * place.spacing[0] * up)
        written.PixelData = (values.astype(np.int32) - _INTERCEPT).astype("<u2").tobytes()
        written.save_as(path, enforce_file_format=True)


def _attributes(place: _Place, *, shape: tuple[int, ...]) -> Dataset:
    """What all slices of a series share, but for the UIDs."""
    shared = Dataset()
    shared.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    shared.Modality, shared.Manufacturer = "CT", "medseg-monai phantom"
    shared.StudyDate = shared.SeriesDate = shared.ContentDate = "20200101"
    shared.StudyTime = shared.SeriesTime = shared.ContentTime = "120000"
    shared.StudyDescription = shared.SeriesDescription = "Thorax phantom"
    shared.PatientBirthDate = shared.PatientSex = shared.PositionReferenceIndicator = ""
    shared.AccessionNumber = shared.ReferringPhysicianName = shared.StudyID = ""
    shared.SeriesNumber, shared.AcquisitionNumber = 1, 1
    shared.PatientPosition, shared.BodyPartExamined = "HFS", "CHEST"
    shared.KVP = "120"
    shared.SliceThickness = _decimals(place.spacing[:1])[0]
    shared.PixelSpacing = _decimals(place.spacing[1:])
    shared.Rows, shared.Columns = shape
    shared.SamplesPerPixel, shared.PhotometricInterpretation = 1, "MONOCHROME2"
    shared.BitsAllocated, shared.BitsStored, shared.HighBit, shared.PixelRepresentation = 16, 12, 11, 0
    shared.RescaleIntercept, shared.RescaleSlope, shared.RescaleType = str(_INTERCEPT), "1", "HU"
    shared.WindowCenter, shared.WindowWidth = "-600", "1500"
    return shared


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    """DICOM decimal strings, at most 16 characters each."""
    return [DSfloat(float(value), auto_format=True) for value in values]
