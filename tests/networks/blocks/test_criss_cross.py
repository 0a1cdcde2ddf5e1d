"""Criss-cross attention: Eq. 3 to 5 voxel by voxel, the authors' outputs, and what one voxel can see of the map."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg_monai.networks.blocks import CrissCrossAttention3d, criss_cross
from medseg_monai.networks.nets import CTSUNet
from tests.networks.nets.ctsunet_authors import attention_state
from tests.networks.reference import load_vectors

DATA = Path(__file__).resolve().parents[1] / "data" / "ctsunet.json"
STORED = json.loads(DATA.read_text(encoding="utf-8"))["nonlocal"]
MAP = (3, 4, 5)
VOXELS = list(itertools.product(*map(range, MAP)))
NORMS = {"norm": "voxel", "nonorm": "none"}


def lines(low: float = -0.5, high: float = 0.5, *, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Coordinates of a map for two items, the second one's shifted."""
    axes = [torch.linspace(low, high, edge, dtype=dtype) for edge in MAP]
    return [torch.stack([axis, axis + 0.05 * (i + 1)]) for i, axis in enumerate(axes)]


def small(seed: int = 3, channels: int = 4, **kwargs) -> CrissCrossAttention3d:
    torch.manual_seed(seed)
    block = CrissCrossAttention3d(channels, 3, **kwargs)
    block.norm.running_mean.uniform_(-0.3, 0.3)
    block.norm.running_var.uniform_(0.5, 1.5)
    return block.double().eval()


def criss_cross_set(voxel: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """The voxels that differ from this one along one axis at most, in ascending order of their index in the map."""
    return [other for other in VOXELS if sum(a != b for a, b in zip(voxel, other, strict=True)) <= 1]


def by_hand(block: CrissCrossAttention3d, x: torch.Tensor, centers: list[torch.Tensor]) -> torch.Tensor:
    """Eq. 3 to 5 for one item, voxel by voxel, neighbour by neighbour."""

    def affine(layer: torch.nn.Module, vector: torch.Tensor) -> torch.Tensor:
        return layer.weight.flatten(1) @ vector + layer.bias

    def normalized(terms: torch.Tensor) -> torch.Tensor:
        return terms / (terms.square().sum(0).sqrt() + 1e-6) if block.by_voxel else terms

    z = {voxel: x[(slice(None), *voxel)] for voxel in VOXELS}
    mu = {voxel: torch.stack([centers[axis][voxel[axis]] for axis in range(3)]) for voxel in VOXELS}
    geometry = torch.zeros(len(VOXELS), sum(MAP) - 2, dtype=x.dtype)
    if block.geometric:
        rows = [[affine(block.omega, mu[i]) @ affine(block.rho, mu[j]) for j in criss_cross_set(i)] for i in VOXELS]
        geometry = normalized(torch.stack([torch.stack(row) for row in rows])).clamp(min=0)
    for _ in range(block.recurrence):
        rows = [[affine(block.theta, z[i]) @ affine(block.phi, z[j]) for j in criss_cross_set(i)] for i in VOXELS]
        similarity = normalized(torch.stack([torch.stack(row) for row in rows])) + geometry
        weights = similarity.exp() / similarity.exp().sum(dim=1, keepdim=True)
        gathered = {}
        for row, i in enumerate(VOXELS):
            parts = [weights[row, k] * affine(block.g, z[j]) for k, j in enumerate(criss_cross_set(i))]
            gathered[i] = z[i] + affine(block.r, torch.stack(parts).sum(0))
        z = gathered
    out = torch.stack([z[voxel] for voxel in VOXELS], dim=1).reshape(x.shape)
    norm = block.norm
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    return torch.relu((out - norm.running_mean[:, None, None, None]) * scale + norm.bias[:, None, None, None])


@pytest.mark.parametrize("similarity_norm", ["none", "voxel"])
@pytest.mark.parametrize("geometric", [True, False])
@pytest.mark.parametrize("recurrence", [1, 3])
def test_the_dense_products_are_the_formula_voxel_by_voxel(similarity_norm, geometric, recurrence):
    block = small(similarity_norm=similarity_norm, geometric=geometric, recurrence=recurrence)
    x, centers = torch.randn(2, 4, *MAP, dtype=torch.float64), lines()
    with torch.no_grad():
        actual = block(x, centers)
        expected = [by_hand(block, x[item], [axis[item] for axis in centers]) for item in range(2)]
    assert (actual > 0).any()
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_the_place_in_the_scan_counts_with_the_geometric_term_only():
    x = torch.randn(2, 4, *MAP, dtype=torch.float64)
    for geometric in (True, False):
        block = small(geometric=geometric)
        with torch.no_grad():
            here, elsewhere = block(x, lines()), block(x, lines(0.1, 0.3))
        assert torch.equal(here, elsewhere) is not geometric


def test_without_the_geometric_term_its_maps_are_not_there():
    names = {name.split(".")[0] for name, _ in CrissCrossAttention3d(4, 3, geometric=False).named_parameters()}
    assert names == {"theta", "phi", "g", "r", "norm"}


def test_all_steps_share_their_weights():
    once, thrice = CrissCrossAttention3d(4, 3, recurrence=1), CrissCrossAttention3d(4, 3, recurrence=3)
    assert once.state_dict().keys() == thrice.state_dict().keys()


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="similarity_norm must be one of none, voxel, got l2"):
        CrissCrossAttention3d(4, 3, similarity_norm="l2")


