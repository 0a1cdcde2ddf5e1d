"""Results of predictions as files: one last step for all bundles, and one writer for each kind of file."""

from .layers import BoundaryTableWriter, LayerOverlayWriter, LayerWriter, ThicknessWriter, layer_thickness
from .lobe_table import LobeTableWriter, lobe_table, severity_score
from .masks import NIfTIWriter, PNGWriter, RasterMaskWriter
from .save import SaveResultsd
from .seg import DicomSegWriter
from .stacks import ProbabilityWriter, StackWriter

__all__ = [
    "BoundaryTableWriter",
    "DicomSegWriter",
    "LayerOverlayWriter",
    "LayerWriter",
    "LobeTableWriter",
    "NIfTIWriter",
    "PNGWriter",
    "ProbabilityWriter",
    "RasterMaskWriter",
    "SaveResultsd",
    "StackWriter",
    "ThicknessWriter",
    "layer_thickness",
    "lobe_table",
    "severity_score",
]
