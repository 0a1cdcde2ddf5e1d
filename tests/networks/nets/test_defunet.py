"""DEFU-Net against the authors' code, and the particulars of its own.

The authors' outputs are stored twice: a few dozen values of each in ``../data/defunet.json``, and whole in the
reference vectors, whose tests are skipped where those are not there.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg_monai.networks.blocks import DilatedInceptionBlock
from medseg_monai.networks.nets import DEFUNet
from medseg_monai.networks.weights.authors import import_weights
from tests.networks.imported import Imported, assert_rule_makes, import_network, keras_tensors, recorded
from tests.networks.keras_file import Layers, automatic_names, write_keras_weights
from tests.networks.reference import load_vectors

from .defunet_authors import author_layers, author_shapes

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "defunet.json").read_text(encoding="utf-8"))
NARROW = (8, 12, 16, 20)
# what the reference vectors keep, as output or as input of a module
OUTPUTS = {
    "skip0": "encoder.0",
    "pool4": "pool",
    "incep_bottom": "inception.3",
    "bottom_out": "bottom",
    "decoder_out": "decoder.3",
}
INPUTS = {"skip1": "inception.1", "skip2": "inception.2", "skip3": "inception.3", "bottom_in": "bottom"}


def as_in_a_file(layers: Layers, *, conv2d: int = 37, norm: int = 5) -> Layers:
    """The layers as a later session of Keras names them, in an order that is not that of their creation."""
    named = automatic_names(layers, first={"conv2d": conv2d, "batch_normalization": norm})
    items = [*named.items(), ("input_2", {}), ("add_11", {}), ("leaky_re_lu_3", {})]
    random.Random(6).shuffle(items)
    return dict(items)


@pytest.fixture(scope="module")
def layers() -> Layers:
    """The rule-made weights at full width."""
    return author_layers(author_shapes())


@pytest.fixture(scope="module")
def imported(layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The rule-made weights, written as Keras writes them, then imported."""
    source = tmp_path_factory.mktemp("authors") / "defu_net.h5"
    write_keras_weights(source, as_in_a_file(layers))
    return import_network("defunet", source)


@pytest.fixture(scope="module")
def activations(imported: Imported) -> dict[str, torch.Tensor]:
    """The logits and the intermediate features for the input of the reference vectors, 48x64."""
    x = np.random.default_rng(STORED["net"]["seed"]).random(STORED["net"]["input_shape"]).astype(np.float32)
    with recorded(imported.net, OUTPUTS, INPUTS) as features:
        features["input"] = torch.from_numpy(x).permute(0, 3, 1, 2)
        features["logits"] = imported.net(features["input"])
    return features


# --- the authors' outputs ---------------------------------------------------------------------------------------------


def test_the_imported_network_gives_the_stored_outputs_of_the_authors(activations):
    stored, output = STORED["net"], torch.sigmoid(activations["logits"])
    assert list(output.shape) == stored["shape"]
    values = output.flatten()[torch.tensor(stored["indices"])]
    torch.testing.assert_close(values, torch.tensor(stored["values"]), rtol=1e-4, atol=1e-4)


