"""Files of weights: reading, comparing, writing."""

from __future__ import annotations

import hashlib
import io
import random
import resource
import stat
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from medseg_monai.files import file_sha256
from medseg_monai.networks.weights.state_dict import (
    as_state_dict,
    check_fits,
    read_tensors,
    rename_tensors,
    save_atomically,
)

STATE = {"body.weight": torch.arange(6.0).reshape(2, 3), "body.bias": torch.ones(2)}


@contextmanager
def full_disc() -> Iterator[None]:
    """No file of this process grows beyond 4 KiB, as on a disc that is full.

    Only round the call that is tested: pytest's own report may go to a file, which has grown beyond that long before.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_read_back_and_the_file_is_readable_for_others(tmp_path):
    path = tmp_path / "new" / "model.pt"
    save_atomically({"model": STATE, "settings": {"image_size": [4, 6]}}, path)
    content = read_tensors(path)
    assert torch.equal(content["model"]["body.weight"], STATE["body.weight"])
    assert content["settings"] == {"image_size": [4, 6]}
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_full_disc_leaves_the_old_file_and_nothing_temporary(tmp_path):
    path = tmp_path / "model.pt"
    save_atomically(STATE, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"model\.pt: cannot be written: .*File too large") as error, full_disc():
        save_atomically({"big": torch.zeros(100_000)}, path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_an_interruption_leaves_the_old_file_and_nothing_temporary(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def interrupted(content, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_atomically(STATE, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("zipped", [True, False])
def test_no_damage_raises_anything_but_a_value_error(zipped, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": STATE, "settings": {"a": [1, 2]}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    draw = random.Random(4)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: draw.randrange(len(whole))])
        if damaged:
            damaged[draw.randrange(len(damaged))] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: cannot be read as weights")  # noqa: PT017 - some are readable
            refused += 1
    assert refused > 75


def test_flipped_bytes_among_the_numbers_are_noticed(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(7, 300)}, path)
    whole = bytearray(path.read_bytes())
    numbers = whole.index(bytes(7 * 300 * 4))
    for position in range(numbers, numbers + 200):
        whole[position] ^= 0x10
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True)["weight"].any()  # PyTorch does not notice
    with pytest.raises(ValueError, match=r"model\.pt: cannot be read as weights: it is damaged"):
        read_tensors(path)


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"weight": torch.zeros(2000, 1000)}, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as stored,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in stored.infolist():
            packed.writestr(part.filename, stored.read(part))
    assert torch.load(tmp_path / "packed.pt", weights_only=True)["weight"].shape == (2000, 1000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"packed\.pt: a packed archive"):
            read_tensors(tmp_path / "packed.pt")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_weights_from_before_pytorch_had_archives_are_read(tmp_path):
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "old.pth")["body.weight"], STATE["body.weight"])


def test_a_stream_is_read_and_named_in_a_refusal(tmp_path):
    torch.save(STATE, tmp_path / "model.pt")
    with (tmp_path / "model.pt").open("rb") as stream:
        assert torch.equal(read_tensors(stream)["body.weight"], STATE["body.weight"])
    with pytest.raises(ValueError, match=r"^upload\.pt: cannot be read as weights"):
        read_tensors(io.BytesIO(b"damaged"), source="upload.pt")


def test_a_file_that_is_not_there_stays_a_file_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        read_tensors(tmp_path / "gone.pt")


@pytest.mark.parametrize("content", [[1], torch.zeros(2), {}, None])
def test_what_is_no_state_dict_is_refused(content):
    with pytest.raises(ValueError, match=r"m\.pt: holds no state dict"):
        as_state_dict(content, "m.pt")


def test_entries_that_are_no_tensors_are_named():
    with pytest.raises(ValueError, match=r"m\.pt: these entries are not tensors: \['epoch'\]"):
        as_state_dict({**STATE, "epoch": 3}, "m.pt")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_the_first_tensor_that_is_not_finite_is_named(value, dtype):
    values = torch.ones(3, 5)
    values[2, 4] = value
    state = {"steps": torch.tensor(7), "head.bias": torch.ones(2), "head.weight": values.to(dtype), "last": values}
    with pytest.raises(ValueError, match=r"^m\.pt: head\.weight has values that are not finite: damaged, or"):
        as_state_dict(state, "m.pt")


@pytest.mark.parametrize("huge", [torch.zeros(1).expand(10**12), torch.zeros(10**12, device="meta")])
def test_a_tensor_that_declares_more_numbers_than_it_has_is_refused(huge):
    with pytest.raises(ValueError, match=r"m\.pt: these entries are not tensors: \['huge'\]"):
        as_state_dict({"huge": huge}, "m.pt")


def test_tensors_are_renamed_in_their_order_by_the_first_prefix_that_fits():
    theirs = {"up.0.bias": torch.ones(1), "down.1.weight": torch.ones(2), "up.norm.weight": torch.ones(3)}
    ours = rename_tensors(theirs, {"up.0.": "ups.conv.", "up.": "ups.", "down.": "downs."}, network="Net")
    assert list(ours) == ["ups.conv.bias", "downs.1.weight", "ups.norm.weight"]
    assert all(new is old for new, old in zip(ours.values(), theirs.values(), strict=True))


def test_names_that_no_prefix_fits_are_counted_and_the_first_are_named():
    theirs = {name: torch.ones(1) for name in ("up.a", "b", "c", "d.up.a", "e")}
    message = r"^keys that the authors' Net does not have: 4, the first: \['b', 'c', 'd\.up\.a'\]\.$"
    with pytest.raises(ValueError, match=message):
        rename_tensors(theirs, {"up.": "ups."}, network="Net")


def test_a_state_dict_that_fits_is_taken_in_any_order():
    check_fits(dict(reversed(STATE.items())), STATE, network="Net", source="m.pt")


def test_each_way_of_not_fitting_is_counted_and_named():
    state = {"body.weight": torch.zeros(3, 2), "a": torch.zeros(1), "b": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"^m\.pt: fits Net only in part") as error:
        check_fits(state, STATE, network="Net", source="m.pt")
    message = str(error.value)
    assert "missing 1: ['body.bias']" in message
    assert "unknown 2: ['a', 'b']" in message
    assert "other shape 1: ['body.weight is (3, 2), not (2, 3)']" in message
    assert "\n" not in message


def test_the_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
