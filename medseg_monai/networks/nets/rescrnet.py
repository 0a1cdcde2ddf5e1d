"""Res-CR-Net, a residual network without pooling for lungs in chest X-rays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn

from medseg_monai.networks.blocks.conv_lstm import ResidualConvLSTMBlock
from medseg_monai.networks.blocks.separable_atrous import SLOPE, PointwiseConv2d, ResidualAtrousBlock
from medseg_monai.networks.weights.keras import keras_layers, pytorch_kernel, rename_layers
from medseg_monai.networks.weights.state_dict import kernel_sizes

__all__ = ["ResCRNet"]

# what the authors' Keras creates for each block
_SEPARABLE_A_BLOCK, _BRANCHES = 6, 3
_SEPARABLE_ROLES = ("depthwise_kernel", "pointwise_kernel", "bias")
_LSTM_ROLES = {"kernel": "weight", "recurrent_kernel": "recurrent_weight", "bias": "bias"}
_LSTM_DIRECTIONS = {"forward": "ahead", "backward": "back"}


def _author_names(num_blocks: int, num_lstm_blocks: int) -> dict[str, list[str]]:
    """List this file's names of the authors' layers, by kind and in the authors' order (MODULES/Blocks.py)."""
    blocks = ["stem", *(f"blocks.{number}" for number in range(num_blocks))]
    lstm_blocks = [f"lstm_blocks.{number}" for number in range(num_lstm_blocks)]
    branches = [[f"{block}.branches.{branch}" for branch in range(_BRANCHES)] for block in blocks]
    norms: list[str] = []
    for block, names in zip(blocks, branches, strict=True):
        if block != "stem":
            norms.append(f"{block}.before.0")
        norms += [*(f"{name}.norm" for name in names), f"{block}.shortcut_norm"]
    return {
        "separable_conv2d": [f"{name}.{conv}" for names in branches for name in names for conv in ("conv1", "conv2")],
        "batch_normalization": norms,
        "conv2d": [
            *(f"{block}.shortcut" for block in blocks),
            *([f"{block}.conv" for block in lstm_blocks] or ["head"]),
        ],
        "bidirectional": [f"{block}.{lstm}" for block in lstm_blocks for lstm in ("rows", "columns")],
    }


