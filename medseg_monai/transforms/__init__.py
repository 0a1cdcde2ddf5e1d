"""Transforms that MONAI lacks, as MONAI dictionary transforms."""

from medseg_monai.deprecation import moved

from .binarize import BinarizeMaskd
from .binary import CheckBinaryd
from .brightest import CropAroundBrightestd, brightest_point
from .bscans import ResizeBScansd
from .color import RandHSVJitterd
from .dilate import DilateMaskd
from .fragments import ReassignFragmentsd, reassign_fragments
from .hounsfield import CheckHounsfieldd
from .in_plane import PadToMultipled, ResizeInPlaned
from .layers import CheckLayersd, ResizeLayersd
from .not_blank import CheckNotBlankd
from .resize import AntialiasedResized
from .same_grid import Affine, MatchGridd, grid_distance, same_grid
from .same_size import CheckSameSized

__all__ = [
    "Affine",
    "AntialiasedResized",
    "BinarizeMaskd",
    "CheckBinaryd",
    "CheckHounsfieldd",
    "CheckLayersd",
    "CheckNotBlankd",
    "CheckSameSized",
    "CropAroundBrightestd",
    "DilateMaskd",
    "MatchGridd",
    "PadToMultipled",
    "RandHSVJitterd",
    "ReassignFragmentsd",
    "ResizeBScansd",
    "ResizeInPlaned",
    "ResizeLayersd",
    "brightest_point",
    "grid_distance",
    "reassign_fragments",
    "same_grid",
]

__getattr__ = moved(
    __name__,
    {
        "EnsureBinaryd": "medseg_monai.transforms.CheckBinaryd",
        "EnsureSameSized": "medseg_monai.transforms.CheckSameSized",
    },
)
