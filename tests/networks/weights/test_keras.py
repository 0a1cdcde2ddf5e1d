"""Keras 2's weights files: what is read, in which order the layers come, what is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from medseg_monai.networks.weights.keras import keras_layers, pytorch_layer, read_keras_weights, rename_layers
from tests.networks.keras_file import Layers, write_keras_weights


@pytest.fixture
def layers() -> Layers:
    """Six layers in the order of a model's depth, two of them without weights."""
    rng = np.random.default_rng(8)

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "input_1": {},
        "conv2d_10": {"kernel": values(3, 1, 2, 5), "bias": values(5)},
        "conv2d_9": {"kernel": values(1, 1, 2, 5), "bias": values(5)},
        "batch_normalization": {role: values(5) for role in ("gamma", "beta", "moving_mean", "moving_variance")},
        "add": {},
        "bidirectional_2": {
            f"{side}_conv_lstm2d_4/{role}": values(1, 3, 1, 4)
            for side in ("forward", "backward")
            for role in ("kernel", "recurrent_kernel")
        },
    }


def assert_same(state: dict[str, torch.Tensor], layers: Layers) -> None:
    expected = {f"{layer}/{role}": values for layer, roles in layers.items() for role, values in roles.items()}
    assert list(state) == list(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(state[key].numpy(), values)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"whole_model": True}, {"chunks": 3}, {"whole_model": True, "chunks": 2}])
def test_every_weight_is_read_in_the_order_of_the_file_and_no_optimizer(tmp_path, layers, kwargs):
    write_keras_weights(tmp_path / "w.h5", layers, **kwargs)
    assert_same(read_keras_weights(tmp_path / "w.h5"), layers)


def test_a_layer_with_many_weights_has_its_names_in_pieces_too(tmp_path, layers):
    write_keras_weights(tmp_path / "w.h5", layers)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        attributes = file["batch_normalization"].attrs
        names = attributes["weight_names"]
        del attributes["weight_names"]
        attributes["weight_names0"], attributes["weight_names1"] = names[:3], names[3:]
    assert_same(read_keras_weights(tmp_path / "w.h5"), layers)


@pytest.mark.parametrize("prefix", ["conv2d_3_1/", "conv2d/", "functional_7/conv2d_3/", ""])
def test_a_prefix_that_is_not_quite_the_name_of_the_layer_is_taken_off(prefix, tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv2d_3"]
        file.create_group("conv2d_3").attrs["weight_names"] = [f"{prefix}kernel:0".encode()]
        file["conv2d_3"][f"{prefix}kernel:0"] = np.ones((1, 1, 2, 3), np.float32)
    assert list(read_keras_weights(tmp_path / "w.h5")) == ["conv2d_3/kernel"]


def test_numbers_of_another_byte_order_keep_their_values(tmp_path, layers):
    swapped = {layer: {role: a.astype(">f4") for role, a in roles.items()} for layer, roles in layers.items()}
    write_keras_weights(tmp_path / "w.h5", swapped)
    assert_same(read_keras_weights(tmp_path / "w.h5"), layers)


def test_weights_of_the_model_itself_are_not_lost(tmp_path, layers):
    write_keras_weights(tmp_path / "w.h5", layers)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file["top_level_model_weights"].attrs["weight_names"] = [b"scale:0"]
        file["top_level_model_weights"]["scale:0"] = np.float32(2)
    assert read_keras_weights(tmp_path / "w.h5")["top_level_model_weights/scale"] == 2


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(path) -> str:
    """Reading has to fail with one line, which starts with the file's path."""
    with pytest.raises(ValueError, match=r".") as error:
        read_keras_weights(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        read_keras_weights(tmp_path / "gone.h5")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "hole"])
