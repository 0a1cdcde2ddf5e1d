"""From files to cases: data lists, inputs, readers and writers."""

from .datalist import Datalist, Item, load_datalist, load_sections, split_by_patient, write_datalist
from .dicom_seg import (
    ABDOMINAL_ORGANS,
    LUNG_LOBES,
    LUNGS,
    Segment,
    find_organ,
    write_dicom_seg,
    write_radiograph_seg,
)
from .inputs import find_images, find_radiographs, find_volumes, name_radiograph
from .radiographs import RadiographReader
from .readers import RasterReader
from .savers import CaseSaver, SaveDicomSegd, SaveLabelMapd, SaveLobeTabled, SaveRadiographSegd
from .splits import combine
from .volumes import VolumeReader
from .writers import RasterMaskWriter

__all__ = [
    "ABDOMINAL_ORGANS",
    "LUNGS",
    "LUNG_LOBES",
    "CaseSaver",
    "Datalist",
    "Item",
    "RadiographReader",
    "RasterMaskWriter",
    "RasterReader",
    "SaveDicomSegd",
    "SaveLabelMapd",
    "SaveLobeTabled",
    "SaveRadiographSegd",
    "Segment",
    "VolumeReader",
    "combine",
    "find_images",
    "find_organ",
    "find_radiographs",
    "find_volumes",
    "load_datalist",
    "load_sections",
    "name_radiograph",
    "split_by_patient",
    "write_datalist",
    "write_dicom_seg",
    "write_radiograph_seg",
]
