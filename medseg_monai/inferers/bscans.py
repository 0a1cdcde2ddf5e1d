"""A network of B-scans, applied to one or to a volume of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

__all__ = ["BScanInferer"]


class BScanInferer(Inferer):
    """Apply another inferer to a B-scan, or to those of a volume one after the other.

    MONAI's ``SliceInferer`` does so by its own sliding windows, and takes volumes only.

    Args:
        inferer: inferer of a single B-scan; ``None`` takes :class:`monai.inferers.SimpleInferer`.

    Example:
        >>> import torch
        >>> from medseg_monai.inferers import BScanInferer
        >>> network = torch.nn.Conv2d(3, 2, kernel_size=1).eval()
        >>> infer = BScanInferer()
        >>> infer(torch.rand(1, 3, 6, 8), network).shape, infer(torch.rand(1, 3, 5, 6, 8), network).shape
        (torch.Size([1, 2, 6, 8]), torch.Size([1, 2, 5, 6, 8]))
    """

    def __init__(self, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Apply the inferer.

        Args:
            inputs: ``[B, C, H, W]``, or ``[B, C, N, H, W]`` for volumes of N B-scans.
            network: the network, which takes ``[B, C, H, W]``.
            args: further arguments of the wrapped inferer.
            kwargs: further keyword arguments of the wrapped inferer.

        Returns:
            ``[B, C_out, H, W]`` or ``[B, C_out, N, H, W]``.
        """
        if inputs.ndim == 4:
            single: torch.Tensor = self.inferer(inputs, network, *args, **kwargs)
            return single
        scans = [self.inferer(inputs[:, :, number], network, *args, **kwargs) for number in range(inputs.shape[2])]
        return torch.stack(scans, dim=2)
