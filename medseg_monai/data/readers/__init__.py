"""MONAI readers of users' images: 2D raster images, stacks of them, photographs, radiographs, volumes."""

from .picture import PhotographReader, RadiographReader
from .raster import RasterReader
from .stack import StackReader
from .volume import VolumeReader

__all__ = ["PhotographReader", "RadiographReader", "RasterReader", "StackReader", "VolumeReader"]
