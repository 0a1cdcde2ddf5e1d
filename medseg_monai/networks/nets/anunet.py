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
from medseg_monai.networks.blocks.input_size import check_size
from medseg_monai.networks.weights.state_dict import kernel_sizes, rename_tensors

__all__ = ["ANUNet", "ANUNetNode"]

_AUTHOR_DEPTH = 4


def _author_layers() -> Iterator[tuple[str, str]]:
    """Yield the authors' name of each layer (lichen14/Attention-unet-plusplus, new_archs.py) and the name in this file.

    The authors name nodes and gates by level and column as the paper does, an up-convolution by the level that it comes
    from (counted from 1) and a head by its column.
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
    """Build two 3x3 convolutions, each followed by batch normalisation and ReLU."""
    return TwoConv(spatial_dims, in_channels, out_channels, act=("relu", {"inplace": True}), norm="batch", bias=True)


def _up_conv(spatial_dims: int, in_channels: int, out_channels: int) -> Convolution:
    """Build a 2x2 transposed convolution of stride 2, followed by batch normalisation and ReLU."""
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
    """Node ``X_{i,j}`` with ``j > 0``: it gates the latest nodes of its row, concatenates and convolves.

    The order of the concatenation is ``[gated, upsampled, ungated]``, and each part starts with the oldest node.

    Args:
        spatial_dims: number of spatial dimensions.
        channels: channels of every input and of the output.
        gate_channels: channels in which the gates compare their inputs.
        predecessors: number of nodes before this one in its row, ``j``.
        gates: how many of these are gated; the latest ones are.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets.anunet import ANUNetNode
        >>> node = ANUNetNode(spatial_dims=2, channels=4, gate_channels=2, predecessors=2, gates=1)
        >>> node(torch.zeros(1, 4, 6, 8), row=[torch.zeros(1, 4, 6, 8), torch.zeros(1, 4, 6, 8)]).shape
        torch.Size([1, 4, 6, 8])

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
        """Compute how much the gates of :meth:`forward` let through, ``[B, gates, *spatial]``."""
        gates = [cast(AttentionGate, gate) for gate in self.gates]
        return torch.cat([gate.coefficients(upsampled, row[self.ungated + k]) for k, gate in enumerate(gates)], dim=1)

    def forward(self, upsampled: torch.Tensor, row: list[torch.Tensor]) -> torch.Tensor:
        """Compute the node.

        Args:
            upsampled: ``Up(X_{i+1,j-1})``, ``[B, channels, *spatial]``.
            row: ``X_{i,0}`` to ``X_{i,j-1}``, each of the same shape.

        Returns:
            ``X_{i,j}`` of the same shape.
        """
        parts: list[torch.Tensor] = []
        for k, gate in enumerate(self.gates):
            parts.append(gate(upsampled, row[self.ungated + k]))
        parts.append(upsampled)
        parts.extend(row[: self.ungated])
        return self.merge(torch.cat(parts, dim=1))


