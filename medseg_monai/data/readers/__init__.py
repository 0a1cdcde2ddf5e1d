"""MONAI readers of users' images: 2D raster images, radiographs, volumes."""

from .radiograph import RadiographReader
from .raster import RasterReader
from .volume import VolumeReader

__all__ = ["RadiographReader", "RasterReader", "VolumeReader"]
