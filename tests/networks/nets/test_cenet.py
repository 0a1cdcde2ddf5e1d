"""CE-Net against the authors' code, and the particulars of its own.

The authors' outputs are stored twice: a few dozen values of each in ``../data/cenet.json``, and whole in the reference
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

from medseg_monai.networks.blocks import DenseAtrousConvBlock, ResidualMultiKernelPooling
from medseg_monai.networks.nets import CENet
from medseg_monai.networks.nets.cenet import CENetDecoderBlock
from tests.networks.fill_rule import make_state
from tests.networks.imported import Imported, assert_rule_makes, import_network, recorded
from tests.networks.reference import load_vectors

from .cenet_authors import author_shapes, author_state, decoder_shapes

STORED = json.loads((Path(__file__).resolve().parents[1] / "data" / "cenet.json").read_text(encoding="utf-8"))
HOOKS = {"enc3": "encoder.layer3", "enc4": "encoder.layer4", "dac": "dac", "rmp": "rmp", "decoder4": "decoder4"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """The rule-made checkpoint, written as the authors' training writes it (DataParallel, .th), then imported."""
    source = tmp_path_factory.mktemp("authors") / "CE-Net_DRIVE.th"
    torch.save({f"module.{key}": value for key, value in author_state().items()}, source)
    return import_network("cenet", source)


@pytest.fixture(scope="module")
def activations(imported: Imported) -> dict[str, torch.Tensor]:
    """The logits and the intermediate features for the input of the reference vectors, 224x256."""
    x = np.random.default_rng(STORED["net"]["seed"]).uniform(-1.6, 1.6, STORED["net"]["input_shape"])
    with recorded(imported.net, HOOKS) as features:
        features["input"] = torch.from_numpy(x.astype(np.float32))
        features["logits"] = imported.net(features["input"])
    return features


def build_block(name: str, author_weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """A block of the reference vectors' width, with the authors' weights (rule-made without any)."""
    blocks = {
        "dac": (DenseAtrousConvBlock(6), "dblock.", "dac.", 0.9),
        "rmp": (ResidualMultiKernelPooling(6), "spp.", "rmp.", 0.9),
        "decoder": (CENetDecoderBlock(12, 5), "decoder1.", "decoder1.", 1.0),
    }
    shapes = {
        "dac": {
            f"{conv}.{kind}": (6, 6, size, size) if kind == "weight" else (6,)
            for conv, size in (("dilate1", 3), ("dilate2", 3), ("dilate3", 3), ("conv1x1", 1))
            for kind in ("weight", "bias")
        },
        "rmp": {"conv.weight": (1, 6, 1, 1), "conv.bias": (1,)},
        "decoder": dict(decoder_shapes("", 12, 5)),
    }
    block, theirs, ours, gain = blocks[name]
    if author_weights is None:
        author_weights = make_state(shapes[name], lambda key: gain)
    converted = CENet.convert_author_state({theirs + key: value for key, value in author_weights.items()})
    block.load_state_dict({key.removeprefix(ours): value for key, value in converted.items()}, strict=True)
    return block.eval()


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Agreement to 1e-4 of the values' own scale."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * min(scale, 1.0))


# --- the authors' outputs, a few dozen values of each -----------------------------------------------------------------


def stored_values(name: str) -> torch.Tensor:
    return torch.tensor(STORED[name]["values"], dtype=torch.float32)


def at_stored_places(name: str, output: torch.Tensor) -> torch.Tensor:
    assert list(output.shape) == STORED[name]["shape"]
    return output.flatten()[torch.tensor(STORED[name]["indices"])]


def test_the_imported_network_gives_the_stored_logits_of_the_authors(activations):
    assert_near(at_stored_places("net", activations["logits"]), stored_values("net"))


@pytest.mark.parametrize("name", ["dac", "rmp", "decoder"])
def test_a_block_gives_the_stored_outputs_of_the_authors(name):
    x = np.random.default_rng(STORED[name]["seed"]).standard_normal(STORED[name]["input_shape"]).astype(np.float32)
    with torch.no_grad():
        output = build_block(name)(torch.from_numpy(x))
    assert_near(at_stored_places(name, output), stored_values(name))


# --- the reference vectors, whole -------------------------------------------------------------------------------------


def test_the_rule_makes_the_weights_of_the_reference():
    assert_rule_makes("ce_net", "net.manifest.json", author_state())


def test_the_imported_network_equals_the_reference_at_every_stage(activations):
    vectors = load_vectors("ce_net", "net_224x256_io.npz")
    assert torch.equal(activations["input"], vectors["input"])
    for name in ("enc3", "enc4", "dac", "decoder4", "logits"):
        assert_near(activations[name], vectors[name])
    assert_near(activations["rmp"][:, :4], vectors["rmp_first4"])
    assert_near(activations["rmp"][:, 4:], vectors["dac"])
    assert_near(torch.sigmoid(activations["logits"]), vectors["output"])


@pytest.mark.parametrize(
    ("name", "vectors_file"),
    [
        ("dac", "dac_io.npz"),
        ("rmp", "rmp_14x14_io.npz"),
        ("rmp", "rmp_16x16_io.npz"),
        ("rmp", "rmp_7x9_io.npz"),
        ("decoder", "decoder_io.npz"),
    ],
)
def test_a_block_equals_the_reference(name, vectors_file):
    vectors = load_vectors("ce_net", vectors_file)
    block = build_block(name, load_vectors("ce_net", f"{name}.weights.npz"))
    with torch.no_grad():
        output = block(vectors["input"])
    assert_near(output, vectors["output"])
    if name == "rmp":
        for channel, level in enumerate(("l1", "l2", "l3", "l4")):
            assert_near(output[:, channel : channel + 1], vectors[level])


# --- import -----------------------------------------------------------------------------------------------------------


def test_the_import_reports_what_it_took(imported):
    summary = imported.report.summary()
    assert summary["arguments"] == {"in_channels": 3, "out_channels": 1}
    assert (summary["tensors"], summary["dropped"], summary["added"]) == (316, {}, {})


def test_the_layer_segmentation_checkpoint_asks_for_twelve_channels():
    state = {key: torch.empty(shape, device="meta") for key, shape in author_shapes(out_channels=12).items()}
    converted = CENet.convert_author_state(state)
    assert CENet.infer_arguments(converted) == {"in_channels": 3, "out_channels": 12}
    with torch.device("meta"):
        expected = CENet(out_channels=12).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in expected.items()}


