"""Images for the runner's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg_monai.phantoms import PHANTOMS

BUNDLE = "retinal_vessel_fundus_cenet"
SMALL = {"image_size": [192, 192], "patch_size": [192, 192], "batch_size": 2, "views_per_image": 1, "val_interval": 1}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data list of vessel phantoms."""
    return PHANTOMS["retinal_vessel_fundus"](
        tmp_path_factory.mktemp("phantoms"),
        counts={"training": 4, "validation": 1, "test": 2},
        size=(200, 232),
        seed=1,
    )
