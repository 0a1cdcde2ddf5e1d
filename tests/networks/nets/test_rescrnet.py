"""Res-CR-Net against the authors' code, and the particulars of its own.

The authors' outputs are stored twice: a few dozen values of each in ``../data/rescrnet.json``, and whole in the
reference vectors, whose tests are skipped where those are not there.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medseg_monai.networks.nets import ResCRNet
from medseg_monai.networks.weights.authors import import_weights
from tests.networks.imported import Imported, assert_rule_makes, import_network, keras_tensors, recorded
from tests.networks.keras_file import Layers, automatic_names, write_keras_weights
from tests.networks.reference import load_vectors

from .rescrnet_authors import author_layers, author_shapes

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "rescrnet.json").read_text(encoding="utf-8"))
TAPS = {
    "stem0": "stem",
    "res0": "blocks.0",
    "res1": "blocks.1",
    "res2": "blocks.2",
    "res3": "blocks.3",
    "res4": "blocks.4",
    "lstm0": "lstm_blocks.0",
}
FIRST = {"conv2d": 9, "separable_conv2d": 2, "batch_normalization": 0, "bidirectional": 1}


def as_in_a_file(layers: Layers, first: dict[str, int] = FIRST) -> Layers:
    """The layers as Keras names them, in an order that is not that of their creation."""
    items = [*automatic_names(layers, first=first).items(), ("input_2", {}), ("spatial_dropout2d_3", {})]
    random.Random(6).shuffle(items)
    return dict(items)


@pytest.fixture(scope="module")
def layers() -> Layers:
    """The rule-made weights of the authors' default configuration."""
    return author_layers(author_shapes())


def imported_from(folder: Path, layers: Layers, **kwargs: Any) -> Imported:
    """The network that a file of these layers gives."""
    write_keras_weights(folder / "weights.h5", layers, **kwargs)
    return import_network("rescrnet", folder / "weights.h5")


