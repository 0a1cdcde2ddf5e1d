"""The convolutional LSTM of Keras 2 and the LSTM RES block of Res-CR-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .separable_atrous import SLOPE, PointwiseConv2d, he_normal_

__all__ = ["BidirectionalConvLSTM2d", "ConvLSTM2d", "ResidualConvLSTMBlock"]


def _hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Compute Keras 2's hard sigmoid, whose slope is 0.2 (in PyTorch and in Keras 3 it is 1/6)."""
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def _scan(
    inputs: torch.Tensor, state: torch.Tensor, masks: torch.Tensor, weight: torch.Tensor, padding: list[int]
) -> torch.Tensor:
    """Run the recurrence over what the input adds to the gates: ``[B, T, 4 C, H, W]`` to ``[B, T, C, H, W]``."""
    cell = torch.zeros_like(state)
    states: list[torch.Tensor] = []
    for given in inputs.unbind(1):
        # the four gates are groups of one convolution, since each sees the state through a mask of its own
        seen = F.pad(state.repeat(1, 4, 1, 1) * masks, padding)
        gates = given + F.conv2d(seen, weight, groups=4)
        update, forget, candidate, output = gates.chunk(4, dim=1)
        cell = _hard_sigmoid(forget) * cell + _hard_sigmoid(update) * torch.tanh(candidate)
        state = _hard_sigmoid(output) * torch.tanh(cell)
        states.append(state)
    return torch.stack(states, dim=1)


class ConvLSTM2d(nn.Module):
    """Convolutional LSTM over a sequence of images, with the arithmetic of Keras 2's ``ConvLSTM2D``.

    Let ``*`` be a convolution whose output has the size of its input and ``s`` the hard sigmoid ``clip(0.2 z + 0.5, 0,
    1)``. Each step computes the gates ``i = s(Wi * x + Ui * h + bi)``, ``f`` and ``o`` in the same way, then
    ``c = f c + i tanh(Wc * x + Uc * h + bc)`` and ``h = o tanh(c)``. State and cell start from zero. A kernel of even
    size has its extra tap behind the centre, as in TensorFlow. The gates are in Keras' order ``i, f, c, o``. Recurrent
    dropout works as in Keras: each gate has a mask over the state, which stays the same through all steps of a
    sequence.

    Kernels start from Keras' ``he_normal``, recurrent kernels start orthogonal, and biases start from zero except those
    of the forget gate, which start from one.

    Args:
        in_channels: channels of each image of the sequence.
        out_channels: channels of the state.
        kernel_size: rows and columns of the kernels.
        recurrent_dropout: share of the state that is hidden from the gates in train mode.
        reverse: whether to run from the last image to the first; the output keeps the order of the input.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import ConvLSTM2d
        >>> lstm = ConvLSTM2d(in_channels=1, out_channels=3, kernel_size=(3, 2))
        >>> lstm(torch.zeros(2, 5, 1, 6, 8)).shape  # a batch of two sequences of five images
        torch.Size([2, 5, 3, 6, 8])

    Source: Shi et al., "Convolutional LSTM Network", 2015; Keras 2.15, ``ConvLSTM2D``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        recurrent_dropout: float = 0.0,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = kernel_size
        self.recurrent_dropout = recurrent_dropout
        self.reverse = reverse
        self.padding = [(columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2]  # left, right, top, bottom
        self.weight = nn.Parameter(torch.empty(4 * out_channels, in_channels, rows, columns))
        self.recurrent_weight = nn.Parameter(torch.empty(4 * out_channels, out_channels, rows, columns))
        self.bias = nn.Parameter(torch.zeros(4 * out_channels))
        he_normal_(self.weight, in_channels * rows * columns)
        nn.init.orthogonal_(self.recurrent_weight)
        nn.init.ones_(self.bias[out_channels : 2 * out_channels])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over the sequence.

        Args:
            x: images of shape ``[B, T, in_channels, H, W]``.

        Returns:
            the state after each step, ``[B, T, out_channels, H, W]``.
        """
        if self.reverse:
            x = x.flip(1)
        # what the input adds to the gates does not depend on the state, so all steps are computed at once
        inputs = F.conv2d(F.pad(x.flatten(0, 1), self.padding), self.weight, self.bias)
        inputs = inputs.view(x.shape[0], x.shape[1], inputs.shape[1], x.shape[3], x.shape[4])
        masks = torch.ones_like(inputs[:, 0])
        if self.training and self.recurrent_dropout > 0.0:
            masks = F.dropout(masks, self.recurrent_dropout)
        state = torch.zeros_like(inputs[:, 0, : self.recurrent_weight.shape[1]])
        if not torch.jit.is_scripting() and torch.jit.is_tracing():  # type: ignore[attr-defined]
            # keep it a loop in the traced graph: unrolled, it would only fit images of the traced size
            states = torch.jit.script(_scan)(inputs, state, masks, self.recurrent_weight, self.padding)
        else:
            states = _scan(inputs, state, masks, self.recurrent_weight, self.padding)
        return states.flip(1) if self.reverse else states


