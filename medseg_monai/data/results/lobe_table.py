"""The lobe table: volume, density and, with an infection mask, the CT severity score of each lobe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg_monai.data.names import case_name
from medseg_monai.data.readers import VolumeReader
from medseg_monai.files import write_csv, write_json

from .case import SavedCase, check_same_grid, input_grid

__all__ = ["EMPHYSEMA_HU", "LobeTableWriter", "lobe_table", "severity_score", "write_lobe_csv", "write_lobe_json"]

Row = dict[str, Any]
Counts = npt.NDArray[np.int64]

EMPHYSEMA_HU = -950.0
"""Voxels below this value count as emphysema (the usual threshold on inspiratory CT)."""

ALL_LOBES = "all lobes"

_BELOW = "percent_below_950_hu"

# upper bound in percent, inclusive, of the scores 2, 3 and 4
_SCORE_BOUNDS = ((2, 25.0), (3, 50.0), (4, 75.0))


def lobe_table(
    labels: npt.NDArray[np.integer],
    hu: npt.NDArray[np.floating],
    *,
    affine: npt.ArrayLike,
    names: Sequence[str],
    infection: npt.NDArray[np.generic] | None = None,
) -> list[Row]:
    """Measure each lobe of a label map.

    The sums are computed plane by plane along the first axis, in double precision, so they need hardly more memory than
    the arguments.

    Args:
        labels: ``[X, Y, Z]``, integers, 0 for background and 1 to ``len(names)``; ``uint8`` saves memory.
        hu: the scan in Hounsfield units, of the same shape.
        affine: ``[4, 4]`` (or ``[3, 3]``) from voxel indices to mm; its determinant is the volume of a voxel.
        names: name of label 1, of label 2, and so on.
        infection: mask of the same shape, 0 and 1. Only voxels inside a lobe count.

    Returns:
        a row for each of ``names``, in their order, and a last row named ``"all lobes"`` with ``label`` ``None``:

        - ``label``, ``name``;
        - ``volume_ml``: 0 if the lobe is absent;
        - ``mean_hu``: mean of the scan in the lobe, ``None`` if it is absent;
        - ``percent_below_950_hu``: percentage of the lobe that is strictly below -950 HU, ``None`` if it is absent;
        - ``percent_infected``, only with a mask: percentage of the lobe that is infected, ``None`` if it is absent;
        - ``severity_score``, only with a mask: 0 to 5 (see :func:`severity_score`), ``None`` if the lobe is absent. In
          the last row it is the sum over the lobes that are present, 0 to 25 for five lobes, and not the score of the
          whole lung.

    Raises:
        ValueError: for arrays of different shapes, labels without a name, a mask with other values than 0 and 1, or
            values inside a lobe that are not finite.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.data.results import lobe_table
        >>> labels = np.array([[[0, 1, 1, 2]]])
        >>> scan = np.array([[[-1000.0, -800.0, -960.0, -700.0]]])
        >>> rows = lobe_table(labels, scan, affine=np.eye(4), names=["upper lobe", "lower lobe"])
        >>> [(row["name"], row["mean_hu"]) for row in rows]
        [('upper lobe', -880.0), ('lower lobe', -700.0), ('all lobes', -820.0)]
    """
    _refuse_other_shapes(labels.shape, {"scan": hu.shape, "infection mask": getattr(infection, "shape", labels.shape)})
    size = len(names) + 1
    counts, below, infected = (np.zeros(size, dtype=np.int64) for _ in range(3))
    sums = np.zeros(size)
    for lobe, values, mask in _voxels_of_lobes(labels, hu, infection):
        if lobe.size and lobe.max() >= size:
            raise ValueError(
                f"Label {lobe.max()} has no name; the table has {len(names)} names, for 1 to {len(names)}."
            )
        counts += np.bincount(lobe, minlength=size)
        sums += np.bincount(lobe, weights=values, minlength=size)
        below += np.bincount(lobe[values < EMPHYSEMA_HU], minlength=size)
        infected += np.bincount(lobe[mask], minlength=size)
    if not np.isfinite(sums).all():
        raise ValueError(
            "The scan has values inside the lobes that are not finite; replace them, in CT with -1024 (air)."
        )
    voxel_ml = abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000
    whole = [values.sum() for values in (counts, sums, below, infected)]
    rows = [
        _row(label, name, voxel_ml, counts[label], sums[label], below[label], infected[label])
        for label, name in enumerate(names, start=1)
    ]
    rows.append(_row(None, ALL_LOBES, voxel_ml, *whole))
    scores = [row["severity_score"] for row in rows[:-1] if row["severity_score"] is not None]
    rows[-1]["severity_score"] = sum(scores) if scores else None
    if infection is None:
        for row in rows:
            del row["percent_infected"], row["severity_score"]
    return rows


def severity_score(percent: float) -> int:
    """The CT severity score of a lobe from the percentage of it that is infected.

    The published classes are whole percentages (0; below 5; 5 to 25; 26 to 50; 51 to 75; above 75), as a radiologist
    estimates them. A measured percentage needs bounds without gaps, so each class ends at its published upper bound:

    ===== ====================
    score percent infected, p
    ===== ====================
    0     p = 0
    1     0 < p < 5
    2     5 <= p <= 25
    3     25 < p <= 50
    4     50 < p <= 75
    5     75 < p <= 100
    ===== ====================

    Args:
        percent: 0 to 100.

    Returns:
        0 to 5.

    Raises:
        ValueError: for a number outside 0 to 100.

    Example:
        >>> from medseg_monai.data.results import severity_score
        >>> [severity_score(percent) for percent in (0, 0.1, 25, 25.1, 100)]
        [0, 1, 2, 3, 5]

    Source: Prokop et al., "CO-RADS", Radiology 2020, 296(2), as described in the introduction of the CTSU-Net paper:
    each lobe scores 0 to 5, and the sum is 0 to 25.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"A percentage must be from 0 to 100, got {percent}.")
    if percent < 5:
        return int(percent > 0)
    return next((score for score, bound in _SCORE_BOUNDS if percent <= bound), 5)


