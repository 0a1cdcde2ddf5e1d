"""Reader of 2D radiographs: raster images and DICOM of computed and digital radiography, as grey values 0 to 255."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from pydicom import Dataset
from pydicom.uid import UID

from medseg_monai.data.dicom.files import DICOM_SUFFIX, has_dicom_content, has_shifted_bits, is_dicom_file, read_dicom
from medseg_monai.data.dicom.versions import apply_modality_lut, apply_voi_lut
from medseg_monai.files import has_ending, one_line

from .exif import EXIF_ORIENTATION
from .raster import RASTER_SUFFIXES, RasterReader
from .volume import DICOM_FILES

__all__ = ["RADIOGRAPH_MODALITIES", "RadiographReader"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_LOGGER = logging.getLogger(__name__)

RADIOGRAPH_MODALITIES = ("CR", "DX")
"""DICOM modalities that are radiographs: computed radiography and digital X-ray."""


_GREY = ("MONOCHROME1", "MONOCHROME2")


class RadiographReader(ImageReader):
    """MONAI reader of one 2D radiograph as float32 ``[1, H, W]`` in 0 to 255, rows first, air black, bone white.

    A raster image is read by :class:`medseg_monai.data.RasterReader` with one channel, by the rules of that class. A
    DICOM file must hold a single-frame grey image of modality CR or DX with 8 to 16 bits. It is read as a viewer shows
    it:

    - The stored values go through the modality LUT or the rescale tags, then through the first VOI LUT, or else the
      first window (linear, linear exact or sigmoid). The full output range of the LUT or window becomes 0 to 255, so an
      image that its maker windowed is neither stretched nor clipped further. If there is neither, the darkest and the
      brightest pixel become 0 and 255.
    - MONOCHROME1 is inverted, so that white is dense in every image.
    - Pixels with ``PixelPaddingValue`` (or in the range up to ``PixelPaddingRangeLimit``) become 0, and do not count as
      darkest or brightest.

    Another modality, several frames, colour, other depths, missing or broken pixels and unusable tags are refused in
    one line. An image ``FOR PROCESSING`` is read with a warning: it holds the detector's values, which look different.

    The metadata holds ``"spatial_shape"`` as ``(H, W)``, ``"exif_orientation"`` (1 for DICOM), ``"format"``, ``"mode"``
    (the photometric interpretation of a DICOM image) and ``"dicom_files"``, the path of the DICOM file (empty for a
    raster image, see :func:`medseg_monai.data.readers.volume.dicom_files`). So a mask can be written as PNG
    (:class:`medseg_monai.data.PNGWriter`) and as DICOM SEG (:class:`medseg_monai.data.DicomSegWriter`). There is no
    affine, so MONAI uses the identity: distances are in pixels.

    ``read`` only takes the name; the file is opened in ``get_data``. If ``read`` raised an error, ``LoadImage`` would
    try MONAI's other readers, which would load what this reader refuses; errors in ``get_data`` reach the user.

    Attributes:
        spatial_dims: 2.
        modalities: DICOM modalities that can be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import RadiographReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((20, 30), np.uint8)).save(f"{folder}/chest.png")
        ...     LoadImage(reader=RadiographReader(), ensure_channel_first=True)(f"{folder}/chest.png").shape
        torch.Size([1, 20, 30])

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.5.1.1.2 (padding), C.11.1 and C.11.2 (modality and VOI LUT).
    """

    spatial_dims = 2
    modalities = RADIOGRAPH_MODALITIES

    def __init__(self) -> None:
        super().__init__()
        self.raster = RasterReader(channels=1)

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether the name (or every name) ends in one of ``RASTER_SUFFIXES`` or belongs to a DICOM file."""
        names = ensure_tuple(filename)
        return all(has_ending(name, RASTER_SUFFIXES) or is_dicom_file(name) for name in names)

    def read(self, data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], **kwargs: Any) -> tuple[Path, ...]:
        """Take the name of the file for :meth:`get_data`; no file is opened yet (see the class)."""
        return tuple(Path(name) for name in ensure_tuple(data))

    def get_data(self, img: Sequence[Path]) -> tuple[FloatArray, dict[str, Any]]:
        """Decode the file named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            float32 ``[1, H, W]`` in 0 to 255, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for several files, a raster image that ``RasterReader`` refuses, and DICOM that is not a
                radiograph or cannot be shown (see the class).
        """
        if len(img) != 1:
            names = ", ".join(str(name) for name in img)
            raise ValueError(f"{names}: RadiographReader loads one image per key, got {len(img)} files.")
        path = Path(img[0])
        if path.is_file() and is_dicom_file(path):
            return _read_dicom(path)
        values, meta = self.raster.get_data(img)
        # a batch keeps only the keys that all its images have: an image without this key would take it from the others
        return values, {**meta, DICOM_FILES: ""}


