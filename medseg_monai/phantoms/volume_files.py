"""Writing volume phantoms: their position in world space, NIfTI in several axis orders, and DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

from medseg_monai.data.dicom.versions import write_dicom

from .case_files import PhantomCase, PhantomFile

__all__ = [
    "STORED_AXES",
    "Place",
    "SeriesKind",
    "check_oblique",
    "nifti_file",
    "place_volume",
    "write_nifti",
    "write_series",
]

STORED_AXES = ("LPS", "RAS", "SPL", "PIR")
"""Axis orders in which the NIfTI files are stored, in turn: the directions in which their axes point."""

_INTERCEPT = -1024

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """The position of a phantom in world space.

    Attributes:
        spacing: mm along z, y and x.
        directions: ``[3, 3]``; its columns are the unit vectors of the axes z, y and x in LPS.
        origin: ``[3]``, centre of the first voxel in LPS, mm.
    """

    spacing: tuple[float, float, float]
    directions: Affine
    origin: Affine

    @property
    def affine(self) -> Affine:
        """Return the affine ``[4, 4]`` from indices z, y, x to RAS, as in nibabel."""
        affine = np.eye(4)
        affine[:3, :3] = self.directions * self.spacing
        affine[:3, 3] = self.origin
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


@dataclass(frozen=True)
class SeriesKind:
    """The attributes that describe a DICOM series.

    Attributes:
        modality: ``"CT"``, in Hounsfield units, or ``"MR"``, in the scanner's own units.
        description: description of the study and of the series.
        body_part: ``BodyPartExamined``.
        tags: further attributes by keyword, such as ``KVP``.
    """

    modality: Literal["CT", "MR"]
    description: str
    body_part: str
    tags: Mapping[str, str]


def check_oblique(oblique: float) -> None:
    """Refuse a rotation after which the axes could have another order.

    Raises:
        ValueError: if it is not 0 to 20 degrees.
    """
    if not 0 <= oblique <= 20:  # with more, three rotations together could turn an axis into another
        raise ValueError(f"oblique={oblique} is not a small rotation: give 0 to 20 degrees.")


def place_volume(
    seed: tuple[int, ...],
    *,
    size: tuple[int, ...],
    spacing: tuple[float, float, float] | None,
    oblique: float,
    anatomy: tuple[float, float, float],
) -> Place:
    """Draw the position of a phantom at random: its rotation, its origin and, if none is given, its spacing.

    Args:
        seed: the same seed gives the same position.
        size: voxels along z, y and x.
        spacing: mm along z, y and x; by default the anatomy fits, within 10 % along each axis.
        oblique: largest rotation about each axis in degrees.
        anatomy: field of view that shows the anatomy, mm along z, y and x.

    Returns:
        The place.
    """
    rng = np.random.default_rng(seed)
    edges = np.array(anatomy) / size * rng.uniform(0.9, 1.1, 3) if spacing is None else np.array(spacing)
    # NIfTI stores its affine in single precision; rounding the spacing keeps DICOM's decimal strings short
    z, y, x = (float(edge) for edge in np.round(edges, 4))
    turn = Rotation.from_euler("xyz", rng.uniform(-oblique, oblique, 3), degrees=True).as_matrix()
    directions = turn[:, ::-1]  # unrotated: z is S, y is P, x is L
    centre = rng.uniform((-30, -180, -900), (30, -120, 200))
    origin = centre - directions @ ((np.array(size) - 1) / 2 * (z, y, x))
    return Place(spacing=(z, y, x), directions=directions, origin=origin)


def write_nifti(values: npt.NDArray[np.int16] | npt.NDArray[np.uint8], path: Path, place: Place, *, axes: str) -> None:
    """Write ``[D, H, W]`` as ``.nii`` or ``.nii.gz`` with the axes in the order ``axes`` (such as ``"LPS"``)."""
    volume = nib.Nifti1Image(values, place.affine)
    turned = volume.as_reoriented(ornt_transform(io_orientation(place.affine), axcodes2ornt(axes)))
    turned.set_data_dtype(values.dtype)
    turned.header.set_xyzt_units("mm", "sec")
    nib.save(turned, path)


def nifti_file(
    folder: str, values: npt.NDArray[np.int16] | npt.NDArray[np.uint8], place: Place, case: PhantomCase
) -> PhantomFile:
    """Plan a compressed NIfTI file; the axis orders alternate between phantoms.

    Args:
        folder: folder inside that of the data set.
        values: ``[D, H, W]``.
        place: position of the volume.
        case: the phantom.
    """
    axes = STORED_AXES[(case.number - 1) % len(STORED_AXES)]
    return PhantomFile(folder, ".nii.gz", partial(write_nifti, values, place=place, axes=axes))


def write_series(
    image: npt.NDArray[np.int16],
    folder: Path,
    place: Place,
    *,
    patient: str,
    kind: SeriesKind,
    name: Callable[[int], str] = "{:04d}.dcm".format,
) -> None:
    """Write one DICOM series with one file per slice, from the feet up.

    Args:
        image: ``[D, H, W]``, Hounsfield units for CT, 0 to 4095 for MR.
        folder: folder to write into; created if it is missing, and its ``.dcm`` files are removed first.
        place: position of the image.
        patient: name and number of the patient.
        kind: attributes that describe the series.
        name: name of a slice's file by its number, from 1 at the feet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    # the UIDs are derived from the content, so that the same phantom always has the same UIDs
    content = [patient, image.tobytes().hex(), np.round(place.affine, 6).tobytes().hex()]
    study, series, frame = (generate_uid(entropy_srcs=[*content, level]) for level in ("study", "series", "frame"))
    storage, intercept = (CTImageStorage, _INTERCEPT) if kind.modality == "CT" else (MRImageStorage, 0)
    up, back, left = place.directions.T
    for index, values in enumerate(image):
        written = _attributes(place, kind, shape=values.shape)
        written.PatientID = written.PatientName = patient
        written.StudyInstanceUID, written.SeriesInstanceUID, written.FrameOfReferenceUID = study, series, frame
        written.SOPClassUID = storage
        written.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
        written.InstanceNumber = index + 1
        written.ImageOrientationPatient = _decimals([*left, *back])
        written.ImagePositionPatient = _decimals(place.origin + index * place.spacing[0] * up)
        written.PixelData = (values.astype(np.int32) - intercept).astype("<u2").tobytes()
        write_dicom(written, folder / name(index + 1))


