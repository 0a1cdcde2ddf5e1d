"""The published networks, one a file, each with MONAI's constructor order."""

from .anunet import ANUNet
from .cenet import CENet
from .ctsunet import CTSUNet
from .defunet import DEFUNet
from .rescrnet import ResCRNet

__all__ = ["ANUNet", "CENet", "CTSUNet", "DEFUNet", "ResCRNet"]
