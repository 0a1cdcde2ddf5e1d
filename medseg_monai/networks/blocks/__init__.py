"""Building blocks that networks share, or that are worth reading alone."""

from .criss_cross import CrissCrossAttention3d
from .cunet import CUNet
from .dense_atrous import DenseAtrousConvBlock
from .dense_recurrent import DenseRecurrentConvBlock
from .dilated_inception import DilatedInceptionBlock
from .multi_kernel_pooling import ResidualMultiKernelPooling

__all__ = [
    "CUNet",
    "CrissCrossAttention3d",
    "DenseAtrousConvBlock",
    "DenseRecurrentConvBlock",
    "DilatedInceptionBlock",
    "ResidualMultiKernelPooling",
]
