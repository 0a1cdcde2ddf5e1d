"""The published networks, one a file, each with MONAI's constructor order."""

from .cenet import CENet

__all__ = ["CENet"]
