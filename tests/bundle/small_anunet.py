"""The liver's bundle in a folder of its own, with a small network, and CT volumes that no two axes of are alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medseg_monai.bundle import find_bundle
from medseg_monai.networks.nets import ANUNet
from medseg_monai.networks.weights import write_model

FEATURES = [4, 4, 6, 8]
IMAGE_SIZE = [16, 24]
SETTINGS: dict[str, Any] = {"features": FEATURES, "image_size": IMAGE_SIZE, "hu_min": -150}
PLAIN = {"fast": False, "device": "cpu"}

#: x runs to the front, y down, z to the patient's left
AFFINE = np.array([[0, 0, -1.5, 30.0], [0.8, 0, 0, -20.0], [0, -4.0, 0, 90.0], [0, 0, 0, 1.0]])
SHAPE = (21, 4, 27)


def make_network(seed: int = 0) -> ANUNet:
    """A network of random weights whose heads call about half of an image foreground, the shallowest a quarter.

    So the shallowest is the worst, whichever of the others' predictions is the label.
    """
    torch.manual_seed(seed)
    network = ANUNet(features=FEATURES).eval()
    x = torch.rand(4, 1, *IMAGE_SIZE)
    for level, head in enumerate(network.heads, start=1):
        network.supervision_level = level
        with torch.no_grad():
            head.bias -= network(x).quantile(0.75 if level == 1 else 0.5)
    network.supervision_level = network.depth
    return network


def make_bundle(folder: Path, network: ANUNet) -> Path:
    """A copy of the bundle with the network's weights as its model."""
    root = folder / "liver_ct_anunet"
    shutil.copytree(find_bundle("liver_ct_anunet"), root, ignore=shutil.ignore_patterns("*.pt"))
    write_model(root / "models" / "model.pt", network.state_dict(), SETTINGS)
    return root


def write_volume(path: Path, *, seed: int = 0) -> Path:
    """Noise in Hounsfield units, in a grid whose axes are neither in order nor in the usual directions."""
    values = np.random.default_rng(seed).integers(-300, 300, SHAPE).astype(np.int16)
    nib.Nifti1Image(values, AFFINE).to_filename(path)
    return path
