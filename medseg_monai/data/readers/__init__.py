"""MONAI readers of users' images: pictures, stacks of them, slices of CT, photographs, radiographs, OCT, volumes."""

from .ct_slice import CTSliceReader
from .label import LabelReader
from .oct import OCTReader
from .picture import PhotographReader, RadiographReader
from .raster import RasterReader
from .stack import StackReader
from .volume import VolumeReader

__all__ = [
    "CTSliceReader",
    "LabelReader",
    "OCTReader",
    "PhotographReader",
    "RadiographReader",
    "RasterReader",
    "StackReader",
    "VolumeReader",
]
