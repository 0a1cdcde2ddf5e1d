"""Where the reference vectors lie: ``MEDSEG_REFERENCE``, by default ``../shared/reference`` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

__all__ = ["load_vectors", "reference_file"]

ROOT = Path(__file__).resolve().parents[2]


def reference_file(network: str, name: str) -> Path:
    """Return the path of a reference file; skip the test if it is not there."""
    path = Path(os.environ.get("MEDSEG_REFERENCE", ROOT.parent / "shared" / "reference")) / network / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: set MEDSEG_REFERENCE to the folder of the reference vectors")
    return path


def load_vectors(network: str, name: str) -> dict[str, torch.Tensor]:
    """Read an ``.npz`` file of reference vectors; skip the test if it is not there."""
    with np.load(reference_file(network, name)) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
