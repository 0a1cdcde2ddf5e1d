"""Layers as files: their label map, the boundaries by column, lines over the B-scan, and maps of thickness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader
from PIL import Image

from medseg_monai.data.readers.exif import EXIF_ORIENTATION, to_stored
from medseg_monai.files import write_csv
from medseg_monai.layers import boundaries_of_labels, boundary_names, layer_names
from medseg_monai.visualize import draw_lines, layer_colours, save_thickness_map

from .case import SavedCase
from .masks import NIfTIWriter, save_png

__all__ = ["BoundaryTableWriter", "LayerOverlayWriter", "LayerWriter", "ThicknessWriter", "layer_thickness"]

FloatArray = npt.NDArray[np.float32]


def layer_thickness(boundaries: npt.ArrayLike, axial_um: float | None = None) -> FloatArray:
    """The thickness of each layer between two boundaries.

    Args:
        boundaries: ``[..., B, W]`` in pixels.
        axial_um: spacing of the rows in micrometres, if it is known.

    Returns:
        ``[..., B - 1, W]`` in micrometres, or in pixels if the spacing is not known.

    Example:
        >>> from medseg_monai.data.results import layer_thickness
        >>> layer_thickness([[10, 11], [14, 11], [20, 21]], axial_um=2.0)
        array([[ 8.,  0.],
               [12., 20.]], dtype=float32)
    """
    pixels = np.diff(np.asarray(boundaries, dtype=np.float32), axis=-2)
    return np.asarray(pixels * np.float32(1 if axial_um is None else axial_um))


class LayerWriter:
    """Write the label map: of a B-scan as ``<name>.png`` with a palette, of a volume as ``<name>.nii.gz``.

    A pixel of the picture is the number of its class, which the palette shows in a colour of its own. The picture has
    the matrix and the EXIF orientation of the B-scan's file, as that of :class:`medseg_monai.data.PNGWriter`. Of a
    volume the axes are B-scans, rows and columns.

    Args:
        classes: number of classes.
        names: names of the boundaries, see :func:`medseg_monai.layers.boundary_names`.

    Attributes:
        labels: names of the classes 1, 2, …, see :func:`medseg_monai.layers.layer_names`.
        colours: their colours in the palette.

    Raises:
        ValueError: another number of names than of boundaries.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import LayerWriter, SaveResultsd
        >>> scan = MetaTensor(torch.zeros(1, 4, 5), meta={"filename_or_obj": "eye.png", "spatial_shape": [4, 5]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[LayerWriter(classes=11)])
        ...     [path.name for path in save.save({"image": scan, "pred": scan + 3})]
        ['eye.png']
    """

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        self.classes = classes
        self.labels = layer_names(boundary_names(classes, names))
        self.colours = layer_colours(classes)[1:]

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any scan that was read can have its label map written; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the file.

        Args:
            case: the prediction, ``[H, W]`` or ``[N, H, W]``.
            folder: folder to write into.

        Raises:
            OSError: the file cannot be written.
        """
        if case.labels.ndim == 3:
            return NIfTIWriter()(case, folder)
        orientation = int(case.meta.get(EXIF_ORIENTATION, 1))
        picture = Image.fromarray(to_stored(case.labels, orientation))
        picture.putpalette([channel for colour in layer_colours(self.classes) for channel in colour])
        path = folder / f"{case.name}.png"
        save_png(picture, orientation, path)
        return [path]


class BoundaryTableWriter:
    """Write the boundaries as ``<name>_boundaries.csv``: a line for each column, a field for each boundary, in pixels.

    A boundary is the number of pixels above it, see :mod:`medseg_monai.layers`. Of a volume the lines of all B-scans
    follow one another, with the number of the B-scan (from 0) in front. The table of a B-scan is what
    ``medseg data oct_boundaries`` reads.

    Args:
        classes: number of classes.
        names: names of the boundaries, see :func:`medseg_monai.layers.boundary_names`.

    Raises:
        ValueError: another number of names than of boundaries.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import BoundaryTableWriter, SaveResultsd
        >>> scan = MetaTensor(torch.zeros(1, 4, 2), meta={"filename_or_obj": "eye.png", "spatial_shape": [4, 2]})
        >>> layers = scan + torch.tensor([[0, 0], [1, 0], [2, 2], [2, 2]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[BoundaryTableWriter(3, ["ILM", "BM"])])
        ...     print(save.save({"image": scan, "pred": layers})[0].read_text())
        column,ILM,BM
        0,1,2
        1,2,2
        <BLANKLINE>
    """

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        self.classes = classes
        self.names = boundary_names(classes, names)

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any label map has boundaries; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the table.

        Args:
            case: the prediction, ``[H, W]`` or ``[N, H, W]``.
            folder: folder to write into.

        Raises:
            OSError: the file cannot be written.
        """
        boundaries = boundaries_of_labels(case.labels, self.classes)
        is_volume = boundaries.ndim == 3
        rows = [
            {
                **({"bscan": number} if is_volume else {}),
                "column": column,
                **dict(zip(self.names, map(int, places), strict=True)),
            }
            for number, scan in enumerate(boundaries if is_volume else boundaries[None])
            for column, places in enumerate(scan.T.tolist())
        ]
        path = folder / f"{case.name}_boundaries.csv"
        write_csv(path, rows, [*(["bscan"] if is_volume else []), "column", *self.names])
        return [path]


class LayerOverlayWriter:
    """Draw the boundaries as coloured lines over the B-scan, ``overlays/<name>.png``; of a volume over the middle one.

    A line has the colour that the layer below it has in the label map of :class:`LayerWriter`.

    Args:
        classes: number of classes.
        reader: the reader that loaded the scan, which is read again, since preprocessing has changed its values.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from monai.transforms import LoadImage
        >>> from PIL import Image
        >>> from medseg_monai.data import LayerOverlayWriter, RasterReader, SaveResultsd
        >>> reader = RasterReader()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.eye(6, dtype=np.uint8)).save(f"{folder}/eye.png")
        ...     scan = LoadImage(reader=reader, ensure_channel_first=True)(f"{folder}/eye.png")
        ...     save = SaveResultsd("pred", f"{folder}/out", writers=[LayerOverlayWriter(3, reader)])
        ...     [path.parent.name for path in save.save({"image": scan, "pred": scan[:1] * 0 + 1})]
        ['overlays']
    """

    def __init__(self, classes: int, reader: ImageReader) -> None:
        self.classes = classes
        self.reader = reader

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any scan that was read can be drawn; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Draw the lines.

        Args:
            case: the prediction, ``[H, W]`` or ``[N, H, W]``.
            folder: folder to write into.

        Raises:
            OSError: the scan cannot be read again, or the file cannot be written.
        """
        image = np.asarray(self.reader.get_data(self.reader.read(case.source))[0])
        labels = case.labels
        if labels.ndim == 3:
            middle = len(labels) // 2
            image, labels = image[:, middle], labels[middle]
        drawn = draw_lines(image, boundaries_of_labels(labels, self.classes), layer_colours(self.classes)[1:])
        path = folder / "overlays" / f"{case.name}.png"
        path.parent.mkdir(exist_ok=True)
        save_png(Image.fromarray(drawn), 1, path)
        return [path]


