"""Reader of stacks of 2D sections: the pages of a TIFF, the pictures of a folder, or one picture."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import MetaKeys, ensure_tuple
from PIL import ExifTags, Image, TiffImagePlugin

from medseg_monai.data.limits import MAX_IMAGE_MIB, check_size
from medseg_monai.files import has_ending

from .exif import EXIF_ORIENTATION
from .memory import names_file
from .named_file import NamedFileReader
from .raster import (
    BYTES_PER_PIXEL,
    RASTER_SUFFIXES,
    FloatArray,
    RasterReader,
    check_picture_file,
    count_pages,
    decoding,
    picture_formats,
    stored_values,
)

__all__ = ["StackReader", "natural_order", "sections_of"]


def natural_order(path: str | os.PathLike[str]) -> tuple[tuple[str, int], ...]:
    """Key by which names sort as their numbers count: 0, 1, 2, 10 and not 0, 1, 10, 2.

    Args:
        path: a file; its name without its folder counts.

    Example:
        >>> from medseg_monai.data.readers.stack import natural_order
        >>> sorted(["a10.png", "a2.png", "a1.png"], key=natural_order)
        ['a1.png', 'a2.png', 'a10.png']
    """
    parts = re.findall(r"([^0-9]*)([0-9]*)", Path(path).name.casefold())
    return tuple((text, int(digits or -1)) for text, digits in parts)


def sections_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures directly in a folder in natural order, without hidden ones.

    Args:
        folder: the folder.
    """
    files = (path for path in Path(folder).iterdir() if has_ending(path, RASTER_SUFFIXES) and path.is_file())
    return sorted(sorted(path for path in files if not path.name.startswith(".")), key=natural_order)


class StackReader(NamedFileReader):
    """MONAI reader of a stack of sections as float32 ``[channels, pages, H, W]`` in 0 to 255, rows first.

    A stack is a TIFF with several pages, in their order, or a folder of pictures, in the natural order of their names
    (0, 1, 2 ... 10). One picture is a stack of one page, turned upright as
    :class:`medseg_monai.data.RasterReader` does it, whose rules of values and channels hold for every page. Pages must
    have the same size and no EXIF orientation.

    The metadata hold ``"spatial_shape"`` as ``(pages, H, W)``, ``"exif_orientation"``, and Pillow's ``"format"`` and
    ``"mode"`` of the first page. There is no affine, so MONAI uses the identity.

    Args:
        channels: 1 or 3.
        max_image_mib: MiB of the largest stack, as it is returned; the sizes that the pages declare are compared before
            any of them is decoded.

    Raises:
        ValueError: for other ``channels``.

    Attributes:
        spatial_dims: 2, since a section is an image.
        modalities: DICOM modalities that can be read; none.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import tifffile
        >>> from monai.transforms import LoadImage
        >>> from medseg_monai.data import StackReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tifffile.imwrite(f"{folder}/volume.tif", np.zeros((30, 20, 24), np.uint8))
        ...     LoadImage(reader=StackReader(), ensure_channel_first=True)(f"{folder}/volume.tif").shape
        torch.Size([1, 30, 20, 24])
    """

    holds = "stack"
    spatial_dims = 2
    modalities: tuple[str, ...] = ()

    def __init__(self, channels: int = 1, *, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        super().__init__()
        self.raster = RasterReader(channels=channels, max_image_mib=max_image_mib)

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether every name ends in one of ``RASTER_SUFFIXES`` or is that of a folder."""
        return all(has_ending(name, RASTER_SUFFIXES) or Path(name).is_dir() for name in ensure_tuple(filename))

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[FloatArray, dict[str, Any]]:
        """Decode the file or folder named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            float32 ``[channels, pages, H, W]`` in 0 to 255, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            NotEnoughMemoryError: if the memory does not suffice for the stack.
            ValueError: for several paths, a folder without a picture, pages of different sizes or with an EXIF
                orientation, a TIFF that lacks the headers of its pages, and what ``RasterReader`` refuses.
        """
        path = self.only(img)
        if path.is_dir():
            values, meta = self._read_folder(path)
        else:
            check_picture_file(path)
            values, meta = self._read_file(path)
        return values, {
            **meta,
            MetaKeys.SPATIAL_SHAPE: np.asarray(values.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }

    def _read_file(self, path: Path) -> tuple[FloatArray, dict[str, Any]]:
        with path.open("rb") as stream:
            with decoding(path):
                image = Image.open(stream, formats=picture_formats())
                pages = count_pages(image, path)
            if pages > 1 and isinstance(image, TiffImagePlugin.TiffImageFile):
                return self._read_pages(image, path, pages)
        values, meta = self.raster.get_data([path])
        return values[:, None], meta

    def _read_pages(
        self, image: TiffImagePlugin.TiffImageFile, path: Path, pages: int
    ) -> tuple[FloatArray, dict[str, Any]]:
        self._check_pages(image, path, pages)
        values = np.empty((self.raster.channels, pages, image.height, image.width), dtype=np.float32)
        for page in range(pages):
            with decoding(path):
                image.seek(page)
                image.load()
            values[:, page] = self.raster.to_channels(stored_values(image, path, page))
        return values, {EXIF_ORIENTATION: 1, "format": image.format, "mode": image.mode}

    def _check_pages(self, image: TiffImagePlugin.TiffImageFile, path: Path, pages: int) -> None:
        """Refuse pages that are no stack, by their headers."""
        if image.n_frames < pages:
            raise ValueError(
                f"{path}: {pages} pages with one header, as ImageJ saves large stacks; save the pages as files."
            )
        size = image.size
        self._check_size(path, pages, size)
        for page in range(pages):
            with decoding(path):
                image.seek(page)
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation != 1:
                raise ValueError(f"{path}: page {page + 1} has EXIF orientation {orientation}; save all pages upright.")
            if image.size != size:
                (width, height), (first_width, first_height) = image.size, size
                raise ValueError(
                    f"{path}: page {page + 1} is {width}x{height}, page 1 {first_width}x{first_height}; a stack has "
                    "pages of one size, so crop or pad them."
                )

    def _read_folder(self, folder: Path) -> tuple[FloatArray, dict[str, Any]]:
        files = sections_of(folder)
        if not files:
            raise ValueError(f"{folder}: no image in this folder (looked for {', '.join(RASTER_SUFFIXES)}).")
        first, meta = self._read_section(files[0])
        height, width = first.shape[1:]
        self._check_size(folder, len(files), (width, height))
        values = np.empty((first.shape[0], len(files), height, width), dtype=np.float32)
        for page, file in enumerate(files):
            section = first if page == 0 else self._read_section(file)[0]
            if section.shape != first.shape:
                raise ValueError(
                    f"{file}: {section.shape[2]}x{section.shape[1]}, {files[0].name} {width}x{height}; a stack has "
                    "pages of one size, so crop or pad them."
                )
            values[:, page] = section
        return values, meta

    def _read_section(self, file: Path) -> tuple[FloatArray, dict[str, Any]]:
        values, meta = self.raster.get_data([file])
        if meta[EXIF_ORIENTATION] != 1:
            raise ValueError(
                f"{file}: EXIF orientation {meta[EXIF_ORIENTATION]}; save all sections upright, without the tag."
            )
        return values, meta

    def _check_size(self, path: Path, pages: int, size: Sequence[int]) -> None:
        width, height = size
        limit, channels = self.raster.max_image_mib, self.raster.channels
        check_size(path, (height, width), limit, bytes_each=BYTES_PER_PIXEL)  # a page is decoded in colour
        check_size(path, (pages, height, width), limit, bytes_each=4 * channels)
