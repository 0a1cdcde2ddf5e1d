"""The end of a bundle's postprocessing: transforms that write what was made of a case."""

from __future__ import annotations

import gzip
import os
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, NibabelWriter
from monai.transforms import LoadImage, MapTransform
from monai.utils import ImageMetaKey, MetaKeys

from medseg_monai.files import atomic_path
from medseg_monai.report import lobe_table, write_lobe_csv, write_lobe_json

from .dicom_seg import Segment, write_dicom_seg, write_radiograph_seg
from .inputs import case_name, radiograph_name
from .volumes import dicom_files

__all__ = ["CaseSaver", "SaveDicomSegd", "SaveLabelMapd", "SaveLobeTabled", "SaveRadiographSegd", "SavedCase"]

_SAME_AFFINE = 1e-3  # mm; inverse transforms return to the input's grid but for rounding


@dataclass(frozen=True, eq=False)
class SavedCase:
    """A label map in the grid of its input, and the input.

    Attributes:
        name: stem of the files to write: of a volume :func:`medseg_monai.data.inputs.case_name`, of a radiograph
            :func:`medseg_monai.data.inputs.radiograph_name`.
        source: path of the input.
        labels: uint8 ``[X, Y, Z]``, of an image ``[H, W]``.
        affine: ``[4, 4]`` of the input, from voxel indices to mm in RAS; the identity for an image.
        meta: metadata of the input.
    """

    name: str
    source: str
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    meta: Mapping[str, Any]


class CaseSaver(MapTransform):
    """Base of the transforms that write files for a case; a subclass says which in :meth:`write`.

    As a transform it writes and returns the item as it is. :meth:`save` does the same and says what it wrote, so that a
    runner can keep the savers for later, set their ``output_dir`` and report the files.

    The label map must be back in the input's grid (after ``Invertd``): shape and affine are compared with those that
    the input had when it was loaded, and nothing is resampled. Each file appears whole or not at all.

    Attributes:
        spatial_dims: 3 for volumes; a subclass for images says 2.

    Args:
        keys: one key, the label map ``[1, X, Y, Z]`` (of images ``[1, H, W]``) with metadata and whole values from 0 to
            255.
        output_dir: folder of the files, made when missing; may be set later.
        image_key: the input image; its metadata tells where the case is from.

    Raises:
        ValueError: for several keys, whose files would have the same names.
    """

    spatial_dims = 3

    def __init__(self, keys: KeysCollection, output_dir: str | os.PathLike[str], image_key: str = "image") -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"{type(self).__name__} writes one label map a case, got keys={self.keys}.")
        self.output_dir = os.fspath(output_dir)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files of a case; see :meth:`save`."""
        self.save(data)
        return dict(data)

    def save(self, data: Mapping[Any, Any]) -> list[Path]:
        """Write the files of a case.

        Args:
            data: item with the label map and the image.

        Returns:
            the files written; none if the case has no such result.

        Raises:
            ValueError: the label map is not in the grid of its input, or has values that are no labels.
            OSError: a file cannot be written.
        """
        return self.write(_to_case(data[self.keys[0]], data[self.image_key], self.spatial_dims))

    @abstractmethod
    def write(self, case: SavedCase) -> list[Path]:
        """Write the files of a case into ``output_dir`` and return their paths."""

    def _path(self, case: SavedCase, ending: str) -> Path:
        return Path(self.output_dir, f"{case.name}{ending}")


class SaveLabelMapd(CaseSaver):
    """Write the label map as ``<name>.nii.gz``: uint8, in the grid of the input, with the affine that the input has.

    The same label map gives the same bytes. The arguments are those of :class:`CaseSaver`.
    """

    def write(self, case: SavedCase) -> list[Path]:
        """Write the NIfTI file."""
        path = self._path(case, ".nii.gz")
        image = NibabelWriter.create_backend_obj(case.labels, affine=case.affine, dtype=np.uint8)
        image.header.set_xyzt_units("mm")
        with (
            atomic_path(path) as temporary,
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as stream,
        ):
            image.to_stream(stream)
        return [path]


class SaveDicomSegd(CaseSaver):
    """Write the label map of a DICOM series as ``<name>.seg.dcm``; an input that was no DICOM gets no file.

    See :func:`medseg_monai.data.dicom_seg.write_dicom_seg`.

    Args:
        keys: one key, the label map; see :class:`CaseSaver`.
        output_dir: folder of the files.
        segments: description of label 1, of label 2, and so on, such as ``LUNG_LOBES``.
        algorithm_name: name of the algorithm.
        algorithm_version: its version.
        image_key: the input image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        *,
        segments: Sequence[Segment],
        algorithm_name: str,
        algorithm_version: str,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys, output_dir, image_key)
        self.segments = tuple(segments)
        self.algorithm_name = algorithm_name
        self.algorithm_version = algorithm_version

    def write(self, case: SavedCase) -> list[Path]:
        """Write the DICOM SEG, if the input was DICOM."""
        files = dicom_files(case.meta)
        if not files:
            return []
        path = self._path(case, ".seg.dcm")
        self._write_seg(path, case.labels, files)
        return [path]

    def _write_seg(self, path: Path, labels: npt.NDArray[np.uint8], files: Sequence[Path]) -> None:
        write_dicom_seg(
            path,
            labels,
            source_files=files,
            segments=self.segments,
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
        )


