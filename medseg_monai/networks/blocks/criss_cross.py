"""Criss-cross attention over a 3D feature map with a geometric term: the non-local module of CTSU-Net."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn

__all__ = ["SIMILARITY_NORMS", "CrissCrossAttention3d"]

SIMILARITY_NORMS = ("none", "voxel")
"""``"none"`` is the paper's Eq. 3; ``"voxel"`` is the normalisation of the authors' published code."""


class CrissCrossAttention3d(nn.Module):
    """Recurrent criss-cross attention: each voxel gathers from the three axis lines through it, ``recurrence`` times.

    One step computes for each voxel ``i`` the similarities ``theta(z_i) . phi(z_j) + max(0, omega(mu_i) . rho(mu_j))``
    to the ``D + H + W - 2`` voxels ``j`` of its criss-cross set (the three lines, with the voxel itself once), their
    softmax ``a_ij``, and ``z_i + r(sum_j a_ij g(z_j))``. All steps share their weights; after three steps each voxel
    has seen the whole map. Batch normalisation and ReLU follow the last step, as in the authors' code (the paper is
    silent).

    The work is done by dense products along each axis: time and memory grow as ``O(C N (D + H + W))`` for a map of
    ``N`` voxels, without a graph and without an ``N x N`` matrix.

    The authors' code differs from the paper in two ways. Its linear maps have a bias, and so do the ones here. It also
    divides appearance and geometry each by their L2 norm over all voxels of the map, separately for the k-th neighbour
    of every voxel (neighbours in ascending order of their index in the map): that is ``similarity_norm="voxel"``. It
    makes the attention nearly uniform and dependent on the size of the map, so the paper's formula is the default.

    Args:
        channels: channels of the input and of the output.
        embedding_channels: channels of the embeddings ``theta``, ``phi``, ``g``, ``omega`` and ``rho``.
        recurrence: number of steps, ``T`` in the paper.
        geometric: ``False`` leaves out the geometric term (Table IV).
        similarity_norm: ``"none"`` or ``"voxel"``.

    Raises:
        ValueError: ``similarity_norm`` is unknown.

    Example:
        >>> import torch
        >>> from medseg_monai.networks.blocks import CrissCrossAttention3d
        >>> attention = CrissCrossAttention3d(channels=4, embedding_channels=2)
        >>> centers = [torch.linspace(-0.5, 0.5, edge)[None] for edge in (3, 4, 5)]  # of depth, height and width
        >>> attention(torch.zeros(1, 4, 3, 4, 5), centers).shape
        torch.Size([1, 4, 3, 4, 5])

    Source: Xie et al., "Contextual Two-Stage U-Nets for Robust Pulmonary Lobe Segmentation in CT Scans of COVID-19 and
    COPD Patients", Section III-C, Eq. 3 to 5; DIAGNijmegen/bodyct-pulmonary-lobe-segmentation, models.py.
    """

    __constants__ = ["geometric"]  # TorchScript then leaves out the branch that has no weights

    def __init__(
        self,
        channels: int,
        embedding_channels: int = 32,
        *,
        recurrence: int = 3,
        geometric: bool = True,
        similarity_norm: str = "none",
    ) -> None:
        super().__init__()
        if similarity_norm not in SIMILARITY_NORMS:
            raise ValueError(f"similarity_norm must be one of {', '.join(SIMILARITY_NORMS)}, got {similarity_norm}.")
        conv_type = Conv[Conv.CONV, 3]
        self.theta = conv_type(channels, embedding_channels, kernel_size=1)
        self.phi = conv_type(channels, embedding_channels, kernel_size=1)
        self.g = conv_type(channels, embedding_channels, kernel_size=1)
        self.r = conv_type(embedding_channels, channels, kernel_size=1)
        self.geometric = geometric
        if geometric:
            self.omega = nn.Linear(3, embedding_channels)
            self.rho = nn.Linear(3, embedding_channels)
        self.norm = nn.BatchNorm3d(channels)
        self.recurrence = recurrence
        self.by_voxel = similarity_norm == "voxel"

    def forward(self, x: torch.Tensor, centers: list[torch.Tensor]) -> torch.Tensor:
        """Let every voxel see every other one.

        Args:
            x: features of shape ``[B, channels, D, H, W]``.
            centers: coordinates ``[B, D]``, ``[B, H]`` and ``[B, W]`` along each axis of the centres of the receptive
                fields in the scan, from -0.5 to 0.5.

        Returns:
            features of the same shape.
        """
        geometry = torch.zeros((), dtype=x.dtype, device=x.device)
        if self.geometric:
            grid = torch.stack(_grid(centers), dim=-1).to(x.dtype)
            geometry = torch.relu(self._normalize(_line_products(self.omega(grid), self.rho(grid))))
        z = x
        for _ in range(self.recurrence):
            similarity = self._normalize(_line_products(_channels_last(self.theta(z)), _channels_last(self.phi(z))))
            attention = torch.softmax((similarity + geometry).masked_fill(_repeats(x), float("-inf")), dim=-1)
            z = z + self.r(_gather_lines(attention, _channels_last(self.g(z))))
        return torch.relu(self.norm(z))

    def _normalize(self, similarity: torch.Tensor) -> torch.Tensor:
        return _divide_by_slot_norms(similarity) if self.by_voxel else similarity


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 4, 1)


def _grid(centers: list[torch.Tensor]) -> list[torch.Tensor]:
    """Compute the coordinates of every voxel, three tensors ``[B, D, H, W]``."""
    z, y, x = centers[0], centers[1], centers[2]
    shape = [z.shape[0], z.shape[1], y.shape[1], x.shape[1]]
    return [
        z[:, :, None, None].expand(shape),
        y[:, None, :, None].expand(shape),
        x[:, None, None, :].expand(shape),
    ]


def _line_products(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Multiply each voxel with those on its lines, ``[B, D, H, W, D + H + W]``; it is itself part of all three."""
    along_z = torch.matmul(queries.permute(0, 2, 3, 1, 4), keys.permute(0, 2, 3, 4, 1)).permute(0, 3, 1, 2, 4)
    along_y = torch.matmul(queries.permute(0, 1, 3, 2, 4), keys.permute(0, 1, 3, 4, 2)).permute(0, 1, 3, 2, 4)
    along_x = torch.matmul(queries, keys.transpose(-1, -2))
    return torch.cat([along_z, along_y, along_x], dim=-1)