# --- what a voxel sees (Fig. 3) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrence", [1, 2, 3])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 3, 2)])
def test_each_step_reaches_one_axis_further_until_three_reach_the_whole_map(recurrence, place):
    block = small(recurrence=recurrence)
    x = torch.randn(2, 4, *MAP, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        block.norm.bias.fill_(100.0)  # the last ReLU lets everything through
    voxel = block(x, lines())[(0, slice(None), *place)]
    (gradient,) = torch.autograd.grad(voxel @ torch.arange(1.0, 5.0, dtype=torch.float64), x)
    reached = gradient.abs().sum(dim=1)
    expected = [sum(a != b for a, b in zip(place, other, strict=True)) <= recurrence for other in VOXELS]
    assert (reached[0].flatten() > 0).tolist() == expected
    assert reached[1].max() == 0  # nothing of another scan


# --- the authors' outputs ---------------------------------------------------------------------------------------------


def author_block(norm: str) -> CrissCrossAttention3d:
    """A module of the reference vectors' width with the authors' weights by rule."""
    converted = CTSUNet.convert_author_state(
        {f"unet1.middle_psa.{key}": value for key, value in attention_state(16, 8).items()}
    )
    block = CrissCrossAttention3d(16, 8, similarity_norm=NORMS[norm])
    block.load_state_dict({key.removeprefix("stage1.attention."): value for key, value in converted.items()})
    return block.eval()


def author_input() -> torch.Tensor:
    noise = np.random.default_rng(STORED["seed"]).standard_normal(STORED["input_shape"])
    return torch.from_numpy(noise.astype(np.float32))


def author_centers(geometry: str) -> list[torch.Tensor]:
    """A plain grid (stage 1), or the centres of two windows in their padded scan (stage 2)."""
    centers = []
    for axis, edge in enumerate(MAP):
        k = torch.arange(edge)
        if geometry == "scan":
            centers.append((k / (edge - 1) - 0.5).expand(2, -1))
        else:
            starts = torch.tensor([start[axis] for start in STORED["starts"]])[:, None]
            place = k * (STORED["window"][axis] - 67) / (edge - 1) + 33.5 + starts
            centers.append(place / (STORED["padded_scan"][axis] - 1) - 0.5)
    return centers


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("geometry", ["scan", "patch"])
def test_the_stored_outputs_of_the_authors_come_out(norm, geometry):
    stored = STORED["outputs"][f"out_{geometry}_{norm}"]
    with torch.no_grad():
        output = author_block(norm)(author_input(), author_centers(geometry))
    assert list(output.shape) == stored["shape"]
    torch.testing.assert_close(
        output.flatten()[torch.tensor(stored["indices"])], torch.tensor(stored["values"]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("geometry", ["scan", "patch"])
def test_the_output_and_the_attention_of_every_step_equal_the_reference(norm, geometry, monkeypatch):
    vectors = load_vectors("ctsu_net", "nonlocal_io.npz")
    steps = []

    def gather_and_keep(attention, values, gather=criss_cross._gather_lines):
        steps.append(attention)
        return gather(attention, values)

    monkeypatch.setattr(criss_cross, "_gather_lines", gather_and_keep)
    assert torch.equal(author_input(), vectors["input"])
    with torch.no_grad():
        output = author_block(norm)(vectors["input"], author_centers(geometry))
    torch.testing.assert_close(output, vectors[f"out_{geometry}_{norm}"], rtol=1e-4, atol=1e-4)
    assert len(steps) == 3
    for number, attention in enumerate(steps):
        expected = vectors[f"att_{geometry}_{norm}_step{number}"]
        torch.testing.assert_close(by_neighbour(attention, vectors["neighbours"]), expected, rtol=1e-4, atol=1e-5)


def by_neighbour(attention: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    """Attention to the lines ``[B, D, H, W, D + H + W]`` in the order of ``neighbours`` ``[N, D + H + W - 2]``."""
    flat = np.arange(math.prod(MAP)).reshape(MAP)
    places = [np.concatenate([flat[:, y, x], flat[z, :, x], flat[z, y, :]]) for z, y, x in VOXELS]
    dense = torch.zeros(len(attention), len(VOXELS), len(VOXELS))
    dense.scatter_add_(2, torch.tensor(np.stack(places)).expand(len(attention), -1, -1), attention.flatten(1, 3))
    return dense.gather(2, neighbours.long().expand(len(attention), -1, -1))