def _read_dicom(path: Path) -> tuple[FloatArray, dict[str, Any]]:
    dataset = _open(path)
    stored = _stored_values(path, dataset)
    padding = _padding(dataset, stored)
    if padding.all():
        raise ValueError(f"{path}: every pixel is padding; export the image again.")
    try:
        shown = _as_shown(dataset, stored, padding)
    except Exception as error:  # pydicom raises many types for tags with no value or an impossible one
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path}: LUT, window or rescale tags that cannot be applied ({reason}); repair them."
        ) from error
    shown[padding] = 0
    return shown[None], {
        MetaKeys.SPATIAL_SHAPE: np.asarray(shown.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        EXIF_ORIENTATION: 1,
        "format": "DICOM",
        "mode": str(dataset.PhotometricInterpretation),
        DICOM_FILES: str(path),
    }


def _open(path: Path) -> Dataset:
    """Read the file, and refuse anything that is not a single grey radiograph."""
    if not has_dicom_content(path):
        raise ValueError(f"{path}: named .{DICOM_SUFFIX}, but is not DICOM; export it again.")
    with one_line(f"{path}: damaged DICOM header; copy the file again.", passing=OSError):
        dataset = read_dicom(path)
        modality = str(dataset.get("Modality") or "unknown")
        frames = int(dataset.get("NumberOfFrames") or 1)
        colours = int(dataset.get("SamplesPerPixel") or 1)
        interpretation = str(dataset.get("PhotometricInterpretation") or "unknown")
        bits = int(dataset.get("BitsStored") or 0)
        shifted = has_shifted_bits(dataset)
        flat = dataset.get("RescaleSlope") == 0
    if modality not in RADIOGRAPH_MODALITIES:
        wanted = " or ".join(RADIOGRAPH_MODALITIES)
        raise ValueError(f"{path}: modality {modality}, expected {wanted}; give a radiograph.")
    if "PixelData" not in dataset:
        raise ValueError(f"{path}: no pixel data; copy the whole file again.")
    if frames > 1:
        raise ValueError(f"{path}: {frames} frames; save the frame to segment as a file of its own.")
    if colours != 1 or interpretation not in _GREY:
        raise ValueError(f"{path}: colour ({interpretation}), expected {' or '.join(_GREY)}; give the original image.")
    if not 8 <= bits <= 16:
        raise ValueError(f"{path}: {bits} bits per pixel, expected 8 to 16; give the original image.")
    if shifted:
        raise ValueError(f"{path}: HighBit contradicts BitsStored, so the values are uncertain; export it again.")
    if flat:
        raise ValueError(f"{path}: RescaleSlope 0, so all values are equal; export the image again.")
    if str(dataset.get("PresentationIntentType") or "") == "FOR PROCESSING":
        _LOGGER.warning("%s: FOR PROCESSING (the detector's values); prefer the image FOR PRESENTATION.", path)
    return dataset


def _stored_values(path: Path, dataset: Dataset) -> npt.NDArray[np.integer[Any]]:
    try:
        pixels: npt.NDArray[np.integer[Any]] = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # each decoder raises its own types, also when it is not installed
        syntax = UID(dataset.file_meta.get("TransferSyntaxUID", "")).name or "unknown transfer syntax"
        raise ValueError(
            f"{path}: the pixels cannot be decoded ({syntax}); copy the file again, or decompress it first."
        ) from error
    return pixels


def _padding(dataset: Dataset, stored: npt.NDArray[np.integer[Any]]) -> BoolArray:
    """The pixels that were added to fill the image up to a rectangle."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    # some files write the bits of a negative value as an unsigned number, or vice versa
    low, high = sorted(np.asarray([value, value if limit is None else limit]).astype(stored.dtype).tolist())
    return np.asarray((stored >= low) & (stored <= high))


def _as_shown(dataset: Dataset, stored: npt.NDArray[np.integer[Any]], padding: BoolArray) -> FloatArray:
    """Grey values ``[H, W]`` in 0 to 255; dense is white."""
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        shown, low, high = _through_table(values, dataset)
    else:
        shown = apply_voi_lut(values, dataset)
        if shown is values:  # there is no window
            low, high = (float(end(values[~padding])) for end in (np.min, np.max))
        else:
            low, high = apply_voi_lut(np.asarray((-np.inf, np.inf)), dataset)
    scaled = (shown.astype(np.float64) - low) / ((high - low) or 1.0)
    grey = np.clip(scaled, 0, 1) * 255
    return np.asarray(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey, dtype=np.float32)


def _through_table(values: npt.NDArray[Any], dataset: Dataset) -> tuple[npt.NDArray[Any], float, float]:
    """Apply the first VOI LUT; return the output and the ends of the range that its descriptor declares."""
    table = dataset.VOILUTSequence[0]
    entries, first, depth = table.LUTDescriptor
    # pydicom counts the entries of a table in the type of its output, which is too small for 12 bits in and 8 out
    table.LUTDescriptor = [entries, first, 16]
    whole = np.clip(np.rint(values), -(2**15), 2**16 - 1).astype(np.int32)
    return apply_voi_lut(whole, dataset), 0.0, 2.0 ** int(depth) - 1
