"""A model for tests that need weights, whatever they are: random ones predict as quickly as trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medseg_monai.networks.nets import CENet, CTSUNet


@pytest.fixture(scope="session", autouse=True)
def _memory_goes_back() -> Iterator[None]:
    """Trainings of the suite give the memory of freed tensors back: so many in one process would fill the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg_monai.bundle.keep_freed_memory", lambda: False)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of CE-Net that were trained with images of 192x192, as their settings say."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.manual_seed(0)
    torch.save({"model": CENet().state_dict(), "settings": {"image_size": [192, 192]}}, path)
    return path


@pytest.fixture(scope="session")
def lobe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small CTSU-Net for scans of 48 pixels in plane, as their settings say."""
    path = tmp_path_factory.mktemp("lobe_model") / "model.pt"
    settings = {"stage1_features": [4] * 14, "stage2_features": [4] * 14, "embedding_channels": 4}
    torch.manual_seed(0)
    state = CTSUNet(**settings).state_dict()
    torch.save({"model": state, "settings": {**settings, "in_plane_size": 48}}, path)
    return path
