"""Weights from MLflow's registry, here in a database of SQLite: the file that was registered, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.models import Model

from medseg_monai.bundle import file_sha256
from medseg_monai.bundle.model_registry import fetch_weights, is_registered
from medseg_monai.networks.weights import ModelFile, settings_file, write_model

STATE, SETTINGS = {"weight": torch.arange(6.0).reshape(2, 3)}, {"image_size": [40, 52]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of MLflow's and the files of its models."""
    folder = tmp_path_factory.mktemp("registry")
    client(folder).create_registered_model("lungs")
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registry: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(registry))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlruns.db'}"


def client(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=address(folder))


def register(
    registry: Path, folder: Path, *, sha256: str | None = None, with_file: bool = True, earlier: bool = False
) -> str:
    """A new version of the model, as a training leaves it, or as one of an earlier version left it; its address."""
    (folder / "extra_files").mkdir(parents=True)
    if earlier:
        torch.save({"model": STATE, "settings": SETTINGS}, folder / "extra_files" / "model.pt")
    else:
        write_model(folder / "extra_files" / "model.pt", STATE, SETTINGS)
    metadata: dict[str, Any] = {"model_sha256": sha256 or file_sha256(folder / "extra_files" / "model.pt")}
    if not earlier:
        metadata["settings_sha256"] = file_sha256(folder / "extra_files" / "model.json")
    Model(metadata=metadata if with_file else None).save(str(folder / "MLmodel"))
    version = client(registry).create_model_version("lungs", folder.as_uri())
    return f"models:/lungs/{version.version}"


def refusal(name: str, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as caught:
        fetch_weights(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message


def test_paths_are_no_addresses_of_a_registry():
    assert is_registered("models:/lungs/1")
    assert not any(is_registered(path) for path in ("models/model.pt", "/models:/lungs/1", Path("model.pt"), None))


@pytest.mark.parametrize("earlier", [False, True])
def test_the_file_of_a_version_and_of_an_alias_is_the_one_that_was_registered(earlier, registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model", earlier=earlier)
    client(registry).set_registered_model_alias("lungs", "deployed", name.rpartition("/")[2])
    for given in (name, "models:/lungs@deployed"):
        path = fetch_weights(given)
        assert path.read_bytes() == (tmp_path / "model" / "extra_files" / "model.pt").read_bytes()
        assert ModelFile(path).settings == SETTINGS
        assert torch.equal(ModelFile(path).state_dict()["weight"], STATE["weight"])


def test_a_file_that_lies_here_already_is_not_fetched_again_unless_it_was_changed(registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model")
    path = fetch_weights(name)
    modified = path.stat().st_mtime_ns
    assert fetch_weights(name) == path
    assert path.stat().st_mtime_ns == modified
    path.write_bytes(b"half a file")
    assert file_sha256(fetch_weights(name)) == path.stem
    settings_file(path).unlink()
    assert ModelFile(fetch_weights(name)).settings == SETTINGS


def test_a_file_that_is_not_the_one_that_was_registered_is_refused_and_not_kept(registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model", sha256="0" * 64)
    assert "is not the one that was registered" in refusal(name)
    assert not list(tmp_path.glob("cache/**/*.pt"))


def test_a_model_of_another_program_is_refused(registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model", with_file=False)
    assert "holds no model.pt of 'medseg train'" in refusal(name)


def test_a_hash_that_is_none_names_no_file(registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model", sha256="../../../elsewhere")
    assert "holds no model.pt of 'medseg train'" in refusal(name)


@pytest.mark.parametrize("name", ["models:/lungs/999", "models:/liver/1", "models:/lungs@nobody", "models:/lungs/Best"])
def test_a_model_version_or_alias_that_is_not_there_is_refused(name: str):
    assert "not in the registry of MLFLOW_TRACKING_URI" in refusal(name)


@pytest.mark.parametrize("name", ["models:/", "models:/lungs", "models:/lungs/1/model.pt", "models:/lungs/1@deployed"])
def test_another_form_of_address_is_refused(name: str):
    assert "write models:/NAME/VERSION or models:/NAME@ALIAS" in refusal(name)


def test_without_a_server_the_setting_is_named_and_no_database_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "set MLFLOW_TRACKING_URI" in refusal("models:/lungs/1")
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_not_taken_for_one_without_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "does not answer" in refusal("models:/lungs/1", OSError)


def test_two_versions_that_share_their_weights_keep_their_own_settings(registry: Path, tmp_path: Path):
    first = register(registry, tmp_path / "first")
    write_model(tmp_path / "second" / "extra_files" / "model.pt", STATE, {"image_size": [8, 8]})
    files = tmp_path / "second" / "extra_files"
    hashes = {"model_sha256": file_sha256(files / "model.pt"), "settings_sha256": file_sha256(files / "model.json")}
    Model(metadata=hashes).save(str(tmp_path / "second" / "MLmodel"))
    version = client(registry).create_model_version("lungs", (tmp_path / "second").as_uri())
    assert ModelFile(fetch_weights(first)).settings == SETTINGS
    assert ModelFile(fetch_weights(f"models:/lungs/{version.version}")).settings == {"image_size": [8, 8]}


def test_damaged_settings_in_the_cache_are_fetched_again(registry: Path, tmp_path: Path):
    name = register(registry, tmp_path / "model")
    path = fetch_weights(name)
    for content in ("", "{", "{}"):
        settings_file(path).write_text(content)
        assert ModelFile(fetch_weights(name)).settings == SETTINGS
