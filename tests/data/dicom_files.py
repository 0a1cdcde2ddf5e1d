"""Small synthetic CT series: oblique, anisotropic, not square, with rescale tags and whatever can be wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

Edit = Callable[[int, FileDataset], None]

#: pixel distance along a row, along a column, and slice distance, mm
SPACING = (0.7, 0.9, 2.5)
ORIGIN = (-110.5, -90.25, 40.0)
OBLIQUE = Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix()


def tags(*which: int, **values: object) -> Edit:
    """An edit that sets the tags of some slices, of all if none is named; ``None`` removes a tag."""

    def edit(z: int, dataset: FileDataset) -> None:
        for keyword, value in values.items() if z in which or not which else ():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return edit


@dataclass(frozen=True)
class WrittenSeries:
    """A series as it was written: float32 ``[X, Y, Z]`` in Hounsfield units, its RAS affine, its files along Z."""

    uid: str
    volume: np.ndarray
    affine: np.ndarray
    files: tuple[Path, ...]


def write_series(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (7, 5, 6),
    spacing: tuple[float, float, float] = SPACING,
    direction: np.ndarray = OBLIQUE,
    description: str = "CHEST",
    modality: str = "CT",
    uid: str | None = None,
    tilt: float = 0.0,
    skip: Collection[int] = (),
    edit: Edit | None = None,
    name: Callable[[int], str] = lambda z: f"{(z * 5) % 17:04d}.dcm",
    volume: np.ndarray | None = None,
) -> WrittenSeries:
    """Write one file a slice; neither their names nor their instance numbers follow their positions.

    Args:
        folder: where; made when missing.
        shape: columns, rows, slices.
        spacing: mm along the three axes.
        direction: columns are the directions (LPS) of rows, columns and slices.
        description: SeriesDescription.
        modality: Modality.
        uid: SeriesInstanceUID, a new one by default.
        tilt: sideways shift of each slice against the one before, mm along the columns: a tilted gantry.
        skip: slices that are not written.
        edit: last change of a slice's data set before it is written.
        name: path of a slice below the folder.
        volume: ``[X, Y, Z]`` in whole Hounsfield units; random by default. Every second slice is stored with slope 2.
    """
    rng = np.random.default_rng(0)
    volume = rng.integers(-500, 700, shape) * 2 if volume is None else np.asarray(volume)
    uid = uid or generate_uid()
    study, frame = generate_uid(), generate_uid()
    files = []
    for z in range(volume.shape[2]):
        position = np.asarray(ORIGIN) + direction @ (0, tilt * z, spacing[2] * z)
        slope, intercept = (2, -1000) if z % 2 else (1, -1024)
        path = folder / name(z)
        dataset = _dataset(path, ((volume[:, :, z].T - intercept) // slope).astype(np.int16))
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid, study, frame
        dataset.Modality, dataset.SeriesDescription = modality, description
        dataset.InstanceNumber = volume.shape[2] - z
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.PixelSpacing = [format_number_as_ds(float(v)) for v in (spacing[1], spacing[0])]
        dataset.ImagePositionPatient = [format_number_as_ds(float(v)) for v in position]
        dataset.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in direction[:, :2].T.ravel()]
        if edit:
            edit(z, dataset)
        if z not in skip:
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path)
            files.append(path)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = ORIGIN
    return WrittenSeries(uid, volume.astype(np.float32), np.diag((-1, -1, 1, 1)) @ affine, tuple(files))


def find_segment(path: Path, number: int) -> np.ndarray:
    """Where the voxels of a segment of a DICOM SEG lie, ``[N, 3]`` in mm, LPS, by the geometry that the file states."""
    file = dcmread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    down, right = (float(distance) for distance in shared.PixelMeasuresSequence[0].PixelSpacing)
    along = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(np.float64)
    points = [np.empty((0, 3))]
    frames = file.pixel_array.reshape(-1, file.Rows, file.Columns)
    for frame, group in zip(frames, file.PerFrameFunctionalGroupsSequence, strict=True):
        # a file of one segment may name it once for all frames
        named = group if "SegmentIdentificationSequence" in group else shared
        if named.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            corner = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
            points.append(corner + np.argwhere(frame)[:, ::-1] * (right, down) @ along)
    return np.concatenate(points)


def _dataset(path: Path, pixels: np.ndarray) -> FileDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom replaces it by the true one
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    validate_file_meta(meta)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate, dataset.SeriesDate, dataset.StudyTime = "20200101", "20200101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.PatientName, dataset.PatientID = "Phantom", "P1"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.SeriesNumber, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = pixels.tobytes()
    return dataset
