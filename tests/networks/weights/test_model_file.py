"""Model files: weights and settings read once, and settings that are data whatever they say."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg_monai.networks.weights import ModelFile, copy_model, settings_file, write_model

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
    assert [Path(name).name for name in opened] == ["model.pt", "model.json"]


def test_the_weights_are_a_plain_state_dict_that_any_tool_reads(tmp_path):
    saved(tmp_path, image_size=[40, 52])
    plain = torch.load(tmp_path / "model.pt", weights_only=True)
    assert plain.keys() == STATE.keys()
    assert torch.equal(plain["body.weight"], STATE["body.weight"])


def test_what_earlier_versions_wrote_is_read_with_the_settings_inside(tmp_path):
    torch.save({"model": STATE, "settings": {"image_size": [40, 52]}}, tmp_path / "model.pt")
    model = ModelFile(tmp_path / "model.pt")
    assert model.setting("image_size", [256, 256]) == [40, 52]
    assert model.state_dict().keys() == STATE.keys()


def test_weights_without_their_settings_are_taken_with_the_defaults_and_a_word(tmp_path, caplog):
    model = saved(tmp_path, image_size=[40, 52])
    settings_file(tmp_path / "model.pt").unlink()
    assert model.setting("image_size", [256, 256]) == [256, 256]
    assert "no settings beside it (model.json): the defaults are used" in caplog.text


def test_settings_of_other_weights_are_refused(tmp_path):
    saved(tmp_path, image_size=[40, 52])
    torch.save({"body.weight": torch.zeros(2, 3)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: damaged, or model\.json beside it belongs to other weights"):
        ModelFile(tmp_path / "model.pt").setting("image_size", [256, 256])


@pytest.mark.parametrize(
    "content",
    ["{", '{"format": "medseg-monai model 1"}', '{"format": "medseg-monai model 1", "sha256": 1, "settings": {}}'],
)
def test_damaged_settings_are_refused(content, tmp_path):
    saved(tmp_path)
    settings_file(tmp_path / "model.pt").write_text(content)
    with pytest.raises(ValueError, match=r"model\.json: damaged"):
        ModelFile(tmp_path / "model.pt").setting("image_size", [256, 256])


def test_a_training_killed_between_its_two_files_leaves_a_model_with_its_own_settings(tmp_path, monkeypatch):
    saved(tmp_path, image_size=[40, 52])

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medseg_monai.files._flush_to_disc", killed)  # before either file has its name
        with pytest.raises(KeyboardInterrupt):
            write_model(tmp_path / "model.pt", {"body.weight": torch.ones(2, 3)}, {"image_size": [8, 8]})
    assert ModelFile(tmp_path / "model.pt").setting("image_size", [1, 1]) == [40, 52]
    renamed = []

    def killed_at_the_second(source: Path, target: Path) -> None:
        renamed.append(target)
        if len(renamed) == 2:  # the settings have theirs, the weights not yet
            raise KeyboardInterrupt
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            write_model(tmp_path / "model.pt", {"body.weight": torch.ones(2, 3)}, {"image_size": [8, 8]})
    assert [path.name for path in renamed] == ["model.json", "model.pt"]
    assert ModelFile(tmp_path / "model.pt").setting("image_size", [1, 1]) == [40, 52]
    write_model(tmp_path / "model.pt", {"body.weight": torch.ones(2, 3)}, {"image_size": [8, 8]})
    assert ModelFile(tmp_path / "model.pt").setting("image_size", [1, 1]) == [8, 8]


def test_a_copy_has_the_settings_too_and_none_that_are_not_its_own(tmp_path):
    saved(tmp_path, image_size=[40, 52])
    copy_model(tmp_path / "model.pt", tmp_path / "copy.pt")
    assert ModelFile(tmp_path / "copy.pt").setting("image_size", [1, 1]) == [40, 52]
    torch.save(STATE, tmp_path / "plain.pt")
    copy_model(tmp_path / "plain.pt", tmp_path / "copy.pt")
    assert not settings_file(tmp_path / "copy.pt").exists()


def test_a_file_of_another_program_is_never_replaced_by_settings(tmp_path):
    (tmp_path / "best.json").write_text('{"learning_rate": 0.1}')
    with pytest.raises(ValueError, match=r"best\.json: another program's file"):
        write_model(tmp_path / "best.pt", STATE)
    assert (tmp_path / "best.json").read_text() == '{"learning_rate": 0.1}'
    torch.save(STATE, tmp_path / "best.pt")
    assert ModelFile(tmp_path / "best.pt").settings == {}


def test_weights_of_another_bundle_are_refused_by_name(tmp_path):
    saved(tmp_path, bundle="abdomen_mri_anunet", organ="spleen")
    model = ModelFile(tmp_path / "model.pt", bundle="liver_ct_anunet")
    for read in (lambda: model.setting("image_size", [256, 256]), model.state_dict):
        with pytest.raises(ValueError, match=r"weights of abdomen_mri_anunet, not of liver_ct_anunet; .*weights_of="):
            read()
    assert ModelFile(tmp_path / "model.pt", bundle="abdomen_mri_anunet").setting("organ", None) == "spleen"


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
        (-150.5, -200.0),
        (-150, -200.0),
        (300.0, 256),
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
        (4.5, 4),
        (10**400, 4),
        (float("inf"), 0.5),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(value, default, tmp_path):
    model = saved(tmp_path, key=value)
    with pytest.raises(ValueError, match=r"model\.pt: its setting key is .*, expected a value such as"):
        model.setting("key", default)
