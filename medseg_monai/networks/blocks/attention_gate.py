"""The attention gate of ANU-Net."""

from __future__ import annotations

import torch
from monai.networks.nets.attentionunet import AttentionBlock

__all__ = ["AttentionGate"]


class AttentionGate(AttentionBlock):
    """The gate of MONAI's Attention U-Net, with access to its coefficients.

    The gate computes ``f * sigmoid(W_theta relu(W_f f + W_g g))``, where each ``W`` is a 1x1 convolution with bias and
    batch normalisation. The authors' gate is the same, tensor by tensor.

    Args:
        spatial_dims: number of spatial dimensions.
        f_int: channels in which the gate compares its inputs.
        f_g: channels of the gating signal ``g``.
        f_l: channels of the features ``f``.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import AttentionGate
        >>> gate = AttentionGate(spatial_dims=2, f_int=2, f_g=4, f_l=4).eval()
        >>> signal, features = torch.zeros(1, 4, 6, 8), torch.ones(1, 4, 6, 8)
        >>> coefficients = gate.coefficients(signal, features)
        >>> coefficients.shape
        torch.Size([1, 1, 6, 8])
        >>> torch.equal(gate(signal, features), features * coefficients)
        True

    Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.2, Eq. 1 to 3 and Fig. 3.
    """

    def coefficients(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Compute how much of each pixel's features the gate lets through.

        Args:
            g: gating signal ``[B, f_g, *spatial]``.
            x: features ``[B, f_l, *spatial]`` of the same size.

        Returns:
            the coefficients ``[B, 1, *spatial]``, 0 to 1.
        """
        return self.psi(self.relu(self.W_g(g) + self.W_x(x)))

    def forward(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Weight the features.

        Args:
            g: gating signal ``[B, f_g, *spatial]``.
            x: features ``[B, f_l, *spatial]`` of the same size.

        Returns:
            features ``[B, f_l, *spatial]``.
        """
        return x * self.coefficients(g, x)