def _gather_lines(attention: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum values ``[B, D, H, W, C]`` on the lines with weights ``[B, D, H, W, L]``, to ``[B, C, D, H, W]``."""
    depth, height, width = values.shape[1], values.shape[2], values.shape[3]
    to_z, to_y, to_x = torch.split(attention, [depth, height, width], dim=-1)
    along_z = torch.matmul(to_z.permute(0, 2, 3, 1, 4), values.permute(0, 2, 3, 1, 4)).permute(0, 3, 1, 2, 4)
    along_y = torch.matmul(to_y.permute(0, 1, 3, 2, 4), values.permute(0, 1, 3, 2, 4)).permute(0, 1, 3, 2, 4)
    return (along_z + along_y + torch.matmul(to_x, values)).permute(0, 4, 1, 2, 3)


def _repeats(x: torch.Tensor) -> torch.Tensor:
    """Mark the line entries that are the voxel itself for the second or third time, ``[D, H, W, D + H + W]``."""
    depth, height, width = x.shape[2], x.shape[3], x.shape[4]
    shape = [depth, height, width]
    first = torch.zeros(depth, dtype=torch.bool, device=x.device).expand(shape + [depth])  # noqa: RUF005 - TorchScript
    y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    same_y = (y[:, None] == y)[None, :, None, :].expand(shape + [height])  # noqa: RUF005
    same_x = (x_[:, None] == x_)[None, None, :, :].expand(shape + [width])  # noqa: RUF005
    return torch.cat([first, same_y, same_x], dim=-1)


def _slots(depth: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Rank the entries of the lines in the voxel's criss-cross set by index in the map, ``[D, H, W, D + H + W]``."""
    z = torch.arange(depth, device=device)[:, None, None, None]
    y = torch.arange(height, device=device)[None, :, None, None]
    x = torch.arange(width, device=device)[None, None, :, None]
    other_z = torch.arange(depth, device=device)[None, None, None, :]
    other_y = torch.arange(height, device=device)[None, None, None, :]
    other_x = torch.arange(width, device=device)[None, None, None, :]
    along_z = torch.where(other_z < z, other_z, other_z + (height + width - 2))
    along_z = torch.where(other_z == z, z + y + x, along_z)
    along_y = torch.where(other_y < y, z + other_y, z + other_y + (width - 1))
    along_x = z + y + other_x
    shape = [depth, height, width]
    lines = [
        along_z.expand(shape + [depth]),  # noqa: RUF005 - TorchScript
        along_y.expand(shape + [height]),  # noqa: RUF005
        along_x.expand(shape + [width]),  # noqa: RUF005
    ]
    return torch.cat(lines, dim=-1)


def _divide_by_slot_norms(similarity: torch.Tensor) -> torch.Tensor:
    """Divide by the L2 norm over all voxels of a map, with one norm for each rank in the criss-cross set."""
    batch, depth, height, width, lines = similarity.shape
    slots = _slots(depth, height, width, similarity.device).reshape(1, -1).expand(batch, -1)
    once = similarity.masked_fill(_repeats(similarity[..., 0].unsqueeze(1)), 0.0).reshape(batch, -1)
    squares = torch.zeros([batch, lines - 2], dtype=similarity.dtype, device=similarity.device)
    norms = squares.scatter_add(1, slots.clamp(max=lines - 3), once.square()).sqrt() + 1e-6  # as in the authors' code
    return (once / norms.gather(1, slots.clamp(max=lines - 3))).reshape(similarity.shape)
