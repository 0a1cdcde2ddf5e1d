"""ANU-Net against the authors' code, and the particulars of its own.

The authors' outputs are stored twice: two dozen values of each in ``../data/anunet.json``, and whole in the reference
vectors, whose tests are skipped where those are not there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg_monai.networks.nets import ANUNet
from medseg_monai.networks.nets.anunet import ANUNetNode
from medseg_monai.networks.weights.authors import import_weights
from tests.networks.imported import Imported, assert_rule_makes, import_network, recorded
from tests.networks.reference import load_vectors

from .anunet_authors import FULL, author_shapes, author_state

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "anunet.json").read_text(encoding="utf-8"))
NARROW = (4, 6, 8, 10, 12)
NODES = [f"X{i}_{j}" for j in range(1, 5) for i in range(5 - j)]
# what the reference vectors keep of the nodes
HOOKS = {"X4_0": "encoder.4", "X1_1": "columns.0.1", "X3_1": "columns.0.3", "X2_2": "columns.1.2"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The rule-made checkpoint of a quarter of the width, written as DataParallel writes it, then imported."""
    source = tmp_path_factory.mktemp("authors") / "anunet.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in author_state().items()}}, source)
    return import_network("anunet", source)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """The input of the reference vectors, 48x64."""
    x = np.random.default_rng(STORED["input"]["seed"]).standard_normal(STORED["input"]["shape"])
    return torch.from_numpy(x.astype(np.float32))