class SaveRadiographSegd(SaveDicomSegd):
    """Write the mask of a DICOM radiograph as ``<name>.seg.dcm``; a raster image gets no file.

    It stands in a bundle behind ``SaveImaged``, which writes the PNG of every input, with the same name. Images are
    loaded by :class:`medseg_monai.data.RadiographReader`, which notes the DICOM file in the metadata::

        {"_target_": "medseg_monai.data.SaveRadiographSegd", "keys": "pred", "output_dir": "@output_dir",
         "segments": "$medseg_monai.data.LUNGS", "algorithm_name": "lung_cxr_rescrnet",
         "algorithm_version": "0.1.0"}

    See :func:`medseg_monai.data.write_radiograph_seg`.

    Args:
        keys: one key, the mask ``[1, H, W]`` with 0 for background, rows first; see :class:`CaseSaver`.
        output_dir: folder of the files.
        segments: description of label 1, of label 2, and so on, such as ``LUNGS``.
        algorithm_name: name of the algorithm.
        algorithm_version: its version.
        image_key: the input image.
    """

    spatial_dims = 2

    def _write_seg(self, path: Path, labels: npt.NDArray[np.uint8], files: Sequence[Path]) -> None:
        write_radiograph_seg(
            path,
            labels,
            source_file=files[0],
            segments=self.segments,
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
        )


