"""CTSU-Net, the contextual two-stage U-Net for pulmonary lobes in chest CT."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from medseg_monai.networks.blocks.cunet import CUNet
from medseg_monai.networks.blocks.hard_patches import hard_patches, squared_error
from medseg_monai.networks.blocks.input_size import check_size
from medseg_monai.networks.blocks.valid_windows import (
    MARGIN,
    check_window,
    crop_zero_padded,
    legal_output,
    tile_starts,
)
from medseg_monai.networks.fast.cunet import FastCUNet, fold_batch_norms
from medseg_monai.networks.weights.state_dict import kernel_sizes, rename_tensors

__all__ = ["STAGE1_FEATURES", "STAGE2_FEATURES", "STAGE2_RELEASED_FEATURES", "CTSUNet"]

STAGE1_FEATURES = (16, 24, 24, 48, 64, 128, 128, 256, 128, 128, 48, 48, 24, 24)
"""Widths of CU-Net I (Table II)."""

STAGE2_FEATURES = (24, 48, 48, 96, 96, 192, 192, 384, 192, 192, 96, 96, 48, 48)
"""Widths of CU-Net II (Table II)."""

STAGE2_RELEASED_FEATURES = (24, 32, 48, 96, 96, 192, 192, 384, 192, 192, 96, 96, 48, 48)
"""Widths of CU-Net II in the authors' published settings and checkpoint."""

# the authors' names of the modules of one U-Net, and the names in this package
_AUTHOR_BLOCKS = {
    "ds_modules.0.conv_blocks.": "down1.",
    "ds_modules.1.conv_blocks.": "down2.",
    "ds_modules.2.conv_blocks.": "down3.",
    "bg.conv_blocks.": "bridge.",
    "us_modules.0.conv_blocks.": "up1.",
    "us_modules.1.conv_blocks.": "up2.",
    "us_modules.2.conv_blocks.": "up3.",
    "outs.0.": "lobes.",
    "outs.1.": "border.",
    "middle_psa.G.": "attention.g.",
    "middle_psa.theta.": "attention.theta.",
    "middle_psa.phi.": "attention.phi.",
    "middle_psa.r.0.": "attention.r.",
    "middle_psa.geo_theta.": "attention.omega.",
    "middle_psa.geo_phi.": "attention.rho.",
    "middle_psa.bn.": "attention.norm.",
}
_AUTHOR_STAGES = {"unet1.": "stage1.", "unet2.": "stage2."}
# a module that is none of these layers of a block keeps the rest of its name
_AUTHOR_LAYERS = {"0.0.": "0.conv.", "0.1.": "0.adn.N.", "1.0.": "1.conv.", "1.1.": "1.adn.N.", "": ""}
_AUTHOR_PREFIXES = {
    stage + block + layer: own_stage + own_block + own_layer
    for stage, own_stage in _AUTHOR_STAGES.items()
    for block, own_block in _AUTHOR_BLOCKS.items()
    for layer, own_layer in _AUTHOR_LAYERS.items()
}
_AUTHOR_UNUSED = re.compile(r"unet[12]\.middle_psa\.bns\.[012]\.(weight|bias)")
_BLOCKS = ("down1", "down2", "down3", "bridge", "up1", "up2", "up3")
_TELLING = {
    "in_channels": ("stage1.down1.0.conv.weight", 1),
    "out_channels": ("stage1.lobes.weight", 0),
    "embedding_channels": ("stage1.attention.theta.weight", 0),
}
_POINTWISE = ("attention.g.weight", "attention.theta.weight", "attention.phi.weight", "attention.r.weight")


