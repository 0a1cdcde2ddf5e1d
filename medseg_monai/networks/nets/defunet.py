"""DEFU-Net, the dual encoder fusion U-Net for lungs in chest X-rays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from medseg_monai.networks.blocks import DenseRecurrentConvBlock, DilatedInceptionBlock
from medseg_monai.networks.blocks.input_size import check_size
from medseg_monai.networks.weights.keras import keras_layers, rename_layers
from medseg_monai.networks.weights.state_dict import kernel_sizes

__all__ = ["DEFUNet"]

# the blocks in the order in which the authors' code (uceclz0/DEFU-Net, defu_net.py) creates their layers
_AUTHOR_BLOCKS = (
    *("encoder.0", "encoder.1", "inception.0", "encoder.2", "inception.1", "encoder.3", "inception.2", "inception.3"),
    *("bottom", "decoder.0", "decoder.1", "decoder.2", "decoder.3", "head"),
)
_UNIT1 = ("unit1.conv1", "unit1.conv2", "unit1.conv3")
_UNIT2 = ("unit2.conv1", "unit2.conv2", "unit2.conv3")
_RECURRENT = (*_UNIT1, "merge1", *_UNIT2, "merge2", "merge")
_INCEPTION = ("branch_a", "branch_b1", "branch_b2", "branch_c", "branch_d1", "branch_d2", "branch_d3")


def _author_convolutions() -> Iterator[str]:
    """Yield this file's names of the authors' convolutions, in the authors' order."""
    for block in _AUTHOR_BLOCKS:
        if block == "head":
            yield block
        elif block.startswith("inception"):
            yield from (f"{block}.{layer}.conv" for layer in _INCEPTION)
        else:
            if block != "bottom":  # the only block whose input already has its width
                yield f"{block}.project"
            yield from (f"{block}.{layer}.conv" for layer in _RECURRENT)


def _author_norms() -> Iterator[str]:
    """Yield this file's names of the authors' batch normalisations, in the authors' order."""
    for block in _AUTHOR_BLOCKS:
        if block.startswith(("encoder", "bottom", "decoder")):
            yield from (f"{block}.{layer}.adn.N" for layer in _UNIT1 + _UNIT2)


def _blocks(block: type[nn.Module], *channels: tuple[int, int]) -> nn.ModuleList:
    """Build one block for each pair of input and output channels."""
    return nn.ModuleList(block(*pair) for pair in channels)