class ThicknessWriter:
    """Write a map of the thickness of each layer of a volume, as a table and as a picture; nothing for a single B-scan.

    ``thickness/<name>/01_ILM_to_NFL-GCL.csv`` has a line for each B-scan and a field for each column, in micrometres,
    or in pixels if the spacing of the rows is not known, which the first field says. The picture beside it shows the
    same in colours. ``00_ILM_to_BM`` is the whole from the first boundary to the last.

    Args:
        classes: number of classes.
        names: names of the boundaries, see :func:`medseg_monai.layers.boundary_names`.
        axial_um: spacing of the rows in micrometres, for a scan whose file does not state it.

    Raises:
        ValueError: another number of names than of boundaries.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medseg_monai.data import SaveResultsd, ThicknessWriter
        >>> meta = {"filename_or_obj": "eye.vol", "spatial_shape": [2, 4, 3], "axial_um": 3.9}
        >>> scan = MetaTensor(torch.zeros(1, 2, 4, 3), meta=meta)
        >>> layers = scan + torch.tensor([0, 1, 1, 2])[:, None]  # a layer of 2 pixels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveResultsd("pred", folder, writers=[ThicknessWriter(3, ["ILM", "BM"])])
        ...     print(save.save({"image": scan, "pred": layers})[0].read_text())
        um,0,1,2
        0,7.8,7.8,7.8
        1,7.8,7.8,7.8
        <BLANKLINE>
    """

    def __init__(self, classes: int, names: Sequence[str] = (), *, axial_um: float | None = None) -> None:
        self.classes = classes
        self.names = boundary_names(classes, names)
        self.axial_um = axial_um

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Any label map has thicknesses; see :meth:`.case.ResultWriter.check`."""

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write the maps.

        Args:
            case: the prediction, ``[H, W]`` or ``[N, H, W]``.
            folder: folder to write into.

        Raises:
            OSError: a file cannot be written.
        """
        if case.labels.ndim != 3 or len(self.names) < 2:
            return []
        axial = _spacing(case.meta, "axial_um", self.axial_um)
        boundaries = boundaries_of_labels(case.labels, self.classes)
        whole = layer_thickness(boundaries[:, [0, -1]], axial)
        each = layer_thickness(boundaries, axial) if len(self.names) > 2 else whole[:, :0]
        titles = [(self.names[0], self.names[-1]), *zip(self.names, self.names[1:], strict=False)]
        unit = "pixels" if axial is None else "um"
        aspect = _aspect(case.meta)
        files: list[Path] = []
        for number, values in enumerate(np.moveaxis(np.concatenate([whole, each], axis=1), 1, 0)):
            title = " to ".join(titles[number])
            stem = folder / "thickness" / case.name / f"{number:02d}_{_file_safe(title)}"
            table, picture = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.png")
            columns = [str(column) for column in range(values.shape[1])]
            rows = [
                {unit: scan, **dict(zip(columns, (round(float(value), 3) for value in line), strict=True))}
                for scan, line in enumerate(values)
            ]
            write_csv(table, rows, [unit, *columns])
            save_thickness_map(picture, values, title=title, unit=unit, aspect=aspect)
            files += [table, picture]
        return files


def _spacing(meta: Mapping[str, Any], key: str, given: float | None = None) -> float | None:
    """A spacing in micrometres: what the file states, else what was given; readers state nan where they know none."""
    stated = meta.get(key)
    return given if stated is None or math.isnan(float(stated)) else float(stated)


def _aspect(meta: Mapping[str, Any]) -> float:
    """Height of a pixel of the map by its width."""
    across, along = _spacing(meta, "bscan_spacing_um"), _spacing(meta, "lateral_um")
    return across / along if across and along else 1.0


def _file_safe(title: str) -> str:
    return title.replace(" ", "_")
