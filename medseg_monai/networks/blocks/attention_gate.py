"""The attention gate of ANU-Net."""

from __future__ import annotations

import torch
from monai.networks.nets.attentionunet import AttentionBlock

__all__ = ["AttentionGate"]


class AttentionGate(AttentionBlock):
    """MONAI's gate of Attention U-Net, which also tells its coefficients.

    ``f * sigmoid(W_theta relu(W_f f + W_g g))``; each ``W`` is a 1x1 convolution with bias and batch normalisation. The
    authors' gate is the same, tensor by tensor.

    Args:
        spatial_dims: number of spatial dimensions.
        f_int: channels in which the gate compares.
        f_g: channels of the gating signal ``g``.
        f_l: channels of the features ``f``.

    Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.2, Eq. 1 to 3 and Fig. 3.
    """

    def coefficients(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """How much of each pixel's features the gate lets through.

        Args:
            g: gating signal ``[B, f_g, *spatial]``.
            x: features ``[B, f_l, *spatial]`` of the same size.

        Returns:
            0 to 1, ``[B, 1, *spatial]``.
        """
        return self.psi(self.relu(self.W_g(g) + self.W_x(x)))

    def forward(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Weigh the features.

        Args:
            g: gating signal ``[B, f_g, *spatial]``.
            x: features ``[B, f_l, *spatial]`` of the same size.

        Returns:
            features ``[B, f_l, *spatial]``.
        """
        return x * self.coefficients(g, x)
