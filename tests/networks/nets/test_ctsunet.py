"""CTSU-Net against the authors' code, and the particulars of its own.

The authors' outputs are stored twice: a few values of each in ``../data/ctsunet.json``, and whole in the reference
vectors, whose tests are skipped where those are not there.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg_monai.networks.blocks import CrissCrossAttention3d, CUNet
from medseg_monai.networks.blocks.hard_patches import squared_error
from medseg_monai.networks.nets import CTSUNet
from medseg_monai.networks.nets.ctsunet import STAGE2_RELEASED_FEATURES
from medseg_monai.networks.weights import ModelFile
from medseg_monai.networks.weights.authors import ImportReport, import_weights
from tests.networks.imported import assert_rule_makes
from tests.networks.reference import load_vectors

from .ctsunet_authors import (
    QUARTER_STAGE1,
    QUARTER_STAGE2,
    QUARTER_STAGE2_RELEASED,
    author_state,
    unet_state,
    uniform,
    waves,
)

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "ctsunet.json").read_text(encoding="utf-8"))
NORMS = {"norm": "voxel", "nonorm": "none"}
STAGE2_FEATURES = {"stage2_table": QUARTER_STAGE2, "stage2_released": QUARTER_STAGE2_RELEASED}
SINGLE = [(case, norm) for case in ("stage1", *STAGE2_FEATURES) for norm in NORMS]
WIDTHS = (4, 6, 6, 6, 6, 6, 8, 8, 6, 6, 6, 6, 6, 6)
SMALL: dict[str, Any] = {
    "stage1_features": WIDTHS,
    "stage2_features": WIDTHS,
    "embedding_channels": 4,
    "patch_size": 92,
}


def small(**kwargs: Any) -> CTSUNet:
    """A narrow network whose batch norms are not those of the start, and whose ReLUs let something through."""
    torch.manual_seed(5)
    net = CTSUNet(**{**SMALL, **kwargs})
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.5)
    return net.eval()


def scan(*size: int, batch: int = 1, seed: int = 8) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def label(*size: int, batch: int = 1, seed: int = 9) -> torch.Tensor:
    coarse = torch.randint(
        0, 6, (batch, 1, *(edge // 4 for edge in size)), generator=torch.Generator().manual_seed(seed)
    )
    return functional.interpolate(coarse.float(), size=size, mode="nearest")


# --- the authors' outputs ---------------------------------------------------------------------------------------------


def centers(case: str) -> list[torch.Tensor]:
    """Where the bridge of one U-Net alone looks, by the authors' formulas."""
    stored, axes = STORED[case], []
    for axis, edge in enumerate(stored["input_shape"][2:]):
        if case == "stage1":
            axes.append(torch.linspace(-0.5, 0.5, edge // 8)[None])
        else:
            voxels = (edge - 60) // 8
            starts = torch.tensor([start[axis] for start in stored["starts"]])[:, None]
            place = torch.arange(voxels) * (edge - 67) / (voxels - 1) + 33.5 + starts
            axes.append(place / (stored["padded_scan"][axis] - 1) - 0.5)
    return axes


@functools.cache
def single_outputs(case: str, norm: str) -> dict[str, torch.Tensor]:
    """What one U-Net alone makes of its input, with the authors' weights by rule."""
    stored = STORED[case]
    stage = case.split("_")[0]
    features = QUARTER_STAGE1 if stage == "stage1" else STAGE2_FEATURES[case]
    in_channels = stored["input_shape"][1]
    unet = CUNet(
        in_channels, 6, features, padded=stage == "stage1", embedding_channels=8, similarity_norm=NORMS[norm]
    ).eval()
    theirs = {f"u{stage.replace('stage', 'net')}.{key}": v for key, v in unet_state(in_channels, features, 8).items()}
    converted = CTSUNet.convert_author_state(theirs)
    unet.load_state_dict({key.removeprefix(f"{stage}."): value for key, value in converted.items()}, strict=True)
    make_input = uniform if stage == "stage1" else waves
    kept: dict[str, torch.Tensor] = {}
    hooks = [
        unet.attention.register_forward_hook(lambda module, args, output: kept.update(bridge=args[0], non_local=output))
    ]
    with torch.no_grad():
        kept["lobes"], kept["border"] = unet(make_input(stored["seed"], stored["input_shape"]), centers(case))
    for hook in hooks:
        hook.remove()
    return kept


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ImportReport:
    """The rule-made checkpoint under the authors' names, as they save it, imported."""
    folder = tmp_path_factory.mktemp("authors")
    torch.save({"model": author_state(), "epoch": 3}, folder / "best.pth")
    return import_weights("ctsunet", folder / "best.pth", out=folder / "model.pt")


@pytest.fixture(scope="module")
def two_stages(report: ImportReport) -> dict[str, torch.Tensor]:
    """Both stages of the network that the report describes, for the scan and the windows of the reference."""
    net = CTSUNet(**{**report.arguments, **report.settings}).eval()
    net.load_state_dict(report.state_dict, strict=True)
    stored = STORED["two_stage"]
    outputs = {"scan": waves(stored["seed"], stored["input_shape"])}
    with torch.no_grad():
        outputs["stage1_lobes"], outputs["stage1_border"] = net.first_stage(outputs["scan"])
        context = net.context(outputs["scan"], outputs["stage1_lobes"], outputs["stage1_border"])
        outputs["scan_level_prob"] = context[:, 1:7]
        outputs["stage2_lobes"], outputs["stage2_border"] = net.window_logits(context, [stored["starts"]], [4, 4, 4])
    outputs["patch_prob"] = torch.softmax(outputs["stage2_lobes"], dim=1)
    return outputs


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def assert_stored(actual: torch.Tensor, stored: dict[str, Any]) -> None:
    assert list(actual.shape) == stored["shape"]
    assert_near(actual.flatten()[torch.tensor(stored["indices"])], torch.tensor(stored["values"]))


@pytest.mark.parametrize(("case", "norm"), SINGLE)
def test_one_unet_alone_gives_the_stored_outputs_of_the_authors(case, norm):
    outputs = single_outputs(case, norm)
    for head in ("lobes", "border"):
        assert_stored(outputs[head], STORED[case]["outputs"][f"{head}_{norm}"])


@pytest.mark.parametrize("name", STORED["two_stage"]["outputs"])
def test_the_imported_network_gives_the_stored_outputs_of_the_authors(two_stages, name):
    assert_stored(two_stages[name], STORED["two_stage"]["outputs"][name])


@pytest.mark.parametrize(("case", "norm"), SINGLE)
def test_one_unet_alone_equals_the_reference(case, norm):
    vectors = load_vectors("ctsu_net", f"{case.replace('_', '_quarter_') if '_' in case else case + '_quarter'}_io.npz")
    outputs = single_outputs(case, norm)
    bridge, non_local = ("bridge", "nonlocal") if case == "stage1" else ("nonlocal_in", "nonlocal_out")
    assert_near(outputs["bridge"], vectors[f"{bridge}_{norm}"])
    assert_near(outputs["non_local"], vectors[f"{non_local}_{norm}"])
    assert_near(outputs["lobes"], vectors[f"lobes_{norm}"])
    assert_near(outputs["border"], vectors[f"border_{norm}"])


def test_the_imported_network_equals_the_reference_in_both_stages(two_stages):
    vectors = load_vectors("ctsu_net", "two_stage_quarter_io.npz")
    for name, actual in two_stages.items():
        assert_near(actual, vectors[name])


def test_the_rule_makes_the_weights_of_the_reference():
    assert_rule_makes("ctsu_net", "two_stage_quarter.manifest.json", author_state())


# --- import -----------------------------------------------------------------------------------------------------------


def test_the_import_drops_the_unused_group_norms_and_nothing_else(report):
    norms = {
        f"unet{stage}.middle_psa.bns.{step}.{kind}": "a group norm that the authors' forward pass never uses"
        for stage in (1, 2)
        for step in range(3)
        for kind in ("weight", "bias")
    }
    assert report.dropped == {"epoch": "lies beside 'model'", **norms}
    assert report.tensors == len(author_state()) - 12
    assert report.added == {}


def test_the_import_tells_the_network_that_fits(report):
    assert report.arguments == {
        "in_channels": 1,
        "out_channels": 6,
        "stage1_features": list(QUARTER_STAGE1),
        "stage2_features": list(QUARTER_STAGE2),
        "embedding_channels": 8,
        "non_local": True,
        "geometric": True,
    }


def test_a_bundle_reads_beside_the_weights_what_it_has_to_build(report):
    written = report.source.with_name("model.pt")
    expected = {
        "stage1_features": list(QUARTER_STAGE1),
        "stage2_features": list(QUARTER_STAGE2),
        "embedding_channels": 8,
        "non_local": True,
        "geometric": True,
        "similarity_norm": "voxel",
        "window": 132,
    }
    assert report.settings == expected
    assert ModelFile(written).settings == expected
    assert json.loads(json.dumps(report.summary()))["settings"] == expected
    for name, value in expected.items():
        assert ModelFile(written).setting(name, None) == value


def test_the_released_widths_are_read_off_the_checkpoint():
    state = CTSUNet.convert_author_state(author_state(stage2_features=STAGE2_RELEASED_FEATURES, embedding_channels=32))
    arguments = CTSUNet.infer_arguments(state)
    assert arguments["stage2_features"] == list(STAGE2_RELEASED_FEATURES)
    assert arguments["embedding_channels"] == 32


@pytest.mark.parametrize("ablation", [{"non_local": False, "geometric": False}, {"geometric": False}])
def test_an_ablation_is_told_by_its_own_weights(ablation):
    net = CTSUNet(**{**SMALL, **ablation})
    arguments = CTSUNet.infer_arguments(net.state_dict())
    assert {"non_local": True, "geometric": True, **ablation}.items() <= arguments.items()
    CTSUNet(**arguments).load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize("wrap", [lambda key: f"module.{key}", lambda key: key])
def test_the_prefix_of_dataparallel_changes_nothing(wrap, tmp_path, report):
    torch.save({wrap(key): value for key, value in author_state().items()}, tmp_path / "best.pth")
    again = import_weights("ctsunet", tmp_path / "best.pth")
    assert again.settings == report.settings
    assert len([key for key in again.dropped if ".middle_psa.bns." in key]) == 12
    assert all(torch.equal(value, again.state_dict[key]) for key, value in report.state_dict.items())


@pytest.mark.parametrize(
    "key",
    [
        "unet3.bg.conv_blocks.0.0.weight",
        "unet1.ds_modules.3.conv_blocks.0.0.weight",
        "unet1.middle_psa.bns.3.weight",
        "unet2.middle_psa.bns.0.running_mean",
        "teacher.unet1.middle_psa.bns.0.weight",
        "unet1.fc.weight",
    ],
)
def test_a_key_that_the_authors_do_not_have_is_refused_and_named(key, tmp_path):
    torch.save({**author_state(), key: torch.zeros(1)}, tmp_path / "best.pth")
    with pytest.raises(
        ValueError, match=f"keys that the authors' CTSU-Net does not have: 1, the first: .'{key}'"
    ) as error:
        import_weights("ctsunet", tmp_path / "best.pth", out=tmp_path / "model.pt")
    assert str(error.value).startswith(str(tmp_path / "best.pth"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model.pt").exists()


def test_a_layer_that_no_block_has_is_refused(tmp_path):
    torch.save({**author_state(), "unet1.bg.conv_blocks.2.0.weight": torch.zeros(1)}, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=r"unknown 1: \['stage1\.bridge\.2\.0\.weight'\]"):
        import_weights("ctsunet", tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("unet2.outs.1.bias", "stage2.border.bias"),
        ("unet1.middle_psa.theta.weight", "stage1.attention.theta.weight"),
        ("unet1.us_modules.1.conv_blocks.0.1.running_var", "stage1.up2.0.adn.N.running_var"),
        ("unet2.ds_modules.0.conv_blocks.1.0.weight", "stage2.down1.1.conv.weight"),
    ],
)
def test_a_checkpoint_that_lacks_a_tensor_is_refused_and_named(lost, named, tmp_path):
    state = author_state()
    del state[lost]
    torch.save(state, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=rf"missing 1: \['{named}'\]"):
        import_weights("ctsunet", tmp_path / "best.pth", out=tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_a_checkpoint_without_the_group_norms_is_whole(tmp_path, report):
    state = {key: value for key, value in author_state().items() if ".bns." not in key}
    torch.save(state, tmp_path / "best.pth")
    again = import_weights("ctsunet", tmp_path / "best.pth")
    assert again.dropped == {}
    assert again.state_dict.keys() == report.state_dict.keys()


# --- construction -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_ctsunet(**kwargs: Any) -> CTSUNet:
    with torch.device("meta"):
        return CTSUNet(**kwargs)


def test_the_parameters_are_as_many_as_the_paper_has():
    net = meta_ctsunet()
    assert count(net.stage1) == 3_846_911
    assert count(net.stage2) == 9_235_367
    assert count(meta_ctsunet(stage2_features=STAGE2_RELEASED_FEATURES).stage2) == 9_183_495


def test_without_the_non_local_module_the_rest_is_whole():
    full, net = meta_ctsunet(), meta_ctsunet(non_local=False)
    assert not any(isinstance(m, CrissCrossAttention3d) for m in net.modules())
    for stage in ("stage1", "stage2"):
        attention = count(full.get_submodule(f"{stage}.attention"))
        assert count(net.get_submodule(stage)) == count(full.get_submodule(stage)) - attention
    assert {key for key in full.state_dict() if ".attention." not in key} == set(net.state_dict())


def test_without_the_geometric_term_only_its_maps_are_missing():
    full, net = meta_ctsunet(), meta_ctsunet(geometric=False)
    assert all(not m.geometric for m in net.modules() if isinstance(m, CrissCrossAttention3d))
    # two maps of 3 coordinates to 32 channels with bias, in either stage
    assert count(net) == count(full) - 2 * 2 * (3 * 32 + 32)


@pytest.mark.parametrize("ablation", [{"non_local": False}, {"geometric": False}])
def test_each_ablation_of_table_iv_trains(ablation):
    net = small(**ablation, patches=1).train()
    outputs = net(scan(32, 32, 48), label(32, 32, 48))
    sum(value.square().mean() for name, value in outputs.items() if name != "starts").backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters() if p.ndim == 5)


@pytest.mark.parametrize("spatial_dims", [1, 2, 4])
def test_other_dimensions_than_three_are_refused(spatial_dims):
    with pytest.raises(ValueError, match=f"spatial_dims must be 3, got {spatial_dims}"):
        CTSUNet(spatial_dims=spatial_dims)


@pytest.mark.parametrize("name", ["window", "patch_size"])
@pytest.mark.parametrize(("size", "remedy"), [(128, "124 or 132"), (96, "92 or 100")])
def test_a_window_that_valid_convolutions_cannot_take_is_refused(name, size, remedy):
    with pytest.raises(ValueError, match=f"A window of {size} voxels .* take {remedy}"):
        meta_ctsunet(**{name: size})


@pytest.mark.parametrize(
    ("size", "padded"),
    [((40, 48, 64), "48x48x64"), ((32, 33, 31), "32x48x32"), ((16, 32, 32), "32x32x32"), ((64, 64, 250), "64x64x256")],
)
@pytest.mark.parametrize("train", [True, False])
def test_a_size_that_cannot_work_names_the_padding(size, padded, train):
    net = meta_ctsunet().train(train)
    with pytest.raises(ValueError, match=rf"got {size[0]}x{size[1]}x{size[2]}: pad to {padded}\.") as error:
        net(torch.empty(1, 1, *size, device="meta"))
    assert "\n" not in str(error.value)


# --- prediction of a whole scan ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> CTSUNet:
    """In eval mode; tests leave it as it is."""
    return small()


def by_tiles(net: CTSUNet, context: torch.Tensor, corners: list[list[int]], tile: list[int]) -> torch.Tensor:
    """The mean of windows over a scan, each written into its place by hand."""
    total = torch.zeros(context.shape[0], 6, *(2 * edge for edge in context.shape[2:]))
    count = torch.zeros(total.shape[2:])
    for corner in corners:
        box = tuple(slice(first, first + edge) for first, edge in zip(corner, tile, strict=True))
        total[(..., *box)] += net.window_logits(context, [[corner]] * context.shape[0], tile)[0]
        count[box] += 1
    inside = tuple(slice(edge) for edge in context.shape[2:])
    return total[(..., *inside)] / count[inside]


def test_a_prediction_is_its_windows_side_by_side_and_overlaps_are_averaged(net):
    x = scan(32, 48, 32)
    with torch.no_grad():
        context = net.context(x, *net.first_stage(x))
        # 132 voxels yield 44: two windows overlap along y; 36 is the smallest output that covers 32
        expected = by_tiles(net, context, [[0, 0, 0], [0, 4, 0]], [36, 44, 36])
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.std(dim=(2, 3, 4)).min() > 0.05


def test_tiles_of_a_box_cover_it_and_overlaps_are_averaged(net, monkeypatch):
    # instead of stage 2 a window says its own number
    seen: list[list[int]] = []

    def numbered(context, corners, output):
        seen.append(corners[0][0])
        return torch.full((len(corners), 6, *output), float(len(seen))), torch.empty(0)

    monkeypatch.setattr(net, "window_logits", numbered)
    start, stop, tile = [3, 0, 5], [30, 17, 9], [12, 12, 12]
    actual = net.second_stage(torch.zeros(1, 8, 32, 32, 48), start, stop, tile)
    assert sorted(seen) == [[z, y, 5] for z in (3, 15, 18) for y in (0, 5)]
    expected = torch.zeros(27, 17, 4)
    for z, y, x in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        over = [i + 1.0 for i, c in enumerate(seen) if c[0] <= z + 3 < c[0] + 12 and c[1] <= y < c[1] + 12]
        expected[z, y, x] = sum(over) / len(over)
    torch.testing.assert_close(actual, expected.expand(1, 6, -1, -1, -1))


def test_several_windows_agree_with_one_where_no_voxel_depends_on_the_window():
    # attention, pooling and interpolation depend on where a window lies; without them the rest must not
    net = small(non_local=False)
    with torch.no_grad():
        net.stage2.up3[0].conv.weight[:, : WIDTHS[11]] = 0  # nothing from the lower levels
        x = scan(32, 48, 32)
        context = net.context(x, *net.first_stage(x))
        one = net.second_stage(context, [8, 0, 10], [12, 20, 28], [4, 20, 20])
        several = net.second_stage(context, [8, 0, 10], [12, 20, 28], [4, 12, 12])
        part = net.second_stage(context, [9, 3, 20], [11, 14, 25], [4, 12, 12])
    assert one.std(dim=(2, 3, 4)).min() > 0.05
    torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part, one[:, :, 1:3, 3:14, 10:15], rtol=1e-4, atol=1e-5)


def test_each_scan_of_a_batch_is_predicted_alone(net):
    x = scan(32, 32, 48, batch=2)
    box = ([0, 5, 40], [4, 9, 44], [4, 4, 4])
    with torch.no_grad():
        both = net.second_stage(net.context(x, *net.first_stage(x)), *box)
        alone = [net.second_stage(net.context(item, *net.first_stage(item)), *box) for item in (x[:1], x[1:])]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=0.01)


def test_each_scan_of_a_batch_has_its_own_windows_in_order(net):
    x = scan(32, 32, 48, batch=2)
    corners = [[[0, 4, 8], [20, 0, 1]], [[7, 28, 44], [3, 3, 3]]]
    with torch.no_grad():
        context = net.context(x, *net.first_stage(x))
        lobes, border = net.window_logits(context, corners, [4, 4, 4])
        for number, (item, corner) in enumerate((i, c) for i in range(2) for c in corners[i]):
            alone = net.window_logits(context[item : item + 1], [[corner]], [4, 4, 4])
            torch.testing.assert_close(lobes[number : number + 1], alone[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(border[number : number + 1], alone[1], rtol=1e-5, atol=1e-5)
    assert torch.cdist(lobes.flatten(1), lobes.flatten(1)).add(torch.eye(4)).min() > 0.1


def test_stage_2_sees_the_scan_and_the_probabilities_of_stage_1(net):
    x = scan(32, 32, 48)
    lobes, border = torch.randn(1, 6, 16, 16, 24), torch.randn(1, 1, 16, 16, 24)
    context = net.context(x, lobes, border)
    assert torch.equal(context[:, :1], x)
    torch.testing.assert_close(context[:, 1:7].sum(dim=1), torch.ones(1, 32, 32, 48))
    # align_corners: the corners keep their values
    corner = (..., slice(None, None, 31), slice(None, None, 31), slice(None, None, 47))
    coarse_corner = (..., slice(None, None, 15), slice(None, None, 15), slice(None, None, 23))
    torch.testing.assert_close(context[:, 1:7][corner], torch.softmax(lobes, dim=1)[coarse_corner])
    torch.testing.assert_close(context[:, 7:][corner], torch.sigmoid(border)[coarse_corner])


# --- training ---------------------------------------------------------------------------------------------------------


def test_train_mode_without_a_label_is_refused(net):
    twin = CTSUNet(**SMALL).train()
    with pytest.raises(ValueError, match="in train mode needs the label"):
        twin(scan(32, 32, 48))


def test_train_mode_returns_the_four_outputs_and_where_the_crops_lie():
    net = CTSUNet(**{**SMALL, "patch_size": 100}).train()
    with torch.no_grad():
        outputs = net(scan(32, 48, 64, batch=2), label(32, 48, 64, batch=2))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "stage1_lobes": (2, 6, 16, 24, 32),
        "stage1_border": (2, 1, 16, 24, 32),
        "stage2_lobes": (4, 6, 12, 12, 12),
        "stage2_border": (4, 1, 12, 12, 12),
        "starts": (2, 2, 3),
    }
    starts = outputs["starts"]
    assert starts.dtype == torch.int64
    assert starts.min() >= 0
    assert (starts + 12 <= torch.tensor([32, 48, 64])).all()


def frozen_norms(net: CTSUNet) -> CTSUNet:
    """In train mode, but with the statistics of eval mode, so that outputs can be compared."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return net


def test_each_output_of_training_belongs_to_its_crop():
    net = frozen_norms(small())
    x, y = scan(32, 32, 48, batch=2), label(32, 32, 48, batch=2)
    with torch.no_grad():
        outputs = net(x, y)
        lobes, border = net.first_stage(x)
        context = net.context(x, lobes, border)
        assert torch.equal(outputs["stage1_lobes"], lobes)
        assert torch.equal(outputs["stage1_border"], border)
        for number, start in enumerate(outputs["starts"].reshape(-1, 3).tolist()):
            item = number // 2
            patch, patch_border = net.window_logits(context[item : item + 1], [[start]], [4, 4, 4])
            torch.testing.assert_close(outputs["stage2_lobes"][number], patch[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(outputs["stage2_border"][number], patch_border[0], rtol=1e-5, atol=1e-5)


def norms(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers() if "running" in name}


def test_frozen_norms_of_stage_2_keep_their_statistics_and_those_of_stage_1_learn():
    net = small(freeze_norm=True, patches=1).train()
    before = norms(net.stage1), norms(net.stage2)
    net(scan(32, 32, 48), label(32, 32, 48))
    assert all(torch.equal(before[1][name], value) for name, value in norms(net.stage2).items())
    assert not any(torch.equal(before[0][name], value) for name, value in norms(net.stage1).items())


def test_stage_2_learns_with_frozen_norms_what_prediction_will_compute():
    net = small(freeze_norm=True).train()
    context = torch.rand(1, 8, 92, 92, 96)
    trained = net.window_logits(context, [[[44, 44, 44]]], [4, 4, 4])
    predicted = net.eval().window_logits(context, [[[44, 44, 44]]], [4, 4, 4])
    torch.testing.assert_close(trained, predicted)


@pytest.mark.parametrize("end_to_end", [True, False])
def test_the_loss_of_stage_2_reaches_stage_1_only_end_to_end(end_to_end):
    net = frozen_norms(small(end_to_end=end_to_end, patches=1))
    net(scan(32, 32, 48), label(32, 32, 48))["stage2_lobes"].square().sum().backward()
    gradients = [parameter.grad for parameter in net.stage1.parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients) == end_to_end


def test_the_lowest_coverage_takes_the_patch_where_stage_1_errs_most():
    net = frozen_norms(small(patches=1))
    net.coverage = 1e-9
    x, y = scan(32, 32, 48, batch=2), label(32, 32, 48, batch=2)
    with torch.no_grad():
        starts = net(x, y)["starts"]
        error = squared_error(net.context(x, *net.first_stage(x))[:, 1:7], y)
    # every candidate: tiles of 4x4x4 side by side
    sums = functional.avg_pool3d(error[:, None], 4)
    for item in range(2):
        z, y_, x_ = torch.unravel_index(sums[item, 0].argmax(), sums.shape[2:])
        assert starts[item].tolist() == [[4 * z, 4 * y_, 4 * x_]]


def test_a_seed_repeats_the_patches():
    net = frozen_norms(small(patches=1))
    x, y = scan(32, 32, 48), label(32, 32, 48)
    with torch.no_grad():
        torch.manual_seed(5)
        first, second = net(x, y)["starts"], net(x, y)["starts"]
        torch.manual_seed(5)
        assert torch.equal(net(x, y)["starts"], first)
    assert not torch.equal(first, second)


def test_the_loss_of_stage_2_trains_stage_1_too():
    net = small(patches=1).train()
    outputs = net(scan(32, 32, 48), label(32, 32, 48))
    layers = ("down1.0.conv", "bridge.1.conv", "attention.g", "lobes", "border")
    weights = [net.get_submodule(f"stage1.{layer}").weight for layer in layers]
    for output in ("stage2_lobes", "stage2_border"):
        gradients = torch.autograd.grad(outputs[output].square().mean(), weights, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_loss_of_stage_1_leaves_stage_2_alone():
    net = small(patches=1).train()
    net(scan(32, 32, 48), label(32, 32, 48))["stage1_lobes"].square().mean().backward()
    assert all(p.grad is None for p in net.stage2.parameters())