class DEFUNet(nn.Module):
    """DEFU-Net: a U-Net with two encoders, one deep and one wide, whose features are added level by level.

    One encoder is a chain of densely connected recurrent blocks with 2x2 max pooling between them, the other a chain of
    dilated inception blocks of stride 2. Each inception block takes the sum of both chains at its level (the first one
    takes the features of the first recurrent block); the recurrent chain continues without the sum. Each decoder level
    consists of nearest-neighbour upsampling, the concatenation ``[upsampled, sum]`` and a recurrent block. With its
    defaults the network has 45,620,897 parameters. It returns logits; the authors' sigmoid belongs to the loss and to
    the postprocessing.

    Where the paper is silent, the authors' published code decides: on the widths of the decoder, on the order of every
    concatenation, and on the defaults of its Keras, which are the padding at stride 2, batch normalisation (eps 1e-3),
    LeakyReLU (slope 0.3), Glorot uniform initial kernels and zero initial biases.

    Args:
        spatial_dims: number of spatial dimensions; must be 2.
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: widths ``f1``, ``f2``, ``f3``, ``f4`` of the encoder's levels. The bottom has ``f4`` ("as same as 4th
            layer"), the decoder ``f3``, ``f2``, ``f1``, ``f1``. With the inception path ``f2`` to ``f4`` must be
            multiples of 4.
        inception: ``False`` leaves the inception path out, so that the decoder and the bottom get the features of the
            recurrent chain alone. The paper has no such row; it shows the effect of the path on Res-U-Net ("Res-U-Net"
            and "Incep-Res-U-Net", Tables I to IV) by the same removal.

    Raises:
        ValueError: ``spatial_dims`` is not 2, ``features`` does not have four entries, or the branches of the inception
            blocks cannot share them equally.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets import DEFUNet
        >>> network = DEFUNet(in_channels=1, out_channels=1, features=(4, 8, 16, 32)).eval()
        >>> network(torch.zeros(2, 1, 32, 48)).shape
        torch.Size([2, 1, 32, 48])
        >>> network(torch.zeros(2, 1, 30, 48))
        Traceback (most recent call last):
        ValueError: DEFUNet takes sizes that are multiples of 16, got 30x48: pad or resize to 32x48.

    Source: Zhang et al., "Dual Encoder Fusion U-Net (DEFU-Net) for Cross-manufacturer Chest X-ray Segmentation", ICPR
    2020, Section II and Fig. 1.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        features: Sequence[int] = (64, 128, 256, 512),
        inception: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"DEFUNet is a 2D network: spatial_dims must be 2, got {spatial_dims}.")
        if len(features) != 4:
            raise ValueError(f"DEFUNet has four levels: give the features of each, got {list(features)}.")
        f1, f2, f3, f4 = features
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.encoder = _blocks(DenseRecurrentConvBlock, (in_channels, f1), (f1, f2), (f2, f3), (f3, f4))
        self.inception = nn.ModuleList()
        if inception:
            self.inception = _blocks(DilatedInceptionBlock, (f1, f2), (f2, f3), (f3, f4), (f4, f4))
        self.bottom = DenseRecurrentConvBlock(f4, f4)
        self.decoder = _blocks(DenseRecurrentConvBlock, (2 * f4, f3), (2 * f3, f2), (2 * f2, f1), (2 * f1, f1))
        self.head = Conv[Conv.CONV, 2](f1, out_channels, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits.

        Args:
            x: image of shape ``[B, in_channels, H, W]``; ``H`` and ``W`` must be multiples of 16.

        Returns:
            logits of shape ``[B, out_channels, H, W]``, in train and eval mode alike.

        Raises:
            ValueError: the size does not fit; the message names the size to pad to.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            check_size(list(x.shape[2:]), 16, "DEFUNet")
        levels = []
        for block in self.encoder:
            levels.append(block(x))
            x = self.pool(levels[-1])
        levels.append(x)
        for level, block in enumerate(self.inception):  # the sum of both chains replaces the recurrent one's features
            levels[level + 1] = levels[level + 1] + block(levels[level])
        x = self.bottom(levels[4])
        for level, block in enumerate(self.decoder):
            x = block(torch.cat([self.upsample(x), levels[3 - level]], dim=1))
        return self.head(x)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert the tensors of the authors' Keras network to the names and the layout of this class.

        Args:
            state: the whole network's tensors as :func:`~medseg_monai.networks.weights.keras.read_keras_weights` reads
                them, under Keras' automatic names, in any order.

        Returns:
            the same tensors under this class's names, in the order in which the authors' code creates the layers.

        Raises:
            ValueError: the authors' network has no layers of some kind, or another number of them, or a layer has other
                tensors than its kind.

        Source: uceclz0/DEFU-Net, defu_net.py.
        """
        names = {"conv2d": list(_author_convolutions()), "batch_normalization": list(_author_norms())}
        return rename_layers(keras_layers(state), names, network="DEFU-Net")

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Infer the constructor arguments that a state dict of this class needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, features and whether there is an inception path, each only if the tensors that it is read from are
            there.

        Example:
            >>> DEFUNet.infer_arguments(DEFUNet(features=(4, 8, 16, 32), inception=False).state_dict())
            {'in_channels': 1, 'out_channels': 1, 'features': [4, 8, 16, 32], 'inception': False}
        """
        sources = {"in_channels": ("encoder.0.project.weight", 1), "out_channels": ("head.weight", 0)}
        arguments: dict[str, Any] = {**kernel_sizes(state, sources, dims=4)}
        widths = [f"encoder.{level}.merge.conv.weight" for level in range(4)]
        if all(key in state for key in widths):
            arguments["features"] = [state[key].shape[0] for key in widths]
            arguments["inception"] = any(key.startswith("inception.") for key in state)
        return arguments
