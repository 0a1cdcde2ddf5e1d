"""Mixed precision on a CPU, which MONAI's engines support on CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer

__all__ = ["CPUAutocastInferer"]


class CPUAutocastInferer(SimpleInferer):
    """Run the network under bfloat16 autocast if the input is on a CPU; otherwise behave like ``SimpleInferer``.

    MONAI's ``amp`` calls ``torch.autocast("cuda")`` whatever the device is, which does nothing on a CPU. bfloat16 has
    the exponent range of float32, so no gradient scaler is needed. The outputs keep the type that autocast gives them;
    the loss must convert them to float32 itself.

    Args:
        enabled: ``False`` turns autocast off.

    Example:
        >>> import torch
        >>> from medseg_monai.inferers import CPUAutocastInferer
        >>> network = torch.nn.Conv2d(1, 2, kernel_size=1)
        >>> CPUAutocastInferer()(torch.zeros(1, 1, 6, 8), network).dtype
        torch.bfloat16
        >>> CPUAutocastInferer(enabled=False)(torch.zeros(1, 1, 6, 8), network).dtype
        torch.float32
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``network(inputs, *args, **kwargs)``.

        Args:
            inputs: input of the network; its device decides whether autocast is on.
            network: the network.
            args: further positional arguments of the network.
            kwargs: further keyword arguments of the network.
        """
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled and inputs.device.type == "cpu"):
            return super().__call__(inputs, network, *args, **kwargs)
