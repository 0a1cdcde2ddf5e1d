"""The convolutional LSTM against Keras' arithmetic, and the LSTM RES block of Res-CR-Net against the authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medseg_monai.networks.blocks import BidirectionalConvLSTM2d, ConvLSTM2d, ResidualConvLSTMBlock
from medseg_monai.networks.blocks.conv_lstm import _hard_sigmoid
from medseg_monai.networks.nets import ResCRNet
from tests.networks.nets.rescrnet_authors import author_layers, author_shapes
from tests.networks.reference import load_vectors


def same_convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """TensorFlow's "same" correlation, tap by tap: ``[H, W, C_in]`` and ``[kh, kw, C_in, C_out]``."""
    rows, columns = kernel.shape[:2]
    padded = np.zeros((x.shape[0] + rows - 1, x.shape[1] + columns - 1, x.shape[2]))
    top, left = (rows - 1) // 2, (columns - 1) // 2
    padded[top : top + x.shape[0], left : left + x.shape[1]] = x
    return sum(
        padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[i, j] for i in range(rows) for j in range(columns)
    )


def keras_conv_lstm(x: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Keras 2's ``ConvLSTM2D(return_sequences=True)`` over ``[T, H, W, C]``, written from its documentation."""

    def hard_sigmoid(z: np.ndarray) -> np.ndarray:
        return np.clip(0.2 * z + 0.5, 0, 1)

    width = recurrent.shape[2]
    state = cell = np.zeros((*x.shape[1:3], width))
    states = []
    for image in x:
        gates = same_convolution(image, kernel) + bias + same_convolution(state, recurrent)
        i, f, c, o = (gates[..., k * width : (k + 1) * width] for k in range(4))
        cell = hard_sigmoid(f) * cell + hard_sigmoid(i) * np.tanh(c)
        state = hard_sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.stack(states)


def randomised(lstm: ConvLSTM2d) -> ConvLSTM2d:
    for p in lstm.parameters():
        nn.init.normal_(p, std=0.7)
    return lstm.double().eval()


@pytest.mark.parametrize("kernel_size", [(3, 4), (3, 3), (2, 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_is_run_as_in_keras(kernel_size, reverse):
    torch.manual_seed(0)
    lstm = randomised(ConvLSTM2d(2, 3, kernel_size, reverse=reverse))
    x = torch.randn(2, 5, 2, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        states = lstm(x)
    assert states.shape == (2, 5, 3, 6, 4)
    kernel, recurrent = (w.detach().numpy().transpose(2, 3, 1, 0) for w in (lstm.weight, lstm.recurrent_weight))
    for sequence, ours in zip(x.numpy(), states.numpy(), strict=True):
        order = slice(None, None, -1) if reverse else slice(None)
        expected = keras_conv_lstm(sequence.transpose(0, 2, 3, 1)[order], kernel, recurrent, lstm.bias.detach().numpy())
        np.testing.assert_allclose(ours.transpose(0, 2, 3, 1), expected[order], rtol=1e-9, atol=1e-12)


def test_the_hard_sigmoid_is_that_of_keras_2():
    x = torch.tensor([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 3.0])
    torch.testing.assert_close(_hard_sigmoid(x), torch.tensor([0.0, 0.0, 0.3, 0.5, 0.7, 1.0, 1.0]))


def test_a_state_depends_on_what_came_before_it_and_on_nothing_after():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 1, 5, 2, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3] += 1
    for reverse in (False, True):
        lstm = randomised(ConvLSTM2d(1, 1, (3, 2), reverse=reverse))
        with torch.no_grad():
            differs = (lstm(x) != lstm(changed)).flatten(2).any(2)[0].tolist()
        assert differs == ([True] * 4 + [False] * 2 if reverse else [False] * 3 + [True] * 3)


def test_both_directions_are_concatenated_the_one_ahead_first():
    torch.manual_seed(0)
    both, x = BidirectionalConvLSTM2d(2, 3, (3, 2)), torch.randn(1, 4, 2, 5, 6)
    with torch.no_grad():
        states = both(x)
        assert torch.equal(states[:, :, :3], both.ahead(x))
        assert torch.equal(states[:, :, 3:], both.back(x))
    assert both.back.reverse
    assert not both.ahead.reverse


def test_recurrent_dropout_acts_in_train_mode_only_on_each_gate_by_one_mask_for_the_whole_sequence(monkeypatch):
    torch.manual_seed(0)
    lstm = ConvLSTM2d(1, 2, (3, 3), recurrent_dropout=0.5)
    x = torch.randn(2, 5, 1, 6, 4)
    masks: list[torch.Tensor] = []
    dropout = F.dropout
    monkeypatch.setattr(F, "dropout", lambda *args: masks.append(dropout(*args)) or masks[-1])
    with torch.no_grad():
        dropped = lstm(x)
        (mask,) = masks
        assert mask.shape == (2, 4 * 2, 6, 4)
        assert set(mask.unique().tolist()) == {0.0, 2.0}
        kept = lstm.eval()(x)
    assert len(masks) == 1
    assert torch.equal(dropped[:, 0], kept[:, 0])  # the first state sees none before it
    assert not torch.allclose(dropped[:, 1], kept[:, 1])


def test_weights_start_as_in_keras():
    torch.manual_seed(0)
    lstm = ConvLSTM2d(20, 30, (3, 4))
    assert lstm.weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 4 * 20)), rel=0.03)
    flat = lstm.recurrent_weight.flatten(1)
    torch.testing.assert_close(flat @ flat.t(), torch.eye(4 * 30), rtol=0, atol=1e-5)
    assert lstm.bias.tolist() == [0.0] * 30 + [1.0] * 30 + [0.0] * 60


# --- the block --------------------------------------------------------------------------------------------------------


def test_the_block_equals_the_reference():
    layers = author_layers(author_shapes())
    vectors = load_vectors("res_cr_net", "repo_default_lstm_io.npz")
    kinds = {"sep": "separable_conv2d", "bn": "batch_normalization", "conv": "conv2d", "bilstm": "bidirectional"}
    state, numbers = {}, dict.fromkeys(kinds.values(), 0)
    for layer, roles in layers.items():
        kind = kinds[layer.split("_")[1].rstrip("0123456789")]
        state |= {f"{kind}_{numbers[kind]}/{role}": torch.from_numpy(values) for role, values in roles.items()}
        numbers[kind] += 1
    converted = ResCRNet.convert_author_state(state)
    block = ResidualConvLSTMBlock(48, 4).eval()
    prefix = "lstm_blocks.0."
    block.load_state_dict({k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)})
    with torch.no_grad():
        output = block(vectors["tap_res4"].permute(0, 3, 1, 2))
    torch.testing.assert_close(output, vectors["tap_lstm0"].permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_rows_and_columns_are_scanned_alike():
    """The block of the transposed image is the transposed block, once both LSTMs have the same weights."""
    torch.manual_seed(0)
    block = ResidualConvLSTMBlock(5, 3).eval()
    block.columns.load_state_dict(block.rows.state_dict())
    x = torch.randn(2, 5, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(block(x.transpose(2, 3)), block(x).transpose(2, 3))


def test_a_pixel_reaches_the_whole_image():
    torch.manual_seed(0)
    block = ResidualConvLSTMBlock(5, 3).double().eval()
    x = torch.randn(1, 5, 11, 13, dtype=torch.float64)
    changed = x.clone()
    changed[..., 4, 6] += 1
    with torch.no_grad():
        assert (block(x) != block(changed)).any(1).all()


def test_the_block_without_its_lstms_is_the_activated_convolution():
    torch.manual_seed(0)
    block = ResidualConvLSTMBlock(5, 3).eval()
    for lstm in (block.rows, block.columns):
        for p in lstm.parameters():
            nn.init.zeros_(p)
    x = torch.randn(2, 5, 7, 9)
    scores = F.conv2d(x, block.conv.weight, block.conv.bias)
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.where(scores > 0, scores, 0.1 * scores))


def test_the_unused_shortcut_of_the_authors_is_left_out():
    assert sum(p.numel() for p in ResidualConvLSTMBlock(48, 4).parameters()) == 48 * 4 + 4 + 4 * (2 * 12 * 4 + 4)
