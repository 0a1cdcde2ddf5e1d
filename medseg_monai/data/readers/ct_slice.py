"""Reader of one axial slice of a CT: TIFF in Hounsfield units, or an 8-bit picture of a window."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys
from PIL import Image, TiffImagePlugin
from tifffile import TiffFile, TiffFileError

from medseg_monai.data.limits import MAX_IMAGE_MIB, TooLargeError, check_size
from medseg_monai.files import one_line

from .exif import EXIF_ORIENTATION, to_upright
from .memory import names_file
from .named_file import NamedFileReader
from .raster import BYTES_PER_PIXEL, FloatArray, RasterReader, open_raster

__all__ = ["CTSliceReader"]

# air, fat and soft tissue alone span more; what is scaled to 0..1 or -1..1 spans less
_SMALLEST_RANGE = 100.0

_SIGNED = 2  # of TIFF's tag SampleFormat


class CTSliceReader(NamedFileReader):
    """MONAI reader of one slice of a CT as float32 ``[1, H, W]`` in Hounsfield units, rows first.

    The type of the file's numbers tells how they are meant, and nothing else does:

    - Integers with a sign of 16 bits and more, and floats, are **Hounsfield units** (TIFF). They must span 100 HU or
      more and have negative values, since every slice of a chest has air.
    - 8-bit grey, colour and palettes are a **picture of a window**: 0 is ``hu_min``, 255 is ``hu_max``, read by the
      rules of :class:`medseg_monai.data.RasterReader`.
    - Anything else is refused, since it may be either: 16-bit grey without a sign (PNG, TIFF), 8 bits with a sign, and
      Hounsfield units to which an offset was added.

    The image is upright, and its metadata are those of :class:`medseg_monai.data.RasterReader`.

    Args:
        hu_min: what black stands for in an 8-bit picture, in HU.
        hu_max: what white stands for.
        max_image_mib: MiB of the largest image, see :class:`medseg_monai.data.RasterReader`.

    Attributes:
        spatial_dims: 2.
        modalities: DICOM modalities that can be read; none.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from tifffile import imwrite
        >>> from medseg_monai.data import CTSliceReader
        >>> load = LoadImage(reader=CTSliceReader(hu_min=-1000, hu_max=400), ensure_channel_first=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     imwrite(f"{folder}/slice.tif", np.asarray([[-1024, 40]], dtype=np.int16))
        ...     Image.fromarray(np.asarray([[0, 255]], dtype=np.uint8)).save(f"{folder}/picture.png")
        ...     [load(f"{folder}/{name}").tolist() for name in ("slice.tif", "picture.png")]
        [[[[-1024.0, 40.0]]], [[[-1000.0, 400.0]]]]
    """

    spatial_dims = 2
    modalities: tuple[str, ...] = ()

    def __init__(self, hu_min: float = -1000.0, hu_max: float = 400.0, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        super().__init__()
        self.hu_min = hu_min
        self.hu_max = hu_max
        self.raster = RasterReader(channels=1, max_image_mib=max_image_mib)

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether the name (or every name) is that of a raster image."""
        return self.raster.verify_suffix(filename)

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[FloatArray, dict[str, Any]]:
        """Decode the file named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            float32 ``[1, H, W]`` in HU, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            NotEnoughMemoryError: if the memory does not suffice for the image.
            ValueError: for several files, a file that ``RasterReader`` refuses, and values that do not say whether they
                are Hounsfield units (see the class).
        """
        path = self.only(img)
        if (wide := _read_wide(path, self.raster.max_image_mib)) is not None:
            return _hounsfield(*wide, path=path, mode="64-bit")
        image, orientation = open_raster(path, self.raster.max_image_mib)
        if image.mode in ("I", "F"):  # a TIFF, which Pillow has turned; what is not one is upright
            return _hounsfield(np.asarray(image), orientation, path=path, mode=image.mode)
        if fault := _why_neither(image):
            raise ValueError(
                f"{path}: {fault} may be Hounsfield units or a picture; save TIFF of signed integers or floats in HU, "
                "or an 8-bit picture."
            )
        values, meta = self.raster.get_data(img)
        return self.hu_min + values * np.float32((self.hu_max - self.hu_min) / 255), meta


def _read_wide(path: Path, max_image_mib: float) -> tuple[npt.NDArray[Any], int] | None:
    """The values of a TIFF of 64-bit numbers, which Pillow does not know, and its orientation; ``None`` of others."""
    try:
        file = TiffFile(path)
    except (OSError, TiffFileError, ValueError):
        return None
    passing = (MemoryError, PermissionError, TooLargeError)
    with file, one_line(f"{path}: truncated or not an image; replace the file.", passing=passing):
        page = file.pages.first
        kind = page.dtype
        if len(file.pages) > 1 or kind is None or kind.kind not in "if" or kind.itemsize < 8 or len(page.shape) != 2:
            return None
        check_size(path, page.shape, max_image_mib, bytes_each=BYTES_PER_PIXEL)
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag is not None and int(tag.value) in range(1, 9) else 1
        return to_upright(page.asarray(), orientation), orientation


def _why_neither(image: Image.Image) -> str:
    """What leaves open whether an image is in Hounsfield units; empty if it is an 8-bit picture."""
    if image.mode.startswith("I;16"):
        low, high = image.getextrema()
        return f"16-bit values {low} to {high} without a sign"
    formats = getattr(image, "tag_v2", {}).get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    return "8-bit values with a sign" if _SIGNED in formats else ""


def _hounsfield(
    values: npt.NDArray[Any], orientation: int, *, path: Path, mode: str
) -> tuple[FloatArray, dict[str, Any]]:
    """The values as they are, if they can be Hounsfield units."""
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(f"{path}: {count} pixels are not finite numbers; replace them, in CT with -1024 (air).")
    low, high = float(values.min()), float(values.max())
    if high - low < _SMALLEST_RANGE or low >= 0:
        raise ValueError(
            f"{path}: values from {low:.4g} to {high:.4g} are not Hounsfield units of air and tissue; save them in HU, "
            "or an 8-bit picture."
        )
    meta = {
        MetaKeys.SPATIAL_SHAPE: np.asarray(values.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        EXIF_ORIENTATION: orientation,
        "format": "TIFF",
        "mode": mode,
    }
    return values.astype(np.float32)[None], meta
