"""The published networks, one a file, each with MONAI's constructor order."""

from .cenet import CENet
from .ctsunet import CTSUNet

__all__ = ["CENet", "CTSUNet"]
