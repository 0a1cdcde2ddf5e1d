"""From files to cases: data lists, inputs, readers and writers."""

from .datalist import Datalist, Item, load_datalist, split_by_patient, write_datalist
from .dicom_seg import LUNG_LOBES, Segment, write_dicom_seg
from .inputs import find_images, find_volumes
from .readers import RasterReader
from .savers import CaseSaver, SaveDicomSegd, SaveLabelMapd, SaveLobeTabled
from .volumes import VolumeReader
from .writers import RasterMaskWriter

__all__ = [
    "LUNG_LOBES",
    "CaseSaver",
    "Datalist",
    "Item",
    "RasterMaskWriter",
    "RasterReader",
    "SaveDicomSegd",
    "SaveLabelMapd",
    "SaveLobeTabled",
    "Segment",
    "VolumeReader",
    "find_images",
    "find_volumes",
    "load_datalist",
    "split_by_patient",
    "write_datalist",
    "write_dicom_seg",
]
