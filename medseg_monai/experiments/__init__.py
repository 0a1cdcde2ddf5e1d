"""Published experiments as one command each: train, test, and set the result beside the paper's."""

from .cross_manufacturer import (
    MIXED,
    PAPER_SCORES,
    ExperimentResult,
    cross_manufacturer_datalist,
    run_cross_manufacturer,
)

__all__ = ["MIXED", "PAPER_SCORES", "ExperimentResult", "cross_manufacturer_datalist", "run_cross_manufacturer"]
