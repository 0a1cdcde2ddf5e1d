"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from medseg_monai.files import (
    LOCK_NAME,
    atomic_path,
    locked_folder,
    one_line,
    write_csv,
    write_json,
    write_text,
)


def test_a_block_that_fails_leaves_neither_file_nor_rubbish(tmp_path):
    def write_half():
        with atomic_path(tmp_path / "mask.png") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert os.listdir(tmp_path) == []


def test_a_block_that_ends_well_replaces_the_file_with_the_rights_of_any_new_one(tmp_path):
    path = tmp_path / "new" / "mask.png"
    for content in (b"first", b"second"):
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".png"
            temporary.write_bytes(content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["mask.png"]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_bytes() == b"old"


def test_text_is_written_in_utf_8_with_line_ends_as_they_are(tmp_path):
    write_text(tmp_path / "new" / "table.md", "Dice ± 0.1\r\nµm\n")
    assert (tmp_path / "new" / "table.md").read_bytes() == "Dice ± 0.1\r\nµm\n".encode()
    assert os.listdir(tmp_path / "new") == ["table.md"]


def test_what_a_library_says_of_a_damaged_file_becomes_one_line():
    with (
        pytest.raises(ValueError, match=r"^a\.nii: damaged; copy it again\.$") as error,
        one_line("a.nii: damaged; copy it again."),
    ):
        raise EOFError("stream ended\nin block 3")
    assert isinstance(error.value.__cause__, EOFError)


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied")])
def test_what_says_itself_what_is_wrong_is_passed_on(error):
    with pytest.raises(type(error)) as caught, one_line("a.nii: damaged"):
        raise error
    assert caught.value is error


def test_what_is_passed_on_can_be_chosen():
    with pytest.raises(FileNotFoundError), one_line("a.dcm: damaged", passing=OSError):
        raise FileNotFoundError("a.dcm: no such file")
    with pytest.raises(ValueError, match="damaged"), one_line("a.dcm: damaged", passing=OSError):
        raise KeyError("Rows")


HOLDER = """
import sys, time
from medseg_monai.files import locked_folder
with locked_folder(sys.argv[1], "a training"):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder ``run``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_in_use_is_refused_in_one_line_that_names_its_owner(holder, tmp_path):
    with pytest.raises(BlockingIOError) as error, locked_folder(tmp_path / "run", "a prediction"):
        pass
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path / 'run'}: in use by a training (process {holder.pid} on {socket.gethostname()}"
    )
    assert "since 20" in message
    assert message.endswith("; wait until that has ended, or choose another folder.")
    assert "\n" not in message


def test_a_killed_owner_leaves_a_folder_that_is_free_at_once(holder, tmp_path):
    holder.kill()
    holder.wait()
    with locked_folder(tmp_path / "run", "a training"):
        pass
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_the_owner_of_a_folder_may_enter_it_again_and_keeps_it(tmp_path):
    def refused() -> bool:
        try:
            with locked_folder(tmp_path, "another training"):
                return False
        except BlockingIOError:
            return True

    with ThreadPoolExecutor(1) as other, locked_folder(tmp_path, "a training"):
        with locked_folder(tmp_path / ".." / tmp_path.name, "its end"):
            assert other.submit(refused).result()
        assert other.submit(refused).result()
    assert os.listdir(tmp_path) == []


def test_a_folder_made_for_work_that_wrote_nothing_is_gone_with_it(tmp_path):
    with pytest.raises(ValueError, match="refused"), locked_folder(tmp_path / "runs" / "one", "a training"):
        raise ValueError("refused")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else_is(tmp_path):
    (tmp_path / "sub").mkdir()
    names = [".mask.nii.5b1c", f".mask.{'0' * 32}.png", "a.medseg-.png", f"mask.medseg-{'a' * 32}.png", ".hidden"]
    for name in names:
        (tmp_path / name).touch()
    killed = [atomic_path(tmp_path / name).__enter__() for name in ("mask.nii.gz", "report", "x.medseg-1.csv")]
    elsewhere = atomic_path(tmp_path / "sub" / "mask.png").__enter__()
    for path in (*killed, elsewhere):
        path.touch()
    with locked_folder(tmp_path, "a training"):
        assert sorted(os.listdir(tmp_path)) == sorted([*names, "sub", LOCK_NAME])
    assert elsewhere.exists()


NOT_UTF_8 = os.fsdecode(b"caf\xe9.png")


def test_a_name_that_is_not_utf_8_leaves_a_file_that_is(tmp_path):
    write_text(tmp_path / "a.md", NOT_UTF_8)
    write_csv(tmp_path / "a.csv", [{"case": NOT_UTF_8}], ["case"])
    write_json(tmp_path / "a.json", {"case": NOT_UTF_8})
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "caf\\udce9.png"
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "case\ncaf\\udce9.png\n"
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"case": NOT_UTF_8}


def test_the_owner_of_a_folder_is_named_whatever_bytes_its_command_has(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["medseg", "predict", NOT_UTF_8])
    with locked_folder(tmp_path, "a prediction"):
        assert (tmp_path / LOCK_NAME).read_text(encoding="utf-8").endswith("medseg predict 'caf\\udce9.png')\n")
