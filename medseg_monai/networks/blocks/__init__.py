"""Building blocks that networks share, or that are worth reading alone."""

from .attention_gate import AttentionGate
from .conv_lstm import BidirectionalConvLSTM2d, ConvLSTM2d, ResidualConvLSTMBlock
from .criss_cross import CrissCrossAttention3d
from .cunet import CUNet
from .dense_atrous import DenseAtrousConvBlock
from .dense_recurrent import DenseRecurrentConvBlock
from .dilated_inception import DilatedInceptionBlock
from .inception import InceptionBlock, InceptionResNetBlock
from .multi_kernel_pooling import ResidualMultiKernelPooling
from .separable_atrous import ResidualAtrousBlock, SeparableAtrousConv2d

__all__ = [
    "AttentionGate",
    "BidirectionalConvLSTM2d",
    "CUNet",
    "ConvLSTM2d",
    "CrissCrossAttention3d",
    "DenseAtrousConvBlock",
    "DenseRecurrentConvBlock",
    "DilatedInceptionBlock",
    "InceptionBlock",
    "InceptionResNetBlock",
    "ResidualAtrousBlock",
    "ResidualConvLSTMBlock",
    "ResidualMultiKernelPooling",
    "SeparableAtrousConv2d",
]
