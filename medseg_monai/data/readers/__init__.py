"""MONAI readers of users' images: 2D raster images, stacks of them, slices of CT, photographs, radiographs, volumes."""

from .ct_slice import CTSliceReader
from .picture import PhotographReader, RadiographReader
from .raster import RasterReader
from .stack import StackReader
from .volume import VolumeReader

__all__ = ["CTSliceReader", "PhotographReader", "RadiographReader", "RasterReader", "StackReader", "VolumeReader"]