def _separable_layer(layer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors of one ``SeparableConv2D`` as :class:`SeparableAtrousConv2d` does."""
    if set(layer) != set(_SEPARABLE_ROLES) or any(layer[role].ndim != 4 for role in _SEPARABLE_ROLES[:2]):
        raise ValueError(f"{sorted(layer)}: a separable convolution with bias has {list(_SEPARABLE_ROLES)}.")
    return {
        "depthwise.weight": layer["depthwise_kernel"].permute(2, 3, 0, 1).contiguous(),  # one output for each input
        "pointwise.weight": pytorch_kernel(layer["pointwise_kernel"]),
        "pointwise.bias": layer["bias"],
    }


def _bidirectional_layer(layer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors of one ``Bidirectional(ConvLSTM2D)`` as :class:`BidirectionalConvLSTM2d` does.

    The inner layer has different names in different versions of Keras: ``forward_conv_lstm2d``,
    ``forward_conv_lst_m2d``.
    """
    named: dict[str, torch.Tensor] = {}
    for role, tensor in layer.items():
        direction, last = _LSTM_DIRECTIONS.get(role.split("_")[0]), _LSTM_ROLES.get(role.split("/")[-1])
        if direction is None or last is None:
            raise ValueError(f"{role}: a bidirectional convolutional LSTM has no such tensor.")
        named[f"{direction}.{last}"] = pytorch_kernel(tensor) if tensor.ndim == 4 else tensor
    return named


_CONVERTERS = {"separable_conv2d": _separable_layer, "bidirectional": _bidirectional_layer}


class ResCRNet(nn.Module):
    """Res-CR-Net: a straight line of residual blocks at the size of the image, without pooling or upsampling.

    The network consists of one STEM block and ``num_blocks`` CONV RES blocks of separable atrous convolutions
    (:class:`ResidualAtrousBlock`), each followed by spatial dropout, and of ``num_lstm_blocks`` LSTM RES blocks
    (:class:`ResidualConvLSTMBlock`). Without LSTM RES blocks it ends with a 1x1 convolution to the classes and leaky
    ReLU. It takes images of any size.

    The defaults are the paper's network for chest X-rays, which has 47,189 parameters. The paper prints 59,165: that is
    the default of the authors' code, with 3 channels, 4 classes, 5 CONV RES blocks and one LSTM RES block. Both numbers
    count the trainable parameters, without the shortcut convolution that the authors' LSTM RES block creates and never
    uses.

    The network returns logits; the authors' softmax belongs to the loss and to the postprocessing. The leaky ReLU
    before it stays: it is not in the paper, but it is in the code that produced the published figures. So are the slope
    0.1, batch normalisation with Keras' defaults (epsilon 1e-3, momentum 0.99), the dropout rates and ``merge="add"``.
    Kernels start from ``he_normal``, as in that code. That code also gives every layer the seed 5, so that kernels of
    the same shape start equal; the paper does not say so, and here they differ.

    Args:
        spatial_dims: number of spatial dimensions; must be 2.
        in_channels: channels of the input.
        out_channels: channels of the output: the classes, including the background.
        filters: channels of each of the three branches of a block.
        num_blocks: number of CONV RES blocks after the STEM block, the paper's ``n - 1``.
        num_lstm_blocks: number of LSTM RES blocks, the paper's ``m``.
        merge: ``"concat"`` concatenates the branches, so that a block has ``3 * filters`` channels; ``"add"`` adds them
            up, so that it has ``filters``.
        dropout: share of the channels that spatial dropout sets to zero.
        recurrent_dropout: share of the state that is hidden from the gates of the LSTMs in training.

    Raises:
        ValueError: ``spatial_dims`` is not 2, ``merge`` is unknown, or a number of blocks is negative.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets import ResCRNet
        >>> network = ResCRNet(in_channels=1, out_channels=2).eval()
        >>> network(torch.zeros(2, 1, 21, 34)).shape
        torch.Size([2, 2, 21, 34])
        >>> sum(parameter.numel() for parameter in network.parameters())
        47189

    Source: Abdulah et al., "Lung Segmentation in Chest X-rays with Res-CR-Net", 2020, Section 1.3 and Fig. 1; the
    authors' code, dgattiwsu/Res-CR-Net.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        filters: int = 16,
        num_blocks: int = 4,
        num_lstm_blocks: int = 0,
        merge: str = "concat",
        dropout: float = 0.05,
        recurrent_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"ResCRNet is a 2D network: spatial_dims must be 2, got {spatial_dims}.")
        if min(num_blocks, num_lstm_blocks) < 0:
            raise ValueError(f"num_blocks and num_lstm_blocks must be 0 or more, got {num_blocks}, {num_lstm_blocks}.")
        self.stem = ResidualAtrousBlock(in_channels, filters, stem=True, merge=merge)
        width = self.stem.out_channels
        self.blocks = nn.ModuleList(ResidualAtrousBlock(width, filters, merge=merge) for _ in range(num_blocks))
        self.dropout = nn.Dropout2d(dropout, inplace=True)
        self.lstm_blocks = nn.ModuleList(
            ResidualConvLSTMBlock(out_channels if number else width, out_channels, recurrent_dropout=recurrent_dropout)
            for number in range(num_lstm_blocks)
        )
        self.head = nn.Identity() if num_lstm_blocks else PointwiseConv2d(width, out_channels)
        self.activation = nn.Identity() if num_lstm_blocks else nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits.

        Args:
            x: image of shape ``[B, in_channels, H, W]`` of any size; the metadata of a :class:`monai.data.MetaTensor`
                is kept.

        Returns:
            logits of shape ``[B, out_channels, H, W]``, in train and eval mode alike.
        """
        if not torch.jit.is_scripting() and isinstance(x, MetaTensor):  # type: ignore[attr-defined]
            # MetaTensor's bookkeeping at every slice would make a training step a third longer
            return MetaTensor(self.forward(x.as_tensor())).copy_meta_from(x, copy_attr=True)
        x = self.dropout(self.stem(x))
        for block in self.blocks:
            x = self.dropout(block(x))
        for block in self.lstm_blocks:
            x = block(x)
        return self.activation(self.head(x))

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert the tensors of the authors' Keras network to the names and the layout of this class.

        The numbers of blocks follow from the number of layers of each kind.

        Args:
            state: the whole network's tensors as :func:`~medseg_monai.networks.weights.keras.read_keras_weights` reads
                them, under Keras' automatic names, in any order.

        Returns:
            the same tensors under this class's names, by kind and in the order in which the authors' code creates the
            layers.

        Raises:
            ValueError: the authors' network has no layers of some kind, or another number of them, or a layer has other
                tensors than its kind.

        Source: dgattiwsu/Res-CR-Net, MODULES/Blocks.py and MODULES/Networks.py.
        """
        kinds = keras_layers(state)
        separable, bidirectional = (len(kinds.get(kind, [])) for kind in ("separable_conv2d", "bidirectional"))
        if separable == 0 or separable % _SEPARABLE_A_BLOCK or bidirectional % 2:
            raise ValueError(
                f"{separable} layers separable_conv2d and {bidirectional} bidirectional, but the authors' Res-CR-Net "
                f"has {_SEPARABLE_A_BLOCK} of the former in each block and 2 of the latter in each LSTM block."
            )
        names = _author_names(separable // _SEPARABLE_A_BLOCK - 1, bidirectional // 2)
        network = f"Res-CR-Net with {separable} separable_conv2d and {bidirectional} bidirectional"
        return rename_layers(kinds, names, network=network, converters=_CONVERTERS)

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Infer the constructor arguments that a state dict of this class needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, filters, numbers of blocks and how the branches are merged, each only if the tensors that it is
            read from are there.

        Example:
            >>> ResCRNet.infer_arguments(ResCRNet(filters=4, num_blocks=2, merge="add").state_dict())["merge"]
            'add'
        """
        last = "lstm_blocks.0.conv.weight" if "lstm_blocks.0.conv.weight" in state else "head.weight"
        sources = {
            "in_channels": ("stem.shortcut.weight", 1),
            "out_channels": (last, 0),
            "filters": ("stem.branches.0.conv1.pointwise.weight", 0),
        }
        arguments: dict[str, Any] = {**kernel_sizes(state, sources, dims=4)}
        for name, prefix in (("num_blocks", "blocks."), ("num_lstm_blocks", "lstm_blocks.")):
            arguments[name] = len({key.split(".")[1] for key in state if key.startswith(prefix)})
        if "stem.shortcut.weight" in state and "filters" in arguments:
            wide = state["stem.shortcut.weight"].shape[0] == _BRANCHES * arguments["filters"]
            arguments["merge"] = "concat" if wide else "add"
        return arguments
