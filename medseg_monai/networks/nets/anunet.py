"""ANU-Net, the attention-based nested U-Net, with deep supervision and pruning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from monai.networks.nets.basic_unet import TwoConv
from monai.networks.utils import eval_mode
from torch import nn

from medseg_monai.networks.blocks.attention_gate import AttentionGate
from medseg_monai.networks.weights.state_dict import kernel_sizes, rename_tensors

__all__ = ["ANUNet", "ANUNetNode"]

_AUTHOR_DEPTH = 4


def _author_layers() -> Iterator[tuple[str, str]]:
    """How the authors' code (lichen14/Attention-unet-plusplus, new_archs.py) names each layer, and how this file does.

    The authors name nodes and gates by level and column as the paper does, an up-convolution by the level that it comes
    from, counted from 1, and a head by its column.
    """
    for level in range(_AUTHOR_DEPTH):
        yield f"Up{level + 2}.up.0", f"ups.{level}.conv"
        yield f"Up{level + 2}.up.1", f"ups.{level}.adn.N"
        yield f"final{level + 1}.0", f"heads.{level}"
    for level in range(_AUTHOR_DEPTH + 1):
        for column in range(_AUTHOR_DEPTH + 1 - level):
            ours = f"columns.{column - 1}.{level}"
            convs = f"{ours}.merge" if column > 0 else f"encoder.{level}"
            for number in range(2):
                yield f"conv{level}_{column}.conv{number + 1}", f"{convs}.conv_{number}.conv"
                yield f"conv{level}_{column}.bn{number + 1}", f"{convs}.conv_{number}.adn.N"
            for part in ("W_g", "W_x", "psi") if column > 0 else ():
                yield f"Att{level}_{column}.{part}.0", f"{ours}.gates.0.{part}.0.conv"
                yield f"Att{level}_{column}.{part}.1", f"{ours}.gates.0.{part}.1"


_AUTHOR_PREFIXES = {f"{theirs}.": f"{ours}." for theirs, ours in _author_layers()}


def _two_conv(spatial_dims: int, in_channels: int, out_channels: int) -> TwoConv:
    """3x3 convolution, batch normalisation and ReLU, twice."""
    return TwoConv(spatial_dims, in_channels, out_channels, act=("relu", {"inplace": True}), norm="batch", bias=True)


def _up_conv(spatial_dims: int, in_channels: int, out_channels: int) -> Convolution:
    """2x2 transposed convolution of stride 2, batch normalisation and ReLU."""
    return Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        strides=2,
        kernel_size=2,
        act=("relu", {"inplace": True}),
        norm="batch",
        is_transposed=True,
        padding=0,
        output_padding=0,
    )


class ANUNetNode(nn.Module):
    """Node ``X_{i,j}`` of the nested part, ``j > 0``: gates the latest of its row, concatenates and convolves.

    The order of the concatenation is ``[gated, upsampled, ungated]``, each part from the oldest on.

    Args:
        spatial_dims: number of spatial dimensions.
        channels: channels of every input and of the output.
        gate_channels: channels in which the gates compare.
        predecessors: number of nodes before it in its row, ``j``.
        gates: how many of these are gated, the latest ones.

    Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.3, Eq. 4 and Fig. 5.
    """

    def __init__(self, spatial_dims: int, channels: int, gate_channels: int, predecessors: int, gates: int) -> None:
        super().__init__()
        self.ungated = predecessors - gates
        self.gates = nn.ModuleList(
            AttentionGate(spatial_dims, f_int=gate_channels, f_g=channels, f_l=channels) for _ in range(gates)
        )
        self.merge = _two_conv(spatial_dims, (predecessors + 1) * channels, channels)

    def coefficients(self, upsampled: torch.Tensor, row: list[torch.Tensor]) -> torch.Tensor:
        """What :meth:`forward`'s gates let through, ``[B, gates, *spatial]``."""
        gates = [cast(AttentionGate, gate) for gate in self.gates]
        return torch.cat([gate.coefficients(upsampled, row[self.ungated + k]) for k, gate in enumerate(gates)], dim=1)

    def forward(self, upsampled: torch.Tensor, row: list[torch.Tensor]) -> torch.Tensor:
        """Compute the node.

        Args:
            upsampled: ``Up(X_{i+1,j-1})``, ``[B, channels, *spatial]``.
            row: ``X_{i,0}`` to ``X_{i,j-1}``, each of the same shape.

        Returns:
            ``X_{i,j}``, of the same shape.
        """
        parts: list[torch.Tensor] = []
        for k, gate in enumerate(self.gates):
            parts.append(gate(upsampled, row[self.ungated + k]))
        parts.append(upsampled)
        parts.extend(row[: self.ungated])
        return self.merge(torch.cat(parts, dim=1))


