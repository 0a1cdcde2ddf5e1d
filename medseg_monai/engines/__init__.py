"""Training steps that differ from MONAI's plain supervised step."""

from .ctsunet import prepare_two_stage_batch

__all__ = ["prepare_two_stage_batch"]
