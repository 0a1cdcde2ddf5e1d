"""Published experiments as one command each: train, test, and set the result beside the paper's."""

from .cross_manufacturer import (
    MIXED,
    ExperimentResult,
    cross_manufacturer_datalist,
    run_cross_manufacturer,
)

__all__ = ["MIXED", "ExperimentResult", "cross_manufacturer_datalist", "run_cross_manufacturer"]