def write_lobe_json(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table as JSON, ``{"lobes": [...], "all_lobes": {...}}``, all or nothing.

    Args:
        path: the file; its folder is created if it is missing.
        rows: the rows from :func:`lobe_table`.
    """
    content = {"lobes": rows[:-1], "all_lobes": rows[-1]}
    write_json(path, content, allow_nan=False)


def write_lobe_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table as CSV, all or nothing, with one line for each row and an empty field for ``None``.

    Args:
        path: the file; its folder is created if it is missing.
        rows: the rows from :func:`lobe_table`.
    """
    write_csv(path, rows, list(rows[0]))


class LobeTableWriter:
    """Write the lobe table of a scan as ``<name>_lobes.json`` and ``<name>_lobes.csv``, see :func:`lobe_table`.

    Args:
        names: name of label 1, of label 2, and so on.
        reader: the reader that loaded the image. With ``keep_last`` it still holds the Hounsfield units of the scan,
            which preprocessing has rescaled in the item; otherwise the scan is read again.
        infection_dir: folder with an infection mask (0 and 1, in the grid of the scan) for each case, with the name of
            the scan, such as ``case.nii.gz``; without the folder there is no severity score.

    Raises:
        FileNotFoundError: there is no such folder.

    Example:
        >>> import tempfile
        >>> from monai.transforms import LoadImaged
        >>> from medseg_monai.data import LUNG_LOBES, LobeTableWriter, SaveResultsd, VolumeReader
        >>> from medseg_monai.phantoms import write_thorax_phantoms
        >>> reader = VolumeReader(keep_last=True)
        >>> writer = LobeTableWriter([lobe.name for lobe in LUNG_LOBES], reader)
        >>> load = LoadImaged(["pred", "image"], reader=reader, ensure_channel_first=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_thorax_phantoms(folder, counts={"test": 1}, size=(32, 32, 32), seed=0)
        ...     scan, lobes = (f"{folder}/{name}/phantom_0001.nii.gz" for name in ("images", "labels"))
        ...     save = SaveResultsd("pred", folder, writers=[writer])
        ...     [path.name for path in save.save(load({"image": scan, "pred": lobes}))]
        ['phantom_0001_lobes.json', 'phantom_0001_lobes.csv']
    """

    def __init__(
        self,
        names: Sequence[str],
        reader: VolumeReader,
        *,
        infection_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if infection_dir is not None and not Path(infection_dir).is_dir():
            raise FileNotFoundError(f"{infection_dir}: no such folder of infection masks.")
        self.names = tuple(names)
        self.reader = reader
        self.infection_dir = infection_dir

    def check(self, name: str, meta: Mapping[str, Any]) -> None:
        """Refuse a case without its infection mask, if there is a folder of them.

        Args:
            name: stem of the files to write, and of the mask.
            meta: metadata of the input.

        Raises:
            FileNotFoundError: there is no infection mask for the case.
            ValueError: several masks for the case, or one in another grid than the scan or with other values.
        """
        if self.infection_dir is not None:
            _refuse_other_values(self._read(self._infection_mask(name), *input_grid(meta)))

    def __call__(self, case: SavedCase, folder: Path) -> list[Path]:
        """Write both files.

        Args:
            case: the prediction for a scan, ``[X, Y, Z]``.
            folder: folder to write into.

        Raises:
            FileNotFoundError: there is no infection mask for the case.
            ValueError: several masks for the case, or one in another grid than the scan.
        """
        infection = None
        grid = case.labels.shape, case.affine
        if self.infection_dir is not None:
            infection = self._read(self._infection_mask(case.name), *grid)
        hu = self._read(case.source, *grid)
        rows = lobe_table(case.labels, hu, affine=case.affine, names=self.names, infection=infection)
        as_json, as_csv = folder / f"{case.name}_lobes.json", folder / f"{case.name}_lobes.csv"
        write_lobe_json(as_json, rows)
        write_lobe_csv(as_csv, rows)
        return [as_json, as_csv]

    def _read(
        self, path: str | os.PathLike[str], shape: tuple[int, ...], affine: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """A volume in the grid of the case, ``[X, Y, Z]``."""
        values, meta = self.reader.take_last(path)
        check_same_grid(str(path), values.shape, meta["affine"], shape, affine)
        return values.astype(np.float32, copy=False)

    def _infection_mask(self, name: str) -> Path:
        folder = Path(self.infection_dir or "")
        found = sorted(path for path in folder.glob("*") if path.is_file() and case_name(path) == name)
        if not found:
            raise FileNotFoundError(
                f"{folder}: no infection mask for '{name}'; add {name}.nii.gz, or do not give the folder."
            )
        if len(found) > 1:
            raise ValueError(f"{folder}: several infection masks for '{name}': {', '.join(p.name for p in found)}.")
        return found[0]


def _refuse_other_shapes(shape: tuple[int, ...], others: Mapping[str, tuple[int, ...]]) -> None:
    for name, other in others.items():
        if other != shape:
            raise ValueError(f"The label map is {shape}, the {name} {other}; they must share one grid.")


def _refuse_other_values(mask: npt.NDArray[np.generic]) -> None:
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("An infection mask must have the values 0 and 1; choose the label of the infection first.")


def _voxels_of_lobes(
    labels: npt.NDArray[np.integer], hu: npt.NDArray[np.floating], infection: npt.NDArray[np.generic] | None
) -> Iterator[tuple[npt.NDArray[np.integer], npt.NDArray[np.floating], npt.NDArray[np.bool_]]]:
    """Label, value and infection of the voxels inside a lobe, plane by plane."""
    masks: Iterable[npt.NDArray[np.generic] | None] = [None] * len(labels) if infection is None else infection
    for plane, values, mask in zip(labels, hu, masks, strict=True):
        if mask is not None:
            _refuse_other_values(mask)
        inside = plane != 0
        infected = np.zeros(plane.shape, dtype=bool) if mask is None else mask != 0
        yield plane[inside], values[inside], infected[inside]


def _row(label: int | None, name: str, voxel_ml: float, count: int, total: float, below: int, infected: int) -> Row:
    voxels = int(count)
    percent = None if voxels == 0 else 100 * int(infected) / voxels
    return {
        "label": label,
        "name": name,
        "volume_ml": voxels * voxel_ml,
        "mean_hu": None if voxels == 0 else float(total) / voxels,
        _BELOW: None if voxels == 0 else 100 * int(below) / voxels,
        "percent_infected": percent,
        "severity_score": None if percent is None else severity_score(percent),
    }