@pytest.fixture(scope="module")
def activations(imported: Imported, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every head's logits, the coefficients of the gates and some nodes, under the names of the reference vectors."""
    with recorded(imported.net, HOOKS) as features:
        features["input"] = image
        for level, logits in enumerate(every_head(imported.net, image), start=1):
            features[f"logit_final{level}"] = logits
    features |= {node.replace("X", "alpha_"): a for node, a in imported.net.attention_maps(image).items()}
    return features


def every_head(net: ANUNet, x: torch.Tensor) -> list[torch.Tensor]:
    """All heads' logits with the statistics of eval mode."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    try:
        return net(x)
    finally:
        net.eval()


def narrow(**kwargs: Any) -> ANUNet:
    """A narrow network whose normalisations have learnt something."""
    torch.manual_seed(7)
    net = ANUNet(features=NARROW, **kwargs)
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(2, 1, 32, 48))
    return net.eval()


# --- the authors' outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in STORED if name not in ("about", "input")])
def test_the_imported_network_gives_the_stored_outputs_of_the_authors(activations, name):
    assert list(activations[name].shape) == STORED[name]["shape"]
    values = activations[name].flatten()[torch.tensor(STORED[name]["indices"])]
    torch.testing.assert_close(values, torch.tensor(STORED[name]["values"]), rtol=1e-4, atol=1e-4)


def test_the_imported_network_equals_the_reference_at_every_stage(activations):
    vectors = load_vectors("anu_net", "quarter_io.npz")
    assert torch.equal(activations["input"], vectors["input"])
    outputs = {f"output{level}": torch.sigmoid(activations[f"logit_final{level}"]) for level in range(1, 5)}
    for name, expected in vectors.items():
        torch.testing.assert_close((activations | outputs)[name], expected, rtol=1e-4, atol=1e-4)


def test_the_rule_makes_the_weights_of_the_reference():
    weights, state = load_vectors("anu_net", "quarter.weights.npz"), author_state()
    assert_rule_makes("anu_net", "quarter.manifest.json", state)
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, weights[key], rtol=1e-6, atol=0)


# --- import -----------------------------------------------------------------------------------------------------------


def test_the_import_reports_what_it_took(imported):
    summary = imported.report.summary()
    features = [8, 16, 32, 64, 128]
    assert summary["arguments"] == {"in_channels": 1, "out_channels": 1, "features": features, "gate_all": False}
    assert (summary["tensors"], summary["dropped"], summary["added"]) == (456, {}, {})


def test_the_authors_checkpoint_fits_at_full_width():
    shapes = author_shapes(FULL, in_channels=3, out_channels=2)
    converted = ANUNet.convert_author_state({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    arguments = ANUNet.infer_arguments(converted)
    assert arguments == {"in_channels": 3, "out_channels": 2, "features": list(FULL), "gate_all": False}
    expected = meta_anunet(**arguments).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in expected.items()}


def test_the_arguments_of_a_network_that_gates_all_follow_from_its_state():
    assert ANUNet.infer_arguments(meta_anunet(gate_all=True).state_dict())["gate_all"] is True


def test_a_key_that_the_authors_do_not_have_is_named():
    keys = ("conv0_0.conv1.bias", "Att0_5.psi.0.weight", "final.0.bias")
    with pytest.raises(ValueError, match=r"does not have: 2, .*'Att0_5\.psi\.0\.weight', 'final\.0\.bias'"):
        ANUNet.convert_author_state({key: torch.zeros(1) for key in keys})


def test_a_checkpoint_without_one_of_the_heads_is_refused_by_its_name(tmp_path):
    state = author_state()
    del state["final2.0.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: .*missing 1: \['heads\.1\.bias'\]"):
        import_weights("anunet", tmp_path / "a.pth")


# --- construction -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_anunet(**kwargs: Any) -> ANUNet:
    with torch.device("meta"):
        return ANUNet(**kwargs)


def test_the_parameters_are_as_many_as_table_6_says():
    net = meta_anunet()
    assert [count(net.pruned(level)) for level in (1, 2, 3, 4)] == [103_812, 513_387, 2_191_829, 8_950_594]
    assert [count(meta_anunet(features=FULL[:n])) for n in (2, 3, 4, 5)] == [103_812, 513_387, 2_191_829, 8_950_594]


def test_the_parameters_with_a_gate_on_every_skip_are_as_many_as_equation_4_asks_for():
    net = meta_anunet(gate_all=True)
    assert [count(net.pruned(level)) for level in (1, 2, 3, 4)] == [103_812, 515_662, 2_202_977, 8_994_048]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"features": (8,)}, r"two levels or more: give the features of each, got \[8\]"),
        ({"supervision_level": 0}, "level 0: an ANUNet with 5 features has levels 1 to 4"),
        ({"supervision_level": 3, "features": (4, 6, 8)}, "level 3: an ANUNet with 3 features has levels 1 to 2"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        meta_anunet(**kwargs)


@pytest.mark.parametrize("gates", [1, 3])
def test_a_node_merges_the_gated_the_upsampled_and_then_the_older_ones(gates):
    torch.manual_seed(1)
    node = ANUNetNode(2, channels=4, gate_channels=2, predecessors=3, gates=gates).eval()
    upsampled, *row = torch.randn(4, 2, 4, 6, 9)
    gated = [gate(upsampled, x) for gate, x in zip(node.gates, row[-gates:], strict=True)]
    with torch.no_grad():
        expected = node.merge(torch.cat([*gated, upsampled, *row[: 3 - gates]], dim=1))
        assert torch.equal(node(upsampled, row), expected)


def test_the_columns_share_the_up_convolution_of_a_level():
    net = ANUNet(features=NARROW)
    with torch.no_grad():
        net(torch.randn(2, 1, 32, 48))
    assert [up.adn.N.num_batches_tracked.item() for up in net.ups] == [4, 3, 2, 1]


def test_a_volume_passes_the_network_of_three_dimensions():
    net = ANUNet(spatial_dims=3, out_channels=2, features=(4, 6, 8)).eval()
    with torch.no_grad():
        x = torch.randn(1, 1, 8, 12, 4)
        assert net(x).shape == net.pruned(1)(x).shape == (1, 2, 8, 12, 4)
    assert net.attention_maps(x)["X1_1"].shape == (1, 1, 4, 6, 2)
    with pytest.raises(ValueError, match=r"multiples of 4, got 8x13x2: pad or resize to 8x16x4\."):
        net(torch.zeros(1, 1, 8, 13, 2))


# --- heads and sizes --------------------------------------------------------------------------------------------------


def test_train_mode_gives_every_head_and_eval_mode_the_one_of_the_supervision_level(image):
    net = narrow(out_channels=2)
    with torch.no_grad():
        heads = every_head(net, image)
        assert [head.shape for head in heads] == [(1, 2, 48, 64)] * 4
        assert torch.equal(net(image), heads[3])
        for level in range(1, 5):
            chosen = ANUNet(out_channels=2, features=NARROW, supervision_level=level).eval()
            chosen.load_state_dict(net.state_dict())
            assert torch.equal(chosen(image), heads[level - 1])
    assert not torch.allclose(heads[2], heads[3], atol=1e-3)


def test_torchscript_gives_the_head_of_the_supervision_level(image):
    net = narrow(supervision_level=2)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(net)(image), every_head(net, image)[1])


def test_nothing_deeper_than_the_supervision_level_is_computed(image):
    net = narrow(supervision_level=2)
    with torch.no_grad():
        before = net(image)
        for name in ("encoder.3", "columns.0.2", "columns.1.1", "columns.2.0", "ups.2", "heads.2"):
            for p in net.get_submodule(name).parameters():
                p.fill_(torch.nan)
        assert torch.equal(net(image), before)
        assert every_head(net, image)[2].isnan().all()


@pytest.mark.parametrize(
    ("size", "level", "padded"),
    [((40, 512), None, "48x512"), ((17, 31), None, "32x32"), ((48, 63), 3, "48x64"), ((2, 9), 1, "2x10")],
)
def test_a_size_that_cannot_work_names_the_padding(size, level, padded):
    net = meta_anunet(features=NARROW, supervision_level=level).eval()
    with pytest.raises(ValueError, match=rf"got {size[0]}x{size[1]}: pad or resize to {padded}\."):
        net(torch.empty(1, 1, *size, device="meta"))


def test_the_size_that_a_level_needs_is_that_of_its_depth():
    x = torch.randn(1, 1, 12, 20)
    assert narrow(supervision_level=2)(x).shape == (1, 1, 12, 20)
    with pytest.raises(ValueError, match="multiples of 16, got 12x20"):
        narrow(supervision_level=2).train()(x)


# --- pruning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate_all", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_pruned_network_equals_the_full_ones_head_bit_for_bit(image, level, gate_all):
    net = narrow(gate_all=gate_all, out_channels=2)
    pruned = net.pruned(level)
    with torch.no_grad():
        assert torch.equal(pruned(image), every_head(net, image)[level - 1])
    twin = ANUNet(out_channels=2, features=NARROW[: level + 1], gate_all=gate_all)
    twin.load_state_dict(pruned.state_dict(), strict=True)
    assert (count(pruned) < count(net)) == (level < 4)


def test_a_network_can_be_pruned_again(image):
    net = narrow()
    with torch.no_grad():
        assert torch.equal(net.pruned(3).pruned(1)(image), net.pruned(1)(image))


def test_pruning_leaves_the_full_network_and_the_random_state_alone():
    net = narrow()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    pruned = net.pruned(2)
    assert torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():
        pruned.train()(torch.randn(2, 1, 16, 24))
        for p in pruned.parameters():
            assert p.requires_grad
            p.zero_()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_pruned_network_keeps_mode_and_precision():
    net = narrow().double()
    assert not net.pruned(2).training
    pruned = net.train().pruned(2)
    assert pruned.training
    assert {p.dtype for p in pruned.parameters()} == {torch.float64}


@pytest.mark.parametrize("level", [0, 5])
def test_a_level_that_is_not_there_cannot_be_pruned_to(level):
    with pytest.raises(ValueError, match=f"level {level}: an ANUNet with 5 features has levels 1 to 4"):
        meta_anunet(features=NARROW).pruned(level)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate_all", [False, True])
def test_the_attention_maps_have_the_size_of_their_level_and_a_channel_for_each_gate(image, gate_all):
    maps = narrow(gate_all=gate_all).attention_maps(image)
    assert list(maps) == NODES
    for node, alphas in maps.items():
        i, j = (int(number) for number in node[1:].split("_"))
        assert alphas.shape == (1, j if gate_all else 1, 48 >> i, 64 >> i)
        assert 0 <= alphas.min() < alphas.max() <= 1
        assert not alphas.requires_grad


def test_the_attention_maps_are_what_the_gates_apply(image):
    net = narrow(gate_all=True)
    applied: list[torch.Tensor] = []
    gates = net.columns[1][1].gates
    hooks = [gate.psi.register_forward_hook(lambda module, args, output: applied.append(output)) for gate in gates]
    with torch.no_grad():
        net(image)
    for hook in hooks:
        hook.remove()
    assert torch.equal(net.attention_maps(image)["X1_2"], torch.cat(applied, dim=1))


def test_looking_at_the_attention_of_a_network_in_training_changes_nothing(image):
    net = narrow()
    expected = net.attention_maps(image)
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    maps = net.attention_maps(image)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(maps[node], expected[node]) for node in NODES)


def test_attention_of_a_size_that_cannot_work_names_the_padding():
    with pytest.raises(ValueError, match=r"multiples of 16, got 24x16: pad or resize to 32x16\."):
        meta_anunet(features=NARROW).attention_maps(torch.empty(1, 1, 24, 16, device="meta"))
