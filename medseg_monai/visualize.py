"""Images for a person to look at: outlines of masks and maps in colour over an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image
from skimage.segmentation import find_boundaries

from medseg_monai.files import atomic_path

__all__ = [
    "LABEL_COLOR",
    "PREDICTION_COLOR",
    "coronal_slices",
    "draw_overlay",
    "save_map_sheet",
    "save_overlay",
    "upright_slice",
]

PREDICTION_COLOR = (255, 220, 0)
LABEL_COLOR = (0, 200, 255)

#: how a slice is looked at by the direction that it is cut across: head up or front up, the patient's right on the left
_UPRIGHT = {"S": "SPL", "A": "AIL", "R": "RIP"}
_SHEET_DPI = 100
_PANEL_PIXELS = 240  # the least in which a title can be read


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


def upright_slice(slab: MetaTensor, *, axis: int) -> npt.NDArray[np.generic]:
    """Turn a slice as one looks at it: head or front up, the patient's right (of a sagittal one the front) on the left.

    Args:
        slab: ``[C, *spatial]`` with three spatial axes, 1 long along ``axis``, in any orientation that the affine
            tells.
        axis: the axis that the slice is cut across.

    Returns:
        ``[C, H, W]``.
    """
    code = nib.aff2axcodes(np.asarray(slab.affine), labels=(("R", "R"), ("A", "A"), ("S", "S")))[axis]
    values: npt.NDArray[np.generic] = Orientation(axcodes=_UPRIGHT[code], labels=None)(slab)[:, 0].cpu().numpy()
    return values


def save_map_sheet(
    path: str | Path,
    image: npt.NDArray[np.generic],
    rows: Sequence[Mapping[str, npt.NDArray[np.generic]]],
    *,
    prediction: npt.NDArray[np.generic],
    what: str,
) -> None:
    """Write maps in colour over their image as one sheet (PNG), the image with the prediction's outline first.

    The colours mean the same in every map: blue 0, red 1. Each title tells the map's own range.

    Args:
        path: file to write, whole or not at all; its folder is made.
        image: ``[C, H, W]`` with 1 or 3 channels.
        rows: the rows of the sheet, from title to map ``[H, W]`` of values from 0 to 1.
        prediction: mask ``[H, W]``.
        what: name of the maps' quantity.

    Raises:
        ValueError: a mask of another size than the image.
    """
    from matplotlib.figure import Figure  # takes a while, and only sheets need it

    grey = draw_overlay(image, {})
    height, width = grey.shape[:2]
    columns = 1 + max(len(row) for row in rows)
    panel = max(width, _PANEL_PIXELS) / _SHEET_DPI
    size = (columns * panel * 1.1, len(rows) * (panel * height / width + 0.3))
    figure = Figure(figsize=size, dpi=_SHEET_DPI, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(draw_overlay(image, {PREDICTION_COLOR: prediction}))
    axes[0, 0].set_title("prediction")
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, values) in zip(line[1:], row.items(), strict=False):
            axis.imshow(grey)
            shown = axis.imshow(values, cmap="turbo", vmin=0, vmax=1, alpha=0.5)
            axis.set_title(f"{title}\n{values.min():.2f} to {values.max():.2f}", fontsize="small")
    figure.colorbar(shown, ax=axes, label=what, fraction=0.02)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


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