class ANUNet(nn.Module):
    """ANU-Net: a U-Net++ whose skip connections pass attention gates, supervised at every depth.

    Node ``X_{i,j}`` lies at level ``i`` (resolution halved ``i`` times) and column ``j``. Column 0 is the encoder; node
    ``X_{i,j}`` merges ``X_{i,0}`` to ``X_{i,j-1}`` and the upsampled ``X_{i+1,j-1}``. Each ``X_{0,l}`` has a head, and
    head ``l`` needs no node beyond ``i + j = l``: so the network can be cut off there (:meth:`pruned`). The defaults
    have 8,950,594 parameters, and 2,191,829, 513,387 and 103,812 after pruning to level 3, 2 and 1 (Table 6).

    Where the paper is silent or differs from the authors' published code, the code decides, whose counts Table 6 has:

    - a node gates ``X_{i,j-1}`` alone and concatenates the older ones as they are; ``gate_all`` follows Eq. 4;
    - upsampling is a 2x2 transposed convolution of stride 2 with batch normalisation and ReLU, and all columns share
      that of a level. So its running statistics are of all columns together;
    - a gate compares in as many channels as the next finer level has, at the finest one in as many as that has itself.

    The network returns logits; the authors' sigmoid belongs to the loss and to the postprocessing.

    Args:
        spatial_dims: 2, as in the paper, or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels of the levels from the finest to the coarsest; one more than the network has heads.
        gate_all: every older node of the row passes a gate of its own (8,994,048 parameters).
        supervision_level: head whose logits eval mode gives, from 1; ``None`` takes the deepest. Only the nodes that
            it needs are computed.

    Raises:
        ValueError: other ``spatial_dims``, fewer than two ``features``, or no head of that level.

    Source: Li et al., "ANU-Net: Attention-based nested U-Net to exploit full resolution features for medical image
    segmentation", Computers & Graphics 90, 2020, Section 3 and Fig. 4 to 7; lichen14/Attention-unet-plusplus.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        gate_all: bool = False,
        supervision_level: int | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"ANUNet is a 2D or 3D network: spatial_dims must be 2 or 3, got {spatial_dims}.")
        if len(features) < 2:
            raise ValueError(f"ANUNet has two levels or more: give the features of each, got {list(features)}.")
        self.spatial_dims = spatial_dims
        self.depth = len(features) - 1
        self._check_level(self.depth if supervision_level is None else supervision_level)
        self.supervision_level = supervision_level or self.depth
        self.gate_all = gate_all
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.encoder = nn.ModuleList(
            _two_conv(spatial_dims, *channels) for channels in pairwise((in_channels, *features))
        )
        self.ups = nn.ModuleList(_up_conv(spatial_dims, *features[i : i + 2][::-1]) for i in range(self.depth))
        self.columns = nn.ModuleList(
            nn.ModuleList(
                ANUNetNode(spatial_dims, features[i], features[max(i - 1, 0)], j, j if gate_all else 1)
                for i in range(self.depth + 1 - j)
            )
            for j in range(1, self.depth + 1)
        )
        self.heads = nn.ModuleList(
            Conv[Conv.CONV, spatial_dims](features[0], out_channels, kernel_size=1) for _ in range(self.depth)
        )

    def _check_level(self, level: int) -> None:
        if not 1 <= level <= self.depth:
            raise ValueError(f"level {level}: ANUNet of {self.depth + 1} features has the levels 1 to {self.depth}.")

    def _check_size(self, size: list[int], level: int) -> None:
        step = 1 << level  # 2 ** level, which TorchScript takes for a float
        padded = [max(step, (length + step - 1) // step * step) for length in size]
        if size != padded:
            got, wanted = "x".join([str(length) for length in size]), "x".join([str(length) for length in padded])
            raise ValueError(f"ANUNet takes sizes that are multiples of {step}, got {got}: pad or resize to {wanted}.")

    def _rows(self, x: torch.Tensor, level: int) -> list[list[torch.Tensor]]:
        """The nodes that head ``level`` needs, ``X_{i,j}`` at ``[i][j]``."""
        rows: list[list[torch.Tensor]] = []
        for i, block in enumerate(self.encoder):
            if i <= level:
                x = block(x if i == 0 else self.pool(x))
                rows.append([x])
        for k, column in enumerate(self.columns):  # column j = k + 1; to mypy a list in a list is any module
            for i, (node, up) in enumerate(zip(column, self.ups, strict=False)):  # type: ignore[call-overload]
                if i + k < level:
                    rows[i].append(node(up(rows[i + 1][k]), rows[i]))
        return rows

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits.

        Args:
            x: image ``[B, in_channels, *spatial]``; each edge a multiple of ``2 ** depth`` (16), in eval mode of
                ``2 ** supervision_level``.

        Returns:
            In eval mode logits ``[B, out_channels, *spatial]`` of head ``supervision_level``. In train mode a list of
            the logits of all heads from level 1 on, all of that shape, as :class:`monai.losses.DeepSupervisionLoss`
            takes them.

        Raises:
            ValueError: if the size does not fit; names the size to pad to.
        """
        every_head = self.training and not torch.jit.is_scripting()  # type: ignore[attr-defined]
        level = self.depth if every_head else self.supervision_level
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            self._check_size(list(x.shape[2:]), level)
        finest = self._rows(x, level)[0]
        logits: list[torch.Tensor] = []
        for i, head in enumerate(self.heads):
            if every_head or i + 1 == level:
                logits.append(head(finest[i + 1]))
        if every_head:
            return logits
        return logits[0]

    def attention_maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the gates let through, as they do in eval mode, without gradients (the paper's Fig. 12).

        Args:
            x: image ``[B, in_channels, *spatial]``; each edge a multiple of ``2 ** depth``.

        Returns:
            for each node ``X_{i,j}`` with ``j > 0``, under the name ``"Xi_j"``, its coefficients, 0 to 1, at the size
            of its level: ``[B, 1, *spatial / 2 ** i]``, those on ``X_{i,j-1}``; with ``gate_all`` ``[B, j, ...]``,
            those on ``X_{i,0}`` to ``X_{i,j-1}``.

        Raises:
            ValueError: if the size does not fit; names the size to pad to.
        """
        self._check_size(list(x.shape[2:]), self.depth)
        maps: dict[str, torch.Tensor] = {}
        with eval_mode(self):
            rows = self._rows(x, self.depth)
            for k, column in enumerate(self.columns):
                for i, (node, up) in enumerate(zip(column, self.ups, strict=False)):  # type: ignore[call-overload]
                    maps[f"X{i}_{k + 1}"] = node.coefficients(up(rows[i + 1][k]), rows[i][: k + 1])
        return maps

    def pruned(self, level: int) -> ANUNet:
        """Cut off what head ``level`` does not need.

        In eval mode the result computes what this network's head of that level does, bit for bit. It has the heads
        below too, so that it can be trained or pruned further. The authors' class for level 2 takes head 1 by mistake.

        Args:
            level: from 1 to ``depth``.

        Returns:
            a network of ``features[: level + 1]`` with copies of the weights, on the same device, in the same mode.

        Raises:
            ValueError: no such level.

        Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.5 and Table 6.
        """
        self._check_level(level)
        state = self.state_dict()
        arguments = self.infer_arguments(state)
        arguments["features"] = arguments["features"][: level + 1]
        with torch.device("meta"):  # no weights are drawn, so that the random state stays as it is
            net = ANUNet(self.spatial_dims, **arguments)
        net.load_state_dict({key: state[key].clone() for key in net.state_dict()}, assign=True)
        return net.train(self.training)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Give the tensors of the authors' checkpoint the names of this class.

        Args:
            state: tensors under the names of the authors' ``AttentionUNetPlusPlus2`` with deep supervision.

        Returns:
            the same tensors under this class's names, in the same order.

        Raises:
            ValueError: if the authors' network has no layer of some key's name; names the first such keys.

        Source: lichen14/Attention-unet-plusplus, new_archs.py.
        """
        return rename_tensors(state, _AUTHOR_PREFIXES, network="ANU-Net")

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Tell from a state dict of this class the constructor arguments that it needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, features and whether every older node is gated, each only if the tensors that tell it are there.
        """
        sources = {"in_channels": ("encoder.0.conv_0.conv.weight", 1), "out_channels": ("heads.0.weight", 0)}
        arguments: dict[str, Any] = {}
        for dims in (4, 5):
            arguments |= kernel_sizes(state, sources, dims=dims)
        levels = {int(key.split(".")[1]) for key in state if key.startswith("encoder.")}
        widths = [f"encoder.{level}.conv_1.conv.weight" for level in range(len(levels))]
        if levels and all(key in state for key in widths):
            arguments["features"] = [state[key].shape[0] for key in widths]
            arguments["gate_all"] = any(key.startswith("columns.1.0.gates.1.") for key in state)
        return arguments