@pytest.fixture(scope="module")
def imported(layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The rule-made weights, written as Keras writes them, then imported."""
    return imported_from(tmp_path_factory.mktemp("authors"), as_in_a_file(layers))


@pytest.fixture(scope="module")
def activations(imported: Imported) -> dict[str, torch.Tensor]:
    """The probabilities and what each block gives for the input of the reference vectors, 12x14."""
    x = np.random.default_rng(STORED["seed"]).random(STORED["input_shape"]).astype(np.float32)
    with recorded(imported.net, TAPS) as features:
        features["input"] = torch.from_numpy(x).permute(0, 3, 1, 2)
        features["output"] = torch.softmax(imported.net(features["input"]), dim=1)
    return features


# --- the authors' outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["res4", "lstm0", "output"])
def test_the_imported_network_gives_the_stored_outputs_of_the_authors(name, activations):
    stored = STORED[name]
    assert list(activations[name].shape) == stored["shape"]
    values = activations[name].flatten()[torch.tensor(stored["indices"])]
    torch.testing.assert_close(values, torch.tensor(stored["values"]), rtol=1e-4, atol=1e-4)


def test_the_imported_network_equals_the_reference_at_every_tap(activations):
    vectors = load_vectors("res_cr_net", "repo_default_lstm_io.npz")
    assert set(vectors) == {"input", "output", *(f"tap_{name}" for name in TAPS)}
    assert torch.equal(activations["input"].permute(0, 2, 3, 1), vectors["input"])
    for name in (*TAPS, "output"):
        expected = vectors["output" if name == "output" else f"tap_{name}"].permute(0, 3, 1, 2)
        torch.testing.assert_close(activations[name], expected, rtol=1e-4, atol=1e-4)


def test_the_rule_makes_the_weights_of_the_reference(layers):
    assert_rule_makes("res_cr_net", "repo_default_lstm.manifest.json", keras_tensors(layers))


# --- import -----------------------------------------------------------------------------------------------------------


def test_the_import_reports_what_it_took(imported):
    summary = imported.report.summary()
    assert summary["arguments"] == {
        "in_channels": 3,
        "out_channels": 4,
        "filters": 16,
        "num_blocks": 5,
        "num_lstm_blocks": 1,
        "merge": "concat",
    }
    assert (summary["tensors"], summary["dropped"]) == (250 + 29, {})
    assert len(summary["added"]) == 29
    assert all(key.endswith(".num_batches_tracked") for key in summary["added"])


@pytest.mark.parametrize("first", [0, 1, 96])
def test_neither_the_first_number_nor_the_order_in_the_file_matters(first, tmp_path):
    shapes = author_shapes(in_channels=1, classes=2, filters=4, blocks=4, lstm_blocks=0)
    layers = author_layers(shapes)
    named = as_in_a_file(layers, dict.fromkeys(FIRST, first))
    net, report = imported_from(tmp_path, named, whole_model=first == 1)
    assert report.arguments == {
        "in_channels": 1,
        "out_channels": 2,
        "filters": 4,
        "num_blocks": 4,
        "num_lstm_blocks": 0,
        "merge": "concat",
    }
    conv = net.blocks[2].branches[1].conv2
    theirs = layers["res2_sep3"]
    assert np.array_equal(conv.depthwise.weight.detach(), theirs["depthwise_kernel"].transpose(2, 3, 0, 1))
    assert np.array_equal(conv.pointwise.weight.detach(), theirs["pointwise_kernel"].transpose(3, 2, 0, 1))
    assert np.array_equal(net.blocks[3].before[0].running_mean, layers["res3_bn0"]["moving_mean"])
    assert np.array_equal(net.stem.shortcut_norm.weight.detach(), layers["stem0_bn3"]["gamma"])
    assert np.array_equal(net.head.bias.detach(), layers["head0_conv0"]["bias"])


def test_a_second_lstm_block_leaves_a_gap_in_the_numbers_and_other_versions_name_the_lstm_otherwise(tmp_path):
    layers = author_layers(author_shapes(filters=2, blocks=0, lstm_blocks=2, wide=1))
    named = automatic_names(layers, first=FIRST)
    named["conv2d_12"] = named.pop("conv2d_11")  # the convolution that the authors make and never use is not there
    named = {
        layer: {role.replace("conv_lstm2d", "conv_lst_m2d"): values for role, values in roles.items()}
        for layer, roles in named.items()
    }
    net, report = imported_from(tmp_path, named)
    assert (report.arguments["num_blocks"], report.arguments["num_lstm_blocks"]) == (0, 2)
    assert report.arguments["merge"] == "add"
    ours, theirs = net.lstm_blocks[1].columns.back, layers["lstm1_bilstm1"]
    assert np.array_equal(
        ours.recurrent_weight.detach(), theirs["backward_conv_lstm2d_3/recurrent_kernel"].transpose(3, 2, 0, 1)
    )
    assert np.array_equal(net.lstm_blocks[1].conv.weight.detach()[:, :, 0, 0], layers["lstm1_conv0"]["kernel"][0, 0].T)


def refusal(tmp_path: Path, layers: Layers) -> str:
    """Importing a file of these layers has to fail with one line that starts with the file's path."""
    source = tmp_path / "a.h5"
    write_keras_weights(source, layers)
    with pytest.raises(ValueError, match=r".") as error:
        import_weights("rescrnet", source)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{source}: ")
    return message


def narrow_layers() -> Layers:
    return author_layers(author_shapes(filters=4, blocks=2))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("res1_sep5", "17 layers separable_conv2d"),
        ("lstm0_bilstm1", "1 bidirectional"),
        ("stem0_bn3", "13 layers batch_normalization, but the authors' Res-CR-Net with 18 separable_conv2d"),
        ("res0_conv0", "2 bidirectional has 4"),
    ],
)
def test_a_file_that_lacks_a_layer_is_refused(lost, message, tmp_path):
    layers = narrow_layers()
    del layers[lost]
    assert message in refusal(tmp_path, as_in_a_file(layers))


