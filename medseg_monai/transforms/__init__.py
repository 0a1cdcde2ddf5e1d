"""Transforms that MONAI lacks, as MONAI dictionary transforms."""

from .binary import EnsureBinaryd
from .brightest import CropAroundBrightestd, brightest_point
from .color import RandHSVJitterd
from .dilate import DilateMaskd
from .fragments import ReassignFragmentsd, reassign_fragments
from .in_plane import PadToMultipled, ResizeInPlaned
from .resize import AntialiasedResized
from .same_grid import Affine, MatchGridd, grid_distance, same_grid
from .same_size import EnsureSameSized

__all__ = [
    "Affine",
    "AntialiasedResized",
    "CropAroundBrightestd",
    "DilateMaskd",
    "EnsureBinaryd",
    "EnsureSameSized",
    "MatchGridd",
    "PadToMultipled",
    "RandHSVJitterd",
    "ReassignFragmentsd",
    "ResizeInPlaned",
    "brightest_point",
    "grid_distance",
    "reassign_fragments",
    "same_grid",
]
