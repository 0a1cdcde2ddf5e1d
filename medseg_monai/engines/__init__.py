"""Training steps that a plain supervised step cannot say."""

from .ctsunet import prepare_two_stage_batch

__all__ = ["prepare_two_stage_batch"]
