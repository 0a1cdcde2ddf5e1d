"""Networks that find structures by nothing but their brightness, to stand for a bundle's own.

A bundle's own network is no judge of where its masks lie: an untrained one knows nothing. A stand-in finds a drawn
structure to the pixel, so that whatever turns, mirrors or shifts a mask on its way through the bundle shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional

from medseg_monai.bundle import merged_config, read_metadata
from medseg_monai.networks.nets import CTSUNet

__all__ = ["SETTINGS", "BrightInTwoStages", "BrightIsForeground", "DarkIsForeground", "save_stand_in"]


class BrightIsForeground(nn.Module):
    """One weight for each label: a pixel is of the label whose brightness is nearest to its own.

    The background is at 0 and the last label at 1; where no channel stands for the background, what is brighter than
    0.5 is foreground. It takes the arguments of whatever network it stands for.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels, whose mean is the brightness.
        out_channels: 1, or the background and the labels.
        low: value of brightness 0 in the network's input.
        high: value of brightness 1.
        others: what other networks take.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        low: float = 0.0,
        high: float = 1.0,
        **others: object,
    ) -> None:
        super().__init__()
        levels = torch.linspace(0, 1, out_channels) if out_channels > 1 else torch.ones(1)
        scale = high - low
        self.classify = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1)
        with torch.no_grad():  # what is left of -(x - level)^2 when x^2, which all labels share, is left out
            weight = 2 * levels / (scale * in_channels)
            self.classify.weight.copy_(weight.view(-1, 1, *[1] * spatial_dims).expand_as(self.classify.weight))
            self.classify.bias.copy_(-2 * levels * low / scale - levels**2)
            for parameter in self.classify.parameters():
                parameter.mul_(100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(x)


class DarkIsForeground(BrightIsForeground):
    """:class:`BrightIsForeground` for a network that finds what is dark between the structures that a bundle writes."""

    def __init__(self, *channels: int, low: float = 0.0, high: float = 1.0, **others: Any) -> None:
        super().__init__(*channels, low=high, high=low, **others)


class BrightInTwoStages(CTSUNet):
    """A CTSU-Net by its type alone, as its inferer asks for: both stages are :class:`BrightIsForeground`.

    Where a bright label ends, interpolation passes through the brightness of all darker ones. So a voxel has the label
    of what is brightest near it, if it is at least half as bright.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, **others: Any) -> None:
        nn.Module.__init__(self)
        self.bright = BrightIsForeground(spatial_dims, in_channels, out_channels, **others)

    def first_stage(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lobes = self.bright(functional.interpolate(x, scale_factor=0.5, mode="trilinear", align_corners=True))
        return lobes, torch.zeros_like(lobes[:, :1])

    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        scan = context[:, :1]
        brightest = functional.max_pool3d(scan, kernel_size=5, stride=1, padding=2)
        z, y, x = (slice(first, last) for first, last in zip(start, stop, strict=True))
        return self.bright(torch.where(scan > brightest / 2, brightest, 0))[:, :, z, y, x]

    def fast_form(self) -> BrightInTwoStages:
        return self


#: a bundle whose inferer asks for more than a network that maps an image to its logits, or whose network finds what its
#: masks leave out
STAND_INS: dict[str, type[nn.Module]] = {
    "lung_lobe_ct_ctsunet": BrightInTwoStages,
    "cell_contour_em_cenet": DarkIsForeground,
}

#: Settings of the weights, of which each bundle reads its own. The window is that of the volumes drawn here, the crop
#: and the grid of a scan are other than theirs and small. Equalised, the noise of a JPEG is as bright as a structure.
SETTINGS = {
    "hu_min": -1000,
    "hu_max": 600,
    "image_size": [192, 208],
    "in_plane_size": 64,
    "crop_size": [280, 300],
    "equalize": False,
    "organ": "liver",
    "out_channels": 2,
}


def save_stand_in(bundle: Path, path: Path) -> str:
    """Save the weights of a bundle's stand-in.

    Args:
        bundle: folder of the bundle.
        path: file to write, as ``medseg train`` writes it.

    Returns:
        its class, as a config names it.
    """
    definition = merged_config(bundle, ["inference"])["network_def"]
    low, high = read_metadata(bundle)["network_data_format"]["inputs"]["image"]["value_range"]
    kind = STAND_INS.get(bundle.name, BrightIsForeground)
    kept = merged_config(bundle, ["train"])["settings"]
    settings = {key: value for key, value in SETTINGS.items() if key in kept}
    numbers = {key: settings.get(key, definition[key]) for key in ("spatial_dims", "in_channels", "out_channels")}
    torch.save({"model": kind(**numbers, low=low, high=high).state_dict(), "settings": settings}, path)
    return f"{kind.__module__}.{kind.__name__}"
