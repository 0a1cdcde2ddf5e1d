import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_monai.datasets import DATASETS
from medseg_monai.datasets._common import foreground

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def documented_names() -> list[str]:
    """First cells of the page's tables; a word in capitals stands for any, as in ``curvas_ORGAN``."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


def test_every_data_set_has_a_row_in_the_page_on_data():
    patterns = [re.sub("[A-Z]+", r"\\w+", name) for name in documented_names()]
    assert [name for name in DATASETS.names if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


@pytest.mark.parametrize("name", DATASETS.names)
def test_a_missing_folder_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"gone: no such folder; name the folder of {name} as published"):
        DATASETS[name](tmp_path / "gone", derived=tmp_path)


@pytest.mark.parametrize("name", DATASETS.names)
def test_a_wrong_folder_is_refused_in_one_line_and_nothing_is_written(name, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.txt").write_text("sun")
    with pytest.raises((FileNotFoundError, ValueError), match=f"holiday.*{name}") as caught:
        DATASETS[name](tmp_path / "holiday", derived=tmp_path / "derived")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "derived").exists()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_mask_of_each_image_mode_has_the_same_foreground(mode, tmp_path, disc):
    image = Image.fromarray(disc.astype(np.uint8) * 255)
    image = Image.fromarray(disc.astype(np.uint16) * 65535) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(foreground(tmp_path / "mask.png"), disc)
