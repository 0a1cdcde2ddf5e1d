"""What a user points at, turned into cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg_monai.data import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in an order that is neither that of their making nor of their suffixes, and what lies about beside."""
    folder = tmp_path / "eyes"
    (folder / "more").mkdir(parents=True)
    (folder / "mask.png").mkdir()
    for name in ("c.png", "a.TIF", "b.JPeG", "notes.txt", ".hidden.png", "._a.TIF", "more/d.png"):
        (folder / name).touch()
    return folder


def names(items: list[dict]) -> list[str]:
    return [Path(item["image"]).name for item in items]


def test_a_folder_stands_for_the_images_directly_in_it_sorted_by_name(folder):
    items = find_images(folder)
    assert names(items) == ["a.TIF", "b.JPeG", "c.png"]
    assert all(item == {"image": str(folder / Path(item["image"]).name)} for item in items)


def test_a_file_stands_for_itself_whatever_its_suffix(folder):
    assert find_images(str(folder / "notes.txt")) == [{"image": str(folder / "notes.txt")}]


def test_files_and_folders_keep_the_order_in_which_they_are_given(folder):
    assert names(find_images([folder / "more", folder / "c.png", folder / "a.TIF"])) == ["d.png", "c.png", "a.TIF"]


def test_a_file_that_is_named_twice_is_one_case(folder):
    items = find_images([folder / "c.png", folder, folder / "more" / ".." / "a.TIF"])
    assert names(items) == ["c.png", "a.TIF", "b.JPeG"]


def test_paths_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_images(["c.png", "more"]) == [
        {"image": str(folder / "c.png")},
        {"image": str(folder / "more" / "d.png")},
    ]


@pytest.mark.parametrize("second", ["eyes/c.tif", "eyes/more/c.png"])
def test_two_files_whose_predictions_would_have_one_name_are_refused_with_both(second, folder, tmp_path):
    (tmp_path / second).touch()
    with pytest.raises(ValueError, match="both predictions would be named c") as error:
        find_images([folder, folder / "more"])
    assert str(folder / "c.png") in str(error.value)
    assert str(tmp_path / second) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_an_image_is_refused_with_the_suffixes_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    with pytest.raises(ValueError, match=r"no image in this folder.*png, tif") as error:
        find_images(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such file or folder"):
        find_images([tmp_path / "gone.png"])


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "eye.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"eye\.png: no such file or folder"):
        find_images(tmp_path / "eye.png")
