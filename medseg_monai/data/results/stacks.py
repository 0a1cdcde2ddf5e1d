"""Predictions of stacks as files: mask and probability page for page, as the stack has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys
from tifffile import imwrite

from medseg_monai.data.readers.exif import EXIF_ORIENTATION, to_stored
from medseg_monai.files import atomic_path

from .case import SavedCase, input_grid
from .masks import RasterMaskWriter

__all__ = ["ProbabilityWriter", "StackWriter", "probability_file"]


def probability_file(name: str) -> str:
    """Name of the file with the probabilities of a case.

    Args:
        name: name of the case.

    Example:
        >>> from medseg_monai.data.results.stacks import probability_file
        >>> probability_file("test-volume")
        'test-volume_probability.tif'
    """
    return f"{name}_probability.tif"


class StackWriter:
    """Write the mask of a stack as ``<name>.tif``, an 8-bit page for each of its pages in their order and size.

    That of a single picture becomes ``<name>.png``, as :class:`medseg_monai.data.PNGWriter` writes it.

    Args:
        scale: grey value of the foreground of a binary map (values 0 and 1), 1 to 255; ``None`` writes the labels as
            they are.

    Raises:
        ValueError: for another ``scale``.

    Example:
        >>> import tempfile
        >>> import tifffile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import SaveResultsd, StackWriter
        >>> meta = {"filename_or_obj": "volume.tif", "spatial_shape": [30, 4, 5]}
        >>> stack = MetaTensor(torch.zeros(1, 30, 4, 5), meta=meta)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (path,) = SaveResultsd("pred", folder, writers=[StackWriter(scale=255)]).save(
        ...         {"image": stack, "pred": stack + 1}
        ...     )
        ...     mask = tifffile.imread(path)
        >>> path.name, mask.shape, mask.max()
        ('volume.tif', (30, 4, 5), np.uint8(255))
    """

    def __init__(self, scale: int | None = None) -> None:
        RasterMaskWriter(scale=scale)
        self.scale = scale

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any stack that was read can have its mask written; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the mask.

        Args:
            case: the prediction, ``[pages, H, W]``.
            folder: folder to write into.

        Raises:
            ValueError: labels other than 0 and 1 if ``scale`` is given.
            OSError: the file cannot be written.
        """
        pages = [self._page(case, labels) for labels in case.labels]
        if len(pages) > 1:
            values = [page.mask for page in pages if page.mask is not None]
            return [_write_pages(folder / f"{case.name}.tif", np.stack(values))]
        path = folder / f"{case.name}.png"
        pages[0].write(path)
        return [path]

    def _page(self, case: SavedCase, labels: npt.NDArray[np.uint8]) -> RasterMaskWriter:
        writer = RasterMaskWriter(scale=self.scale)
        writer.set_data_array(labels, channel_dim=None)
        writer.set_metadata({**case.meta, MetaKeys.SPATIAL_SHAPE: input_grid(case.meta)[0][1:]})
        return writer


class ProbabilityWriter:
    """Write the probability of the foreground as ``<name>_probability.tif``, a page of 32-bit floats for each page.

    This is the file that the ISBI 2012 challenge takes. Values are from 0 to 1. A single picture has one page, in the
    matrix that the picture's file stores; the file has no tag of an EXIF orientation.

    Example:
        >>> import tempfile
        >>> import tifffile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import ProbabilityWriter, SaveResultsd
        >>> meta = {"filename_or_obj": "volume.tif", "spatial_shape": [30, 4, 5]}
        >>> stack = MetaTensor(torch.zeros(1, 30, 4, 5), meta=meta)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[ProbabilityWriter()], probability_key="probability")
        ...     (path,) = save.save({"image": stack, "pred": stack, "probability": stack + 0.25})
        ...     probability = tifffile.imread(path)
        >>> path.name, probability.shape, probability.dtype.name, float(probability.max())
        ('volume_probability.tif', (30, 4, 5), 'float32', 0.25)
    """

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any stack that was read can have its probability written; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the probabilities.

        Args:
            case: the prediction, with its probability ``[pages, H, W]``.
            folder: folder to write into.

        Raises:
            ValueError: the case has no probability.
            OSError: the file cannot be written.
        """
        if case.probability is None:
            raise ValueError(f"{case.source}: no probability to write; set probability_key.")
        orientation = int(case.meta.get(EXIF_ORIENTATION, 1))
        pages = np.stack([to_stored(page, orientation) for page in case.probability])
        return [_write_pages(folder / probability_file(case.name), pages)]


def _write_pages(path: Path, pages: npt.NDArray[np.generic]) -> Path:
    """Write ``[pages, H, W]`` with a header for every page, so that any program finds them."""
    try:
        with atomic_path(path) as temporary:
            imwrite(temporary, pages, photometric="minisblack", compression="zlib", metadata=None, software=False)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path}: cannot be written ({reason}); choose a writable folder with room.") from error
    return path