class BidirectionalConvLSTM2d(nn.Module):
    """Two convolutional LSTMs, one from each end of the sequence, whose states are concatenated.

    Args:
        in_channels: channels of each image of the sequence.
        out_channels: channels of the state of each direction.
        kernel_size: rows and columns of the kernels.
        recurrent_dropout: as for :class:`ConvLSTM2d`.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import BidirectionalConvLSTM2d
        >>> lstm = BidirectionalConvLSTM2d(in_channels=1, out_channels=3, kernel_size=(3, 2))
        >>> lstm(torch.zeros(2, 5, 1, 6, 8)).shape  # the channels of both directions
        torch.Size([2, 5, 6, 6, 8])

    Source: Keras 2.15, ``Bidirectional`` with ``merge_mode="concat"``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], *, recurrent_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.ahead = ConvLSTM2d(in_channels, out_channels, kernel_size, recurrent_dropout=recurrent_dropout)
        self.back = ConvLSTM2d(
            in_channels, out_channels, kernel_size, recurrent_dropout=recurrent_dropout, reverse=True
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over the sequence both ways: ``[B, T, in_channels, H, W]`` to ``[B, T, 2 out_channels, H, W]``."""
        return torch.cat([self.ahead(x), self.back(x)], dim=2)


class ResidualConvLSTMBlock(nn.Module):
    """LSTM RES block of Res-CR-Net: two bidirectional convolutional LSTMs, one over the rows and one over the columns.

    A 1x1 convolution to ``out_channels`` and leaky ReLU of slope 0.1 come first. Each row of their output is then one
    step of a sequence, an image of ``W x out_channels`` values with one channel; kernels of ``3 x out_channels`` see
    three neighbours in the row and all classes. The columns are treated in the same way. The states of both LSTMs in
    both directions are summed and added to the input of the LSTMs.

    The authors' code also creates a shortcut convolution, which it never uses; neither their files of weights nor their
    count of parameters include it. This block has none.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, one for each class.
        recurrent_dropout: as for :class:`ConvLSTM2d`; 0.1 in the authors' code.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import ResidualConvLSTMBlock
        >>> block = ResidualConvLSTMBlock(in_channels=4, out_channels=2)
        >>> block(torch.zeros(1, 4, 6, 8)).shape
        torch.Size([1, 2, 6, 8])

    Source: Abdallah et al., Res-CR-Net, Section 1.3 and Fig. 1; activations and kernel sizes from the authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int, *, recurrent_dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = PointwiseConv2d(in_channels, out_channels)
        self.activation = nn.LeakyReLU(SLOPE)
        kernel_size = (3, out_channels)
        self.rows = BidirectionalConvLSTM2d(1, 1, kernel_size, recurrent_dropout=recurrent_dropout)
        self.columns = BidirectionalConvLSTM2d(1, 1, kernel_size, recurrent_dropout=recurrent_dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the block: ``[B, in_channels, H, W]`` of any size to ``[B, out_channels, H, W]``."""
        x = self.activation(self.conv(x))
        rows = x.permute(0, 2, 3, 1).unsqueeze(2)  # [B, H, 1, W, classes]
        columns = x.permute(0, 3, 2, 1).unsqueeze(2)  # [B, W, 1, H, classes]
        return x + self.rows(rows).sum(2).permute(0, 3, 1, 2) + self.columns(columns).sum(2).permute(0, 3, 2, 1)
