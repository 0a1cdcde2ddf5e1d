"""Shared by the readers of layers in OCT: labels in order of depth as 8-bit images, and the index of a folder."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_monai.data.datalist import shorten
from medseg_monai.data.readers import LabelReader
from medseg_monai.layers import IGNORED, disordered_columns

from ._common import Problems

__all__ = [
    "AXIAL",
    "SPECTRALIS_AXIAL_UM",
    "Labels",
    "checked_label",
    "patients_of_index",
    "read_index",
    "read_label",
    "set_columns_aside",
]

Labels = NDArray[np.uint8]

#: spacing of the rows of a B-scan of Heidelberg's Spectralis
SPECTRALIS_AXIAL_UM = 3.87

#: column of an index and key of an item: spacing of the rows in micrometres
AXIAL = "axial_um"
LARGEST_UM = 1000

logger = logging.getLogger(__name__)


def read_index(path: Path, problems: Problems, needs: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Read an ``index.csv`` with one line for each B-scan.

    Args:
        path: the file.
        problems: what is wrong with it is noted here.
        needs: columns that it must have besides ``file``.

    Returns:
        stem of the file's name -> column -> value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add(path, f"can't be read as a table: {error}")
        return {}
    columns = set(rows[0]) if rows else set()
    if missing := [name for name in ("file", *needs) if name not in columns]:
        problems.add(path, f"has no column {', '.join(missing)}")
        return {}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name = Path(row["file"] or "").stem
        if not name or name in found:
            problems.add(path, f"names {row['file']!r} twice" if name else "has a line without file")
        found[name] = {key: value or "" for key, value in row.items() if key is not None}
        if found[name].get(AXIAL) and not _is_spacing(found[name][AXIAL]):
            problems.add(path, f"{AXIAL} {found[name][AXIAL]!r} of {name} is no spacing in micrometres")
    return found


def _is_spacing(text: str) -> bool:
    try:
        return 0 < float(text) < LARGEST_UM
    except ValueError:
        return False


def patients_of_index(index: Mapping[str, Mapping[str, str]], images: Mapping[str, Path], problems: Problems) -> None:
    """Note the images that an index does not name, and those without a patient.

    Args:
        index: the index, see :func:`read_index`.
        images: the images by name.
        problems: where they are noted.
    """
    for name in sorted(images):
        if name not in index:
            problems.add(images[name], "not in index.csv")
        elif not patient(index[name]):
            problems.add(images[name], "no patient in index.csv")


def patient(row: Mapping[str, str]) -> str:
    """Whose eye a line of an index names: ``split_group`` says which subjects belong together, else ``patient``.

    Args:
        row: a line of an index.
    """
    return row.get("split_group") or row.get("patient", "")


def read_label(path: Path, problems: Problems) -> Labels | None:
    """Decode a label picture, or note why it cannot be read.

    Args:
        path: the file, 8-bit grey or with a palette.
        problems: what is wrong with it is noted here.

    Returns:
        ``[H, W]``, or ``None`` if it was noted.
    """
    try:
        return LabelReader().get_data([path])[0][0].astype(np.uint8)
    except (OSError, ValueError) as error:
        problems.add_error(path, error)
        return None


def checked_label(path: Path, problems: Problems, classes: int | None = None) -> Labels | None:
    """Decode a label picture, and note one that holds no layers in order of depth.

    Args:
        path: the file, 8-bit grey or with a palette.
        problems: what is wrong with it is noted here.
        classes: number of classes; ``None`` takes any.

    Returns:
        ``[H, W]``, or ``None`` if it was noted.
    """
    labels = read_label(path, problems)
    if labels is None:
        return None
    others = [] if classes is None else sorted({*np.unique(labels).tolist()} - {*range(classes), IGNORED})
    if others:
        problems.add(path, f"has values {shorten(map(str, others))} besides 0 to {classes - 1 if classes else 0}")
        return None
    columns = disordered_columns(labels)
    if columns.size:
        problems.add(path, f"classes out of order in column {shorten(str(column) for column in columns)}")
        return None
    return labels


def set_columns_aside(labels: Labels, columns: NDArray[np.int64], path: Path) -> Labels:
    """Mark columns of a published label that contradict themselves as columns without truth, and say so.

    Args:
        labels: ``[H, W]``.
        columns: numbers of the columns.
        path: the published file, for the message.
    """
    if not columns.size:
        return labels
    logger.warning(
        "%s: classes out of order in column %s, which becomes a column without truth (%d).",
        path,
        shorten(str(column) for column in columns),
        IGNORED,
    )
    marked = labels.copy()
    marked[:, columns] = IGNORED
    return marked
