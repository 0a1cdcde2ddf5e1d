"""The label map of a DICOM input as a DICOM SEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medseg_monai.data.dicom import write_dicom_seg, write_radiograph_seg
from medseg_monai.data.dicom.seg import check_seg_source
from medseg_monai.data.readers.volume import dicom_files
from medseg_monai.data.segments import Segment

from .case import SavedCase, input_grid

__all__ = ["DicomSegWriter"]


class DicomSegWriter:
    """Write the label map of a DICOM series, radiograph or photograph as ``<name>.seg.dcm``; others get no such file.

    The readers of this package record the DICOM files of an image in its metadata. See
    :func:`medseg_monai.data.write_dicom_seg` and :func:`medseg_monai.data.write_radiograph_seg`.

    Args:
        segments: description of label 1, of label 2, and so on, such as ``LUNG_LOBES``.
        algorithm_name: name of the algorithm.
        algorithm_version: its version.

    Example:
        >>> import tempfile
        >>> from monai.transforms import LoadImaged
        >>> from medseg_monai.data import LUNGS, DicomSegWriter, RadiographReader, SaveResultsd
        >>> from medseg_monai.phantoms import write_chest_xray_phantoms
        >>> writer = DicomSegWriter(LUNGS, algorithm_name="lung_cxr_rescrnet", algorithm_version="0.1.0")
        >>> load = LoadImaged("image", reader=RadiographReader(), ensure_channel_first=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_chest_xray_phantoms(folder, counts={"test": 1}, size=(64, 80), seed=0, image_format="dicom")
        ...     image = load({"image": f"{folder}/images/phantom_0001.dcm"})["image"]
        ...     save = SaveResultsd("pred", folder, writers=[writer])
        ...     [path.name for path in save.save({"image": image, "pred": image > 128})]
        ['phantom_0001.seg.dcm']
    """

    def __init__(self, segments: Sequence[Segment], *, algorithm_name: str, algorithm_version: str) -> None:
        self.segments = tuple(segments)
        self.algorithm_name = algorithm_name
        self.algorithm_version = algorithm_version

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Refuse DICOM to which no SEG can refer.

        Args:
            name: stem of the file to write.
            meta: metadata of the input.

        Raises:
            ValueError: what the source lacks.
            OSError: a source file cannot be read.
        """
        if files := dicom_files(meta):
            check_seg_source(files, self.segments, volume=len(input_grid(meta)[0]) == 3)

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the DICOM SEG, if the input was DICOM.

        Args:
            case: the prediction, ``[X, Y, Z]`` for a series or ``[H, W]`` for a radiograph or photograph.
            folder: folder to write into.

        Raises:
            ValueError: the source lacks what a SEG needs.
            OSError: the file cannot be written.
        """
        files = dicom_files(case.meta)
        if not files:
            return []
        path = folder / f"{case.name}.seg.dcm"
        if case.labels.ndim == 2:
            write = partial(write_radiograph_seg, source_file=files[0])
        else:
            write = partial(write_dicom_seg, source_files=files)
        write(
            path,
            case.labels,
            segments=self.segments,
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
        )
        return [path]
