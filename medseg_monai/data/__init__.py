"""From files to cases and back: data lists, inputs, readers, and the results of predictions."""

from medseg_monai.deprecation import moved

from .datalist import Datalist, Item, load_datalist, load_sections, split_by_patient, write_datalist
from .dicom import write_dicom_seg, write_radiograph_seg
from .inputs import (
    find_images,
    find_oct,
    find_photographs,
    find_radiographs,
    find_sections,
    find_slices,
    find_volumes,
)
from .readers import (
    CTSliceReader,
    LabelReader,
    OCTReader,
    PhotographReader,
    RadiographReader,
    RasterReader,
    StackReader,
    VolumeReader,
)
from .results import (
    BoundaryTableWriter,
    DicomSegWriter,
    LayerOverlayWriter,
    LayerWriter,
    LobeTableWriter,
    NIfTIWriter,
    PNGWriter,
    ProbabilityWriter,
    RasterMaskWriter,
    SaveResultsd,
    StackWriter,
    ThicknessWriter,
)
from .segments import ABDOMINAL_ORGANS, LUNG_LOBES, LUNGS, OPTIC_DISC, RETINAL_VESSEL, Segment, find_organ
from .splits import combine

__all__ = [
    "ABDOMINAL_ORGANS",
    "LUNGS",
    "LUNG_LOBES",
    "OPTIC_DISC",
    "RETINAL_VESSEL",
    "BoundaryTableWriter",
    "CTSliceReader",
    "Datalist",
    "DicomSegWriter",
    "Item",
    "LabelReader",
    "LayerOverlayWriter",
    "LayerWriter",
    "LobeTableWriter",
    "NIfTIWriter",
    "OCTReader",
    "PNGWriter",
    "PhotographReader",
    "ProbabilityWriter",
    "RadiographReader",
    "RasterMaskWriter",
    "RasterReader",
    "SaveResultsd",
    "Segment",
    "StackReader",
    "StackWriter",
    "ThicknessWriter",
    "VolumeReader",
    "combine",
    "find_images",
    "find_oct",
    "find_organ",
    "find_photographs",
    "find_radiographs",
    "find_sections",
    "find_slices",
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