def test_a_file_with_a_layer_too_many_is_refused(tmp_path):
    layers = narrow_layers()
    layers["second_conv0"] = layers["lstm0_conv0"]
    assert "5 layers conv2d, but" in refusal(tmp_path, as_in_a_file(layers))


def test_a_file_with_layers_of_another_kind_is_refused_by_their_name(tmp_path):
    layers = as_in_a_file(narrow_layers())
    layers["dense_1"] = {"kernel": np.zeros((2, 3), np.float32)}
    assert "['dense']" in refusal(tmp_path, layers)


def test_a_file_of_another_network_is_refused(tmp_path):
    layers = {"conv2d": {"kernel": np.zeros((1, 1, 2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    assert "0 layers separable_conv2d" in refusal(tmp_path, layers)


def test_a_file_whose_widths_do_not_fit_together_is_refused_with_the_layer(tmp_path):
    layers = narrow_layers()
    layers["res0_sep2"]["depthwise_kernel"] = np.zeros((5, 5, 9, 1), np.float32)
    message = refusal(tmp_path, as_in_a_file(layers))
    assert "blocks.0.branches.1.conv1.depthwise.weight is (9, 1, 5, 5), not (12, 1, 5, 5)" in message


def test_a_file_whose_kernels_stand_in_the_wrong_branch_is_refused(tmp_path):
    layers = narrow_layers()
    layers["res0_sep2"], layers["res0_sep4"] = layers["res0_sep4"], layers["res0_sep2"]
    assert "blocks.0.branches.1.conv1.depthwise.weight is (12, 1, 7, 7)" in refusal(tmp_path, as_in_a_file(layers))


@pytest.mark.parametrize(
    ("layer", "role", "message"),
    [
        ("res1_sep3", "gain", "a separable convolution"),
        ("res1_bn3", "gain", "['gain']"),
        ("lstm0_bilstm0", "forward_gain", "forward_gain: a bidirectional convolutional LSTM has no such"),
        ("lstm0_bilstm0", "gain/kernel", "gain/kernel: a bidirectional convolutional LSTM has no such"),
    ],
)
def test_a_layer_that_holds_something_else_is_refused_by_it(layer, role, message, tmp_path):
    layers = narrow_layers()
    layers[layer][role] = np.zeros(1, np.float32)
    assert message in refusal(tmp_path, as_in_a_file(layers))


def test_a_layer_without_its_bias_is_refused_by_name(tmp_path):
    layers = narrow_layers()
    del layers["res1_conv0"]["bias"]
    assert "missing 1: ['blocks.1.shortcut.bias']" in refusal(tmp_path, as_in_a_file(layers))
    layers = narrow_layers()
    del layers["res1_sep3"]["bias"]
    assert "a separable convolution with bias" in refusal(tmp_path, as_in_a_file(layers))


# --- construction -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def count_with_statistics(module: nn.Module) -> int:
    statistics = [value for key, value in module.named_buffers() if key.endswith(("running_mean", "running_var"))]
    return count(module) + sum(value.numel() for value in statistics)


def meta_rescrnet(**kwargs: Any) -> ResCRNet:
    with torch.device("meta"):
        return ResCRNet(**kwargs)


def test_the_paper_s_network_for_chest_x_rays_is_the_default():
    net = meta_rescrnet()
    assert (count(net), count_with_statistics(net)) == (47_189, 48_533)


def test_the_authors_default_has_the_number_that_the_paper_prints():
    net = meta_rescrnet(in_channels=3, out_channels=4, num_blocks=5, num_lstm_blocks=1)
    assert (count(net), count_with_statistics(net)) == (59_165, 60_797)


def test_more_spatial_dimensions_than_two_are_refused():
    with pytest.raises(ValueError, match="spatial_dims must be 2, got 3"):
        ResCRNet(spatial_dims=3)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match='merge must be "concat" or "add", got \'sum\''):
        ResCRNet(merge="sum")
    with pytest.raises(ValueError, match="must be 0 or more, got 4, -1"):
        ResCRNet(num_lstm_blocks=-1)


def test_normalisation_and_activation_are_those_of_the_authors():
    modules = list(meta_rescrnet(num_lstm_blocks=1).modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 24
    assert all((m.eps, m.momentum) == (1e-3, 0.01) for m in norms)
    assert [m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)] == [0.1] * (4 + 5 * 3 + 1)


def test_kernels_of_one_shape_start_different():
    net = ResCRNet()
    first, second = net.blocks[0].branches[0].conv1, net.blocks[1].branches[0].conv1
    assert not torch.equal(first.depthwise.weight, second.depthwise.weight)
    assert not torch.equal(first.pointwise.weight, second.pointwise.weight)


# --- what it computes -------------------------------------------------------------------------------------------------


def test_without_lstm_a_leaky_relu_ends_the_network():
    torch.manual_seed(0)
    net, x = ResCRNet(filters=2, num_blocks=1).eval(), torch.randn(1, 1, 9, 11)
    with torch.no_grad():
        scores = torch.einsum("oc,bchw->bohw", net.head.weight[:, :, 0, 0], net.blocks[0](net.stem(x)))
        expected = torch.where(scores > 0, scores, 0.1 * scores)
        assert (expected < 0).any()
        torch.testing.assert_close(net(x), expected)


def test_dropout_takes_whole_channels_after_the_stem_and_after_every_block():
    torch.manual_seed(0)
    net = ResCRNet(filters=8, num_blocks=2, dropout=0.5)
    seen: list[torch.Tensor] = []
    for module in (*net.blocks, net.head):
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    net(torch.randn(1, 1, 9, 12))
    for features in seen:
        dropped = (features[0] == 0).flatten(1)
        assert torch.equal(dropped.any(1), dropped.all(1))
        assert 0 < dropped.all(1).sum() < 24
    seen.clear()
    net.eval()(torch.randn(1, 1, 9, 12))
    assert not any((features == 0).flatten(2).all(2).any() for features in seen)


@pytest.mark.parametrize("merge", ["concat", "add"])
def test_a_training_step_lowers_the_loss_with_lstm_and_either_merge(merge):
    torch.manual_seed(0)
    net = ResCRNet(filters=4, num_blocks=1, num_lstm_blocks=2, merge=merge, dropout=0.0, recurrent_dropout=0.0)
    x = torch.randn(2, 1, 10, 13)
    label = (x[:, 0] > 0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


def test_a_meta_tensor_hands_its_metadata_and_its_gradient_on():
    torch.manual_seed(0)
    net = ResCRNet(filters=2, num_blocks=1).eval()
    twin = copy.deepcopy(net)
    x = MetaTensor(torch.randn(1, 1, 9, 12), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])), meta={"name": "a"})
    logits, plain = net(x), twin(x.as_tensor())
    assert isinstance(logits, MetaTensor)
    assert logits.meta["name"] == "a"
    assert torch.equal(logits.affine, x.affine)
    assert torch.equal(logits.as_tensor(), plain)
    logits.square().sum().backward()
    plain.square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("num_lstm_blocks", [0, 2])
def test_an_exported_network_takes_other_sizes_than_the_one_it_was_exported_with(num_lstm_blocks, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    torch.manual_seed(0)
    net = ResCRNet(out_channels=3, filters=2, num_blocks=1, num_lstm_blocks=num_lstm_blocks).eval()
    axes = {0: "batch", 2: "rows", 3: "columns"}
    torch.onnx.export(
        net,
        (torch.randn(1, 1, 8, 11),),
        tmp_path / "net.onnx",
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=["pred"],
        dynamic_axes={"image": axes, "pred": axes},
    )
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    scripted = torch.jit.script(net)
    for shape in ((1, 1, 8, 11), (2, 1, 13, 7)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = net(x)
            torch.testing.assert_close(scripted(x), expected, rtol=1e-4, atol=1e-5)
        (pred,) = session.run(["pred"], {"image": x.numpy()})
        np.testing.assert_allclose(pred, expected.numpy(), rtol=1e-3, atol=1e-4)
