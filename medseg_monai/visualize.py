"""Images for people to look at: outlines of masks, and maps in colour over an image."""

from __future__ import annotations

import colorsys
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
    "draw_lines",
    "draw_overlay",
    "layer_colours",
    "save_map_sheet",
    "save_overlay",
    "save_thickness_map",
    "upright_slice",
]

PREDICTION_COLOR = (255, 220, 0)
LABEL_COLOR = (0, 200, 255)

#: axes of the upright view by the direction that is cut: head or front at the top, the patient's right on the left
_UPRIGHT = {"S": "SPL", "A": "AIL", "R": "RIP"}
_SHEET_DPI = 100
_PANEL_PIXELS = 240  # the smallest panel in which a title is readable


def draw_overlay(
    image: npt.NDArray[np.generic], masks: Mapping[tuple[int, int, int], npt.NDArray[np.generic]]
) -> npt.NDArray[np.uint8]:
    """Draw the outline of each mask over an image; later outlines cover earlier ones.

    Args:
        image: ``[C, H, W]`` with 1 or 3 channels, in any range (it is stretched to 0..255).
        masks: colour (RGB, 0..255) to mask ``[H, W]`` of the image's size, with integer labels and 0 for the
            background; the borders between labels are drawn too.

    Returns:
        RGB image ``[H, W, 3]``.

    Raises:
        ValueError: a mask of another size than the image.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.visualize import PREDICTION_COLOR, draw_overlay
        >>> image, mask = np.zeros((1, 5, 6)), np.zeros((5, 6))
        >>> mask[1:4, 1:5] = 1
        >>> drawn = draw_overlay(image, {PREDICTION_COLOR: mask})
        >>> drawn[1, 1].tolist(), drawn[2, 2].tolist()
        ([255, 220, 0], [0, 0, 0])
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


def layer_colours(classes: int) -> tuple[tuple[int, int, int], ...]:
    """A colour for each class of layers in order of depth: black for the first, grey for the last, hues between them.

    Args:
        classes: number of classes, 2 or more.

    Example:
        >>> from medseg_monai.visualize import layer_colours
        >>> layer_colours(4)
        ((0, 0, 0), (255, 25, 25), (25, 255, 255), (128, 128, 128))
    """
    hues = (colorsys.hsv_to_rgb(number / (classes - 2), 0.9, 1.0) for number in range(classes - 2))
    between = [(round(red * 255), round(green * 255), round(blue * 255)) for red, green, blue in hues]
    return ((0, 0, 0), *between, (128, 128, 128))


def draw_lines(
    image: npt.NDArray[np.generic], lines: npt.NDArray[np.floating], colours: Sequence[tuple[int, int, int]]
) -> npt.NDArray[np.uint8]:
    """Draw lines from the left edge of an image to the right one.

    Args:
        image: ``[C, H, W]`` with 1 or 3 channels, in any range (it is stretched to 0..255).
        lines: ``[B, W]``, the row of each line in each column; what lies outside the image is not drawn.
        colours: colour of each line.

    Returns:
        RGB image ``[H, W, 3]``.

    Raises:
        ValueError: the lines have other columns than the image.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.visualize import draw_lines
        >>> drawn = draw_lines(np.zeros((1, 4, 3)), np.array([[1.0, 2.0, 4.0]]), [(255, 0, 0)])
        >>> np.argwhere(drawn[..., 0]).tolist()
        [[1, 0], [2, 1]]
    """
    canvas = draw_overlay(image, {})
    if lines.shape[1] != canvas.shape[1]:
        raise ValueError(f"Lines of {lines.shape[1]} columns do not fit an image of {canvas.shape[1]}.")
    for rows, colour in zip(lines, colours, strict=True):
        inside = np.flatnonzero((rows >= 0) & (rows < canvas.shape[0]))
        canvas[rows[inside].astype(np.int64), inside] = colour
    return canvas


def save_thickness_map(
    path: str | Path, values: npt.NDArray[np.floating], *, title: str, unit: str, aspect: float = 1.0
) -> None:
    """Write a map in colours with its scale (PNG).

    Args:
        path: file to write, completely or not at all; its folder is created.
        values: ``[N, W]``, a row for each B-scan.
        title: what is shown.
        unit: unit of the values.
        aspect: height of a pixel by its width.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from medseg_monai.visualize import save_thickness_map
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_thickness_map(f"{folder}/retina.png", np.eye(4), title="retina", unit="um", aspect=2.0)
        ...     [path.name for path in Path(folder).iterdir()]
        ['retina.png']
    """
    from matplotlib.figure import Figure  # slow to import, and only needed for maps

    figure = Figure(figsize=(6, 5), dpi=_SHEET_DPI, layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(values, cmap="viridis", aspect=aspect)
    axis.set(title=title, xlabel="column", ylabel="B-scan")
    figure.colorbar(shown, ax=axis, label=unit)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def coronal_slices(volumes: Sequence[MetaTensor], *, chosen_by: int) -> list[npt.NDArray[np.generic]]:
    """Cut the same coronal slice out of volumes of one grid, head up and the patient's right on the left.

    Args:
        volumes: ``[C, *spatial]`` with three spatial axes in any orientation, which the affine states.
        chosen_by: index of the label map whose largest coronal section decides which slice is cut.

    Returns:
        one slice ``[C, H, W]`` for each volume.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.visualize import coronal_slices
        >>> scan = MetaTensor(torch.rand(1, 7, 6, 5), affine=torch.eye(4))  # axes to the right, the front and the head
        >>> [one.shape for one in coronal_slices([scan, scan > 0.5], chosen_by=1)]
        [(1, 5, 7), (1, 5, 7)]
    """
    upright = [Orientation(axcodes="IPL", labels=None)(volume) for volume in volumes]
    sections = (upright[chosen_by] > 0).sum(dim=(0, 1, 3))
    row = int(sections.argmax())
    return [volume[:, :, row].cpu().numpy() for volume in upright]


def upright_slice(slab: MetaTensor, *, axis: int) -> npt.NDArray[np.generic]:
    """Turn a slice to the usual view: head or front at the top, the patient's right (sagittal: the front) on the left.

    Args:
        slab: ``[C, *spatial]`` with three spatial axes, of length 1 along ``axis``, in any orientation, which the
            affine states.
        axis: the axis across which the slice is cut.

    Returns:
        ``[C, H, W]``.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.visualize import upright_slice
        >>> upright_slice(MetaTensor(torch.rand(1, 7, 1, 5), affine=torch.eye(4)), axis=1).shape
        (1, 5, 7)
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
    """Write maps in colour over their image as one sheet (PNG) that begins with the outline of the prediction.

    The colours have the same meaning in every map: blue is 0, red is 1. Each title states the range of its map.

    Args:
        path: file to write, completely or not at all; its folder is created.
        image: ``[C, H, W]`` with 1 or 3 channels.
        rows: the rows of the sheet, each from title to map ``[H, W]`` with values from 0 to 1.
        prediction: mask ``[H, W]``.
        what: name of the quantity in the maps.

    Raises:
        ValueError: a mask of another size than the image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from medseg_monai.visualize import save_map_sheet
        >>> image = np.linspace(0, 1, 30).reshape(1, 5, 6)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "attention.png")
        ...     save_map_sheet(path, image, [{"gate": image[0]}], prediction=image[0] > 0.5, what="attention")
        ...     path.is_file()
        True
    """
    from matplotlib.figure import Figure  # slow to import, and only needed for sheets

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
    """Write an overlay as PNG: the outline of the label in blue, and over it that of the prediction in yellow.

    Args:
        path: file to write; its folder is created.
        image: ``[C, H, W]``.
        prediction: mask ``[H, W]``.
        label: mask ``[H, W]`` or ``None``.

    Raises:
        ValueError: a mask of another size than the image.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from medseg_monai.visualize import save_overlay
        >>> mask = np.zeros((5, 6))
        >>> mask[1:4, 1:5] = 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_overlay(f"{folder}/overlay.png", np.zeros((1, 5, 6)), prediction=mask, label=mask)
        ...     Image.open(f"{folder}/overlay.png").getpixel((1, 1))
        (255, 220, 0)
    """
    masks = {} if label is None else {LABEL_COLOR: label}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_overlay(image, {**masks, PREDICTION_COLOR: prediction})).save(target)
