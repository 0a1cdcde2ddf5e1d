"""Reader of 3D volumes: NIfTI, MetaImage, NRRD and DICOM series with one scalar value per voxel on a straight grid."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ITKReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from medseg_monai.data.dicom import DicomSeries, check_geometry, find_series, list_series, read_series
from medseg_monai.data.limits import LONGEST_AXIS, MAX_IMAGE_MIB, TooLargeError, check_size
from medseg_monai.errors import shorten
from medseg_monai.files import as_utf8, has_ending, one_line

from .itk_header import check_data_files, check_stated_geometry
from .memory import names_file
from .named_file import NamedFileReader
from .nifti_file import NiftiReader, check_end, open_nifti
from .nifti_header import NIFTI_FORMS, NiftiForms, place_in_mm

__all__ = ["DICOM_FILES", "ITK_SUFFIXES", "SERIES_UID", "VOLUME_SUFFIXES", "VolumeReader", "dicom_files"]

_LOGGER = logging.getLogger(__name__)

NIFTI_SUFFIXES = ("nii", "nii.gz")
NRRD_SUFFIXES = ("nrrd", "nhdr")
ITK_SUFFIXES = ("mha", "mhd", *NRRD_SUFFIXES)
"""Those of the volumes that ITK reads, whose headers may stand in files of their own."""

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
"""File name endings of volumes, without the dot; a DICOM series is a folder."""

DICOM_FILES = "dicom_files"
"""Key of the source files of a DICOM series in the metadata; :func:`dicom_files` reads it."""

SERIES_UID = "series_uid"
"""Key of the SeriesInstanceUID of a DICOM series in the metadata."""

# cosine of the angle between two axes of the grid; over 300 mm a shear of this size moves a voxel by 0.3 mm
_SHEAR = 1e-3

_UID = re.compile(r"\d+(\.\d+)+")

Array = npt.NDArray[Any]
Meta = dict[str, Any]


def dicom_files(meta: Mapping[str, Any]) -> list[Path]:
    r"""The source files of a volume that was read from a DICOM series, in the order of its third axis.

    The metadata holds them as one string with one file per line: MONAI's ``list_data_collate`` refuses a batch of two
    volumes whose lists of files differ in length.

    Args:
        meta: metadata of the image, as loaded or after ``decollate_batch``.

    Returns:
        the files; none if the volume was not a DICOM series.

    Example:
        >>> from medseg_monai.data.readers.volume import dicom_files
        >>> [file.name for file in dicom_files({"dicom_files": "scan/1.dcm\nscan/2.dcm"})]
        ['1.dcm', '2.dcm']
    """
    return [Path(line) for line in str(meta.get(DICOM_FILES, "")).split("\n") if line]


class VolumeReader(NamedFileReader):
    """MONAI reader of one 3D volume ``[X, Y, Z]`` with a RAS affine, whatever the format.

    ``.nii`` and ``.nii.gz`` are read by MONAI's ``NibabelReader``, compressed or not, whatever the name says; ``.mha``,
    ``.mhd``, ``.nrrd`` and ``.nhdr`` by its ``ITKReader``; values and affine are those of MONAI's readers. A folder
    stands for the one DICOM series below it, and ``<folder>/<SeriesInstanceUID>`` for one of several; see
    :func:`medseg_monai.data.dicom.find_series`. CT is in Hounsfield units, by the rescale tags of each file.

    The metadata is what MONAI's readers return: ``affine``, ``original_affine``, ``spatial_shape``, ``space`` (RAS),
    ``original_channel_dim`` (none) and the header's own entries. A DICOM series also has ``"series_uid"`` and
    ``"dicom_files"`` (see :func:`dicom_files`), so that a result can refer to its source.

    A trailing axis of length 1 after the third is dropped. A NIfTI file with neither qform nor sform does not state its
    orientation. It is read as ``nibabel`` and most other tools read it (first axis to the left, origin in the centre),
    and a warning is logged, since left and right may be exchanged. Where both forms count and disagree, the sform is
    taken with a warning. Metres and microns become mm. The metadata keep the header's forms and units, so that a mask
    can repeat them; see :mod:`medseg_monai.data.readers.nifti_header`.

    Args:
        modality: DICOM modality that a series must have.
        series: SeriesInstanceUID to read from a folder with several series.
        keep_last: keep the last volume in memory for :meth:`take_last`.
        one_slice: also read a file of one slice, which is no volume: viewers save the mask of a 2D image so.
        max_image_mib: MiB of the largest volume, as 32-bit numbers; the size that the header declares is compared
            before anything is read.

    Attributes:
        spatial_dims: 3.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from medseg_monai.data import VolumeReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([1, 1, 3, 1])), f"{folder}/scan.nii.gz")
        ...     LoadImage(reader=VolumeReader(), ensure_channel_first=True)(f"{folder}/scan.nii.gz").shape
        torch.Size([1, 4, 5, 6])
    """

    spatial_dims = 3

    def __init__(
        self,
        modality: str = "CT",
        series: str | None = None,
        keep_last: bool = False,
        one_slice: bool = False,
        max_image_mib: float = MAX_IMAGE_MIB,
    ) -> None:
        super().__init__()
        self.max_image_mib = max_image_mib
        self.one_slice = one_slice
        self.modality = modality
        self.series = series
        self.keep_last = keep_last
        self._last: tuple[Path, Array, Meta] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM modalities that can be read."""
        return (self.modality,)

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether every name ends in one of ``VOLUME_SUFFIXES``, or names a folder or a series in a folder."""
        names = [Path(name) for name in ensure_tuple(filename)]
        return all(has_ending(name, VOLUME_SUFFIXES) or name.is_dir() or _is_series(name) for name in names)

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[Array, Meta]:
        """Read the volume named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            ``[X, Y, Z]``, float32 except for NIfTI, which keeps the type of the file; and the metadata.

        Raises:
            FileNotFoundError: if there is no such file, folder or series.
            NotEnoughMemoryError: if the memory does not suffice for the volume.
            ValueError: for several files, another suffix, a file that is truncated or damaged or not one 3D volume,
                a header that names a file elsewhere, several values per voxel, values that are not finite, a singular,
                sheared or contradictory affine, and for a folder with several DICOM series or with one that is not a
                regular grid.
        """
        if len(img) != 1:
            names = ", ".join(str(name) for name in img)
            raise ValueError(f"{names}: VolumeReader loads one volume per key, got {len(img)}.")
        path = Path(img[0])
        data, meta = self._load(path)
        if self.keep_last:
            self._last = (path, data, dict(meta))
        return data, meta

    def take_last(self, path: str | os.PathLike[str]) -> tuple[Array, Meta]:
        """Return a volume as :meth:`get_data` returned it, without reading it again if it was the last one.

        The reader does not keep the volume any longer.

        Args:
            path: the volume.

        Returns:
            the values and the metadata, as :meth:`get_data` returns them.

        Raises:
            FileNotFoundError: see :meth:`get_data`.
            ValueError: see :meth:`get_data`.
        """
        wanted = Path(path)
        if self._last is None or self._last[0] != wanted:
            return self._load(wanted)
        _, data, meta = self._last
        self._last = None
        return data, meta

    def _load(self, path: Path) -> tuple[Array, Meta]:
        if path.is_dir() or _is_series(path):
            data, meta = self._read_dicom(path)
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder.")
        elif not has_ending(path, VOLUME_SUFFIXES):
            suffixes = ", ".join(VOLUME_SUFFIXES)
            raise ValueError(f"{path}: not a volume by its name ({suffixes}); for a DICOM series, give the folder.")
        else:
            read = _read_nifti if has_ending(path, NIFTI_SUFFIXES) else _read_itk
            data, meta = read(path, 1 if self.one_slice else 2, self.max_image_mib)
        _refuse_bad_values(path, data)
        return data, meta

    def _read_dicom(self, path: Path) -> tuple[Array, Meta]:
        geometry = check_geometry(self._choose(path), modality=self.modality)
        _refuse_large(path, geometry.shape, self.max_image_mib)
        data, affine = read_series(geometry)
        return data, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(data.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "spacing": np.linalg.norm(affine[:3, :3], axis=0),
            SERIES_UID: geometry.series.uid,
            DICOM_FILES: "\n".join(str(file) for file in geometry.files),
        }

    def _choose(self, path: Path) -> DicomSeries:
        """The series that a folder, or a name in a folder, stands for."""
        folder, wanted = (path, self.series) if path.is_dir() else (path.parent, path.name)
        found = (wanted and find_series(folder, [wanted])) or find_series(folder)
        by_uid = {series.uid: series for series in found}
        if not found:
            raise FileNotFoundError(f"{path}: no DICOM series below {folder}.")
        if wanted is None:
            if len(found) == 1:
                return found[0]
            if path.name not in by_uid:
                several = list_series(found, modality=self.modality)
                raise ValueError(f"{folder}: {len(found)} DICOM series, choose one: {several}.")
            wanted = path.name  # archives name the folder of a series by its UID
        if wanted not in by_uid:
            raise FileNotFoundError(f"{folder}: no DICOM series {wanted}; it has {shorten(sorted(by_uid))}.")
        return by_uid[wanted]


def _is_series(path: Path) -> bool:
    """Whether the path can only name a series in a folder: its last part is a UID, and no such file exists."""
    return bool(_UID.fullmatch(path.name)) and not path.exists() and path.parent.is_dir()


def _read_nifti(path: Path, fewest: int, max_image_mib: float) -> tuple[Array, Meta]:
    reader = NiftiReader()
    with _reading(path):
        image = open_nifti(path)
    _refuse_bad_shape(path, image.shape, 1 if image.get_data_dtype().names is None else 3, fewest)
    _refuse_large(path, image.shape, max_image_mib)
    _refuse_bad_affine(path, image.affine)  # the file's own: MONAI's reader replaces one that contradicts the voxels
    affine = place_in_mm(path, image)
    with _reading(path):
        opened = reader.read(path)
        data, meta = reader.get_data(opened)
        check_end(opened)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if not np.allclose(meta[MetaKeys.AFFINE], image.affine, rtol=0, atol=min(1e-3, 1e-3 * spacing)):
        raise ValueError(f"{path}: sform and voxel size (pixdim) contradict each other; restore the original header.")
    meta[MetaKeys.AFFINE], meta[MetaKeys.ORIGINAL_AFFINE] = affine, affine.copy()
    meta[NIFTI_FORMS] = NiftiForms.of_header(image.header).values
    return _three_axes(data, meta)


def _read_itk(path: Path, fewest: int, max_image_mib: float) -> tuple[Array, Meta]:
    if as_utf8(str(path)) != str(path):
        raise ValueError(f"{path}: ITK opens only files whose names are in UTF-8; rename it.")
    check_data_files(path)
    import itk  # takes seconds

    # itk.imread chooses by the name, and does not know MHA in capitals
    header = (itk.NrrdImageIO if has_ending(path, NRRD_SUFFIXES) else itk.MetaImageIO).New()
    with _reading(path):
        header.SetFileName(str(path))
        header.ReadImageInformation()
    rank = header.GetNumberOfDimensions()
    shape = [header.GetDimensions(i) for i in range(rank)]
    _refuse_bad_shape(path, shape, header.GetNumberOfComponents(), fewest)
    _refuse_large(path, shape, max_image_mib)
    in_space = min(rank, 3)
    axes = np.eye(3)
    for axis in range(in_space):
        axes[:in_space, axis] = np.asarray(header.GetDirection(axis))[:3] * header.GetSpacing(axis)
    _refuse_bad_affine(path, axes)
    check_stated_geometry(path)
    with _reading(path):
        # in float, since 8-bit signed and 64-bit integers cannot be read as such
        source = itk.ImageFileReader[itk.Image[itk.F, rank]].New(FileName=str(path), ImageIO=header)
        source.Update()
        data, meta = ITKReader().get_data(source.GetOutput())
    return _three_axes(data, meta)


def _reading(path: Path) -> AbstractContextManager[None]:
    return one_line(f"{path}: truncated, damaged or incomplete; copy it again.")


def _three_axes(data: Array, meta: Meta) -> tuple[Array, Meta]:
    """Drop trailing axes of length 1."""
    volume = data.reshape(data.shape[:3])
    return volume, {**meta, MetaKeys.SPATIAL_SHAPE: np.asarray(volume.shape), MetaKeys.ORIGINAL_CHANNEL_DIM: np.nan}


def _refuse_bad_shape(path: Path, shape: Sequence[int], components: int, fewest: int) -> None:
    size = " x ".join(str(n) for n in shape) or "0"
    if components != 1:
        raise ValueError(f"{path}: {components} values per voxel (colour or vectors); save one value per voxel.")
    if len(shape) < min(fewest + 1, 3) or min(shape[:3]) < fewest:
        raise ValueError(f"{path}: {size} voxels are not a volume; give a 3D image of at least two slices.")
    if int(np.prod(shape[3:])) != 1:
        raise ValueError(f"{path}: {size} voxels are several volumes; save the volume to segment as a file of its own.")


def _refuse_large(path: Path, shape: Sequence[int], max_image_mib: float) -> None:
    check_size(path, shape, max_image_mib)
    if max(shape) > LONGEST_AXIS:
        size = " x ".join(str(n) for n in shape)
        raise TooLargeError(f"{path}: {size} voxels, expected at most {LONGEST_AXIS} along an axis; crop the volume.")


def _refuse_bad_affine(path: Path, affine: npt.NDArray[np.float64]) -> None:
    """Refuse a grid without extent along an axis, or whose axes are not perpendicular."""
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    is_finite = bool(np.isfinite(affine).all()) and bool(lengths.all())
    if not is_finite or abs(np.linalg.det(axes / lengths)) < 1e-6:
        raise ValueError(f"{path}: singular affine; restore the geometry from the original image.")
    cosine = np.abs((axes / lengths).T @ (axes / lengths) - np.eye(3)).max()
    if cosine > _SHEAR:
        angle = np.degrees(np.arcsin(cosine))
        raise ValueError(f"{path}: axes {angle:.3g} degrees off a right angle; resample it to a straight grid first.")


def _refuse_bad_values(path: Path, data: Array) -> None:
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{path}: values of type {data.dtype}; save real numbers.")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise ValueError(f"{path}: {count} voxels are not finite numbers; replace them, in CT with -1024 (air).")
