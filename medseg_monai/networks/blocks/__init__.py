"""Building blocks that networks share, or that are worth reading alone."""

from .dense_atrous import DenseAtrousConvBlock
from .multi_kernel_pooling import ResidualMultiKernelPooling

__all__ = ["DenseAtrousConvBlock", "ResidualMultiKernelPooling"]
