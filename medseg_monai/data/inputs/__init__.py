"""The files and folders that a user names, turned into cases; ambiguous input is refused."""

from .folders import FoundCases
from .oct import find_oct
from .pictures import find_images, find_photographs, find_radiographs
from .sections import find_sections
from .slices import find_slices
from .volumes import find_volumes

__all__ = [
    "FoundCases",
    "find_images",
    "find_oct",
    "find_photographs",
    "find_radiographs",
    "find_sections",
    "find_slices",
    "find_volumes",
]
