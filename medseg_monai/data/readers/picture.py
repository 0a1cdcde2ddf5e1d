"""Readers of 2D images in any form that users have them: raster images, and DICOM of the modalities of a kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.utils import MetaKeys, ensure_tuple

from medseg_monai.data.dicom.files import is_dicom_file
from medseg_monai.data.limits import MAX_IMAGE_MIB
from medseg_monai.files import has_ending

from .dicom_picture import PHOTOGRAPH, RADIOGRAPH, FloatArray, PictureKind, read_dicom_picture
from .exif import EXIF_ORIENTATION
from .memory import names_file
from .named_file import NamedFileReader
from .raster import RASTER_SUFFIXES, RasterReader
from .volume import DICOM_FILES

__all__ = ["PhotographReader", "PictureReader", "RadiographReader"]


class PictureReader(NamedFileReader):
    """MONAI reader of one 2D image as float32 ``[channels, H, W]`` in 0 to 255, rows first, upright.

    A raster image is read by a :class:`medseg_monai.data.RasterReader`, by the rules of that class. A DICOM file must
    hold a single-frame image of one of the kind's modalities, in grey with 8 to 16 bits or, if the kind has colours, in
    RGB or YBR with 8 bits each. It is read as a viewer shows it:

    - Grey values go through the modality LUT or the rescale tags, then through the first VOI LUT, or else the first
      window (linear, linear exact or sigmoid). The full output range of the LUT or window becomes 0 to 255, so an image
      that its maker windowed is neither stretched nor clipped further. If there is neither, the darkest and the
      brightest pixel become 0 and 255, or, if the kind has colours, the ends of the range of the depth.
    - MONOCHROME1 is inverted, so that white is dense in every image. The photometric interpretation alone decides:
      PresentationLUTShape only repeats it, and one that contradicts it (INVERSE in MONOCHROME2) causes a warning.
    - Pixels with ``PixelPaddingValue`` (or in the range up to ``PixelPaddingRangeLimit``) become 0, and do not count as
      darkest or brightest.
    - YBR becomes RGB. Channels are made from grey, and grey from colour, as for raster images.

    Another modality, several frames, other depths, missing or broken pixels, a compression whose decoder is not
    installed and unusable tags are refused in one line. An image ``FOR PROCESSING`` is read with a warning: it holds
    the detector's values, which look different.

    The metadata hold ``"spatial_shape"`` as ``(H, W)``, ``"exif_orientation"`` (1 for DICOM), ``"format"``, ``"mode"``
    (the photometric interpretation of a DICOM image) and ``"dicom_files"``, the path of the DICOM file (empty for a
    raster image, see :func:`medseg_monai.data.readers.volume.dicom_files`). So a mask can be written as PNG
    (:class:`medseg_monai.data.PNGWriter`) and as DICOM SEG (:class:`medseg_monai.data.DicomSegWriter`). There is no
    affine, so MONAI uses the identity: distances are in pixels.

    Args:
        kind: the kind of DICOM images.
        raster: reader of raster images; its ``max_image_mib`` holds for DICOM too.

    Attributes:
        spatial_dims: 2.
        modalities: DICOM modalities that can be read.

    Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.5.1.1.2 (padding), C.11.1 and C.11.2 (modality and VOI LUT), C.8.11.3
    (presentation LUT shape).
    """

    spatial_dims = 2

    def __init__(self, kind: PictureKind, raster: RasterReader) -> None:
        super().__init__()
        self.kind = kind
        self.raster = raster

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM modalities that can be read."""
        return self.kind.modalities

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether the name (or every name) ends in one of ``RASTER_SUFFIXES`` or belongs to a DICOM file."""
        names = ensure_tuple(filename)
        return all(has_ending(name, RASTER_SUFFIXES) or is_dicom_file(name) for name in names)

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
            ValueError: for several files, a raster image that ``RasterReader`` refuses, and DICOM that is of another
                kind or cannot be shown (see the class).
        """
        path = self.only(img)
        if not (path.is_file() and is_dicom_file(path)):
            values, meta = self.raster.get_data(img)
            # a batch keeps only the keys that all its images have: an image without this key would take it from others
            return values, {**meta, DICOM_FILES: ""}
        picture = read_dicom_picture(path, self.kind, self.raster.max_image_mib)
        return self.raster.to_channels(picture.values), {
            MetaKeys.SPATIAL_SHAPE: np.asarray(picture.values.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            EXIF_ORIENTATION: 1,
            "format": "DICOM",
            "mode": picture.interpretation,
            DICOM_FILES: str(path),
        }


class RadiographReader(PictureReader):
    """MONAI reader of one 2D radiograph as float32 ``[1, H, W]`` in 0 to 255, rows first, air black, bone white.

    It reads raster images and grey DICOM of computed and digital radiography (CR, DX), see :class:`PictureReader`.

    Args:
        max_image_mib: MiB of the largest image, see :class:`medseg_monai.data.RasterReader`.

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
    """

    def __init__(self, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        super().__init__(RADIOGRAPH, RasterReader(channels=1, max_image_mib=max_image_mib))


class PhotographReader(PictureReader):
    """MONAI reader of one photograph of the eye as float32 ``[3, H, W]`` in 0 to 255, rows first.

    It reads raster images and DICOM of ophthalmic photography (OP) in colour or grey, see :class:`PictureReader`.

    Args:
        channel_order: order of the three channels, ``"RGB"`` or ``"BGR"``.
        max_image_mib: MiB of the largest image, see :class:`medseg_monai.data.RasterReader`.

    Raises:
        ValueError: for another ``channel_order``.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import PhotographReader
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(f"{folder}/eye.png")
        ...     LoadImage(reader=PhotographReader(), ensure_channel_first=True)(f"{folder}/eye.png").shape
        torch.Size([3, 20, 30])
    """

    def __init__(self, channel_order: Literal["RGB", "BGR"] = "RGB", *, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        raster = RasterReader(channels=3, channel_order=channel_order, max_image_mib=max_image_mib)
        super().__init__(PHOTOGRAPH, raster)
