"""Overlays: an image with the outlines of masks, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image
from skimage.segmentation import find_boundaries

__all__ = ["LABEL_COLOR", "PREDICTION_COLOR", "coronal_slices", "draw_overlay", "save_overlay"]

PREDICTION_COLOR = (255, 220, 0)
LABEL_COLOR = (0, 200, 255)


def draw_overlay(
    image: npt.NDArray[np.generic], masks: Mapping[tuple[int, int, int], npt.NDArray[np.generic]]
) -> npt.NDArray[np.uint8]:
    """Draw the outline of each mask over an image; later ones over earlier ones.

    Args:
        image: ``[C, H, W]`` with 1 or 3 channels, any range (it is stretched to 0..255).
        masks: colour (RGB, 0..255) to mask ``[H, W]`` of the image's size: whole labels, 0 for the background; the
            borders between labels are drawn too.

    Returns:
        RGB image ``[H, W, 3]``.

    Raises:
        ValueError: a mask of another size than the image.
    """
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    canvas = np.moveaxis(np.broadcast_to(scaled, (3, *scaled.shape[1:])), 0, -1).astype(np.uint8)
    for color, mask in masks.items():
        if mask.shape != canvas.shape[:2]:
            raise ValueError(f"A mask of size {mask.shape} does not fit an image of size {canvas.shape[:2]}.")
        canvas[find_boundaries(np.asarray(mask).astype(np.int32), mode="inner")] = color
    return canvas


def coronal_slices(volumes: Sequence[MetaTensor], *, chosen_by: int) -> list[npt.NDArray[np.generic]]:
    """Cut the same coronal slice out of volumes of one grid, head up and the patient's right on the left.

    Args:
        volumes: ``[C, *spatial]`` with three spatial axes in any orientation that the affine tells.
        chosen_by: index of the label map whose largest coronal section decides which slice.

    Returns:
        ``[C, H, W]`` each.
    """
    upright = [Orientation(axcodes="IPL", labels=None)(volume) for volume in volumes]
    sections = (upright[chosen_by] > 0).sum(dim=(0, 1, 3))
    row = int(sections.argmax())
    return [volume[:, :, row].cpu().numpy() for volume in upright]


def save_overlay(
    path: str | Path,
    image: npt.NDArray[np.generic],
    *,
    prediction: npt.NDArray[np.generic],
    label: npt.NDArray[np.generic] | None = None,
) -> None:
    """Write an overlay as PNG: the label's outline in blue under the prediction's in yellow.

    Args:
        path: file to write; its folder is made.
        image: ``[C, H, W]``.
        prediction: mask ``[H, W]``.
        label: mask ``[H, W]`` or ``None``.

    Raises:
        ValueError: a mask of another size than the image.
    """
    masks = {} if label is None else {LABEL_COLOR: label}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_overlay(image, {**masks, PREDICTION_COLOR: prediction})).save(target)
