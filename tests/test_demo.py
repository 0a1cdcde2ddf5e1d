"""The demonstration, made tiny: every file that it promises is there."""

from pathlib import Path

import pytest

from medseg_monai import demo


def test_the_demonstration_ends_with_a_table_and_the_files_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "COUNTS", {"training": 2, "validation": 1, "test": 1})
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "max_epochs": 1, "val_interval": 1})
    result = demo.run_demo(tmp_path / "demo")
    assert len(result.rows) == 1
    assert result.rows[0][0] in result.as_text()
    for what, where in result.folders.items():
        assert Path(where.removeprefix("sqlite:///")).exists(), what
    assert list(Path(result.folders["overlays"]).glob("*.png"))


def test_the_demonstration_does_not_touch_a_folder_that_is_not_empty(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
