"""The contextualized U-Net (CU-Net); CTSU-Net consists of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn

from .criss_cross import CrissCrossAttention3d

__all__ = ["CUNet"]


class CUNet(nn.Module):
    """3D U-Net of three levels with criss-cross attention after the bridge and two heads, for lobes and their borders.

    Each level has two 3x3x3 convolutions without bias, each followed by batch normalisation and ReLU. Max pooling
    halves the size and trilinear interpolation (``align_corners=True``) doubles it. The skip connection is cropped
    around its centre to the size of the upsampled features and concatenated behind them. Kernels are initialised as in
    He et al.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the lobes' logits.
        features: output channels of the 14 convolutions: two each for ``down1`` to ``down3``, the bridge, and ``up1``
            to ``up3``.
        padded: ``True`` keeps the size (CU-Net I); ``False`` takes valid convolutions (CU-Net II).
        embedding_channels: channels of the attention's embeddings.
        recurrence: steps of the attention.
        non_local: ``False`` leaves the attention out (Table IV).
        geometric: ``False`` leaves out the attention's geometric term (Table IV).
        similarity_norm: normalisation of the attention's similarities, see :class:`CrissCrossAttention3d`.

    Raises:
        ValueError: ``features`` does not have 14 entries.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import CUNet
        >>> network = CUNet(in_channels=1, out_channels=6, features=[2] * 14, padded=True, embedding_channels=2)
        >>> centers = [torch.linspace(-0.5, 0.5, edge // 8)[None] for edge in (16, 24, 16)]  # of the bridge's map
        >>> lobes, border = network(torch.zeros(1, 1, 16, 24, 16), centers)
        >>> lobes.shape, border.shape
        (torch.Size([1, 6, 16, 24, 16]), torch.Size([1, 1, 16, 24, 16]))

    Source: Xie et al., "Contextual Two-Stage U-Nets …", Section III-B and Table II; the order of concatenation and of
    cropping from DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, models.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        *,
        padded: bool,
        embedding_channels: int = 32,
        recurrence: int = 3,
        non_local: bool = True,
        geometric: bool = True,
        similarity_norm: str = "none",
    ) -> None:
        super().__init__()
        if len(features) != 14:
            raise ValueError(f"A CU-Net has 14 convolutions: give the features of each, got {list(features)}.")
        pairs = [(features[i], features[i + 1]) for i in range(0, 14, 2)]
        skip1, skip2, skip3, bridge = (last for _, last in pairs[:4])
        self.down1 = _two_convolutions(in_channels, pairs[0], padded=padded)
        self.down2 = _two_convolutions(skip1, pairs[1], padded=padded)
        self.down3 = _two_convolutions(skip2, pairs[2], padded=padded)
        self.bridge = _two_convolutions(skip3, pairs[3], padded=padded)
        self.attention = (
            CrissCrossAttention3d(
                bridge,
                embedding_channels,
                recurrence=recurrence,
                geometric=geometric,
                similarity_norm=similarity_norm,
            )
            if non_local
            else None
        )
        self.up1 = _two_convolutions(bridge + skip3, pairs[4], padded=padded)
        self.up2 = _two_convolutions(pairs[4][1] + skip2, pairs[5], padded=padded)
        self.up3 = _two_convolutions(pairs[5][1] + skip1, pairs[6], padded=padded)
        self.lobes = Conv[Conv.CONV, 3](pairs[6][1], out_channels, kernel_size=1)
        self.border = Conv[Conv.CONV, 3](pairs[6][1], 1, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor, centers: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits of both heads.

        Args:
            x: ``[B, in_channels, D, H, W]`` with edges that are multiples of 8 if padded, else 92, 100, 108, …
            centers: where in the scan the bridge's features look, as :class:`CrissCrossAttention3d` takes it.

        Returns:
            logits of the lobes ``[B, out_channels, …]`` and of the borders ``[B, 1, …]``, of the size of ``x`` if
            padded, else smaller by 88 along each axis.
        """
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool3d(skip1, 2))
        skip3 = self.down3(F.max_pool3d(skip2, 2))
        x = self.bridge(F.max_pool3d(skip3, 2))
        if self.attention is not None:
            x = self.attention(x, centers)
        x = self.up1(_upsample_and_concatenate(x, skip3))
        x = self.up2(_upsample_and_concatenate(x, skip2))
        x = self.up3(_upsample_and_concatenate(x, skip1))
        return self.lobes(x), self.border(x)


def _two_convolutions(in_channels: int, out_channels: tuple[int, int], *, padded: bool) -> nn.Sequential:
    widths = (in_channels, *out_channels)
    return nn.Sequential(
        *(
            Convolution(
                3,
                widths[i],
                widths[i + 1],
                kernel_size=3,
                padding=1 if padded else 0,
                bias=False,
                norm="BATCH",
                act=("RELU", {"inplace": True}),
                adn_ordering="NA",
            )
            for i in range(2)
        )
    )


def _upsample_and_concatenate(x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    depth, height, width = 2 * x.shape[2], 2 * x.shape[3], 2 * x.shape[4]
    # the differences are even: each valid convolution removes two voxels, and pooling halves even sizes
    z, y, x_ = (skip.shape[2] - depth) // 2, (skip.shape[3] - height) // 2, (skip.shape[4] - width) // 2
    cropped = skip[:, :, z : z + depth, y : y + height, x_ : x_ + width]
    upsampled = F.interpolate(x, size=[depth, height, width], mode="trilinear", align_corners=True)
    return torch.cat([upsampled, cropped], dim=1)