class CTSUNet(nn.Module):
    """CTSU-Net: a U-Net sees the whole scan at half size; a second one sees patches together with the first's result.

    The first stage has 3,846,911 parameters and the second has 9,235,367 (9,183,495 with the released widths). The
    second stage takes the scan together with the first stage's lobes (softmax) and border (sigmoid), upsampled to the
    size of the scan.

    Where the paper is silent or its text differs from the authors' published code, the code decides, except on the two
    points that are arguments (``stage2_features``, ``similarity_norm``):

    - the embeddings of the attention have biases, and batch normalisation and ReLU follow the attention;
    - the geometric coordinate of stage 1 is the voxel's place on a plain grid from -0.5 to 0.5. In stage 2 it is
      ``(k (n - 67) / (m - 1) + 33.5 + start) / (padded size - 1) - 0.5`` for voxel ``k`` of a map of ``m`` voxels and a
      window of ``n`` voxels that starts at ``start`` of the scan padded by the margin of 44;
    - interpolation is trilinear with ``align_corners=True`` throughout, margins are zero, and overlapping tiles are
      averaged (the last tile of a row is shifted back to end with the scan).

    Args:
        spatial_dims: number of spatial dimensions; must be 3.
        in_channels: channels of the scan.
        out_channels: number of classes: the background and the lobes.
        stage1_features: widths of the first U-Net, see :class:`CUNet`.
        stage2_features: widths of the second; ``STAGE2_RELEASED_FEATURES`` fits the authors' checkpoint.
        embedding_channels: channels of the embeddings of the attention.
        recurrence: steps of the attention.
        non_local: ``False`` leaves the attention out of both stages (Table IV).
        geometric: ``False`` leaves out its geometric term (Table IV).
        similarity_norm: ``"none"`` (Eq. 3) or ``"voxel"`` (the authors' checkpoint), see
            :class:`CrissCrossAttention3d`.
        window: largest input edge of stage 2 when a whole scan is predicted: 92, 100, 108, …; 132 as released.
        patch_size: input edge of stage 2 in training; 116 in Section IV-D.
        patches: number of patches for each scan and training step.
        end_to_end: ``False`` keeps the gradient of stage 2 from stage 1 in training. Through an untrained stage 2 that
            gradient is noise, about ten times as large as the gradient of stage 1's own losses, so short trainings do
            better without it.
        freeze_norm: ``True`` normalises stage 2 in training by the running statistics, as prediction does. Otherwise
            each patch is normalised by its own statistics, which differ most from the mean of all patches where a patch
            shows only one lobe. This is for fine-tuning, since there are no statistics at the start of a training.

    Attributes:
        coverage: fraction ``K`` of the scan's patches that training draws from, the ones with the largest error of
            stage 1 (Section III-D); training lowers it from 1.0 to 0.2.

    Raises:
        ValueError: ``spatial_dims`` is not 3, or ``window`` or ``patch_size`` is not legal.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets import CTSUNet
        >>> widths = {"stage1_features": [2] * 14, "stage2_features": [2] * 14, "embedding_channels": 2}
        >>> network = CTSUNet(in_channels=1, out_channels=6, **widths).eval()
        >>> scan = torch.zeros(1, 1, 32, 48, 32)
        >>> [tuple(logits.shape) for logits in network.first_stage(scan)]  # lobes and border at half the size
        [(1, 6, 16, 24, 16), (1, 1, 16, 24, 16)]
        >>> network.fast_form()(scan).shape  # both stages; network(scan) is the same, but slower
        torch.Size([1, 6, 32, 48, 32])

    Source: Xie et al., "Contextual Two-Stage U-Nets for Robust Pulmonary Lobe Segmentation in CT Scans of COVID-19 and
    COPD Patients", 2020, Section III and Table II.
    """

    #: how the authors' checkpoint was made (DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, settings.py)
    author_settings = {"similarity_norm": "voxel", "window": 132}

    #: a traced form (ONNX) keeps the tiles of the size that it was traced with
    tiles_its_input = True

    #: largest number of voxels in a window of stage 2; a voxel takes about 300 bytes of memory at full width
    max_window_voxels = 8_000_000

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 6,
        stage1_features: Sequence[int] = STAGE1_FEATURES,
        stage2_features: Sequence[int] = STAGE2_FEATURES,
        embedding_channels: int = 32,
        recurrence: int = 3,
        non_local: bool = True,
        geometric: bool = True,
        similarity_norm: str = "none",
        window: int = 132,
        patch_size: int = 116,
        patches: int = 2,
        end_to_end: bool = True,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"CTSUNet is a 3D network: spatial_dims must be 3, got {spatial_dims}.")
        for size in (window, patch_size):
            check_window(size)
        attention: dict[str, Any] = {
            "embedding_channels": embedding_channels,
            "recurrence": recurrence,
            "non_local": non_local,
            "geometric": geometric,
            "similarity_norm": similarity_norm,
        }
        self.stage1 = CUNet(in_channels, out_channels, stage1_features, padded=True, **attention)
        self.stage2 = CUNet(in_channels + out_channels + 1, out_channels, stage2_features, padded=False, **attention)
        self.out_channels = out_channels
        self.margin = MARGIN
        self.window = window
        self.patch_size = patch_size
        self.patches = patches
        self.end_to_end = end_to_end
        self.freeze_norm = freeze_norm
        self.coverage = 1.0

    def forward(self, x: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor | dict[str, torch.Tensor]:
        """Predict a whole scan; in train mode, compute what the four loss terms need.

        Args:
            x: scan ``[B, in_channels, D, H, W]`` with intensities from 0 to 1; each edge must be a multiple of 16 and
                at least 32.
            label: lobes ``[B, 1, D, H, W]``, whole values. Train mode needs it, since the errors of stage 1 decide
                which patches stage 2 sees.

        Returns:
            In eval mode the logits ``[B, out_channels, D, H, W]`` of stage 2, tiled over the scan.

            In train mode a dictionary: ``stage1_lobes`` ``[B, out_channels, D/2, H/2, W/2]`` and ``stage1_border``
            ``[B, 1, D/2, H/2, W/2]``, ``stage2_lobes`` ``[B * patches, out_channels, o, o, o]`` and ``stage2_border``
            ``[B * patches, 1, o, o, o]`` with ``o = patch_size - 88``, all of them logits, and ``starts``
            ``[B, patches, 3]``, the first voxel of each crop that stage 2 predicts.

        Raises:
            ValueError: the size does not fit (the message names the size to pad to), or train mode gets no label or one
                with classes that the network does not have.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            check_size(list(x.shape[2:]), 16, "CTSUNet", smallest=32, remedy="pad")
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.predict(x)
        return self._training_outputs(x, label) if self.training else self.predict(x)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; with ``freeze_norm`` the batch norms of stage 2 always stay in eval mode."""
        super().train(mode)
        if mode and self.freeze_norm:
            for module in self.stage2.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Run both stages over whole scans, with tiles of at most :attr:`window`.

        Args:
            x: as in :meth:`forward`.

        Returns:
            logits ``[B, out_channels, D, H, W]``.
        """
        lobes, border = self.first_stage(x)
        context = self.context(x, lobes, border)
        output = self.window - 2 * self.margin
        return self.second_stage(context, [0, 0, 0], [x.shape[2], x.shape[3], x.shape[4]], [output, output, output])

    def first_stage(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run stage 1 over the scan at half its size.

        Args:
            x: as in :meth:`forward`.

        Returns:
            logits of the lobes ``[B, out_channels, D/2, H/2, W/2]`` and of the borders ``[B, 1, D/2, H/2, W/2]``.
        """
        size = [x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2]
        half = F.interpolate(x, size=size, mode="trilinear", align_corners=True)
        centers = [_plain_grid(edge // 8, x).expand(x.shape[0], -1) for edge in size]
        lobes, border = self.stage1(half, centers)
        return lobes, border

    def context(self, x: torch.Tensor, lobes: torch.Tensor, border: torch.Tensor) -> torch.Tensor:
        """Build the input of stage 2: the scan and the probabilities of stage 1, which are upsampled as logits.

        Args:
            x: as in :meth:`forward`.
            lobes: logits of the lobes, from stage 1.
            border: logits of the border, from stage 1.

        Returns:
            ``[B, in_channels + out_channels + 1, D, H, W]``.
        """
        size = [x.shape[2], x.shape[3], x.shape[4]]
        lobes = torch.softmax(F.interpolate(lobes, size=size, mode="trilinear", align_corners=True), dim=1)
        border = torch.sigmoid(F.interpolate(border, size=size, mode="trilinear", align_corners=True))
        return torch.cat([x, lobes, border], dim=1)

    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        """Run stage 2 over a box of the scan, in tiles; overlapping tiles are averaged.

        Args:
            context: input of stage 2 for the whole scan, as :meth:`context` makes it.
            start: first voxel of the box.
            stop: voxel after the last one of the box.
            output: largest edges of a tile's output: 4, 12, 20, …

        Returns:
            logits ``[B, out_channels, *box]``.
        """
        edges = [stop[axis] - start[axis] for axis in range(3)]
        tile = [min(output[axis], legal_output(edges[axis])) for axis in range(3)]
        total = torch.zeros([context.shape[0], self.out_channels] + edges, dtype=context.dtype, device=context.device)  # noqa: RUF005 - TorchScript
        count = torch.zeros([1, 1] + edges, dtype=context.dtype, device=context.device)  # noqa: RUF005
        for z in tile_starts(start[0], stop[0], tile[0]):
            for y in tile_starts(start[1], stop[1], tile[1]):
                for x in tile_starts(start[2], stop[2], tile[2]):
                    lobes, _ = self.window_logits(context, [[[z, y, x]]] * context.shape[0], tile)
                    # a tile that reaches beyond the end of the box is cut off there
                    z0, y0, x0 = z - start[0], y - start[1], x - start[2]
                    lobes = lobes[:, :, : edges[0] - z0, : edges[1] - y0, : edges[2] - x0]
                    z1, y1, x1 = z0 + lobes.shape[2], y0 + lobes.shape[3], x0 + lobes.shape[4]
                    total[:, :, z0:z1, y0:y1, x0:x1] += lobes
                    count[:, :, z0:z1, y0:y1, x0:x1] += 1
        return total / count

    def window_logits(
        self, context: torch.Tensor, corners: list[list[list[int]]], output: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run stage 2 over windows of scans.

        Args:
            context: input of stage 2 for whole scans, ``[B, C, D, H, W]``, as :meth:`context` makes it.
            corners: for each scan and each of its windows, the first voxel that the window predicts.
            output: edges of a window's prediction: 4, 12, 20, …

        Returns:
            logits of the lobes ``[B * windows, out_channels, *output]`` and of the borders
            ``[B * windows, 1, *output]``; the windows of one scan follow each other.
        """
        size = [edge + 2 * self.margin for edge in output]
        crops: list[torch.Tensor] = []
        firsts: list[list[float]] = []
        for scan, windows in enumerate(corners):
            for corner in windows:
                start = [corner[0] - self.margin, corner[1] - self.margin, corner[2] - self.margin]
                crops.append(crop_zero_padded(context[scan : scan + 1], start, size))
                firsts.append([float(corner[0]), float(corner[1]), float(corner[2])])
        first = torch.tensor(firsts, dtype=context.dtype, device=context.device)
        lobes, border = self.stage2(torch.cat(crops), self._window_centers(context, first, size))
        return lobes, border

    def _window_centers(self, context: torch.Tensor, first: torch.Tensor, size: list[int]) -> list[torch.Tensor]:
        """Compute where in the scan the bridge's features look; ``first`` ``[B, 3]`` are the first voxels predicted."""
        centers: list[torch.Tensor] = []
        for axis in range(3):
            voxels = (size[axis] - 60) // 8
            step = (size[axis] - 67) / (voxels - 1)
            place = torch.arange(voxels, device=context.device)[None, :] * step + 33.5 + first[:, axis : axis + 1]
            # a window starts at the same index in the padded scan as its output does in the scan itself
            centers.append(place / (context.shape[2 + axis] + 2 * self.margin - 1) - 0.5)
        return centers

    def _training_outputs(self, x: torch.Tensor, label: torch.Tensor | None) -> dict[str, torch.Tensor]:
        if label is None:
            raise ValueError("CTSUNet in train mode needs the label to choose patches by the errors of stage 1.")
        if float(label.max()) >= self.out_channels or float(label.min()) < 0:
            raise ValueError(
                f"label has values {float(label.min()):g} to {float(label.max()):g}; "
                f"the network has 0 to {self.out_channels - 1}."
            )
        lobes, border = self.first_stage(x)
        context = self.context(x, lobes, border)
        if not self.end_to_end:
            context = context.detach()
        size = self.patch_size - 2 * self.margin
        with torch.no_grad():
            error = squared_error(context[:, -1 - self.out_channels : -1], label)
            starts = hard_patches(error, size, coverage=self.coverage, count=self.patches)
        patch_lobes, patch_border = self.window_logits(context, starts.tolist(), [size] * 3)
        return {
            "stage1_lobes": lobes,
            "stage1_border": border,
            "stage2_lobes": patch_lobes,
            "stage2_border": patch_border,
            "starts": starts,
        }

    def fast_form(self) -> CTSUNet:
        """Make the network's fast form for prediction: same methods, same logits up to rounding, several times faster.

        In stage 1 the batch norms are folded and the weights are laid out channels last; stage 2 becomes a
        :class:`FastCUNet`, whose windows may be as large as a lung.

        Returns:
            a copy in eval mode, which records no gradients and does not follow later changes of this network.

        Example:
            >>> network = CTSUNet(stage1_features=[2] * 14, stage2_features=[2] * 14, embedding_channels=2)
            >>> fast = network.fast_form()
            >>> fast.training, fast.max_window_voxels > network.max_window_voxels
            (False, True)
        """
        return _FastCTSUNet(self)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the tensors of the authors' checkpoint to the names of this class.

        The tensors that :meth:`author_unused` names, and no others, are left out.

        Args:
            state: tensors under the names of the authors' two-stage network, all of them or some.

        Returns:
            the tensors under this class's names, in the same order.

        Raises:
            ValueError: a key names no module of the authors' network; the message lists the first such keys.

        Example:
            >>> import torch
            >>> list(CTSUNet.convert_author_state({"unet1.outs.0.bias": torch.zeros(6)}))
            ['stage1.lobes.bias']

        Source: DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, models.py.
        """
        used = {key: tensor for key, tensor in state.items() if CTSUNet.author_unused(key) is None}
        converted = rename_tensors(used, _AUTHOR_PREFIXES, network="CTSU-Net")
        return {
            name: tensor[..., None, None, None] if name.endswith(_POINTWISE) else tensor
            for name, tensor in converted.items()
        }

    @staticmethod
    def author_unused(key: str) -> str | None:
        """Explain why a tensor of the authors' checkpoint has no place here.

        Args:
            key: name of the tensor in the checkpoint.

        Returns:
            the reason for the three group norms of each non-local module, or ``None`` for any other name.

        Example:
            >>> CTSUNet.author_unused("unet1.middle_psa.bns.0.weight")
            "a group norm that the authors' forward pass never uses"
        """
        return "a group norm that the authors' forward pass never uses" if _AUTHOR_UNUSED.fullmatch(key) else None

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Infer the constructor arguments that a state dict of this class needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, features and the kind of attention, each only if the tensors that it is read from are there.

        Example:
            >>> import torch
            >>> CTSUNet.infer_arguments({"stage1.lobes.weight": torch.zeros(6, 24, 1, 1, 1)})
            {'out_channels': 6, 'non_local': False, 'geometric': False}
        """
        arguments: dict[str, Any] = {}
        for stage in ("stage1", "stage2"):
            keys = [f"{stage}.{block}.{layer}.conv.weight" for block in _BLOCKS for layer in (0, 1)]
            if all(key in state for key in keys):
                arguments[f"{stage}_features"] = [state[key].shape[0] for key in keys]
        arguments |= kernel_sizes(state, _TELLING, dims=5)
        if arguments:
            arguments["non_local"] = any(key.startswith("stage1.attention.") for key in state)
            arguments["geometric"] = any(
                key.startswith(("stage1.attention.omega.", "stage1.attention.rho.")) for key in state
            )
        return arguments


class _FastCTSUNet(CTSUNet):
    """The form that :meth:`CTSUNet.fast_form` returns."""

    #: a voxel takes about 100 bytes of memory at full width
    max_window_voxels = 30_000_000

    def __init__(self, network: CTSUNet) -> None:
        nn.Module.__init__(self)
        stage1 = fold_batch_norms(network.stage1)
        self.stage1 = stage1.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # the stub lacks it
        self.stage2 = FastCUNet(network.stage2)  # type: ignore[assignment]  # only this class calls it
        self.out_channels, self.margin, self.window = network.out_channels, network.margin, network.window
        self.coverage = network.coverage  # handlers of a training name it, although they never run with this form
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode.

        Raises:
            RuntimeError: ``mode`` is ``True``.
        """
        if mode:
            raise RuntimeError("The fast form of a network cannot be trained: train the network it was made from.")
        return super().train(False)

    @torch.no_grad()
    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        """Do the same as :meth:`CTSUNet.second_stage`, without a copy of each tile's logits beside the sum."""
        edges = [stop[axis] - start[axis] for axis in range(3)]
        tile = [min(output[axis], legal_output(edges[axis])) for axis in range(3)]
        starts = [tile_starts(start[axis], stop[axis], tile[axis]) for axis in range(3)]
        total = context.new_zeros((context.shape[0], self.out_channels, *edges))
        for scan, sums in enumerate(total):
            for corner in itertools.product(*starts):
                z, y, x = (corner[axis] - start[axis] for axis in range(3))
                for rows in self._window(context[scan : scan + 1], list(corner), tile):
                    part = rows[: edges[0] - z, : self.out_channels, : edges[1] - y, : edges[2] - x].transpose(0, 1)
                    place = sums[:, z : z + part.shape[1], y : y + part.shape[2], x : x + part.shape[3]]
                    place += part
                    z += part.shape[1]
        for axis in range(3):
            total /= _cover(starts[axis], tile[axis], start[axis], stop[axis]).to(total).view([-1] + [1] * (2 - axis))
        return total

    @torch.no_grad()
    def window_logits(
        self, context: torch.Tensor, corners: list[list[list[int]]], output: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do the same as :meth:`CTSUNet.window_logits`, one window at a time."""
        windows = [
            torch.cat(list(self._window(context[scan : scan + 1], corner, output))).transpose(0, 1)
            for scan, places in enumerate(corners)
            for corner in places
        ]
        logits = torch.stack(windows).contiguous()
        return logits[:, : self.out_channels], logits[:, self.out_channels :]

    def _window(self, context: torch.Tensor, corner: list[int], output: list[int]) -> Iterator[torch.Tensor]:
        size = [edge + 2 * self.margin for edge in output]
        first = torch.tensor([corner], dtype=context.dtype, device=context.device)
        centers = self._window_centers(context, first, size)
        windows: FastCUNet = self.stage2  # type: ignore[assignment]  # see the constructor
        return windows(context, [place - self.margin for place in corner], size, centers)


def _cover(starts: list[int], tile: int, start: int, stop: int) -> torch.Tensor:
    """Count the tiles along an axis that cover each voxel."""
    count = torch.zeros(stop - start)
    for first in starts:
        count[first - start : first - start + tile] += 1
    return count


def _plain_grid(voxels: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(voxels, device=like.device)[None, :] / (voxels - 1) - 0.5
