"""Transforms that MONAI lacks, as MONAI dictionary transforms."""

from .brightest import CropAroundBrightestd, brightest_point
from .color import RandHSVJitterd
from .same_size import EnsureSameSized

__all__ = ["CropAroundBrightestd", "EnsureSameSized", "RandHSVJitterd", "brightest_point"]
