"""Masks as files: PNG in the image's own size and orientation, and NIfTI in the scan's own grid."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import DtypeLike, NdarrayOrTensor
from monai.data import ImageWriter, NibabelWriter
from monai.utils import MetaKeys, convert_data_type, get_equivalent_dtype
from PIL import ExifTags, Image

from medseg_monai.data.readers.exif import EXIF_ORIENTATION, to_stored
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.files import atomic_path

from .case import SavedCase

__all__ = ["NIfTIWriter", "PNGWriter", "RasterMaskWriter", "save_png", "write_label_nifti", "write_volume_nifti"]


class RasterMaskWriter(ImageWriter):
    """MONAI writer of one 2D label map, ``[1, H, W]`` with rows first, as an 8-bit grey PNG.

    The counterpart of :class:`medseg_monai.data.RasterReader`, which reads images upright: the file has exactly the
    pixels of the image, in the matrix that the image's file stores, and the same EXIF orientation tag (if it is not 1),
    so that every viewer shows both alike. Nothing is resampled, clipped or rounded: a map of another size than the
    image, or with other values than labels, is refused.

    The file is written completely or not at all: it gets a temporary name in the same folder and is then renamed.

    ``SaveImaged`` uses it like this (MONAI turns every error of a writer into a ``RuntimeError`` that quotes it)::

        {"_target_": "SaveImaged", "keys": "pred", "writer": "medseg_monai.data.results.masks.RasterMaskWriter",
         "output_dir": "@output_dir", "output_ext": ".png", "output_postfix": "", "separate_folder": false,
         "resample": false, "scale": 255, "print_log": false}

    Args:
        output_dtype: ``uint8``, which ``SaveImaged`` sets for PNG; no other type is supported.
        scale: grey value of the foreground of a binary map (values 0 and 1), 1 to 255; ``None`` writes the class
            indices as they are. The name is that of ``SaveImaged``'s option.
        upright: write the upright mask without a tag, for programs that do not know the tag.
        kwargs: further attributes for MONAI's base class.

    Raises:
        ValueError: for another ``output_dtype`` or ``scale``.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from medseg_monai.data import RasterMaskWriter
        >>> writer = RasterMaskWriter(scale=255)
        >>> writer.set_data_array(np.eye(2)[None])
        >>> writer.set_metadata({"spatial_shape": (2, 2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer.write(f"{folder}/mask.png")
        ...     np.asarray(Image.open(f"{folder}/mask.png")).tolist()
        [[255, 0], [0, 255]]
    """

    def __init__(
        self, output_dtype: DtypeLike = np.uint8, scale: int | None = None, upright: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(output_dtype=output_dtype, scale=scale, **kwargs)
        if output_dtype is not None and get_equivalent_dtype(output_dtype, np.ndarray) != np.uint8:
            raise ValueError(f"RasterMaskWriter writes 8-bit PNG: output_dtype must be uint8, got {output_dtype}.")
        if scale is not None and scale not in range(1, 256):
            raise ValueError(f"scale is the grey value of the foreground, 1 to 255 or null, got {scale}.")
        self.foreground_value = scale
        self.upright = upright
        self.mask: npt.NDArray[np.uint8] | None = None
        self.orientation = 1

    def set_data_array(self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, **kwargs: Any) -> None:
        """Take the label map, upright.

        Args:
            data_array: ``[1, H, W]``, or ``[H, W]`` with ``channel_dim=None``; any numeric type with integer values.
            channel_dim: axis of the single channel.
            kwargs: MONAI's other options, which have no effect here.

        Raises:
            ValueError: for several channels, another number of dimensions, an empty map, values that are not integers,
                or values outside 0..255 (with ``scale``: other than 0 and 1).
        """
        data = convert_data_type(data_array, np.ndarray)[0]
        labels = data if channel_dim is None else np.moveaxis(data, channel_dim, 0)
        if channel_dim is not None and labels.shape[0] == 1:
            labels = labels[0]
        if labels.ndim != 2 or labels.size == 0:
            raise ValueError(f"Expected one label map [1, H, W], got {list(data.shape)}; apply AsDiscreted first.")
        highest = 255 if self.foreground_value is None else 1
        lowest_found, highest_found = labels.min(), labels.max()
        if not (lowest_found >= 0 and highest_found <= highest and (labels == labels.astype(np.uint8)).all()):
            found = f"{lowest_found} to {highest_found}"
            raise ValueError(f"Expected integer labels from 0 to {highest}, got {found}; apply AsDiscreted first.")
        self.mask = labels.astype(np.uint8) * np.uint8(self.foreground_value or 1)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, **options: Any) -> None:
        """Take the orientation, and compare the size with that of the image.

        Args:
            meta_dict: the image's metadata; ``"spatial_shape"`` (H, W) and ``"exif_orientation"`` are read if present.
            options: MONAI's resampling options, which have no effect: nothing is resampled.

        Raises:
            ValueError: if the label map does not have the size of the image.
        """
        meta = meta_dict or {}
        shape = meta.get(MetaKeys.SPATIAL_SHAPE)
        if shape is not None and self.mask is not None:
            expected = tuple(int(side) for side in torch.as_tensor(shape).flatten())
            if self.mask.shape != expected:
                raise ValueError(f"The mask is {self.mask.shape}, the image {expected}; apply Invertd before saving.")
        self.orientation = 1 if self.upright else int(meta.get(EXIF_ORIENTATION, 1))

    def write(self, filename: str | os.PathLike[str], verbose: bool = False, **kwargs: Any) -> None:
        """Write the PNG.

        Args:
            filename: path with the ending ``.png``; an existing file is replaced.
            verbose: whether MONAI's logger reports the file.
            kwargs: MONAI's other options, which have no effect here.

        Raises:
            ValueError: for another ending, or before :meth:`set_data_array`.
            OSError: if the file cannot be written; no part of it remains, and an older file stays unchanged.
        """
        super().write(filename, verbose=verbose)
        path = Path(filename)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: masks are written as PNG; name the file .png.")
        if self.mask is None:
            raise ValueError(f"{path}: no label map to write; call set_data_array first.")
        save_png(Image.fromarray(to_stored(self.mask, self.orientation)), self.orientation, path)


def save_png(picture: Image.Image, orientation: int, path: Path) -> None:
    """Write a picture with its orientation tag, completely or not at all.

    Args:
        picture: the picture as it is stored.
        orientation: its EXIF orientation; 1 is written without a tag.
        path: the file, in a folder that exists.

    Raises:
        OSError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise OSError(f"{path}: cannot be written (no such folder); choose a writable folder with room.")
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG", exif=exif)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path}: cannot be written ({reason}); choose a writable folder with room.") from error


class PNGWriter:
    """Write the label map of an image as ``<name>.png``, in the image's own size and orientation.

    Args:
        scale: grey value of the foreground of a binary map, see :class:`RasterMaskWriter`; ``None`` writes the labels
            as they are.
        upright: write the mask of an image with an EXIF orientation as viewers show it, without the tag, instead of in
            the matrix that the image's file stores, with the tag.

    Raises:
        ValueError: for another ``scale``.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import PNGWriter, SaveResultsd
        >>> photo = MetaTensor(torch.zeros(1, 4, 5), meta={"filename_or_obj": "photo.jpg", "spatial_shape": [4, 5]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[PNGWriter(scale=255)])
        ...     [path.name for path in save.save({"image": photo, "pred": photo > 0})]
        ['photo.png']
    """

    def __init__(self, scale: int | None = None, *, upright: bool = False) -> None:
        RasterMaskWriter(scale=scale)
        self.scale = scale
        self.upright = upright

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any image that was read can have its mask written; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the PNG.

        Args:
            case: the prediction, ``[H, W]``.
            folder: folder to write into.

        Raises:
            ValueError: a volume, or labels other than 0 and 1 if ``scale`` is given.
            OSError: the file cannot be written.
        """
        path = folder / f"{case.name}.png"
        writer = RasterMaskWriter(scale=self.scale, upright=self.upright)
        writer.set_data_array(case.labels, channel_dim=None)
        writer.set_metadata(case.meta)
        writer.write(path)
        return [path]


class NIfTIWriter:
    """Write the label map of a volume as ``<name>.nii.gz``: uint8, in the grid of the input, with the input's affine.

    If the input was NIfTI, the mask has the qform, the sform, the codes of both and the units of the input, so that
    every program that places the scan by them places the mask on it. The same label map always gives the same bytes.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import NIfTIWriter, SaveResultsd
        >>> scan = MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": "ct.nrrd", "spatial_shape": [4, 5, 6]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[NIfTIWriter()])
        ...     [path.name for path in save.save({"image": scan, "pred": scan > 0})]
        ['ct.nii.gz']
    """

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any volume that was read can have its mask written; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the NIfTI file.

        Args:
            case: the prediction, ``[X, Y, Z]``.
            folder: folder to write into.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / f"{case.name}.nii.gz"
        write_label_nifti(path, case.labels, case.affine, forms=NiftiForms.of_meta(case.meta))
        return [path]


def write_label_nifti(
    path: str | os.PathLike[str],
    labels: npt.NDArray[np.integer[Any]],
    affine: npt.ArrayLike,
    *,
    forms: NiftiForms | None = None,
) -> None:
    """Write a label map as a compressed NIfTI file of uint8, all or nothing; the same map gives the same bytes.

    Args:
        path: file to write or replace, with the ending ``.nii.gz``.
        labels: ``[X, Y, Z]``, integers from 0 to 255.
        affine: ``[4, 4]`` from voxel indices to mm in RAS.
        forms: what the header of the scan says of its place and units, if the scan is NIfTI; the mask repeats it
            instead of ``affine``.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from medseg_monai.data.results.masks import write_label_nifti
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_label_nifti(Path(folder, "a.nii.gz"), np.ones((2, 3, 4), np.uint8), np.diag([1, 1, 2, 1]))
        ...     [float(edge) for edge in nib.load(Path(folder, "a.nii.gz")).header.get_zooms()]
        [1.0, 1.0, 2.0]
    """
    write_volume_nifti(path, np.asarray(labels, dtype=np.uint8), affine, forms=forms)


def write_volume_nifti(
    path: str | os.PathLike[str],
    values: npt.NDArray[np.number[Any]],
    affine: npt.ArrayLike,
    *,
    forms: NiftiForms | None = None,
) -> None:
    """Write a volume as a compressed NIfTI file, all or nothing; the same volume gives the same bytes.

    Args:
        path: file to write or replace, with the ending ``.nii.gz``.
        values: ``[X, Y, Z]``; the file has the same type.
        affine: ``[4, 4]`` from voxel indices to mm in RAS.
        forms: see :func:`write_label_nifti`.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from medseg_monai.data.results.masks import write_volume_nifti
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_volume_nifti(f"{folder}/scan.nii.gz", np.zeros((2, 3, 4), np.int16), np.eye(4))
        ...     nib.load(f"{folder}/scan.nii.gz").get_data_dtype().name
        'int16'
    """
    image = NibabelWriter.create_backend_obj(values, affine=np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    if forms is not None:
        forms.write_to(image.header)
        image = type(image)(image.dataobj, image.header.get_best_affine(), image.header)
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as stream,
    ):
        image.to_stream(stream)