def _attributes(place: Place, kind: SeriesKind, *, shape: tuple[int, ...]) -> Dataset:
    """The attributes that all slices of a series share, except the UIDs."""
    shared = Dataset()
    shared.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    shared.Modality, shared.Manufacturer = kind.modality, "medseg-monai phantom"
    shared.StudyDate = shared.SeriesDate = shared.ContentDate = "20200101"
    shared.StudyTime = shared.SeriesTime = shared.ContentTime = "120000"
    shared.StudyDescription = shared.SeriesDescription = kind.description
    shared.PatientBirthDate = shared.PatientSex = shared.PositionReferenceIndicator = ""
    shared.AccessionNumber = shared.ReferringPhysicianName = shared.StudyID = ""
    shared.SeriesNumber, shared.AcquisitionNumber = 1, 1
    shared.PatientPosition, shared.BodyPartExamined = "HFS", kind.body_part
    shared.SliceThickness = _decimals(place.spacing[:1])[0]
    shared.PixelSpacing = _decimals(place.spacing[1:])
    shared.Rows, shared.Columns = shape
    shared.SamplesPerPixel, shared.PhotometricInterpretation = 1, "MONOCHROME2"
    shared.BitsAllocated, shared.BitsStored, shared.HighBit, shared.PixelRepresentation = 16, 12, 11, 0
    if kind.modality == "CT":
        shared.RescaleIntercept, shared.RescaleSlope, shared.RescaleType = str(_INTERCEPT), "1", "HU"
    for keyword, value in kind.tags.items():
        setattr(shared, keyword, value)
    return shared


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    """DICOM decimal strings, at most 16 characters each."""
    return [DSfloat(float(value), auto_format=True) for value in values]
