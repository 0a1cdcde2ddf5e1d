"""How a data set of phantoms is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_monai.data.datalist import load_datalist
from medseg_monai.phantoms.case_files import PhantomCase, PhantomFile, mask_file, write_phantoms


def note(text: str) -> PhantomFile:
    """A file that holds this text."""
    return PhantomFile("notes", ".txt", lambda path: path.write_text(text))


def test_phantoms_are_numbered_over_all_sections_and_counted_within_each(tmp_path):
    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        return f"turn_{case.index}", {"image": note(f"number {case.number}")}

    path = write_phantoms(tmp_path / "new", {"test": 1, "training": 2, "validation": 2}, draw)
    assert path == tmp_path / "new" / "datalist.json"
    sections = {name: load_datalist(path, name) for name in ("training", "validation", "test")}
    assert {name: [item["source"] for item in items] for name, items in sections.items()} == {
        "training": ["turn_0", "turn_1"],
        "validation": ["turn_0", "turn_1"],
        "test": ["turn_0"],
    }
    items = [item for found in sections.values() for item in found]
    assert [item["patient"] for item in items] == [f"phantom_000{number}" for number in range(1, 6)]
    assert [Path(item["image"]).read_text() for item in items] == [f"number {number}" for number in range(1, 6)]


def test_each_kind_of_file_has_a_folder_and_is_named_as_its_patient(tmp_path):
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 4:] = True

    def series(folder: Path) -> None:
        folder.mkdir()
        (folder / "0001.dcm").touch()

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        assert case.patient == "phantom_0001"
        return "phantom", {"image": PhantomFile("images", "", series), "label": mask_file("labels", mask)}

    path = write_phantoms(tmp_path, {"test": 1}, draw)
    written = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert written == ["datalist.json", "images/phantom_0001/0001.dcm", "labels/phantom_0001.png"]
    (item,) = load_datalist(path, "test")
    assert list(item) == ["image", "label", "patient", "source", "name"]
    assert item["image"] == str(tmp_path / "images" / "phantom_0001")
    with Image.open(item["label"]) as label:
        np.testing.assert_array_equal(np.asarray(label), np.where(mask, 255, 0))


def test_nothing_is_written_when_the_first_phantom_cannot_be_drawn(tmp_path):
    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        raise ValueError("size=(1, 1) is too small")

    with pytest.raises(ValueError, match="too small"):
        write_phantoms(tmp_path / "out", {"training": 1}, draw)
    assert not (tmp_path / "out").exists()
