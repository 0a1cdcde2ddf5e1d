"""Losses that MONAI lacks."""

from .two_stage import TwoStageLoss, border_labels

__all__ = ["TwoStageLoss", "border_labels"]
