"""Training from a client, on a server of its own: it changes which model is used."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from medseg_monai.files import LOCK_NAME
from medseg_monai.networks.nets import ResCRNet

from .conftest import CXR, Server, start_server, stop_server
from .test_server import wait_for

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small Res-CR-Net that finds no lung anywhere: whatever is learnt is better."""
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    settings = {"filters": 4, "num_blocks": 1, "image_size": [40, 52]}
    torch.manual_seed(0)
    state = ResCRNet(spatial_dims=2, in_channels=1, out_channels=2, filters=4, num_blocks=1).state_dict()
    state["head.bias"] += torch.tensor([1.0, -1.0])
    torch.save({"model": state, "settings": settings}, path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, chest_xrays: Path, weights: Path) -> Iterator[Server]:
    """A server whose annotators have labelled all images but the last, before any training."""
    folder = tmp_path_factory.mktemp("training")
    shutil.copytree(chest_xrays / "images", folder / "studies")
    server = start_server(folder / "work", folder / "studies", bundles=[CXR], weights={CXR: str(weights)})
    for number in (1, 2, 3):
        answer = server.ask(
            "PUT",
            f"/datastore/label?image=phantom_000{number}&tag=final",
            label=chest_xrays / "labels" / f"phantom_000{number}.png",
            params="{}",
        )
        assert answer.status == 200
    yield server
    if server.process.poll() is None:
        server.ask("DELETE", "/train/")  # one that a failed test has left running
    stop_server(server)


def train(server: Server, **request: Any) -> dict[str, Any]:
    answer = server.ask_json("POST", f"/train/{CXR}", request)
    assert answer.status == 200, answer.body
    return server.finished("/train/")


def stats(server: Server) -> dict[str, Any]:
    return server.ask("GET", "/info/").json["train_stats"][CXR]


def test_a_better_model_is_used_and_the_old_one_can_be_had_back(trained: Server, weights: Path):
    shipped = hashlib.sha256(weights.read_bytes()).hexdigest()
    before = trained.infer(CXR, "phantom_0004", output="json").json
    task = train(trained, max_epochs=8, learning_rate=0.01, batch_size=1)
    assert task["status"] == "DONE", list(task["details"])
    found = stats(trained)
    (name,) = set(found["models"]) - {"shipped"}
    assert found["current"] == name
    assert found["models"][name]["dice"] > found["models"][name]["before"]
    after = trained.infer(CXR, "phantom_0004", output="json").json
    assert after["model_sha256"] != before["model_sha256"]
    run = trained.work_dir / "models" / CXR / "runs" / name
    assert (run / "mlruns.db").is_file()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == shipped
    sections = json.loads((run / "datalist.json").read_text())
    assert len(sections["training"]) + len(sections["validation"]) == 3
    assert len(sections["validation"]) == 1
    old = trained.infer(CXR, "phantom_0004", output="json", model_version="shipped").json
    assert old["model_sha256"] == before["model_sha256"]
    assert train(trained, use_model="shipped")["status"] == "DONE"
    assert trained.infer(CXR, "phantom_0004", output="json").json["model_sha256"] == before["model_sha256"]


def test_a_model_that_is_no_better_is_kept_but_not_used(trained: Server):
    before = stats(trained)
    task = train(trained, max_epochs=1, learning_rate=0.0)
    assert task["status"] == "DONE", list(task["details"])
    after = stats(trained)
    assert len(after["models"]) == len(before["models"]) + 1
    assert after["current"] == before["current"]


def test_a_label_that_was_put_there_damaged_or_too_small_is_left_out_with_a_line(trained: Server):
    final = trained.studies / "labels" / "final"
    whole = (final / "phantom_0001.png").read_bytes()
    Image.new("L", (20, 30), 255).save(final / "phantom_0004.png")
    (final / "phantom_0001.png").write_bytes(whole[: len(whole) // 2])
    assert wait_for(lambda: trained.ask("GET", "/datastore/").json["completed"], lambda count: count == 4)
    try:
        task = train(trained, max_epochs=1)
        assert task["status"] == "DONE", list(task["details"])
        assert '"left_out": ["phantom_0001", "phantom_0004"]' in " ".join(task["details"])
        log = (trained.work_dir / "app" / "logs" / "app.log").read_text()
        assert "phantom_0001: left out: label: truncated or not an image" in log
        assert "phantom_0004: left out: label: size (30, 20) (rows first), but its image phantom_0004 has" in log
    finally:
        (final / "phantom_0001.png").write_bytes(whole)
        assert trained.ask("DELETE", "/datastore/label?id=phantom_0004&tag=final").status == 200


def test_an_unknown_bundle_is_refused_before_anything_starts(trained: Server):
    answer = trained.ask_json("POST", "/train/lung_cxr_resnet", {})
    assert (answer.status, answer.detail) == (404, f"lung_cxr_resnet: no such model; there are {CXR}.")


def test_of_trainings_that_are_asked_for_at_once_one_is_started(trained: Server):
    answers = [trained.ask_json("POST", f"/train/{CXR}", {"max_epochs": 1}) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].detail == "train: one is running already; wait for its end, or stop it."
    assert trained.finished("/train/")["status"] == "DONE"


def test_a_training_that_cannot_be_started_has_ended_in_an_error(trained: Server):
    task = train(trained, max_epochs=1, client_id="a" * 2**18)  # more than a command line can hold
    assert task["status"] == "ERROR"


def test_a_training_without_labels_ends_with_a_line_that_says_so(trained: Server):
    for number in (1, 2):
        assert trained.ask("DELETE", f"/datastore/label?id=phantom_000{number}&tag=final").status == 200
    task = train(trained, max_epochs=1)
    assert task["status"] == "ERROR"
    assert any("1 final labels; a training needs two" in line for line in task["details"])
    assert trained.infer(CXR, "phantom_0004").status == 200


def test_a_training_outlives_its_server_and_the_next_server_lists_its_model_and_begins_no_other(
    trained: Server, chest_xrays: Path, weights: Path
):
    for number in (1, 2):
        mask = chest_xrays / "labels" / f"phantom_000{number}.png"
        path = f"/datastore/label?image=phantom_000{number}&tag=final"
        assert trained.ask("PUT", path, label=mask, params="{}").status == 200
    before = set(stats(trained)["models"])
    assert trained.ask_json("POST", f"/train/{CXR}", {"max_epochs": 1}).status == 200
    lock = trained.work_dir / "models" / LOCK_NAME
    assert wait_for(lock.exists, bool, seconds=60)
    (training,) = psutil.Process(trained.process.pid).children()
    training.suspend()
    trained.process.kill()
    trained.process.wait()
    try:
        again = start_server(trained.work_dir, trained.studies, bundles=[CXR], weights={CXR: str(weights)})
        try:
            for path in (f"/train/{CXR}", f"/train/{CXR}?enqueue=true"):
                answer = again.ask_json("POST", path, {"max_epochs": 1})
                assert answer.status == 429
                assert answer.detail.startswith(f"train: in use by a training (process {training.pid} on ")
            training.resume()
            wait_for(lock.exists, lambda there: not there, seconds=120)
            (name,) = set(stats(again)["models"]) - before
            run = again.work_dir / "models" / CXR / "runs" / name
            assert (run / "after" / "evaluation" / "summary.json").is_file()
            assert again.infer(CXR, "phantom_0004", output="json", model_version=name).status == 200
        finally:
            stop_server(again)
    finally:
        if training.is_running():
            training.kill()
