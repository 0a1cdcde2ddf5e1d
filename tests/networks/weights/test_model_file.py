"""Model files: weights and settings read once, and settings that are data whatever they say."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg_monai.networks.weights import ModelFile, write_model

STATE = {"body.weight": torch.arange(6.0).view(2, 3)}
CODE = "$__import__('pathlib').Path('hit').touch()"


def saved(folder: Path, **settings: Any) -> ModelFile:
    write_model(folder / "model.pt", STATE, settings)
    return ModelFile(folder / "model.pt")


def test_what_was_written_is_read_with_the_hash_of_the_file(tmp_path):
    model = saved(tmp_path, image_size=[40, 52])
    assert model.settings == {"image_size": [40, 52]}
    assert model.sha256 == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert torch.equal(model.state_dict()["body.weight"], STATE["body.weight"])


def test_hash_settings_and_weights_take_one_opening_of_the_file(tmp_path):
    model = saved(tmp_path, image_size=[40, 52], filters=4)
    opened = []
    sys.addaudithook(
        lambda event, arguments: (
            opened.append(arguments[0]) if event == "open" and str(arguments[0]).startswith(str(tmp_path)) else None
        )
    )
    for key in ("image_size", "filters", "absent"):
        model.setting(key, None if key == "absent" else model.settings[key])
    assert model.sha256
    assert model.state_dict()
    assert len(opened) == 1


def test_weights_that_were_handed_out_are_read_again_when_asked_for_again(tmp_path):
    model = saved(tmp_path)
    first, second = model.state_dict(), model.state_dict()
    assert first["body.weight"] is not second["body.weight"]
    assert torch.equal(first["body.weight"], second["body.weight"])


def test_a_setting_that_the_file_does_not_name_is_the_default(tmp_path):
    assert saved(tmp_path).setting("image_size", [448, 448]) == [448, 448]


@pytest.mark.parametrize("path", [None, "", "gone.pt"])
def test_without_a_file_every_setting_is_the_default(path):
    model = ModelFile(path)
    assert not model.exists
    assert model.settings == {}
    assert model.sha256 == ""
    assert model.setting("image_size", [448, 448]) == [448, 448]
    with pytest.raises(FileNotFoundError, match="no such file with weights"):
        model.state_dict()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_plain_state_dict_records_no_settings(zipped, tmp_path):
    torch.save(STATE, tmp_path / "plain.pt", _use_new_zipfile_serialization=zipped)
    model = ModelFile(tmp_path / "plain.pt")
    assert model.setting("image_size", [448, 448]) == [448, 448]
    assert model.state_dict().keys() == STATE.keys()


def test_the_settings_of_a_damaged_file_are_not_guessed(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.pt: cannot be read as weights"):
        ModelFile(tmp_path / "model.pt").setting("image_size", [448, 448])


@pytest.mark.parametrize(
    ("value", "default"),
    [
        ([40, 52], [256, 256]),
        ((40, 52), [256, 256]),
        (-150.5, -200),
        (0, 0.5),
        (False, True),
        ("BGR", "RGB"),
        ("spleen", None),
        (None, None),
        ([4, 8], []),
    ],
)
def test_a_value_of_the_kind_of_the_default_is_taken(value, default, tmp_path):
    expected = list(value) if isinstance(value, tuple) else value
    assert saved(tmp_path, key=value).setting("key", default) == expected


@pytest.mark.parametrize(
    ("value", "default"),
    [
        (CODE, [256, 256]),
        (CODE, 16),
        (CODE, True),
        (CODE, "concat"),
        (CODE, None),
        ("@device", "concat"),
        ("%train.json#network", "concat"),
        ([CODE], [256, 256]),
        ({"_target_": "os.system", "command": "true"}, "concat"),
        ({"_target_": "os.system", "command": "true"}, None),
        ([{"_target_": "os.system"}], [4, 8]),
        ("../x", None),
        ([4, 8], 4),
        (4, [4, 8]),
        (1, True),
        (True, 1),
        (float("nan"), 0.5),
        (None, 4),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(value, default, tmp_path):
    model = saved(tmp_path, key=value)
    with pytest.raises(ValueError, match=r"model\.pt: its setting key is .*, expected a value such as"):
        model.setting("key", default)
