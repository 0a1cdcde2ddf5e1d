"""Results of predictions as files: one last step for all bundles, and one writer for each kind of file."""

from .lobe_table import LobeTableWriter, lobe_table, severity_score
from .masks import NIfTIWriter, PNGWriter, RasterMaskWriter
from .save import SaveResultsd
from .seg import DicomSegWriter
from .stacks import ProbabilityWriter, StackWriter

__all__ = [
    "DicomSegWriter",
    "LobeTableWriter",
    "NIfTIWriter",
    "PNGWriter",
    "ProbabilityWriter",
    "RasterMaskWriter",
    "SaveResultsd",
    "StackWriter",
    "lobe_table",
    "severity_score",
]
