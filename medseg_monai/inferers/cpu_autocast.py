"""Mixed precision on a CPU, which MONAI's engines have on CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer

__all__ = ["CPUAutocastInferer"]


class CPUAutocastInferer(SimpleInferer):
    """Run the network under bfloat16 autocast where the input lies on a CPU; elsewhere as ``SimpleInferer``.

    MONAI's ``amp`` calls ``torch.autocast("cuda")`` whatever the device, which on a CPU does nothing. bfloat16 has the
    exponents of float32, so that no gradient scaler is needed. The outputs are what the network gives under autocast;
    the loss has to compute in float32 itself.

    Args:
        enabled: ``False`` changes nothing anywhere.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``network(inputs, *args, **kwargs)``.

        Args:
            inputs: input of the network; its device decides.
            network: the network.
            args: further arguments of the network.
            kwargs: the same by name.
        """
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled and inputs.device.type == "cpu"):
            return super().__call__(inputs, network, *args, **kwargs)
