"""What every registered network has to do; the particulars of each are in ``cases/``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from medseg_monai.networks import NETWORKS
from medseg_monai.networks import nets as nets_package

from .cases import CASES, NetworkCase


class Built(NamedTuple):
    net: nn.Module
    case: NetworkCase
    inputs: tuple[torch.Tensor, torch.Tensor]
    logits: tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module", params=NETWORKS.names)
def built(request: pytest.FixtureRequest) -> Built:
    """The network in eval mode with its two inputs and what it makes of them; tests leave it as it is."""
    case = CASES[request.param]
    torch.manual_seed(5)
    net = NETWORKS[request.param](**case.kwargs).eval()
    inputs = tuple(torch.randn(shape) for shape in case.in_shapes)
    with torch.no_grad():
        logits = tuple(net(x) for x in inputs)
    return Built(net, case, inputs, logits)


def tensors_in(output: Any) -> Iterator[torch.Tensor]:
    """Every tensor with a gradient of what a network returns in train mode."""
    if isinstance(output, torch.Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, Mapping):
        yield from (tensor for value in output.values() for tensor in tensors_in(value))
    elif isinstance(output, Iterable):
        yield from (tensor for value in output for tensor in tensors_in(value))


def test_every_case_is_of_a_registered_network():
    files = {path.stem for path in (Path(__file__).parent / "cases").glob("*.py")} - {"__init__"}
    assert files == set(NETWORKS.names)


@pytest.mark.parametrize("name", NETWORKS.names)
def test_a_network_is_exported_under_its_class_name_with_a_docstring(name):
    network_class = NETWORKS[name]
    assert getattr(nets_package, network_class.__name__) is network_class
    assert network_class.__name__ in nets_package.__all__
    assert "Source:" in network_class.__doc__


@pytest.mark.parametrize("name", NETWORKS.names)
def test_the_constructor_takes_its_arguments_in_the_order_of_monai(name):
    parameters = list(inspect.signature(NETWORKS[name]).parameters)
    assert parameters[:3] == ["spatial_dims", "in_channels", "out_channels"]


def test_the_number_of_parameters_is_the_published_one(built):
    assert sum(p.numel() for p in built.net.parameters() if p.requires_grad) == built.case.parameters


def test_eval_mode_gives_one_tensor_of_logits_of_the_size_of_the_input(built):
    for x, logits in zip(built.inputs, built.logits, strict=True):
        assert isinstance(logits, torch.Tensor)
        assert logits.shape == (x.shape[0], built.case.out_channels, *x.shape[2:])
        assert torch.isfinite(logits).all()


def test_the_output_depends_on_the_input_and_is_no_probability(built):
    with torch.no_grad():
        other = built.net(-built.inputs[0])
    assert not torch.allclose(other, built.logits[0], atol=1e-3)
    assert min(built.logits[0].min(), other.min()) < 0


def test_an_eval_forward_repeats_exactly_and_leaves_the_state_as_it_was(built):
    before = {key: value.clone() for key, value in built.net.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(built.net(built.inputs[0]), built.logits[0])
    assert all(torch.equal(value, before[key]) for key, value in built.net.state_dict().items())


def test_an_illegal_size_is_refused_with_the_size_to_pad_to_or_there_is_none(built):
    if built.case.illegal_shape is None:
        with torch.no_grad():
            assert built.net(built.inputs[0][..., :1, :3]).shape[2:] == (1, 3)
        return
    with pytest.raises(ValueError, match=built.case.padding) as error:
        built.net(torch.zeros(built.case.illegal_shape))
    assert "\n" not in str(error.value)


def test_torchscript_gives_the_same_after_saving_and_loading(built, tmp_path):
    torch.jit.script(built.net).save(tmp_path / "net.ts")
    loaded = torch.jit.load(tmp_path / "net.ts")
    with torch.no_grad():
        for x, logits in zip(built.inputs, built.logits, strict=True):
            torch.testing.assert_close(loaded(x), logits, rtol=1e-4, atol=1e-5)


def test_onnx_gives_the_same(built, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    path, x = tmp_path / "net.onnx", built.inputs[1]
    torch.onnx.export(
        built.net, (x,), path, opset_version=17, dynamo=False, input_names=["image"], output_names=["pred"]
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (pred,) = session.run(["pred"], {"image": x.numpy()})
    np.testing.assert_allclose(pred, built.logits[1].numpy(), rtol=1e-3, atol=1e-4)


def test_the_state_dict_goes_into_a_new_network(built, tmp_path: Path):
    torch.save(built.net.state_dict(), tmp_path / "model.pt")
    twin = type(built.net)(**built.case.kwargs)
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(twin.eval()(built.inputs[1]), built.logits[1])


def test_gradients_reach_every_parameter_in_train_mode(built):
    torch.manual_seed(1)  # CTSU-Net's geometric term has a ReLU of its own, which may start with no positive value
    twin = type(built.net)(**built.case.kwargs).train()
    outputs = twin(built.inputs[1], *built.case.train_inputs(built.inputs[1]))
    loss = sum(output.square().mean() for output in tensors_in(outputs))
    loss.backward()
    unreached = [name for name, p in twin.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert unreached == []
    # a bias before a batch normalisation has a gradient of zero, a kernel has none
    flat = [name for name, p in twin.named_parameters() if p.ndim > 1 and p.grad.abs().max() == 0]
    assert flat == []


def test_batch_norms_learn_their_statistics_in_train_mode_only(built):
    twin = type(built.net)(**built.case.kwargs)
    norms = [m for m in twin.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        twin.eval()(built.inputs[0])
        assert all(m.num_batches_tracked == 0 for m in norms)
        twin.train()(built.inputs[0], *built.case.train_inputs(built.inputs[0]))
    assert all(m.num_batches_tracked >= 1 for m in norms)  # more for a norm that a network uses more than once
