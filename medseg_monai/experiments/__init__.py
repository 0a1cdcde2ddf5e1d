"""Published experiments, each as one command: train, test, and compare the result with the paper's."""

from .cross_manufacturer import (
    MIXED,
    PAPER_SCORES,
    ExperimentResult,
    cross_manufacturer_datalist,
    run_cross_manufacturer,
)

__all__ = ["MIXED", "PAPER_SCORES", "ExperimentResult", "cross_manufacturer_datalist", "run_cross_manufacturer"]
