"""Files written whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from medseg_monai.files import atomic_path, one_line, write_text


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
