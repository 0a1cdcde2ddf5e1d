"""CE-Net, the context encoder network for 2D medical image segmentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets import resnet34
from torch import nn

from medseg_monai.networks.blocks import (
    DenseAtrousConvBlock,
    InceptionBlock,
    InceptionResNetBlock,
    ResidualMultiKernelPooling,
)
from medseg_monai.networks.blocks.input_size import check_size
from medseg_monai.networks.weights.resnet34 import load_resnet34_encoder
from medseg_monai.networks.weights.state_dict import kernel_sizes, rename_tensors

__all__ = ["CENet", "CENetDecoderBlock"]

ContextBlock = Literal["dense_atrous", "inception", "inception_resnet"]

# the authors' name of each module (Guzaiwang/CE-Net, networks/cenet.py), and the name in this file
_AUTHOR_PREFIXES = {
    "firstconv.": "encoder.conv1.",
    "firstbn.": "encoder.bn1.",
    "encoder1.": "encoder.layer1.",
    "encoder2.": "encoder.layer2.",
    "encoder3.": "encoder.layer3.",
    "encoder4.": "encoder.layer4.",
    "dblock.dilate1.": "dac.conv_d1.",
    "dblock.dilate2.": "dac.conv_d3.",
    "dblock.dilate3.": "dac.conv_d5.",
    "dblock.conv1x1.": "dac.conv_1x1.",
    "spp.conv.": "rmp.conv.",
    "decoder4.": "decoder4.",
    "decoder3.": "decoder3.",
    "decoder2.": "decoder2.",
    "decoder1.": "decoder1.",
    "finaldeconv1.": "tail_deconv.",
    "finalconv2.": "tail_conv.",
    "finalconv3.": "head.",
}


# the tensor by which a block in the place of the DAC block is known
_OWN_TENSORS = {"inception": "dac.conv_5x5.weight", "inception_resnet": "dac.merge.weight"}


class CENetDecoderBlock(nn.Module):
    """Decoder block of CE-Net: 1x1 convolution, 3x3 transposed convolution of stride 2, 1x1 convolution.

    Each convolution has a bias and is followed by batch normalisation and ReLU. The inner width is a quarter of
    ``in_channels``, rounded down.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.

    Source: Gu et al., "CE-Net", IEEE TMI 2019, Section II-C and Fig. 1(c).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = in_channels // 4
        self.conv1 = Conv[Conv.CONV, 2](in_channels, inner, kernel_size=1)
        self.norm1 = nn.BatchNorm2d(inner)
        self.deconv2 = Conv[Conv.CONVTRANS, 2](inner, inner, kernel_size=3, stride=2, padding=1, output_padding=1)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = Conv[Conv.CONV, 2](inner, out_channels, kernel_size=1)
        self.norm3 = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Double the resolution: ``[B, in_channels, H, W]`` to ``[B, out_channels, 2H, 2W]``."""
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.deconv2(x)))
        return torch.relu(self.norm3(self.conv3(x)))


class CENet(nn.Module):
    """CE-Net: ResNet-34 encoder, dense atrous convolution, residual multi-kernel pooling, light decoder.

    With its defaults the network has 29,003,093 parameters (29,006,272 with ``out_channels=12``). It returns logits;
    the authors' sigmoid belongs to the loss and to the postprocessing.

    Where the paper is silent or its text differs from the authors' published code, the code decides:

    - the DAC block shares its convolutions between branches (see :class:`DenseAtrousConvBlock`);
    - the RMP block shares one 1x1 convolution between its four levels;
    - skip connections are added, not concatenated;
    - the tail is a 4x4 transposed convolution of stride 2 to 32 channels, a 3x3 convolution and a 3x3 convolution to
      the classes.

    Args:
        spatial_dims: number of spatial dimensions; must be 2.
        in_channels: channels of the input.
        out_channels: channels of the output (1 for a sigmoid, 12 for the 11 retinal layers and background).
        pretrained: ``False`` starts from random weights; ``True`` takes torchvision's ImageNet weights of ResNet-34
            from the cache or downloads them (see :mod:`medseg_monai.networks.weights.resnet34`); a path reads a state
            dict of ResNet-34 with torchvision's names. Needs ``in_channels=3``.
        dense_atrous: ``False`` leaves the DAC block out (Table VI, "Backbone + RMP").
        atrous: ``False`` keeps the DAC block with dilation 1 everywhere (Table VI, "DAC w/o atrous").
        multi_kernel_pooling: ``False`` leaves the RMP block out (Table VI, "Backbone + DAC").
        context: ``"inception"`` and ``"inception_resnet"`` put one of Table VI's other blocks in the place of the DAC
            block.

    Raises:
        ValueError: ``spatial_dims`` is not 2; ``pretrained`` is given and ``in_channels`` is not 3; ``context`` is
            unknown, or is an Inception block, which ``dense_atrous`` or ``atrous`` would change.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets import CENet
        >>> network = CENet(out_channels=2).eval()
        >>> with torch.no_grad():
        ...     network(torch.zeros(1, 3, 192, 224)).shape
        torch.Size([1, 2, 192, 224])
        >>> network(torch.zeros(1, 3, 200, 150))
        Traceback (most recent call last):
        ValueError: CENet takes sizes that are multiples of 32 and at least 192, got 200x150: pad or resize to 224x192.

    Source: Gu et al., "CE-Net: Context Encoder Network for 2D Medical Image Segmentation", IEEE TMI 38(10), 2019.
    """

    #: the authors' code reads its images with ``cv2.imread``, which puts blue first (Guzaiwang/CE-Net, data.py)
    author_settings = {"channel_order": "BGR"}

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 1,
        pretrained: bool | str | os.PathLike[str] = False,
        dense_atrous: bool = True,
        atrous: bool = True,
        multi_kernel_pooling: bool = True,
        context: ContextBlock = "dense_atrous",
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"CENet is a 2D network: spatial_dims must be 2, got {spatial_dims}.")
        if pretrained and in_channels != 3:
            raise ValueError(f"Pretrained encoders take 3 input channels, got in_channels={in_channels}.")
        self.encoder = resnet34(
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        if pretrained:
            load_resnet34_encoder(self.encoder, None if pretrained is True else pretrained)
        self.dac = _context_block(context, dense_atrous=dense_atrous, atrous=atrous)
        self.rmp = ResidualMultiKernelPooling(512) if multi_kernel_pooling else nn.Identity()
        self.needs_context = multi_kernel_pooling
        self.decoder4 = CENetDecoderBlock(516 if multi_kernel_pooling else 512, 256)
        self.decoder3 = CENetDecoderBlock(256, 128)
        self.decoder2 = CENetDecoderBlock(128, 64)
        self.decoder1 = CENetDecoderBlock(64, 64)
        self.tail_deconv = Conv[Conv.CONVTRANS, 2](64, 32, kernel_size=4, stride=2, padding=1)
        self.tail_conv = Conv[Conv.CONV, 2](32, 32, kernel_size=3, padding=1)
        self.head = Conv[Conv.CONV, 2](32, out_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits.

        Args:
            x: image of shape ``[B, in_channels, H, W]``; ``H`` and ``W`` multiples of 32 and at least 192 (32 without
                the RMP block).

        Returns:
            logits of shape ``[B, out_channels, H, W]``, in train and eval mode alike.

        Raises:
            ValueError: the size does not fit; the message names the size to pad to.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            check_size(list(x.shape[2:]), 32, "CENet", smallest=192 if self.needs_context else 32)
        encoder = self.encoder
        x = encoder.act(encoder.bn1(encoder.conv1(x)))
        skip1 = encoder.layer1(encoder.maxpool(x))
        skip2 = encoder.layer2(skip1)
        skip3 = encoder.layer3(skip2)
        x = self.rmp(self.dac(encoder.layer4(skip3)))
        x = self.decoder4(x) + skip3
        x = self.decoder3(x) + skip2
        x = self.decoder2(x) + skip1
        x = torch.relu(self.tail_deconv(self.decoder1(x)))
        return self.head(torch.relu(self.tail_conv(x)))

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the tensors of the authors' checkpoint to the names of this class.

        Args:
            state: tensors under the names of the authors' ``CE_Net_`` or ``CE_Net_OCT``, all of them or some.

        Returns:
            the same tensors under this class's names, in the same order.

        Raises:
            ValueError: a key names no module of the authors' networks; the message lists the first such keys.

        Example:
            >>> import torch
            >>> list(CENet.convert_author_state({"finalconv3.bias": torch.zeros(1)}))
            ['head.bias']

        Source: Guzaiwang/CE-Net, networks/cenet.py.
        """
        return rename_tensors(state, _AUTHOR_PREFIXES, network="CE-Net")

    @staticmethod
    def adapt_settings(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the bundle that weights of the authors are for.

        Those with several channels are for layers in OCT: the bundle takes any number of classes, and its images are
        grey, so that the order of their channels says nothing.

        Args:
            settings: what all weights of the authors have.
            arguments: constructor arguments that the weights need.

        Example:
            >>> CENet.adapt_settings({"channel_order": "BGR"}, {"out_channels": 12})
            {'out_channels': 12}
        """
        if arguments.get("out_channels", 1) == 1:
            return dict(settings)
        others = {key: value for key, value in settings.items() if key != "channel_order"}
        return {**others, "out_channels": arguments["out_channels"]}

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, int | bool | str]:
        """Infer the constructor arguments that a state dict of this class needs.

        Dilation leaves no trace in the tensors, so ``atrous`` cannot be inferred.

        Args:
            state: tensors under this class's names.

        Returns:
            ``in_channels`` and ``out_channels``, each only if the tensor that it is read from is there, and what else
            differs from the defaults.

        Example:
            >>> import torch
            >>> CENet.infer_arguments({"head.weight": torch.zeros(12, 32, 3, 3)})
            {'out_channels': 12}
            >>> CENet.infer_arguments(CENet(multi_kernel_pooling=False, context="inception").state_dict())
            {'in_channels': 3, 'out_channels': 1, 'multi_kernel_pooling': False, 'context': 'inception'}
        """
        sources = {"in_channels": ("encoder.conv1.weight", 1), "out_channels": ("head.weight", 0)}
        blocks: dict[str, bool | str] = {}
        decoder = state.get("decoder4.conv1.weight")
        if decoder is not None and decoder.shape[1:2] == (512,):
            blocks["multi_kernel_pooling"] = False
        if decoder is not None and not any(key.startswith("dac.") for key in state):
            blocks["dense_atrous"] = False
        others = [context for context, tensor in _OWN_TENSORS.items() if tensor in state]
        if others:
            blocks["context"] = others[0]
        return {**kernel_sizes(state, sources, dims=4), **blocks}


def _context_block(context: ContextBlock, *, dense_atrous: bool, atrous: bool) -> nn.Module:
    if context not in get_args(ContextBlock):
        raise ValueError(f"CENet: context must be one of {', '.join(get_args(ContextBlock))}, got {context!r}.")
    if context == "dense_atrous":
        return DenseAtrousConvBlock(512, atrous=atrous) if dense_atrous else nn.Identity()
    if not (dense_atrous and atrous):
        raise ValueError(f"CENet: dense_atrous and atrous are of the DAC block, and context={context} replaces it.")
    return InceptionBlock(512) if context == "inception" else InceptionResNetBlock(512)
