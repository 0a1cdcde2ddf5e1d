"""MONAI readers of users' images: 2D raster images, photographs, radiographs, volumes."""

from .label import LabelReader
from .picture import PhotographReader, RadiographReader
from .raster import RasterReader
from .volume import VolumeReader

__all__ = ["LabelReader", "PhotographReader", "RadiographReader", "RasterReader", "VolumeReader"]