def test_a_damaged_file_is_refused(damage, tmp_path, layers):
    write_keras_weights(tmp_path / "whole.h5", layers)
    whole = (tmp_path / "whole.h5").read_bytes()
    content = {
        "empty": b"",
        "text": b"<html>404</html>" * 99,
        "truncated": whole[: len(whole) * 2 // 3],
        "hole": whole[:96] + bytes(len(whole) - 96),
    }
    (tmp_path / "w.h5").write_bytes(content[damage])
    assert "damaged" in refusal(tmp_path / "w.h5")


def test_a_layer_that_is_listed_and_not_there_is_damage(tmp_path, layers):
    write_keras_weights(tmp_path / "w.h5", layers)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        del file["conv2d_9"]
    assert "damaged" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("names", [[b"conv2d_9", b"conv2d_\xff\xfe"], [1.5, 2.5]])
def test_names_that_are_none_are_damage(names, tmp_path, layers):
    write_keras_weights(tmp_path / "w.h5", layers)
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        file.attrs["layer_names"] = names
    assert "damaged" in refusal(tmp_path / "w.h5")


def test_other_hdf5_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["volume"] = np.zeros((2, 3))
    assert "is not a weights file of Keras" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
def test_a_file_of_keras_3_is_refused_with_the_remedy(root, tmp_path):
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file[f"{root}/conv2d/vars/0"] = np.zeros((3, 3, 1, 4), np.float32)
        file.create_group("vars")
    message = refusal(tmp_path / "w.weights.h5")
    assert "Keras 3" in message
    assert "model.save('model.h5')" in message


def test_a_file_without_a_single_weight_is_refused(tmp_path):
    write_keras_weights(tmp_path / "w.h5", {"input_1": {}, "add": {}})
    assert "is empty" in refusal(tmp_path / "w.h5")


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    write_keras_weights(tmp_path / "w.h5", {"conv2d": {"kernel": np.array([b"x"])}})
    assert "conv2d/kernel" in refusal(tmp_path / "w.h5")


def test_weights_that_declare_more_than_the_file_holds_are_refused_before_they_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv2d"]
        layer = file.create_group("conv2d")
        layer.attrs["weight_names"] = [b"conv2d/kernel:0"]
        layer.create_dataset("conv2d/kernel:0", shape=(10**6, 10**6), chunks=(1000, 1000), dtype="f4")
    assert "larger than the file" in refusal(tmp_path / "a.h5")


def test_two_weights_of_one_name_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv2d"]
        file.create_group("conv2d").attrs["weight_names"] = [b"conv2d/kernel:0", b"conv2d_1/kernel:0"]
        for name in ("conv2d/kernel:0", "conv2d_1/kernel:0"):
            file["conv2d"][name] = np.zeros((1, 1, 1, 1))
    assert "conv2d/kernel" in refusal(tmp_path / "w.h5")


# --- layers in order of creation --------------------------------------------------------------------------------------


def test_layers_come_in_the_order_of_their_numbers_kind_by_kind(tmp_path, layers):
    write_keras_weights(tmp_path / "w.h5", layers)
    kinds = keras_layers(read_keras_weights(tmp_path / "w.h5"))
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "conv2d": 2,
        "batch_normalization": 1,
        "bidirectional": 1,
    }
    for found, name in zip(kinds["conv2d"], ("conv2d_9", "conv2d_10"), strict=True):
        np.testing.assert_array_equal(found["kernel"].numpy(), layers[name]["kernel"])
        np.testing.assert_array_equal(found["bias"].numpy(), layers[name]["bias"])
    assert set(kinds["batch_normalization"][0]) == {"gamma", "beta", "moving_mean", "moving_variance"}


def test_a_layer_without_a_number_is_the_first_and_gaps_do_not_matter():
    names = ("conv2d_10", "conv2d_2", "conv2d", "separable_conv2d_1", "separable_conv2d")
    kinds = keras_layers({f"{name}/bias": torch.tensor([i]) for i, name in enumerate(names)})
    assert [int(layer["bias"]) for layer in kinds["conv2d"]] == [2, 1, 0]
    assert [int(layer["bias"]) for layer in kinds["separable_conv2d"]] == [4, 3]


