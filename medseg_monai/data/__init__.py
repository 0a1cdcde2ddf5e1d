"""From files to cases: data lists, inputs, readers and writers."""

from .datalist import Datalist, Item, load_datalist, split_by_patient, write_datalist
from .inputs import find_images
from .readers import RasterReader
from .writers import RasterMaskWriter

__all__ = [
    "Datalist",
    "Item",
    "RasterMaskWriter",
    "RasterReader",
    "find_images",
    "load_datalist",
    "split_by_patient",
    "write_datalist",
]
