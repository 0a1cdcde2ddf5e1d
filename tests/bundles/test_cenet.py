"""What all bundles of CE-Net have: eight views of an image in an epoch, blocks as flat keys, the authors' recipe."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.handlers import LrScheduleHandler
from PIL import Image

from medseg_monai.bundle import build_workflow, find_bundle, list_bundles, train
from medseg_monai.cli import main
from medseg_monai.files import file_sha256
from medseg_monai.networks.nets import CENet
from medseg_monai.networks.weights import ModelFile, resnet34, write_model
from medseg_monai.phantoms import phantom_writer

from .tiny import phantom_size, tiny_training

CENETS = [name for name in list_bundles() if name.endswith("_cenet")]
VESSELS = "retinal_vessel_fundus_cenet"


@pytest.fixture(params=CENETS)
def cenet(request: pytest.FixtureRequest) -> Path:
    return find_bundle(request.param)


def write_phantoms(bundle: str, folder: Path, **counts: int) -> str:
    return str(phantom_writer(bundle)(folder, counts=counts, size=phantom_size(bundle), seed=0))


def training(bundle: str, folder: Path, *overlays: str, **overrides: Any) -> ConfigParser:
    """The training's config, parsed, with phantoms of two images."""
    datalist = write_phantoms(bundle, folder / "data", training=2, validation=1)
    values = {"datalist": datalist, "output_dir": str(folder / "run"), **tiny_training(bundle), **overrides}
    workflow = build_workflow(bundle, ["train", *overlays], workflow_type="train", overrides=values)
    workflow.parser.parse(reset=True)
    return workflow.parser


def test_an_epoch_sees_each_image_eight_times_as_in_the_paper(cenet):
    config = json.loads((cenet / "configs" / "train.json").read_text())
    assert config["views_per_image"] == 8


def test_the_views_of_an_image_differ_and_it_is_read_once(cenet, tmp_path):
    parser = training(cenet.name, tmp_path, views_per_image=8)
    dataset = parser.get_parsed_content("train#dataset")
    views = [dataset[index]["image"].sum().item() for index in range(len(dataset))]
    assert len(views) == 16
    assert len({round(view, 1) for view in views}) > 8
    assert dataset.cache_num == 2


def test_a_network_without_a_block_predicts_with_the_settings_of_its_training(tmp_path, capsys):
    datalist = write_phantoms(VESSELS, tmp_path / "data", training=2, validation=1)
    changed = {"multi_kernel_pooling": False, "context": "inception_resnet"}
    overrides = {**tiny_training(VESSELS), **changed, "datalist": datalist, "output_dir": str(tmp_path / "run")}
    result = train(VESSELS, overrides={**overrides, "max_epochs": 1}, track=False)
    assert changed.items() <= ModelFile(result.model).settings.items()
    image = json.loads(Path(datalist).read_text())["validation"][0]["image"]
    out = tmp_path / "out"
    options = ["--checkpoint", str(result.model), "-o", str(out), "--set", "views=flips"]
    assert main(["predict", VESSELS, str(tmp_path / "data" / image), *options]) == 0
    (mask,) = out.glob("*.png")
    with Image.open(mask) as opened:
        assert opened.size == phantom_size(VESSELS)[::-1]
    assert main(["predict", VESSELS, str(tmp_path / "data" / image), *options, "--set", "context=inception"]) == 2
    assert "context=inception_resnet" in capsys.readouterr().err


def test_a_block_that_contradicts_another_is_refused_in_one_line(tmp_path, capsys):
    datalist = write_phantoms(VESSELS, tmp_path / "data", training=1)
    options = ["--set", "context=inception", "--set", "dense_atrous=false", "-o", str(tmp_path / "run")]
    assert main(["train", VESSELS, "--datalist", datalist, "--no-tracking", *options]) == 2
    assert "context=inception replaces it" in capsys.readouterr().err


def test_the_authors_recipe_watches_the_mean_loss_of_an_epoch(cenet, tmp_path):
    parser = training(cenet.name, tmp_path, "train_authors", max_epochs=1, batch_size=1)
    trainer = parser.get_parsed_content("train#trainer")
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"]))
    trainer.run()
    scheduler = parser.get_parsed_content("lr_scheduler")
    assert len(losses) == 2
    assert scheduler.best == pytest.approx(sum(losses) / 2)


def test_the_authors_recipe_halves_the_rate_after_eleven_epochs_without_a_lower_loss(cenet, tmp_path):
    parser = training(cenet.name, tmp_path, "train_authors")
    (handler,) = (one for one in parser.get_parsed_content("train#handlers") if isinstance(one, LrScheduleHandler))
    rates = []
    for loss in [0.7, 0.5, *[0.5] * 11, 0.4]:
        handler(SimpleNamespace(state=SimpleNamespace(metrics={"train_mean_loss": loss})))
        rates.append(parser.get_parsed_content("optimizer").param_groups[0]["lr"])
    assert rates == [0.0002] * 12 + [0.0001] * 2


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """PyTorch's folder for weights, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def start(bundle: str, folder: Path, **overrides: Any) -> torch.Tensor:
    """A kernel of the encoder that a training starts with."""
    return training(bundle, folder, **overrides).get_parsed_content("network").encoder.conv1.weight.detach()


def test_a_training_starts_from_imagenet_weights_in_the_cache(cenet, cache, tmp_path, monkeypatch):
    state = torchvision_state()
    cache.mkdir(parents=True)
    torch.save(state, cache / "resnet34-b627a593.pth")
    monkeypatch.setattr(resnet34, "RESNET34_SHA256_PREFIX", file_sha256(cache / "resnet34-b627a593.pth")[:8])
    assert torch.equal(start(cenet.name, tmp_path), state["conv1.weight"])


def test_without_them_the_log_says_so_and_nothing_is_downloaded(cenet, cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("downloads"))
    start(cenet.name, tmp_path)
    assert "starts from random weights, unlike the paper's" in caplog.text


def test_a_file_with_them_is_a_value_of_the_key(cache, tmp_path):
    state = torchvision_state()
    torch.save(state, tmp_path / "resnet34.pth")
    kernel = start(VESSELS, tmp_path, pretrained=str(tmp_path / "resnet34.pth"))
    assert torch.equal(kernel, state["conv1.weight"])


def test_weights_to_start_from_need_no_imagenet_weights(cache, tmp_path, caplog):
    network = CENet()
    write_model(tmp_path / "model.pt", network.state_dict())
    kernel = start(VESSELS, tmp_path, pretrained=True, initial_weights=str(tmp_path / "model.pt"))
    assert torch.equal(kernel, network.encoder.conv1.weight)
    assert "random weights" not in caplog.text


def torchvision_state() -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names."""
    return {**CENet().encoder.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
