"""CTSU-Net over a whole scan: where stage 2 looks, how its box grows, and how large its windows are."""

from __future__ import annotations

import math
import random

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional

from medseg_monai.inferers import TwoStageInferer
from medseg_monai.inferers.ctsunet import plan_output
from medseg_monai.networks.blocks.valid_windows import MARGIN, check_window
from medseg_monai.networks.nets import CTSUNet

SIZE = (48, 64, 80)
WIDTHS = (4, 6, 6, 6, 6, 6, 8, 8, 6, 6, 6, 6, 6, 6)


class KnownNet(CTSUNet):
    """Both stages return what is already known, one scan after the other; each look of stage 2 is written down."""

    def __init__(self, coarse: list[torch.Tensor], fine: list[torch.Tensor]) -> None:
        super().__init__(stage1_features=WIDTHS, stage2_features=WIDTHS, embedding_channels=4)
        self.coarse, self.fine = coarse, fine
        self.looks: list[list[tuple[list[int], list[int], list[int]]]] = []

    def first_stage(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.looks.append([])
        half = self.coarse[len(self.looks) - 1][::2, ::2, ::2]
        return logits(half), torch.zeros(1, 1, *half.shape)

    def second_stage(self, context: torch.Tensor, start: list[int], stop: list[int], output: list[int]) -> torch.Tensor:
        self.looks[-1].append((list(start), list(stop), list(output)))
        box = tuple(slice(first, last) for first, last in zip(start, stop, strict=True))
        return logits(self.fine[len(self.looks) - 1][box])


def logits(labels: torch.Tensor) -> torch.Tensor:
    """Logits ``[1, 6, D, H, W]`` whose argmax are these labels, and which differ from a background of no look."""
    return 5 * functional.one_hot(labels.long(), 6).permute(3, 0, 1, 2)[None].float() - 1


def cuboid(start: tuple[int, int, int], stop: tuple[int, int, int], label: int = 1) -> torch.Tensor:
    volume = torch.zeros(SIZE)
    volume[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] = label
    return volume


def empty(batch: int = 1) -> torch.Tensor:
    return torch.zeros(batch, 1, *SIZE)


def looked_at(looks: list[tuple[list[int], list[int], list[int]]]) -> torch.Tensor:
    """How often stage 2 looked at each voxel."""
    count = torch.zeros(SIZE)
    for start, stop, _ in looks:
        count[tuple(slice(first, last) for first, last in zip(start, stop, strict=True))] += 1
    return count


# --- with the network itself ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> CTSUNet:
    """A narrow network whose ReLUs let something through; tests leave it as it is."""
    torch.manual_seed(5)
    net = CTSUNet(stage1_features=WIDTHS, stage2_features=WIDTHS, embedding_channels=4, window=140)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.bias, 0.0, 0.5)
    return net.eval()