def test_a_key_that_the_authors_do_not_have_is_named():
    with pytest.raises(ValueError, match=r"does not have: 2, .*dblock\.dilate4\.weight"):
        CENet.convert_author_state(
            {name: torch.zeros(1) for name in ("firstbn.bias", "dblock.dilate4.weight", "fc.bias")}
        )


# --- construction -----------------------------------------------------------------------------------------------------


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta_cenet(**kwargs: Any) -> CENet:
    with torch.device("meta"):
        return CENet(**kwargs)


def test_the_parameters_are_as_many_as_the_authors_have():
    net = meta_cenet()
    assert count(net) == 29_003_093
    assert count(meta_cenet(out_channels=12)) == 29_006_272
    assert (count(net.encoder), count(net.dac), count(net.rmp)) == (21_284_672, 7_342_080, 513)


def test_more_spatial_dimensions_than_two_are_refused():
    with pytest.raises(ValueError, match="spatial_dims must be 2, got 3"):
        CENet(spatial_dims=3)


def test_without_the_dac_block_the_rest_is_whole():
    net = meta_cenet(dense_atrous=False)
    assert not any(isinstance(m, DenseAtrousConvBlock) for m in net.modules())
    assert isinstance(net.rmp, ResidualMultiKernelPooling)
    assert count(net) == 29_003_093 - 7_342_080


def test_without_the_rmp_block_the_decoder_takes_512_channels():
    net = meta_cenet(multi_kernel_pooling=False)
    assert not any(isinstance(m, ResidualMultiKernelPooling) for m in net.modules())
    assert isinstance(net.dac, DenseAtrousConvBlock)
    # the RMP block, and what decoder 4 is less with an inner width of 512 // 4 instead of 516 // 4
    assert count(net) == 29_003_093 - 513 - (count(CENetDecoderBlock(516, 256)) - count(CENetDecoderBlock(512, 256)))
    assert count(net) == 28_998_977


def test_the_dac_block_without_atrous_keeps_its_parameters_and_loses_its_dilation():
    def dilations(net: CENet) -> list[tuple[int, ...]]:
        return [m.dilation for m in net.dac.modules() if isinstance(m, nn.Conv2d)]

    plain = meta_cenet(atrous=False)
    assert dilations(plain) == [(1, 1)] * 4
    assert dilations(meta_cenet()) == [(1, 1), (3, 3), (5, 5), (1, 1)]
    assert count(plain) == 29_003_093


@pytest.mark.parametrize(
    ("kwargs", "size"),
    [
        ({"dense_atrous": False}, (192, 224)),
        ({"atrous": False}, (192, 224)),
        ({"multi_kernel_pooling": False}, (32, 64)),
        ({"context": "inception"}, (192, 224)),
        ({"context": "inception_resnet", "multi_kernel_pooling": False}, (32, 64)),
    ],
)
def test_each_ablation_of_table_vi_runs(kwargs, size):
    net = CENet(in_channels=1, **kwargs).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 1, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"dense_atrous": False},
        {"multi_kernel_pooling": False},
        {"dense_atrous": False, "multi_kernel_pooling": False},
        {"context": "inception"},
        {"context": "inception_resnet", "multi_kernel_pooling": False},
    ],
)
def test_the_tensors_tell_which_blocks_there_are(kwargs):
    arguments = CENet.infer_arguments(meta_cenet(**kwargs).state_dict())
    assert arguments == {"in_channels": 3, "out_channels": 1, **kwargs}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"context": "residual"}, "context must be one of dense_atrous, inception, inception_resnet, got 'residual'"),
        ({"context": "inception", "dense_atrous": False}, "context=inception replaces it"),
        ({"context": "inception_resnet", "atrous": False}, "context=inception_resnet replaces it"),
    ],
)
def test_blocks_that_contradict_each_other_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        meta_cenet(**kwargs)


@pytest.mark.parametrize(
    ("multi_kernel_pooling", "size", "padded"),
    [(True, (160, 224), "192x224"), (True, (193, 448), "224x448"), (False, (31, 33), "32x64")],
)
def test_a_size_that_cannot_work_names_the_padding(multi_kernel_pooling, size, padded):
    net = meta_cenet(multi_kernel_pooling=multi_kernel_pooling)
    with pytest.raises(ValueError, match=rf"got {size[0]}x{size[1]}: pad or resize to {padded}\."):
        net(torch.empty(1, 3, *size, device="meta"))
