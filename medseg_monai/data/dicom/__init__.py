"""DICOM: files, series, the geometry of series, and segmentations as DICOM objects."""

from .files import DicomSlice, is_dicom_file, read_modality
from .geometry import SeriesGeometry, check_geometry, find_faults, list_series, read_series
from .seg import write_dicom_seg, write_radiograph_seg
from .series import DicomSeries, find_series

__all__ = [
    "DicomSeries",
    "DicomSlice",
    "SeriesGeometry",
    "check_geometry",
    "find_faults",
    "find_series",
    "is_dicom_file",
    "list_series",
    "read_modality",
    "read_series",
    "write_dicom_seg",
    "write_radiograph_seg",
]
