"""From files to cases and back: data lists, inputs, readers, and the results of predictions."""

from medseg_monai.deprecation import moved

from .datalist import Datalist, Item, load_datalist, load_sections, split_by_patient, write_datalist
from .dicom import write_dicom_seg, write_radiograph_seg
from .inputs import find_images, find_oct, find_photographs, find_radiographs, find_volumes
from .readers import OCTReader, PhotographReader, RadiographReader, RasterReader, VolumeReader
from .results import DicomSegWriter, LobeTableWriter, NIfTIWriter, PNGWriter, RasterMaskWriter, SaveResultsd
from .segments import ABDOMINAL_ORGANS, LUNG_LOBES, LUNGS, OPTIC_DISC, RETINAL_VESSEL, Segment, find_organ
from .splits import combine

__all__ = [
    "ABDOMINAL_ORGANS",
    "LUNGS",
    "LUNG_LOBES",
    "OPTIC_DISC",
    "RETINAL_VESSEL",
    "Datalist",
    "DicomSegWriter",
    "Item",
    "LobeTableWriter",
    "NIfTIWriter",
    "OCTReader",
    "PNGWriter",
    "PhotographReader",
    "RadiographReader",
    "RasterMaskWriter",
    "RasterReader",
    "SaveResultsd",
    "Segment",
    "VolumeReader",
    "combine",
    "find_images",
    "find_oct",
    "find_organ",
    "find_photographs",
    "find_radiographs",
    "find_volumes",
    "load_datalist",
    "load_sections",
    "split_by_patient",
    "write_datalist",
    "write_dicom_seg",
    "write_radiograph_seg",
]

__getattr__ = moved(
    __name__,
    {
        name: f"medseg_monai.data.results.earlier.{name}"
        for name in ("SaveDicomSegd", "SaveLabelMapd", "SaveLobeTabled", "SaveRadiographSegd", "name_radiograph")
    },
)
