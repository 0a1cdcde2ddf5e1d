"""MONAI readers of users' images: 2D raster images, photographs, radiographs, OCT scans, volumes."""

from .label import LabelReader
from .oct import OCTReader
from .picture import PhotographReader, RadiographReader
from .raster import RasterReader
from .volume import VolumeReader

__all__ = ["LabelReader", "OCTReader", "PhotographReader", "RadiographReader", "RasterReader", "VolumeReader"]
