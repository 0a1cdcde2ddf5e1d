"""Tiny folders in the published layouts: every image 31 wide and 20 high, its mask off centre."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 31, 20


@pytest.fixture
def disc() -> np.ndarray:
    """Return a mask ``[20, 31]`` that no flip or transposition leaves as it is: rows 3-8, columns 4-14."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:9, 4:15] = True
    return mask


@pytest.fixture
def draw_image() -> Callable[..., Path]:
    """Return a function that writes a colour image of 31x20 pixels, or of another size."""

    def draw(path: Path, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (180, 90, 40)).save(path)
        return path

    return draw


@pytest.fixture
def draw_mask(disc: np.ndarray) -> Callable[..., Path]:
    """Return a function that writes a mask, by default 8-bit 0 and 255."""

    def draw(path: Path, mask: np.ndarray | None = None, *, value: int = 255, palette: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = (disc if mask is None else mask).astype(np.uint8)
        image = Image.fromarray(values if palette else values * np.uint8(value))
        if palette:
            image = Image.fromarray(values).convert("P")
            image.putpalette([0, 0, 0, 255, 0, 0])
        # GIF: an optimised palette would turn grey levels into indices
        image.save(path, **({"optimize": False} if path.suffix == ".gif" else {}))
        return path

    return draw


@pytest.fixture
def read_mask() -> Callable[[str], np.ndarray]:
    """Return a function that reads a mask as the contract has it: 8 bits, one channel, above 127 is foreground."""

    def read(path: str) -> np.ndarray:
        with Image.open(path) as image:
            assert image.mode == "L"
            return np.asarray(image) > 127

    return read


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return a function that finds a real data set below MEDSEG_DATA, and skips the test without it."""

    def find(name: str) -> Path:
        repository = Path(__file__).resolve().parents[2]
        folder = Path(os.environ.get("MEDSEG_DATA", repository.parent / "shared" / "data")) / name
        if not folder.is_dir():
            pytest.skip(f"real data are absent: no {name} below MEDSEG_DATA")
        return folder

    return find
