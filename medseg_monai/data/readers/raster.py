"""Reader of 2D raster images, whatever Pillow reads: rows first, a fixed number of channels, 0 to 255."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys, ensure_tuple
from PIL import ExifTags, Image, TiffImagePlugin
from tifffile import TiffFile

from medseg_monai.data.limits import MAX_IMAGE_MIB, TooLargeError, check_size
from medseg_monai.files import has_ending, one_line

from .exif import EXIF_ORIENTATION, to_upright
from .memory import names_file
from .named_file import NamedFileReader

__all__ = [
    "BYTES_PER_PIXEL",
    "RASTER_SUFFIXES",
    "FloatArray",
    "RasterReader",
    "check_picture_file",
    "count_pages",
    "decoding",
    "open_raster",
    "picture_formats",
    "stored_values",
]

FloatArray = npt.NDArray[np.float32]

RASTER_SUFFIXES = (
    *("png", "tif", "tiff", "jpg", "jpeg", "jpe", "jfif", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    *("bmp", "dib", "gif", "webp", "avif", "pgm", "ppm", "pnm", "pbm", "pfm", "tga"),
)
"""File name endings of pictures that Pillow reads, without the dot."""

BYTES_PER_PIXEL = 12
"""Bytes that a pixel takes while an image is read: three channels of 32 bits."""

# ITU-R BT.601, as Pillow's own conversion to grey
_LUMINANCE = np.asarray((0.299, 0.587, 0.114), dtype=np.float32)

_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV")

_RAW, _IN_PLANES = 1, 2  # the values of TIFF's tags Compression and PlanarConfiguration


class RasterReader(NamedFileReader):
    """MONAI reader of one 2D raster image as float32 ``[channels, H, W]`` in 0 to 255, rows first.

    MONAI's ``PILReader`` returns whatever the file holds (the indices of a palette, four channels, 16-bit values, the
    first frame of an animation); a trained network needs the same scale and channels from every file. The rules are:

    - 8-bit grey, RGB, 1-bit (0 and 255), palette, CMYK, YCbCr and HSV files become grey or RGB values.
    - An alpha channel or a transparent colour is dropped if the whole image is opaque; otherwise the image is laid over
      black. A transparent colour key of a 16-bit grey image has no effect.
    - 16-bit grey is scaled by the depth that the file declares, without rounding: 65535 (in a 12-bit TIFF, 4095)
      becomes 255. A 12-bit picture stored in a 16-bit file therefore stays dark. Pillow reads 16-bit colour with 8
      bits, but for uncompressed TIFF in planes, which it misreads and tifffile reads.
    - 32-bit integers must lie in 0..65535 and are scaled like 16-bit values; floats must lie in 0..1 and are multiplied
      by 255. Anything else is refused, since such a file does not say what white is.
    - With ``channels=3``, grey becomes three equal channels. With ``channels=1``, colour becomes its luminance (ITU-R
      BT.601), which is exact where the three channels are equal.
    - The image is upright, as a viewer shows it: its EXIF orientation is applied, also that of a TIFF. The metadata
      hold it as ``"exif_orientation"`` (1 by default), so that a mask can be written in the matrix that the file
      stores (:class:`medseg_monai.data.PNGWriter`).

    The metadata also hold ``"spatial_shape"`` as ``(H, W)`` of the upright image, and Pillow's ``"format"`` and
    ``"mode"``. There is no affine, so MONAI uses the identity: distances are in pixels.

    Args:
        channels: 3 or 1.
        channel_order: order of the three channels, ``"RGB"`` or ``"BGR"``.
        max_image_mib: MiB of the largest image, in three channels of 32-bit numbers; Pillow has a limit of its own.

    Raises:
        ValueError: for other ``channels`` or ``channel_order``.

    Attributes:
        spatial_dims: 2.
        modalities: DICOM modalities that can be read; none.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import RasterReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(f"{folder}/photo.png")
        ...     LoadImage(reader=RasterReader(channels=3), ensure_channel_first=True)(f"{folder}/photo.png").shape
        torch.Size([3, 20, 30])

        A mask is read with ``RasterReader(channels=1)`` and ``medseg_monai.transforms.BinarizeMaskd``.
    """

    spatial_dims = 2
    modalities: tuple[str, ...] = ()

    def __init__(
        self,
        channels: int = 3,
        channel_order: Literal["RGB", "BGR"] = "RGB",
        max_image_mib: float = MAX_IMAGE_MIB,
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"RasterReader has 1 or 3 channels, got channels={channels}.")
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR', got '{channel_order}'.")
        self.channels = channels
        self.channel_order = channel_order
        self.max_image_mib = max_image_mib

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether the name (or every name) ends in one of ``RASTER_SUFFIXES``."""
        return all(has_ending(name, RASTER_SUFFIXES) for name in ensure_tuple(filename))

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[FloatArray, dict[str, Any]]:
        """Decode the file named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            float32 ``[channels, H, W]`` in 0 to 255, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            NotEnoughMemoryError: if the memory does not suffice for the image.
            ValueError: for several files, several pages or frames, a file that is truncated or not an image, an image
                with more pixels than Pillow's limit, an empty image, or values whose scale is unknown.
        """
        path = self.only(img)
        image, orientation = open_raster(path, self.max_image_mib)
        values = stored_values(image, path)
        if _is_misread(image) or not isinstance(image, TiffImagePlugin.TiffImageFile):  # which Pillow has turned
            values = to_upright(values, orientation)
        meta = {
            MetaKeys.SPATIAL_SHAPE: np.asarray(values.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            EXIF_ORIENTATION: orientation,
            "format": image.format or path.suffix.lstrip(".").upper(),
            "mode": image.mode,
        }
        return self.to_channels(values), meta

    def to_channels(self, values: FloatArray) -> FloatArray:
        """Bring values to the channels of this reader.

        Args:
            values: ``[H, W]`` grey or ``[H, W, 3]`` RGB.

        Returns:
            ``[channels, H, W]``.
        """
        if values.ndim == 2:
            return np.repeat(values[None], self.channels, axis=0)
        if self.channels == 1:
            red = values[..., 0]
            is_grey = np.array_equal(red, values[..., 1]) and np.array_equal(red, values[..., 2])
            return np.ascontiguousarray(red if is_grey else values @ _LUMINANCE)[None]
        ordered = values if self.channel_order == "RGB" else values[..., ::-1]
        return np.ascontiguousarray(np.moveaxis(ordered, -1, 0))


def picture_formats() -> list[str]:
    """Pillow's formats but for EPS: whatever its name, Pillow has Ghostscript run the program in such a file.

    Example:
        >>> from medseg_monai.data.readers.raster import picture_formats
        >>> [name in picture_formats() for name in ("PNG", "EPS")]
        [True, False]
    """
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def check_picture_file(path: Path) -> None:
    """Refuse a path that names no file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: a folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected one image file.")


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Let whatever Pillow raises on a file it cannot decode become one line.

    Args:
        path: the file, for the message.

    Raises:
        ValueError: the file is damaged, or no image, or larger than Pillow's limit.
    """
    try:
        yield
    except (MemoryError, PermissionError, TooLargeError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: more pixels than Pillow's limit; scale the image down.") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise ValueError(f"{path}: truncated or not an image; replace the file.") from error


def count_pages(image: Image.Image, path: Path) -> int:
    """Count the pages or frames of a file.

    In front of a stack of more than 4 GiB, ImageJ writes the header of the first page alone, with the number of pages
    in its description; the file is as long as they need. A page that was cut out of a stack may state it, too.

    Args:
        image: the file, opened.
        path: its path.
    """
    tags = getattr(image, "tag_v2", {})
    description = str(tags.get(TiffImagePlugin.IMAGEDESCRIPTION, ""))
    stated = re.search(r"^images=(\d{1,9})$", description, flags=re.MULTILINE) if "ImageJ=" in description else None
    pages = int(stated[1]) if stated else 1
    needed = pages * image.width * image.height * sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) // 8
    return max(getattr(image, "n_frames", 1), pages if path.stat().st_size >= needed else 1)


def open_raster(path: Path, max_image_mib: float) -> tuple[Image.Image, int]:
    """Load a file of one image.

    Args:
        path: the file.
        max_image_mib: MiB of the largest image, see :class:`RasterReader`.

    Returns:
        the image, as stored except for a TIFF, which Pillow turns upright, and the EXIF orientation of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: a folder, a file that is truncated or not an image, several pages, or too many pixels.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.data.readers.raster import open_raster
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (30, 20)).save(f"{folder}/a.png")
        ...     image, orientation = open_raster(Path(folder, "a.png"), max_image_mib=1)
        >>> image.size, orientation
        ((30, 20), 1)
    """
    check_picture_file(path)
    # from the name of an uncompressed TIFF, Pillow would map the file with height and width exchanged
    with decoding(path), path.open("rb") as stream, Image.open(stream, formats=picture_formats()) as image:
        check_size(path, (image.height, image.width), max_image_mib, bytes_each=BYTES_PER_PIXEL)
        frames = count_pages(image, path)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if frames == 1:
            image.load()
    if frames > 1:
        raise ValueError(f"{path}: {frames} pages or frames; save the image to segment as a file of its own.")
    if min(image.size) < 1:
        raise ValueError(f"{path}: an image without pixels ({image.width}x{image.height}).")
    return image, int(orientation) if orientation in range(1, 9) else 1


def stored_values(image: Image.Image, path: Path, page: int = 0) -> FloatArray:
    """The values of a loaded image by the rules of :class:`RasterReader`, in the rows and columns that Pillow has.

    Args:
        image: the image; of a TIFF of several pages, the one of ``page``.
        path: its file.
        page: its number in the file, from 0.

    Returns:
        grey ``[H, W]`` or RGB ``[H, W, 3]``, float32 in 0 to 255.

    Raises:
        ValueError: another colour mode, or values whose scale is unknown.
    """
    return _from_planes(image, path, page) if _is_misread(image) else _to_values(image, path)


def _to_values(image: Image.Image, path: Path) -> FloatArray:
    """Return grey ``[H, W]`` or RGB ``[H, W, 3]`` float32 values in 0 to 255."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        return _from_32_bit(image, path)
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"{path}: colour mode '{image.mode}' is not supported; save the image as grey or RGB.")
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        return _over_black(np.asarray(image.convert(mode + "A"), dtype=np.float32))
    return np.asarray(image.convert(mode), dtype=np.float32)


def _over_black(values: FloatArray) -> FloatArray:
    """Lay ``[H, W, 2]`` or ``[H, W, 4]``, alpha last, over black; an opaque image keeps its values exactly."""
    opacity = values[..., -1:] / np.float32(255)
    colour = values[..., :-1] * opacity
    return colour[..., 0] if values.shape[-1] == 2 else colour


def _is_misread(image: Image.Image) -> bool:
    """Whether Pillow reads noise: from planes of 16 bits that are not compressed, and from planes of grey and alpha."""
    tags = getattr(image, "tag_v2", {})
    is_deep = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8 and tags.get(TiffImagePlugin.COMPRESSION) == _RAW
    is_noise = image.mode == "LA" or (is_deep and tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1)
    return is_noise and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == _IN_PLANES


def _from_planes(image: Image.Image, path: Path, page: int) -> FloatArray:
    """The colours ``[H, W, 3]`` of a TIFF of uncompressed 16-bit planes, as stored."""
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"{path}: colour mode '{image.mode}' is not supported; save the image as grey or RGB.")
    with one_line(f"{path}: truncated or not an image; replace the file."), TiffFile(path) as file:
        planes = np.moveaxis(file.pages[page].asarray().astype(np.float32), 0, -1) * np.float32(255) / np.float32(65535)
    return _over_black(planes) if image.mode == "RGBA" else planes


def _from_16_bit(image: Image.Image) -> FloatArray:
    """Scale by the declared depth: a TIFF may declare 12 bits, or that zero is white (which Pillow ignores)."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** int(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]) - 1
    values = np.asarray(image).astype(np.float32) * np.float32(255) / np.float32(white)
    zero_is_white = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == 0
    return np.float32(255) - values if zero_is_white else values


def _from_32_bit(image: Image.Image, path: Path) -> FloatArray:
    values = np.asarray(image)
    white = 65535 if image.mode == "I" else 1
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        span = f"{values.min()} to {values.max()}"
        raise ValueError(f"{path}: 32-bit values {span}, expected 0 to {white}; save the image with 8 or 16 bits.")
    return values.astype(np.float32) * np.float32(255) / np.float32(white)
