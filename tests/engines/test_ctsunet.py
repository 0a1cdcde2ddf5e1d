"""The batch of CTSU-Net's training step: the label goes to the network too."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import nn

from medseg_monai.engines import prepare_two_stage_batch


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": MetaTensor(torch.rand(2, 1, 4, 6, 8, generator=generator), meta={"name": "scan"}),
        "label": MetaTensor(torch.randint(0, 6, (2, 1, 4, 6, 8), generator=generator).float()),
        "patient": ["a", "b"],
    }


class NeedsTheLabel(nn.Module):
    """Returns what it was given, in a dictionary as CTSU-Net does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append((x, label))
        return {"scaled": self.gain * x}


def test_the_label_is_the_target_and_the_networks_further_input():
    given = batch()
    image, target, args, kwargs = prepare_two_stage_batch(given)
    assert torch.equal(image, given["image"])
    assert torch.equal(target, given["label"])
    assert len(args) == 1
    assert args[0] is target
    assert kwargs == {}


def test_both_go_to_the_device_with_the_options_of_to():
    image, target, (further,), _ = prepare_two_stage_batch(batch(), torch.device("meta"), True, dtype=torch.float64)
    for tensor in (image, target, further):
        assert tensor.device.type == "meta"
        assert tensor.dtype == torch.float64


def test_a_trainer_gives_the_network_the_label_of_its_own_batch():
    given, net = batch(), NeedsTheLabel()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[given],
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        loss_function=lambda outputs, target: (outputs["scaled"] - target).square().mean(),
        prepare_batch=prepare_two_stage_batch,
        decollate=False,
    )
    trainer.run()
    ((image, label),) = net.seen
    assert torch.equal(image, given["image"])
    assert torch.equal(label, given["label"])
    assert net.gain.item() != 1.0


def test_a_batch_without_a_label_is_refused_with_the_remedy():
    given = batch()
    del given["label"]
    with pytest.raises(ValueError, match=r"Training CTSU-Net needs labels: give every item .* a 'label'\.") as error:
        prepare_two_stage_batch(given)
    assert "\n" not in str(error.value)