class SaveLobeTabled(CaseSaver):
    """Write the lobe table as ``<name>_lobes.json`` and ``<name>_lobes.csv``.

    See :func:`medseg_monai.report.lobe_table.lobe_table`. The scan's Hounsfield units are read from the input again:
    the image of the item has been rescaled, and a second copy need not be held while the network runs.

    Args:
        keys: one key, the label map; see :class:`CaseSaver`.
        output_dir: folder of the files.
        names: name of label 1, of label 2, and so on.
        reader: the reader that loaded the image, with the same options.
        infection_dir: folder with an infection mask (0 and 1, in the grid of the scan) for each case, named as the scan
            is, such as ``case.nii.gz``; without it there is no severity score.
        image_key: the input image.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        *,
        names: Sequence[str],
        reader: ImageReader,
        infection_dir: str | os.PathLike[str] | None = None,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys, output_dir, image_key)
        if infection_dir is not None and not Path(infection_dir).is_dir():
            raise FileNotFoundError(f"{infection_dir}: no such folder of infection masks.")
        self.names = tuple(names)
        self.load = LoadImage(reader=reader, ensure_channel_first=True, dtype=np.float32)
        self.infection_dir = infection_dir

    def write(self, case: SavedCase) -> list[Path]:
        """Write both files.

        Raises:
            FileNotFoundError: there is no infection mask for the case.
            ValueError: several masks for the case, or one in another grid than the scan.
        """
        infection = None
        if self.infection_dir is not None:
            infection = self._read(self._infection_mask(case.name), case)
        rows = lobe_table(
            case.labels,
            self._read(case.source, case),
            affine=case.affine,
            names=self.names,
            infection=infection,
        )
        as_json, as_csv = self._path(case, "_lobes.json"), self._path(case, "_lobes.csv")
        write_lobe_json(as_json, rows)
        write_lobe_csv(as_csv, rows)
        return [as_json, as_csv]

    def _read(self, path: str | os.PathLike[str], case: SavedCase) -> npt.NDArray[np.float32]:
        """A volume in the grid of the case, ``[X, Y, Z]``."""
        volume = self.load(path)
        _refuse_other_grid(str(path), volume.shape[1:], volume.affine, case.labels.shape, case.affine)
        values: npt.NDArray[np.float32] = torch.as_tensor(volume).numpy()[0]
        return values

    def _infection_mask(self, name: str) -> Path:
        folder = Path(self.infection_dir or "")
        found = sorted(path for path in folder.glob("*") if path.is_file() and case_name(path) == name)
        if not found:
            raise FileNotFoundError(
                f"{folder}: no infection mask for '{name}'; add {name}.nii.gz or leave the folder out."
            )
        if len(found) > 1:
            raise ValueError(f"{folder}: several infection masks for '{name}': {', '.join(p.name for p in found)}.")
        return found[0]


def _to_case(pred: torch.Tensor, image: torch.Tensor, spatial_dims: int) -> SavedCase:
    meta: Mapping[str, Any] = image.meta  # type: ignore[attr-defined]
    source = str(meta[ImageMetaKey.FILENAME_OR_OBJ])
    if pred.ndim != spatial_dims + 1 or pred.shape[0] != 1:
        axes = "1, X, Y, Z" if spatial_dims == 3 else "1, H, W"
        raise ValueError(f"{source}: expected one label map [{axes}], got {list(pred.shape)}; apply AsDiscreted.")
    shape = tuple(int(side) for side in np.asarray(meta[MetaKeys.SPATIAL_SHAPE]).ravel())
    # images have no affine of their own; MONAI gives them the identity
    affine = np.asarray(meta.get(MetaKeys.ORIGINAL_AFFINE, np.eye(4)), dtype=np.float64).reshape(4, 4)
    _refuse_other_grid(f"label map of {source}", pred.shape[1:], pred.affine, shape, affine)  # type: ignore[attr-defined]
    values = torch.as_tensor(pred)[0].cpu()
    labels = values.to(torch.uint8)
    if not torch.equal(labels.to(values.dtype), values):
        raise ValueError(f"{source}: expected whole labels from 0 to 255; apply AsDiscreted first.")
    name = case_name(source) if spatial_dims == 3 else radiograph_name(source)
    return SavedCase(name, source, labels.numpy(), affine, meta)


def _refuse_other_grid(
    name: str,
    shape: Sequence[int],
    affine: npt.ArrayLike,
    expected_shape: Sequence[int],
    expected_affine: npt.NDArray[np.float64],
) -> None:
    same_axes = np.allclose(np.asarray(affine, dtype=np.float64), expected_affine, rtol=0, atol=_SAME_AFFINE)
    if tuple(shape) != tuple(expected_shape) or not same_axes:
        raise ValueError(
            f"{name}: {tuple(shape)}, not in the grid of the scan or image with {tuple(expected_shape)}; "
            "bring it back with Invertd, or resample it to the input."
        )
