"""How the suite reads and names the images and masks of a bundle: 2D raster images or 3D volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from PIL import Image

from medseg_monai.bundle import flat_keys, merged_config, read_metadata
from medseg_monai.data.names import case_name

__all__ = ["Format", "format_of", "is_of_layers", "reads_volumes"]


class Format(Protocol):
    """What a check has to know of a bundle's files."""

    def mask_of(self, folder: Path, image: str) -> Path:
        """The mask file that a prediction of ``image`` writes into ``folder``."""

    def read(self, path: Path) -> np.ndarray:
        """The values of a mask file."""

    def check_geometry(self, image: str, mask: Path) -> None:
        """Fail unless the mask lies in the image's grid and holds labels of the bundle only."""


class RasterFormat:
    def mask_of(self, folder: Path, image: str) -> Path:
        return folder / f"{Path(image).stem}.png"

    def read(self, path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    def check_geometry(self, image: str, mask: Path) -> None:
        with Image.open(image) as image_file, Image.open(mask) as mask_file:
            assert mask_file.size == image_file.size
            assert mask_file.mode == "L"
            assert set(np.unique(np.asarray(mask_file))) <= {0, 255}


class LayerFormat(RasterFormat):
    """A picture with a palette, whose pixels are numbers of classes."""

    def __init__(self, labels: int) -> None:
        self.labels = labels

    def check_geometry(self, image: str, mask: Path) -> None:
        with Image.open(image) as image_file, Image.open(mask) as mask_file:
            assert mask_file.size == image_file.size
            assert mask_file.mode == "P"
            assert set(np.unique(np.asarray(mask_file))) <= set(range(self.labels))


class VolumeFormat:
    def __init__(self, labels: int) -> None:
        self.labels = labels

    def mask_of(self, folder: Path, image: str) -> Path:
        return folder / f"{case_name(image)}.nii.gz"

    def read(self, path: Path) -> np.ndarray:
        return np.asarray(nib.load(path).dataobj)

    def check_geometry(self, image: str, mask: Path) -> None:
        image_file, mask_file = nib.load(image), nib.load(mask)
        assert mask_file.shape == image_file.shape
        np.testing.assert_allclose(mask_file.affine, image_file.affine, atol=1e-4)
        assert mask_file.get_data_dtype() == np.uint8
        assert set(np.unique(self.read(mask))) <= set(range(self.labels))


def reads_volumes(bundle: str | Path) -> bool:
    """Whether a bundle takes volumes, if no key says anything else.

    Args:
        bundle: name or folder of the bundle.
    """
    by_default = flat_keys(merged_config(bundle, ["inference"])).get("slices", False)
    return "NIfTI" in read_metadata(bundle)["data_type"] and not by_default


def is_of_layers(bundle: str | Path) -> bool:
    """Whether the labels of a bundle are layers in order of depth.

    Args:
        bundle: name or folder of the bundle.
    """
    return "CheckLayersd" in json.dumps(merged_config(bundle, ["train"]))


def format_of(bundle: Path) -> Format:
    """The format of a bundle's files; a network of slices may predict volumes."""
    channels = len(read_metadata(bundle)["network_data_format"]["outputs"]["pred"]["channel_def"])
    if reads_volumes(bundle):
        return VolumeFormat(max(channels, 2))  # a single channel is a structure, and the rest is background
    return LayerFormat(channels) if is_of_layers(bundle) else RasterFormat()
