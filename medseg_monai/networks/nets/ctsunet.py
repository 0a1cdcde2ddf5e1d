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

# how the authors' code names the modules of one U-Net, and how this package does
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
    """CTSU-Net: a U-Net over the whole scan at half size, and a second over patches that sees the first one's result.

    The first stage has 3,846,911 parameters and the second 9,235,367 (9,183,495 with the released widths). The second
    one's input are the scan, the first one's lobes (softmax) and border (sigmoid), upsampled to the scan.

    Where the paper is silent or its text differs from the authors' published code, the code decides, but for the two
    points that are arguments (``stage2_features``, ``similarity_norm``):

    - the embeddings of the attention have biases, and batch normalisation and ReLU follow it;
    - the geometric coordinate of stage 1 is the voxel's place on a plain grid from -0.5 to 0.5; that of stage 2 is
      ``(k (n - 67) / (m - 1) + 33.5 + start) / (padded size - 1) - 0.5`` for voxel ``k`` of a map of ``m`` and a window
      of ``n`` voxels that starts at ``start`` of the scan with its margin of 44;
    - interpolation is trilinear with ``align_corners=True`` throughout, margins are zero, and overlapping tiles (the
      last one of a row is shifted back to end with the scan) are averaged.

    Args:
        spatial_dims: number of spatial dimensions; only 3 exists.
        in_channels: channels of the scan.
        out_channels: background and lobes.
        stage1_features: widths of the first U-Net, see :class:`CUNet`.
        stage2_features: widths of the second; ``STAGE2_RELEASED_FEATURES`` fits the authors' checkpoint.
        embedding_channels: of the attention.
        recurrence: steps of the attention.
        non_local: ``False`` leaves the attention out of both stages (Table IV).
        geometric: ``False`` leaves out its geometric term (Table IV).
        similarity_norm: ``"none"`` (Eq. 3) or ``"voxel"`` (the authors' checkpoint), see
            :class:`CrissCrossAttention3d`.
        window: largest input of stage 2 when a whole scan is predicted: 92, 100, 108, …; 132 as released.
        patch_size: input of stage 2 in training; 116 in Section IV-D.
        patches: patches for each scan and training step.
        end_to_end: ``False`` keeps the gradient of stage 2 from stage 1 in training. Through an untrained stage 2 it is
            about ten times that of stage 1's own losses, and noise: short trainings do better without.
        freeze_norm: ``True`` normalises stage 2 in training by the running statistics, as prediction does. Otherwise a
            patch is normalised by itself, which differs most from the mean of all patches where it shows one lobe only;
            for fine-tuning, since at the start there are no statistics.

    Attributes:
        coverage: fraction ``K`` of the scan's patches, those with the largest error of stage 1, that training draws
            from (Section III-D); training lowers it from 1.0 to 0.2.

    Raises:
        ValueError: for ``spatial_dims`` other than 3, or an illegal ``window`` or ``patch_size``.

    Source: Xie et al., "Contextual Two-Stage U-Nets for Robust Pulmonary Lobe Segmentation in CT Scans of COVID-19 and
    COPD Patients", 2020, Section III and Table II.
    """

    #: how the authors' checkpoint was made (DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, settings.py)
    author_settings = {"similarity_norm": "voxel"}

    #: a traced form (ONNX) has the tiles of the size that it was traced with
    tiles_its_input = True

    #: what a window of stage 2 may have where memory is no issue otherwise: about 300 bytes a voxel at full width
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
            x: scan ``[B, in_channels, D, H, W]``, intensities from 0 to 1; each edge a multiple of 16 and at least 32.
            label: lobes ``[B, 1, D, H, W]``, whole values; needed in train mode, where the errors of stage 1 decide on
                the patches of stage 2.

        Returns:
            In eval mode logits ``[B, out_channels, D, H, W]`` of stage 2, tiled over the scan.

            In train mode a dictionary: ``stage1_lobes`` ``[B, out_channels, D/2, H/2, W/2]`` and ``stage1_border``
            ``[B, 1, D/2, H/2, W/2]``, ``stage2_lobes`` ``[B * patches, out_channels, o, o, o]`` and ``stage2_border``
            ``[B * patches, 1, o, o, o]`` with ``o = patch_size - 88``, all logits, and ``starts`` ``[B, patches, 3]``,
            the first voxel of each crop that stage 2 predicts.

        Raises:
            ValueError: a size that does not fit (names the size to pad to); train mode without label, or with one that
                the network does not have.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            self._check_size(x.shape[2], x.shape[3], x.shape[4])
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.predict(x)
        return self._training_outputs(x, label) if self.training else self.predict(x)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; with ``freeze_norm`` the batch norms of stage 2 stay in eval mode."""
        super().train(mode)
        if mode and self.freeze_norm:
            for module in self.stage2.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def _check_size(self, depth: int, height: int, width: int) -> None:
        if depth % 16 + height % 16 + width % 16 > 0 or min(depth, height, width) < 32:
            padded = [max(32, (edge + 15) // 16 * 16) for edge in (depth, height, width)]
            raise ValueError(
                f"CTSUNet takes sizes that are multiples of 16 and at least 32, got {depth}x{height}x{width}: "
                f"pad to {padded[0]}x{padded[1]}x{padded[2]}."
            )

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Both stages over whole scans, with tiles of at most :attr:`window`.

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
        """Stage 1 over the scan at half its size.

        Args:
            x: as in :meth:`forward`.

        Returns:
            logits of lobes ``[B, out_channels, D/2, H/2, W/2]`` and of borders ``[B, 1, D/2, H/2, W/2]``.
        """
        size = [x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2]
        half = F.interpolate(x, size=size, mode="trilinear", align_corners=True)
        centers = [_plain_grid(edge // 8, x).expand(x.shape[0], -1) for edge in size]
        lobes, border = self.stage1(half, centers)
        return lobes, border

    def context(self, x: torch.Tensor, lobes: torch.Tensor, border: torch.Tensor) -> torch.Tensor:
        """What stage 2 sees: the scan and the probabilities of stage 1, upsampled as logits.

        Args:
            x: as in :meth:`forward`.
            lobes: logits of stage 1.
            border: logits of stage 1.

        Returns:
            ``[B, in_channels + out_channels + 1, D, H, W]``.
        """
        size = [x.shape[2], x.shape[3], x.shape[4]]
        lobes = torch.softmax(F.interpolate(lobes, size=size, mode="trilinear", align_corners=True), dim=1)
        border = torch.sigmoid(F.interpolate(border, size=size, mode="trilinear", align_corners=True))
        return torch.cat([x, lobes, border], dim=1)

    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        """Stage 2 over a box of the scan, in tiles; overlapping ones are averaged.

        Args:
            context: of the whole scan, as :meth:`context` makes it.
            start: first voxel of the box.
            stop: voxel after its last.
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
                    # a tile in front of the box's end is whole; one that reaches beyond it is cut
                    z0, y0, x0 = z - start[0], y - start[1], x - start[2]
                    lobes = lobes[:, :, : edges[0] - z0, : edges[1] - y0, : edges[2] - x0]
                    z1, y1, x1 = z0 + lobes.shape[2], y0 + lobes.shape[3], x0 + lobes.shape[4]
                    total[:, :, z0:z1, y0:y1, x0:x1] += lobes
                    count[:, :, z0:z1, y0:y1, x0:x1] += 1
        return total / count

    def window_logits(
        self, context: torch.Tensor, corners: list[list[list[int]]], output: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stage 2 over windows of scans.

        Args:
            context: of whole scans, ``[B, C, D, H, W]``, as :meth:`context` makes it.
            corners: for each scan, for each of its windows, the first voxel that it predicts.
            output: edges of what a window predicts: 4, 12, 20, …

        Returns:
            logits of lobes ``[B * windows, out_channels, *output]`` and of borders ``[B * windows, 1, *output]``, the
            windows of a scan together.
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
        """Where the bridge's features of windows look; ``first`` are the voxels ``[B, 3]`` they predict first."""
        centers: list[torch.Tensor] = []
        for axis in range(3):
            voxels = (size[axis] - 60) // 8
            step = (size[axis] - 67) / (voxels - 1)
            place = torch.arange(voxels, device=context.device)[None, :] * step + 33.5 + first[:, axis : axis + 1]
            # in the padded scan a window starts at the voxel that its output starts at in the scan itself
            centers.append(place / (context.shape[2 + axis] + 2 * self.margin - 1) - 0.5)
        return centers

    def _training_outputs(self, x: torch.Tensor, label: torch.Tensor | None) -> dict[str, torch.Tensor]:
        if label is None:
            raise ValueError("CTSUNet in train mode needs the label, to choose patches by the errors of stage 1.")
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
        """A copy for prediction: the same logits to rounding and the same methods, several times faster.

        Stage 1 gets its batch norms folded and its weights laid out channels last; stage 2 becomes
        :class:`FastCUNet`, whose windows may be as large as a lung.

        Returns:
            a network in eval mode that records no gradients and does not follow later changes of this one.
        """
        return _CTSUNetInference(self)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Give the tensors of the authors' checkpoint the names of this class.

        What :meth:`author_unused` names, and only that, is left out.

        Args:
            state: tensors under the names of the authors' two-stage network, all of them or some.

        Returns:
            the tensors under this class's names, in the same order.

        Raises:
            ValueError: if the authors' network has no module of some key's name; names the first such keys.

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
        """Tell why a tensor of the authors' checkpoint has no place here.

        Args:
            key: its name there.

        Returns:
            the reason for the three group norms of each non-local module; ``None`` for any other name.
        """
        return "a group norm that the authors' forward pass never uses" if _AUTHOR_UNUSED.fullmatch(key) else None

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Tell from a state dict of this class the constructor arguments that it needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, features and the kind of attention, each only if the tensors that tell it are there.
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


class _CTSUNetInference(CTSUNet):
    """What :meth:`CTSUNet.fast_form` gives."""

    #: about 100 bytes of memory a voxel at full width
    max_window_voxels = 30_000_000

    def __init__(self, network: CTSUNet) -> None:
        nn.Module.__init__(self)
        stage1 = fold_batch_norms(network.stage1)
        self.stage1 = stage1.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # the stub lacks it
        self.stage2 = FastCUNet(network.stage2)  # type: ignore[assignment]  # only this class calls it
        self.out_channels, self.margin, self.window = network.out_channels, network.margin, network.window
        self.coverage = network.coverage  # a training's handlers name it, although they never run with this form
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode.

        Raises:
            RuntimeError: for ``mode=True``.
        """
        if mode:
            raise RuntimeError("A network's inference form cannot be trained: train the one it was made from.")
        return super().train(False)

    @torch.no_grad()
    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        """As :meth:`CTSUNet.second_stage`; no tile's logits exist beside the sum."""
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
        """As :meth:`CTSUNet.window_logits`, one window at a time."""
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
    """How many tiles along an axis cover each voxel."""
    count = torch.zeros(stop - start)
    for first in starts:
        count[first - start : first - start + tile] += 1
    return count


def _plain_grid(voxels: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(voxels, device=like.device)[None, :] / (voxels - 1) - 0.5
