"""A training that takes a second: a tiny network learns to find bright pixels in images of 6x9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.losses import DiceLoss
from monai.transforms import Activationsd, AsDiscreted, Compose, RandFlipd, RandGaussianNoised
from torch import nn

from medseg_monai.handlers import (
    ClipGradients,
    EarlyStop,
    EpochSeed,
    TrainingPrecision,
    TrainingState,
    WeightAverage,
)

HEIGHT, WIDTH = 6, 9
CASES = 5


class TinyNet(nn.Module):
    """Two convolutions with a batch norm, whose statistics belong to the state, and dropout, which draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def cases() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(1, HEIGHT, WIDTH, generator=generator) for _ in range(CASES)]
    return [{"image": image, "label": (image > 0.6).float()} for image in images]


def loader(*, num_workers: int = 0) -> DataLoader:
    """Shuffled batches of two with random flips and noise."""
    random_transforms = [
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=1),
        RandGaussianNoised("image", prob=0.8, std=0.1),
    ]
    data = CacheDataset(cases(), Compose(random_transforms), progress=False, num_workers=1)
    return DataLoader(data, batch_size=2, shuffle=True, num_workers=num_workers)


@dataclass
class Toy:
    """A training with everything that has a state."""

    trainer: SupervisedTrainer
    network: TinyNet
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    validator: SupervisedEvaluator
    state: TrainingState


class Metric:
    """Set the validation's key metric by a list, one value an epoch."""

    def __init__(self, toy: Toy, values: list[float]) -> None:
        self.values = values
        toy.validator.add_event_handler(Events.EPOCH_COMPLETED, self.replace)
        self.name = toy.validator.state.key_metric_name

    def replace(self, engine: Any) -> None:
        engine.state.metrics[self.name] = self.values[engine.state.epoch - 1]


def make_toy(
    output_dir: Path,
    *,
    max_epochs: int,
    resume: bool = False,
    val_interval: int = 1,
    patience: int | None = None,
    amp: bool | str = False,
    accumulation_steps: int = 1,
    max_grad_norm: float = 0.0,
    ema_decay: float = 0.0,
    handlers: Sequence[Any] = (),
) -> Toy:
    """Build a training anew, with the same initial weights each time; ``handlers`` come last.

    With ``patience`` the training ends after so many validations without a better metric, and the learning rate falls
    after two of them instead of with every iteration.
    """
    torch.manual_seed(0)
    network = TinyNet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-3)
    batches = loader()
    lr_scheduler: Any = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=6 * len(batches), power=0.9)
    device = torch.device("cpu")
    average = WeightAverage(network, optimizer, ema_decay) if ema_decay else None
    validator = SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(cases()[:2], batch_size=1),
        network=average.network if average else network,
        postprocessing=Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)]),
        key_val_metric={"val_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
    )
    validation = ValidationHandler(validator=validator, interval=val_interval)
    early_stop = None
    scheduling: list[Any] = [LrScheduleHandler(lr_scheduler, epoch_level=False, print_lr=False), validation]
    if patience is not None:
        lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.2, patience=1)
        early_stop = EarlyStop(validator, patience)
        reduce = LrScheduleHandler(
            lr_scheduler, print_lr=False, step_transform=lambda _: validator.state.metrics.get("val_dice", 0.0)
        )
        scheduling = [validation, reduce]
    state = TrainingState(
        output_dir,
        network,
        optimizer,
        lr_scheduler,
        validator=validator,
        early_stop=early_stop,
        precision=TrainingPrecision(amp),
        average=average,
        settings={"image_size": [HEIGHT, WIDTH]},
        resume=resume,
    )
    clipping = [ClipGradients(optimizer, max_grad_norm)] if max_grad_norm else []
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=DiceLoss(sigmoid=True),
        train_handlers=[EpochSeed(7), *clipping, *scheduling, state, *handlers],
        accumulation_steps=accumulation_steps,
    )
    return Toy(trainer, network, optimizer, lr_scheduler, validator, state)