def test_over_the_whole_scan_it_is_the_forward_pass_of_the_network(net):
    scan = torch.rand(1, 1, 32, 48, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(scan)
        actual = TwoStageInferer(window=140, lung_only=False)(scan, net)
    assert expected.std(dim=(2, 3, 4)).min() > 0.02
    assert torch.equal(actual, expected)


def test_a_lung_box_holds_what_stage_2_makes_of_it(net, monkeypatch):
    scan = torch.rand(1, 1, 32, 48, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(TwoStageInferer, "_lung_box", lambda self, lobes, size: ([4, 8, 20], [8, 12, 24]))
    monkeypatch.setattr("medseg_monai.inferers.ctsunet._touched_face", lambda logits, start, stop: None)
    with torch.no_grad():
        actual = TwoStageInferer(window=92)(scan, net)
        expected = net.window_logits(net.context(scan, *net.first_stage(scan)), [[[4, 8, 20]]], [4, 4, 4])[0]
    torch.testing.assert_close(actual[:, :, 4:8, 8:12, 20:24], expected)
    actual[:, :, 4:8, 8:12, 20:24] = 0
    assert actual[:, 1:].abs().max() == 0
    assert actual[:, 0].unique().tolist() == [0.0, 20.0]


# --- the box ----------------------------------------------------------------------------------------------------------


def test_stage_2_looks_where_stage_1_finds_lung_with_a_margin():
    lung = cuboid((12, 20, 30), (24, 40, 64), label=3)
    net = KnownNet([lung], [lung])
    actual = TwoStageInferer(window=132)(empty(), net)
    assert net.looks == [[([10, 18, 28], [26, 42, 66], [44, 44, 44])]]
    assert torch.equal(actual.argmax(dim=1)[0], lung.long())


@pytest.mark.parametrize("margin", [1, 7])
def test_the_margin_ends_with_the_scan(margin):
    lung = cuboid((4, 20, 40), (44, 60, 76))
    net = KnownNet([lung], [lung])
    TwoStageInferer(margin=margin)(empty(), net)
    ((start, stop, _),) = net.looks[0]
    assert start == [max(0, 4 - margin), 20 - margin, 40 - margin]
    assert stop == [min(48, 44 + margin), min(64, 60 + margin), min(80, 76 + margin)]


def test_all_lobes_together_make_one_box():
    lungs = cuboid((12, 20, 10), (24, 40, 20), label=2) + cuboid((16, 16, 50), (30, 30, 62), label=5)
    net = KnownNet([lungs], [lungs])
    actual = TwoStageInferer()(empty(), net)
    assert [look[:2] for look in net.looks[0]] == [([10, 14, 8], [32, 42, 64])]
    assert torch.equal(actual.argmax(dim=1)[0], lungs.long())


def test_without_any_lung_stage_2_looks_at_the_whole_scan():
    missed = cuboid((12, 20, 30), (24, 40, 64))
    net = KnownNet([torch.zeros(SIZE)], [missed])
    actual = TwoStageInferer()(empty(), net)
    assert [look[:2] for look in net.looks[0]] == [([0, 0, 0], list(SIZE))]
    assert torch.equal(actual.argmax(dim=1)[0], missed.long())


def test_the_whole_scan_can_be_asked_for():
    lung = cuboid((12, 20, 30), (24, 40, 64))
    net = KnownNet([lung], [lung])
    TwoStageInferer(lung_only=False)(empty(), net)
    assert [look[:2] for look in net.looks[0]] == [([0, 0, 0], list(SIZE))]


# --- its growth -------------------------------------------------------------------------------------------------------

FINE = {
    "towards the start": ((3, 20, 30), (24, 40, 64)),
    "towards the end": ((12, 20, 30), (45, 61, 77)),
    "everywhere": ((2, 3, 1), (46, 62, 78)),
    "along one axis by far": ((12, 20, 2), (24, 40, 64)),
}


def grown_box(start, stop, lobe_start, lobe_stop) -> tuple[slice, ...]:
    """The box in steps of 12 voxels to where no face holds a voxel of the lobe, or to the scan's border."""
    box = []
    for axis in range(3):
        first, last = start[axis], stop[axis]
        while first >= lobe_start[axis] and first > 0:
            first = max(first - 12, 0)
        while last <= lobe_stop[axis] and last < SIZE[axis]:
            last = min(last + 12, SIZE[axis])
        box.append(slice(first, last))
    return tuple(box)


@pytest.mark.parametrize("fine", FINE.values(), ids=FINE)
def test_a_lobe_that_exceeds_the_box_is_found_whole(fine):
    coarse, lobe = cuboid((20, 28, 38), (24, 34, 50)), cuboid(*fine, label=4)
    net = KnownNet([coarse], [lobe])
    actual = TwoStageInferer()(empty(), net)
    assert torch.equal(actual.argmax(dim=1)[0], lobe.long())
    count = looked_at(net.looks[0])
    assert count.max() == 1  # no voxel twice
    assert (count == 0).any()
    expected = torch.zeros(SIZE)
    expected[grown_box((18, 26, 36), (26, 36, 52), *fine)] = 1
    assert torch.equal(count, expected)


def test_the_box_grows_only_where_a_lobe_touches_it():
    coarse, lobe = cuboid((20, 28, 38), (24, 34, 50)), cuboid((20, 28, 38), (30, 34, 50))
    net = KnownNet([coarse], [lobe])
    TwoStageInferer()(empty(), net)
    assert [look[:2] for look in net.looks[0]] == [([18, 26, 36], [26, 36, 52]), ([26, 26, 36], [38, 36, 52])]


def test_the_growth_ends_with_the_scan():
    lobe = cuboid((0, 20, 30), (48, 40, 64))
    net = KnownNet([cuboid((20, 20, 30), (24, 40, 64))], [lobe])
    actual = TwoStageInferer()(empty(), net)
    assert torch.equal(actual.argmax(dim=1)[0], lobe.long())
    assert min(look[0][0] for look in net.looks[0]) == 0
    assert max(look[1][0] for look in net.looks[0]) == 48


def test_where_stage_2_did_not_look_there_is_background():
    lung, elsewhere = cuboid((12, 20, 30), (24, 40, 64)), cuboid((40, 50, 70), (46, 60, 78), label=2)
    net = KnownNet([lung], [lung + elsewhere])
    actual = TwoStageInferer()(empty(), net)
    assert torch.equal(actual.argmax(dim=1)[0], lung.long())
    assert torch.softmax(actual, dim=1)[0, 0, 40:, 50:, 70:].min() > 1 - 1e-6


def test_growth_takes_windows_of_its_own_size():
    coarse, lobe = cuboid((20, 28, 38), (24, 34, 50)), cuboid((20, 28, 38), (30, 34, 50))
    for inferer in (TwoStageInferer(window=100), TwoStageInferer(max_window_voxels=100 * 108 * 108)):
        net = KnownNet([coarse], [lobe])
        inferer(empty(), net)
        for start, stop, output in net.looks[0]:
            edges = [last - first for first, last in zip(start, stop, strict=True)]
            planned = plan_output(edges, 100 * 108 * 108) if inferer.window is None else [12, 12, 12]
            assert output == planned


# --- what goes in and comes out ---------------------------------------------------------------------------------------


def test_each_scan_of_a_batch_has_its_own_box():
    lungs = [cuboid((12, 20, 30), (24, 40, 64), label=1), cuboid((20, 2, 6), (40, 20, 30), label=5)]
    net = KnownNet(lungs, lungs)
    actual = TwoStageInferer()(empty(batch=2), net)
    assert [[look[:2] for look in looks] for looks in net.looks] == [
        [([10, 18, 28], [26, 42, 66])],
        [([18, 0, 4], [42, 22, 32])],
    ]
    assert torch.equal(actual.argmax(dim=1), torch.stack(lungs).long())


def test_metadata_stay():
    lung = cuboid((12, 20, 30), (24, 40, 64))
    affine = torch.diag(torch.tensor([2.0, 0.7, 0.8, 1.0], dtype=torch.float64))
    scan = MetaTensor(empty(), affine=affine, meta={"filename_or_obj": "scan.nii.gz"})
    actual = TwoStageInferer()(scan, KnownNet([lung], [lung]))
    assert isinstance(actual, MetaTensor)
    assert torch.equal(actual.affine, affine)
    assert actual.meta["filename_or_obj"] == "scan.nii.gz"
    assert type(TwoStageInferer()(empty(), KnownNet([lung], [lung]))) is torch.Tensor


def test_a_wrapper_for_several_processes_is_seen_through():
    lung = cuboid((12, 20, 30), (24, 40, 64))
    actual = TwoStageInferer()(empty(), nn.DataParallel(KnownNet([lung], [lung])))
    assert torch.equal(actual.argmax(dim=1)[0], lung.long())


def test_another_network_is_refused():
    with pytest.raises(TypeError, match="TwoStageInferer needs a CTSUNet, got Conv3d"):
        TwoStageInferer()(empty(), nn.Conv3d(1, 6, 1))


@pytest.mark.parametrize("window", [84, 96, 128, 133])
def test_an_illegal_window_is_refused(window):
    with pytest.raises(ValueError, match=f"A window of {window} voxels does not fit"):
        TwoStageInferer(window=window)


# --- the plan ---------------------------------------------------------------------------------------------------------


def inputs(output: list[int]) -> list[int]:
    return [edge + 2 * MARGIN for edge in output]


@pytest.mark.parametrize("limit", [800_000, 3_000_000, 8_000_000, 40_000_000])
def test_a_plan_is_legal_and_within_the_limit(limit):
    draw = random.Random(3)
    for _ in range(200):
        edges = [draw.randint(1, 400) for _ in range(3)]
        output = plan_output(edges, limit)
        for edge in inputs(output):
            check_window(edge)
        assert math.prod(inputs(output)) <= limit
        # no tile is longer than the box needs
        assert all(tile - 8 < edge for tile, edge in zip(output, edges, strict=True))


@pytest.mark.parametrize("edges", [[1, 1, 1], [64, 100, 90], [30, 200, 7]])
def test_a_box_within_the_limit_is_one_tile(edges):
    output = plan_output(edges, 8_000_000)
    assert all(tile >= edge for tile, edge in zip(output, edges, strict=True))


def test_a_limit_below_the_smallest_window_takes_the_smallest():
    assert plan_output([50, 60, 300], 1000) == [4, 4, 4]


def test_tiles_share_a_box_evenly():
    # 300 voxels in two tiles are twice 150, not 212 and 88; in three, 100 each
    assert plan_output([20, 20, 300], 108 * 108 * 300) == [20, 20, 156]
    assert plan_output([20, 20, 300], 108 * 108 * 200) == [20, 20, 100]


def test_a_larger_limit_computes_less():
    def computed(limit: int) -> int:
        output = plan_output([200, 200, 200], limit)
        tiles = math.prod(math.ceil(200 / edge) for edge in output)
        return tiles * math.prod(inputs(output))

    costs = [computed(limit) for limit in (1_000_000, 2_300_000, 8_000_000, 30_000_000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 10 * costs[-1]
