"""Inference of a volume slice by slice, each slice by an inferer of images; a single image by that inferer itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer, SliceInferer

__all__ = ["SliceBySliceInferer"]


class SliceBySliceInferer(SliceInferer):
    """Predict the slices of a volume one batch after the other, with any inferer of 2D images.

    MONAI's :class:`monai.inferers.SliceInferer` gives each slice to the network itself. Here an inferer stands between
    them, such as :class:`medseg_monai.inferers.FlipTTAInferer`: every slice gets its views, and only the maps of one
    batch of slices are in memory beside the prediction. (The other way round, views of the whole volume, would need
    copies of the volume, and the diagonal flip another ``roi_size``.)

    Args:
        roi_size: rows and columns of the network's input.
        inferer: inferer of a batch of slices ``[B, C, H, W]``; ``None`` takes :class:`monai.inferers.SimpleInferer`.
        spatial_dim: axis that counts the slices.
        sw_batch_size: slices at a time.
        channels: number of equal channels in which the network is shown a grey volume, which is not copied for that as
            a whole; ``None`` leaves the channels as they are.

    Example:
        >>> import torch
        >>> from medseg_monai.inferers import FlipTTAInferer, SliceBySliceInferer
        >>> network = torch.nn.Conv2d(3, 1, kernel_size=3, padding=1).eval()
        >>> infer = SliceBySliceInferer((6, 8), FlipTTAInferer(activation="sigmoid"), sw_batch_size=2, channels=3)
        >>> infer(torch.rand(1, 1, 5, 6, 8), network).shape, infer(torch.rand(1, 1, 6, 8), network).shape
        (torch.Size([1, 1, 5, 6, 8]), torch.Size([1, 1, 6, 8]))
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        inferer: Inferer | None = None,
        *,
        spatial_dim: int = 0,
        sw_batch_size: int = 1,
        channels: int | None = None,
    ) -> None:
        super().__init__(spatial_dim, roi_size=roi_size, sw_batch_size=sw_batch_size, overlap=0)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.channels = channels

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Predict every slice.

        Args:
            inputs: batch of volumes ``[B, C, *spatial]`` or of images ``[B, C, H, W]``; of one channel if ``channels``
                is set.
            network: a network of images, or whatever the inferer of slices takes for one.
            args: further arguments of the inferer of slices.
            kwargs: further keyword arguments of it.

        Returns:
            the prediction ``[B, C_out, *spatial]``.
        """

        def predict(slices: torch.Tensor) -> torch.Tensor:
            shown = slices if self.channels is None else slices.expand(-1, self.channels, -1, -1)
            prediction: torch.Tensor = self.inferer(shown, network, *args, **kwargs)
            return prediction

        if inputs.ndim == 4:
            return predict(inputs)
        return super().__call__(inputs, predict)
