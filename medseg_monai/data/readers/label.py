"""Reader of label pictures: the number of a class in each pixel, whatever colours show it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys, ensure_tuple

from medseg_monai.data.limits import MAX_IMAGE_MIB
from medseg_monai.files import has_ending

from .exif import EXIF_ORIENTATION, to_upright
from .memory import names_file
from .named_file import NamedFileReader
from .raster import RASTER_SUFFIXES, open_raster

__all__ = ["LabelReader"]

_MODES = ("1", "L", "P")


class LabelReader(NamedFileReader):
    """MONAI reader of one label picture as float32 ``[1, H, W]``: the numbers of the classes, rows first, upright.

    Of a picture with a palette these are the indices, as :class:`medseg_monai.data.LayerWriter` writes them, and of a
    grey one its values. Colours say no number: such a file is refused.

    Args:
        max_image_mib: MiB of the largest picture, as :class:`medseg_monai.data.RasterReader` counts them.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import LabelReader
        >>> label = Image.fromarray(np.array([[0, 0, 0], [1, 2, 2]], np.uint8))
        >>> label.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     label.save(f"{folder}/layers.png")
        ...     LoadImage(reader=LabelReader(), ensure_channel_first=True)(f"{folder}/layers.png")[0].tolist()
        [[0.0, 0.0, 0.0], [1.0, 2.0, 2.0]]
    """

    def __init__(self, max_image_mib: float = MAX_IMAGE_MIB) -> None:
        super().__init__()
        self.max_image_mib = max_image_mib

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Return whether the name (or every name) ends in one of ``RASTER_SUFFIXES``."""
        return all(has_ending(name, RASTER_SUFFIXES) for name in ensure_tuple(filename))

    @names_file
    def get_data(self, img: Sequence[Path]) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Decode the file named by :meth:`read`.

        Args:
            img: exactly one path.

        Returns:
            float32 ``[1, H, W]``, and the metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for several files, a file that is no image, or one of colours or of more than 8 bits.
        """
        path = self.only(img)
        image, orientation = open_raster(path, self.max_image_mib)
        if image.mode not in _MODES:
            raise ValueError(
                f"{path}: colour mode '{image.mode}' has no numbers of classes; save the label as 8-bit grey or with a "
                "palette, or read the data set with its own reader."
            )
        is_turned = image.format == "TIFF"  # by Pillow
        values = np.asarray(image).astype(np.float32)
        upright = values if is_turned else to_upright(values, orientation)
        meta = {
            MetaKeys.SPATIAL_SHAPE: np.asarray(upright.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            EXIF_ORIENTATION: orientation,
        }
        return upright[None], meta