def test_the_numbers_of_layers_inside_a_layer_are_left_out(layers):
    weights = {f"bidirectional_2/{role}": torch.from_numpy(a) for role, a in layers["bidirectional_2"].items()}
    (layer,) = keras_layers(weights)["bidirectional"]
    assert list(layer) == [
        f"{side}_conv_lstm2d/{role}" for side in ("forward", "backward") for role in ("kernel", "recurrent_kernel")
    ]


def test_names_of_another_framework_are_refused():
    with pytest.raises(ValueError, match=r"does not give to weights: 2, .*'conv1\.weight'"):
        keras_layers({"conv2d/bias": torch.ones(1), "conv1.weight": torch.ones(1), "conv1.bias": torch.ones(1)})


def test_two_weights_of_one_role_are_refused():
    with pytest.raises(ValueError, match=r"model_1/conv2d_1/bias: the layer model_1 has two"):
        keras_layers({"model_1/conv2d/bias": torch.ones(1), "model_1/conv2d_1/bias": torch.ones(1)})


def test_a_convolution_computes_the_same_under_the_names_of_pytorch(layers):
    theirs = {role: torch.from_numpy(values) for role, values in layers["conv2d_10"].items()}
    conv = torch.nn.Conv2d(2, 5, kernel_size=(3, 1))
    conv.load_state_dict(pytorch_layer(theirs), strict=True)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 1, 2)).astype(np.float32))
    with torch.no_grad():
        output = conv(x.permute(2, 0, 1)[None])[0, :, 0, 0]
    torch.testing.assert_close(output, torch.einsum("hwi,hwio->o", x, theirs["kernel"]) + theirs["bias"])


def test_a_batch_normalisation_keeps_its_moving_statistics(layers):
    theirs = {role: torch.from_numpy(values) for role, values in layers["batch_normalization"].items()}
    ours = pytorch_layer(theirs)
    assert list(ours) == ["weight", "bias", "running_mean", "running_var"]
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def test_a_role_of_another_kind_of_layer_is_refused():
    with pytest.raises(ValueError, match="depthwise_kernel"):
        pytorch_layer({"depthwise_kernel": torch.ones(3, 3, 1, 1), "bias": torch.ones(1)})


def counted(**counts: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    """So many layers of each kind; the bias of each is its number."""
    return {kind: [{"bias": torch.tensor([number])} for number in range(count)] for kind, count in counts.items()}


def test_layers_get_the_names_of_their_place_among_their_kind():
    names = {"batch_normalization": ["norm"], "conv2d": ["stem", "head"]}
    ours = rename_layers(counted(conv2d=2, batch_normalization=1), names, network="Net")
    assert {name: int(tensor) for name, tensor in ours.items()} == {"norm.bias": 0, "stem.bias": 0, "head.bias": 1}
    assert list(ours) == ["norm.bias", "stem.bias", "head.bias"]


def test_a_kind_of_its_own_is_converted_by_its_own_rule():
    names = {"conv2d": ["stem"], "bidirectional": ["rows"]}
    converters = {"bidirectional": lambda layer: {"ahead.bias": layer["bias"] + 10}}
    ours = rename_layers(counted(conv2d=1, bidirectional=1), names, network="Net", converters=converters)
    assert {name: int(tensor) for name, tensor in ours.items()} == {"stem.bias": 0, "rows.ahead.bias": 10}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_layers_of_a_kind_is_refused(count):
    layers = counted(**({"conv2d": count} if count else {}))
    with pytest.raises(ValueError, match=rf"^{count} layers conv2d, but the authors' Net has 2\.$"):
        rename_layers(layers, {"conv2d": ["stem", "head"]}, network="Net")


def test_a_kind_of_layers_that_the_network_does_not_have_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"^the authors' Net has no layers of the kinds \['dense'\]\.$"):
        rename_layers(counted(conv2d=1, dense=1), {"conv2d": ["stem"]}, network="Net")