def test_the_imported_network_equals_the_reference_at_every_stage(activations):
    vectors = {name: x.permute(0, 3, 1, 2) for name, x in load_vectors("defu_net", "net_io.npz").items()}
    assert torch.equal(activations["input"], vectors["input"])
    for name in (*OUTPUTS, *INPUTS):
        torch.testing.assert_close(activations[name], vectors[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.sigmoid(activations["logits"]), vectors["output"], rtol=1e-4, atol=1e-4)


def test_the_rule_makes_the_weights_of_the_reference(layers):
    assert_rule_makes("defu_net", "net.manifest.json", keras_tensors(layers))


# --- import -----------------------------------------------------------------------------------------------------------


def narrow_layers(in_channels: int = 1) -> Layers:
    return author_layers(author_shapes(in_channels, NARROW))


def test_the_import_reports_what_it_took(imported):
    summary = imported.report.summary()
    assert summary["arguments"] == {
        "in_channels": 1,
        "out_channels": 1,
        "features": [64, 128, 256, 512],
        "inception": True,
    }
    assert (summary["tensors"], summary["dropped"]) == (452 + 54, {})
    assert len(summary["added"]) == 54
    assert all(key.endswith(".adn.N.num_batches_tracked") for key in summary["added"])


@pytest.mark.parametrize("first", [0, 1, 96])
def test_neither_the_first_number_nor_the_order_in_the_file_matters(first, tmp_path):
    layers = narrow_layers(in_channels=3)
    write_keras_weights(tmp_path / "a.hdf5", as_in_a_file(layers, conv2d=first, norm=first), whole_model=first == 1)
    report = import_weights("defunet", tmp_path / "a.hdf5")
    assert report.arguments == {"in_channels": 3, "out_channels": 1, "features": list(NARROW), "inception": True}
    net = DEFUNet(**report.arguments)
    net.load_state_dict(report.state_dict, strict=True)
    ours, theirs = net.decoder[1].unit2.conv2, layers["dcrc6_conv6"]
    assert np.array_equal(ours.conv.weight.detach().numpy(), theirs["kernel"].transpose(3, 2, 0, 1))
    assert np.array_equal(ours.adn.N.running_var.numpy(), layers["dcrc6_bn4"]["moving_variance"])
    assert np.array_equal(net.inception[2].branch_d2.conv.bias.detach().numpy(), layers["incep2_conv5"]["bias"])


def refusal(tmp_path: Path, layers: Layers) -> str:
    """Importing a file of these layers has to fail with one line that starts with the file's path."""
    source = tmp_path / "a.h5"
    write_keras_weights(source, layers)
    with pytest.raises(ValueError, match=r".") as error:
        import_weights("defunet", source)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{source}: ")
    return message


@pytest.mark.parametrize("lost", ["dcrc0_conv3", "incep3_conv6", "final_conv0"])
def test_a_file_that_lacks_a_layer_is_refused(lost, tmp_path):
    layers = narrow_layers()
    del layers[lost]
    assert "117 layers conv2d, but the authors' DEFU-Net has 118" in refusal(tmp_path, as_in_a_file(layers))


def test_a_file_that_lacks_a_normalisation_is_refused(tmp_path):
    layers = narrow_layers()
    del layers["dcrc4_bn2"]
    message = refusal(tmp_path, as_in_a_file(layers))
    assert "53 layers batch_normalization, but the authors' DEFU-Net has 54" in message


def test_a_file_with_a_layer_too_many_is_refused(tmp_path):
    layers = narrow_layers()
    layers["second_conv0"] = layers["final_conv0"]
    assert "119 layers conv2d, but the authors' DEFU-Net has 118" in refusal(tmp_path, as_in_a_file(layers))


def test_a_file_with_layers_of_another_kind_is_refused_by_their_name(tmp_path):
    layers = as_in_a_file(narrow_layers())
    layers["dense_1"] = {"kernel": np.zeros((2, 3), np.float32)}
    assert "['dense']" in refusal(tmp_path, layers)


def test_a_file_whose_widths_do_not_fit_together_is_refused_with_the_layer(tmp_path):
    layers = narrow_layers()
    layers["dcrc2_conv2"] = {"kernel": np.zeros((3, 3, 16, 24), np.float32), "bias": np.zeros(24, np.float32)}
    message = refusal(tmp_path, as_in_a_file(layers))
    assert "encoder.2.unit1.conv2.conv.weight is (24, 16, 3, 3), not (16, 16, 3, 3)" in message


def test_a_layer_without_its_bias_is_refused_by_name(tmp_path):
    layers = narrow_layers()
    del layers["incep1_conv4"]["bias"]
    assert "missing 1: ['inception.1.branch_d1.conv.bias']" in refusal(tmp_path, as_in_a_file(layers))


def test_a_layer_that_holds_something_else_is_refused_by_it(tmp_path):
    layers = narrow_layers()
    layers["dcrc1_conv1"]["gain"] = np.zeros(1, np.float32)
    assert "['gain']" in refusal(tmp_path, as_in_a_file(layers))


# --- construction -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_defunet(**kwargs: Any) -> DEFUNet:
    with torch.device("meta"):
        return DEFUNet(**kwargs)


def test_the_parameters_are_as_many_as_the_authors_have():
    net = meta_defunet()
    assert count(net) == 45_620_897
    statistics = [value for key, value in net.named_buffers() if key.endswith(("running_mean", "running_var"))]
    assert count(net) + sum(value.numel() for value in statistics) == 45_644_705


def test_more_spatial_dimensions_than_two_are_refused():
    with pytest.raises(ValueError, match="spatial_dims must be 2, got 3"):
        DEFUNet(spatial_dims=3)


@pytest.mark.parametrize("features", [(8, 12, 16), (8, 12, 16, 20, 24)])
def test_another_number_of_levels_than_four_is_refused(features):
    with pytest.raises(ValueError, match=r"four levels: give the features of each, got \[8, 12, 16"):
        DEFUNet(features=features)


def test_normalisation_and_activation_are_those_of_keras():
    modules = list(meta_defunet().modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 54
    assert all((m.eps, m.momentum) == (1e-3, 0.01) for m in norms)
    slopes = [m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.3] * (9 * 9)
    assert not any(isinstance(m, nn.PReLU) for m in modules)


def test_kernels_start_after_glorot_and_biases_at_zero():
    torch.manual_seed(1)
    net = DEFUNet(features=(16, 32, 64, 64))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert not module.bias.any()
            fans = module.weight[:, 0].numel() + module.weight[0].numel()
            assert module.weight.abs().max() <= math.sqrt(6 / fans)
            if module.weight.numel() > 20_000:
                assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.03)


def test_without_the_inception_path_the_rest_is_whole():
    net = meta_defunet(inception=False)
    assert not any(isinstance(m, DilatedInceptionBlock) for m in net.modules())
    assert count(net) == 45_620_897 - count(meta_defunet().inception)
    assert count(net) == 43_292_929
    assert DEFUNet.infer_arguments(net.state_dict())["inception"] is False


def test_without_the_inception_path_the_network_computes_what_it_does_with_one_that_gives_nothing():
    torch.manual_seed(2)
    whole, alone = DEFUNet(features=NARROW).eval(), DEFUNet(features=NARROW, inception=False).eval()
    for p in whole.inception.parameters():
        nn.init.zeros_(p)
    alone.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("inception.")})
    x = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(alone(x), whole(x))
        torch.testing.assert_close(torch.jit.script(alone)(x), whole(x))


@pytest.mark.parametrize(("size", "padded"), [((40, 512), "48x512"), ((17, 31), "32x32"), ((300, 340), "304x352")])
def test_a_size_that_cannot_work_names_the_padding(size, padded):
    with pytest.raises(ValueError, match=rf"got {size[0]}x{size[1]}: pad or resize to {padded}\."):
        meta_defunet(features=NARROW)(torch.empty(1, 1, *size, device="meta"))


def test_the_smallest_size_works():
    with torch.no_grad():
        assert DEFUNet(features=NARROW).eval()(torch.randn(1, 1, 16, 16)).shape == (1, 1, 16, 16)