class ANUNet(nn.Module):
    """ANU-Net: a U-Net++ with attention gates in its skip connections and a supervised head at every depth.

    Node ``X_{i,j}`` lies at level ``i`` (resolution halved ``i`` times) and column ``j``. Column 0 is the encoder; node
    ``X_{i,j}`` merges ``X_{i,0}`` to ``X_{i,j-1}`` and the upsampled ``X_{i+1,j-1}``. Each ``X_{0,l}`` has a head, and
    head ``l`` needs no node beyond ``i + j = l``, so the network can be cut off there (:meth:`pruned`). With its
    defaults the network has 8,950,594 parameters; pruned to level 3, 2 and 1 it has 2,191,829, 513,387 and 103,812
    (Table 6).

    Where the paper is silent or differs from the authors' published code, the code decides; Table 6 lists the counts
    of the code:

    - a node gates ``X_{i,j-1}`` alone and concatenates the older ones as they are; ``gate_all`` follows Eq. 4;
    - upsampling is a 2x2 transposed convolution of stride 2 with batch normalisation and ReLU. All columns of a level
      share it, so its running statistics are those of all columns together;
    - a gate compares its inputs in as many channels as the next finer level has; at the finest level it takes the
      channels of that level itself.

    The network returns logits; the authors' sigmoid belongs to the loss and to the postprocessing.

    Args:
        spatial_dims: 2, as in the paper, or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        features: channels of the levels from the finest to the coarsest; the network has one head fewer than levels.
        gate_all: whether every older node of the row passes a gate of its own (8,994,048 parameters).
        supervision_level: number of the head, from 1, whose logits eval mode returns; ``None`` takes the deepest. Only
            the nodes that this head needs are computed.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3, ``features`` has fewer than two entries, or there is no head of
            that level.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.nets import ANUNet
        >>> network = ANUNet(in_channels=1, out_channels=1, features=(4, 8, 16))
        >>> x = torch.zeros(2, 1, 16, 24)
        >>> [logits.shape for logits in network.train()(x)]  # one for each head
        [torch.Size([2, 1, 16, 24]), torch.Size([2, 1, 16, 24])]
        >>> network.eval()(x).shape  # of the deepest head
        torch.Size([2, 1, 16, 24])

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
            raise ValueError(f"level {level}: an ANUNet with {self.depth + 1} features has levels 1 to {self.depth}.")

    def _rows(self, x: torch.Tensor, level: int) -> list[list[torch.Tensor]]:
        """Compute the nodes that head ``level`` needs; ``X_{i,j}`` is at ``[i][j]``."""
        rows: list[list[torch.Tensor]] = []
        for i, block in enumerate(self.encoder):
            if i <= level:
                x = block(x if i == 0 else self.pool(x))
                rows.append([x])
        for k, column in enumerate(self.columns):  # column j = k + 1; mypy takes a list in a list for any module
            for i, (node, up) in enumerate(zip(column, self.ups, strict=False)):  # type: ignore[call-overload]
                if i + k < level:
                    rows[i].append(node(up(rows[i + 1][k]), rows[i]))
        return rows

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits.

        Args:
            x: image ``[B, in_channels, *spatial]``; each edge must be a multiple of ``2 ** depth`` (16 by default), in
                eval mode of ``2 ** supervision_level``.

        Returns:
            In eval mode the logits ``[B, out_channels, *spatial]`` of head ``supervision_level``. In train mode a list
            of the logits of all heads from level 1 on, each of that shape, as
            :class:`monai.losses.DeepSupervisionLoss` takes them.

        Raises:
            ValueError: the size does not fit; the message names the size to pad to.
        """
        every_head = self.training and not torch.jit.is_scripting()  # type: ignore[attr-defined]
        level = self.depth if every_head else self.supervision_level
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            # 2 ** level would be a float in TorchScript
            check_size(list(x.shape[2:]), 1 << level, "ANUNet")
        finest = self._rows(x, level)[0]
        logits: list[torch.Tensor] = []
        for i, head in enumerate(self.heads):
            if every_head or i + 1 == level:
                logits.append(head(finest[i + 1]))
        if every_head:
            return logits
        return logits[0]

    def attention_maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute how much each gate lets through in eval mode, without gradients (the paper's Fig. 12).

        Args:
            x: image ``[B, in_channels, *spatial]``; each edge must be a multiple of ``2 ** depth``.

        Returns:
            the coefficients, 0 to 1, of each node ``X_{i,j}`` with ``j > 0`` under the name ``"Xi_j"``, at the size of
            its level: ``[B, 1, *spatial / 2 ** i]`` for its gate on ``X_{i,j-1}``, or with ``gate_all``
            ``[B, j, ...]`` for its gates on ``X_{i,0}`` to ``X_{i,j-1}``.

        Raises:
            ValueError: the size does not fit; the message names the size to pad to.

        Example:
            >>> import torch
            >>> maps = ANUNet(features=(4, 8, 16)).attention_maps(torch.zeros(1, 1, 16, 24))
            >>> {name: tuple(coefficients.shape) for name, coefficients in maps.items()}
            {'X0_1': (1, 1, 16, 24), 'X1_1': (1, 1, 8, 12), 'X0_2': (1, 1, 16, 24)}
        """
        check_size(list(x.shape[2:]), 2**self.depth, "ANUNet")
        maps: dict[str, torch.Tensor] = {}
        with eval_mode(self):
            rows = self._rows(x, self.depth)
            for k, column in enumerate(self.columns):
                for i, (node, up) in enumerate(zip(column, self.ups, strict=False)):  # type: ignore[call-overload]
                    maps[f"X{i}_{k + 1}"] = node.coefficients(up(rows[i + 1][k]), rows[i][: k + 1])
        return maps

    def pruned(self, level: int) -> ANUNet:
        """Copy the part of the network that head ``level`` needs.

        In eval mode the copy computes the same as this network's head of that level, bit for bit. It also has the heads
        below, so it can be trained or pruned further. (The authors' class for level 2 takes head 1 by mistake.)

        Args:
            level: from 1 to ``depth``.

        Returns:
            a network of ``features[: level + 1]`` with copies of the weights, on the same device, in the same mode.

        Raises:
            ValueError: there is no such level.

        Example:
            >>> import torch
            >>> network = ANUNet(features=(4, 8, 16), supervision_level=1).eval()
            >>> small, x = network.pruned(1), torch.rand(1, 1, 16, 24)
            >>> small.depth, torch.equal(small(x), network(x))
            (1, True)

        Source: Li et al., "ANU-Net", Computers & Graphics 2020, Section 3.5 and Table 6.
        """
        self._check_level(level)
        state = self.state_dict()
        arguments = self.infer_arguments(state)
        arguments["features"] = arguments["features"][: level + 1]
        with torch.device("meta"):  # no weights are drawn, so the random state stays as it is
            net = ANUNet(self.spatial_dims, **arguments)
        net.load_state_dict({key: state[key].clone() for key in net.state_dict()}, assign=True)
        return net.train(self.training)

    @staticmethod
    def convert_author_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rename the tensors of the authors' checkpoint to the names of this class.

        Args:
            state: tensors under the names of the authors' ``AttentionUNetPlusPlus2`` with deep supervision.

        Returns:
            the same tensors under this class's names, in the same order.

        Raises:
            ValueError: a key names no layer of the authors' network; the message lists the first such keys.

        Example:
            >>> import torch
            >>> list(ANUNet.convert_author_state({"Att0_1.psi.0.bias": torch.zeros(1)}))
            ['columns.0.0.gates.0.psi.0.conv.bias']

        Source: lichen14/Attention-unet-plusplus, new_archs.py.
        """
        return rename_tensors(state, _AUTHOR_PREFIXES, network="ANU-Net")

    @staticmethod
    def infer_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Infer the constructor arguments that a state dict of this class needs.

        Args:
            state: tensors under this class's names.

        Returns:
            channels, features and whether every older node is gated, each only if the tensors that it is read from are
            there.

        Example:
            >>> ANUNet.infer_arguments(ANUNet(features=(4, 8), out_channels=2).state_dict())
            {'in_channels': 1, 'out_channels': 2, 'features': [4, 8], 'gate_all': False}
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
