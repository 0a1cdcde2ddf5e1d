"""Folders of B-scans with their layers: a label picture or a table of boundaries for each."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.layers import boundary_names, disordered_columns, labels_of_boundaries

from ._common import Problems, by_key, files, locate, pair, progress, save_grey, split_three_ways
from ._layers import (
    AXIAL,
    SPECTRALIS_AXIAL_UM,
    Labels,
    checked_label,
    patient,
    patients_of_index,
    read_index,
    read_label,
    set_columns_aside,
)

__all__ = ["layer_items", "read_cirrus_onh", "read_healthy_spectralis", "read_oct_boundaries", "read_oct_labels"]

FloatArray = npt.NDArray[np.float64]

ANY = r"(.+)"
#: class of the Cirrus set -> class between the boundaries of Chiu et al.: its ONL and its IS are one there
CIRRUS_TO_CHIU = (0, 1, 2, 3, 4, 5, 5, 6, 7, 8)
#: 2 mm in 1024 rows
CIRRUS_AXIAL_UM = 1.953


def read_oct_labels(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    source: str = "oct_labels",
    axial_um: float | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read a folder of B-scans, each with a label picture.

    Layout::

        images/NAME.png      grey, whatever Pillow reads
        masks/NAME.png       of the same size, 8-bit grey or with a palette
        index.csv            optional: file, patient, and split_group where several subjects belong together

    A label has the classes 0, 1, 2 … from top to bottom in each column, and 255 in columns that nobody has drawn. Items
    have ``image``, ``label``, ``patient`` (without an index, NAME), ``source`` and, if it is known, ``axial_um``.
    Nothing is written. There is no official split; the split is seeded, by patient.

    Args:
        root: the folder with ``images`` and ``masks``.
        derived: not used.
        source: ``source`` of the items.
        axial_um: spacing of the rows in micrometres; a column ``axial_um`` of the index goes first.
        validation_fraction: part of the patients for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful, of another size than their image, of colours, or have classes out of
            order (all are listed with the columns), or ``validation_fraction`` is out of its range.

    Example:
        >>> import tempfile
        >>> from medseg_monai.datasets import read_oct_labels
        >>> from medseg_monai.phantoms import write_oct_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_oct_phantoms(folder, counts={"training": 5}, size=(64, 80), seed=0)
        ...     _ = Path(folder, "labels").rename(f"{folder}/masks")
        ...     datalist = read_oct_labels(folder, derived=f"{folder}/derived")
        >>> {section: len(items) for section, items in datalist.items()}
        {'training': 3, 'validation': 1, 'test': 1}
    """
    base = locate(root, source=source, needs=("images",))
    items = layer_items(base, source=source, axial_um=axial_um)
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def read_healthy_spectralis(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read B-scans of healthy maculae by Spectralis with eight boundaries, in the folder layout of ``oct_labels``.

    The files come from a public repository (siej88/OCTLayers), which does not say whose they are; they fit the ten
    subjects of Tian et al., PLoS ONE 2015. Two subjects are the same eye: ``split_group`` of ``index.csv`` keeps them
    together, and the index must have it. The classes are those between the boundaries of Chiu et al., 2015.

    Args:
        root: the folder with ``images``, ``masks`` and ``index.csv``.
        derived: not used.
        validation_fraction: part of the eyes for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: as for :func:`read_oct_labels`, or the index has no ``split_group``.

    Example:
        >>> from medseg_monai.datasets import read_healthy_spectralis
        >>> read_healthy_spectralis("gone", derived="derived")
        Traceback (most recent call last):
        FileNotFoundError: ...gone: no such folder; name the folder of healthy_spectralis as published
    """
    source = "healthy_spectralis"
    base = locate(root, source=source, needs=("images",))
    items = layer_items(base, source=source, axial_um=SPECTRALIS_AXIAL_UM, classes=9, needs=("split_group",))
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def read_cirrus_onh(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Datalist:
    """Read the example of B-scans through the optic disc by Zeiss Cirrus (OCTseg-Zeiss), all of it for testing.

    Layout::

        images/NAME.png
        masks/NAME.png    classes 0 above, 1 RNFL, 2 GCL+IPL, 3 INL, 4 OPL, 5 ONL, 6 IS, 7 OS, 8 RPE, 9 below

    Its ten classes become the nine between the eight boundaries of Chiu et al., 2015, since that set draws no boundary
    between ONL and inner segments: 5 and 6 become one. What remains in doubt is the boundary below it, which is called
    IS/OS here and ISM/ISE there. Columns of which the published classes are out of order become columns without truth,
    and are named. The labels are written to ``derived``.

    Args:
        root: the folder with ``images`` and ``masks``.
        derived: folder for the labels.
        validation_fraction: must be 0, since three B-scans of unknown patients are for nothing but testing.
        seed: not used.

    Returns:
        empty ``training`` and ``validation``, and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed).

    Example:
        >>> from medseg_monai.datasets import read_cirrus_onh
        >>> read_cirrus_onh("gone", derived="derived")
        Traceback (most recent call last):
        FileNotFoundError: ...gone: no such folder; name the folder of cirrus_onh as published
    """
    source = "cirrus_onh"
    base = locate(root, source=source, needs=("images",))
    problems = Problems(source, base)
    images, masks = _pairs(base, "masks", problems)
    problems.raise_if_any()
    target = Path(derived) / source / "label"
    items: list[Item] = []
    for name in progress(sorted(images), source=source):
        labels = _cirrus_label(masks[name], problems)
        if labels is not None:
            label = save_grey(labels, target / f"{name}.png")
            item = {"image": str(images[name]), "label": label, "patient": name, "source": source}
            items.append({**item, "axial_um": CIRRUS_AXIAL_UM})
    problems.raise_if_any()
    return {"training": [], "validation": [], "test": items}


def _cirrus_label(path: Path, problems: Problems) -> Labels | None:
    published = read_label(path, problems)
    if published is None:
        return None
    if published.max() >= len(CIRRUS_TO_CHIU):
        problems.add(path, f"has a class {published.max()}, expected 0 to {len(CIRRUS_TO_CHIU) - 1}")
        return None
    merged = np.asarray(CIRRUS_TO_CHIU, dtype=np.uint8)[published]
    return set_columns_aside(merged, disordered_columns(published), path)


def read_oct_boundaries(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    r"""Read a folder of B-scans, each with a table of its boundaries.

    Layout::

        images/NAME.png          grey, whatever Pillow reads
        boundaries/NAME.csv      a line for each column of the image, a column for each boundary from top to bottom
                                 (or NAME_boundaries.csv, as a prediction writes it)
        index.csv                optional: file, patient, and split_group where several subjects belong together

    The first line of a table names the boundaries; a first field ``column`` has the numbers 0, 1, 2 … in order. A
    number is the distance from the upper edge in pixels, with or without a fraction, and an empty field or ``nan``
    leaves the boundary open, which makes the column one without truth. Each table becomes a label picture in
    ``derived``, in which boundaries lie between whole pixels. Items are those of :func:`read_oct_labels`.

    Args:
        root: the folder with ``images`` and ``boundaries``.
        derived: folder for the labels.
        validation_fraction: part of the patients for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing or doubtful, a table has another number of lines than its image columns, other
            boundaries than the other tables, what is no number, or boundaries that cross or leave the image (all are
            listed), or ``validation_fraction`` is out of its range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_oct_boundaries
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "boundaries"):
        ...         Path(folder, kind).mkdir()
        ...     for name in "abcde":
        ...         Image.new("L", (2, 9), 90).save(f"{folder}/images/{name}.png")
        ...         _ = Path(folder, "boundaries", f"{name}.csv").write_text("ILM,BM\n2,5.5\n,6\n")
        ...     datalist = read_oct_boundaries(folder, derived=f"{folder}/derived")
        ...     Image.open(datalist["test"][0]["label"]).getcolors()
        [(2, 0), (3, 1), (4, 2), (9, 255)]
    """
    source = "oct_boundaries"
    base = locate(root, source=source, needs=("images",))
    problems = Problems(source, base)
    images = by_key(files(base / "images"), ANY, problems)
    tables = by_key(files(base / "boundaries", suffixes=(".csv",)), r"(.+?)(?:_boundaries)?", problems)
    if not images:
        problems.add(base / "images", "no images")
    pair(images, tables, problems, kind="table")
    index = _index(base, images, problems)
    problems.raise_if_any()
    read = {name: _labels_of_table(tables[name], images[name], problems) for name in sorted(images)}
    for name in sorted(images):
        if len({tuple(found[0]) for found in read.values() if found}) > 1 and (found := read[name]):
            problems.add(tables[name], f"boundaries {', '.join(found[0])}, but not all tables have these")
    problems.raise_if_any()
    target = Path(derived) / source / "label"
    items = [
        {
            "image": str(images[name]),
            "label": save_grey(found[1], target / f"{name}.png"),
            "patient": patient(index[name]) if index else name,
            "source": source,
            **_axial(index.get(name, {}), None),
        }
        for name, found in read.items()
        if found is not None
    ]
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def layer_items(
    base: Path,
    *,
    source: str,
    axial_um: float | None = None,
    classes: int | None = None,
    needs: tuple[str, ...] = (),
    experts: Mapping[str, str] | None = None,
) -> list[Item]:
    """The items of a folder of B-scans with label pictures.

    Args:
        base: the folder with ``images``, ``masks`` and perhaps ``index.csv``.
        source: name of the data set.
        axial_um: spacing of the rows in micrometres, if it is known.
        classes: number of classes; ``None`` takes any.
        needs: columns that the index must have; with any, there must be an index.
        experts: key of an item -> folder with the labels of a further expert, which may be absent.

    Raises:
        ValueError: if files are missing or doubtful (all are listed).
    """
    problems = Problems(source, base)
    images, masks = _pairs(base, "masks", problems)
    kinds = {"label": masks}
    for key, folder in (experts or {}).items():
        if (base / folder).is_dir():
            kinds[key] = _pairs(base, folder, problems)[1]
    index = _index(base, images, problems, needs)
    problems.raise_if_any()
    items: list[Item] = []
    for name in progress(sorted(images), source=source):
        for by_name in kinds.values():
            checked_label(by_name[name], problems, classes)
        row = index.get(name, {})
        labels = {key: str(by_name[name]) for key, by_name in kinds.items()}
        item = {"image": str(images[name]), **labels, "patient": patient(row) if index else name, "source": source}
        items.append({**item, **_axial(row, axial_um)})
    problems.raise_if_any()
    return items


def _pairs(base: Path, folder: str, problems: Problems) -> tuple[dict[str, Path], dict[str, Path]]:
    images = by_key(files(base / "images"), ANY, problems)
    masks = by_key(files(base / folder), ANY, problems)
    if not images:
        problems.add(base / "images", "no images")
    pair(images, masks, problems, kind=folder)
    for name in sorted(images.keys() & masks.keys()):
        problems.check_size(images[name], [masks[name]])
    return images, masks


def _index(
    base: Path, images: Mapping[str, Path], problems: Problems, needs: tuple[str, ...] = ()
) -> dict[str, dict[str, str]]:
    path = base / "index.csv"
    if not path.is_file():
        if needs:
            problems.add(path, "missing")
        return {}
    index = read_index(path, problems, needs)
    if index:
        patients_of_index(index, images, problems)
    return index


def _axial(row: Mapping[str, str], default: float | None) -> dict[str, float]:
    given = row.get(AXIAL) or default
    return {} if given is None else {AXIAL: float(given)}


def _labels_of_table(path: Path, image: Path, problems: Problems) -> tuple[list[str], Labels] | None:
    """The names of a table's boundaries and the classes between them; a doubtful table is noted."""
    size = problems.image_size(image)
    if size is None:
        return None
    try:
        names, values = _read_table(path)
        boundaries = _boundaries_of_table(names, values, *size)
    except (OSError, ValueError, csv.Error) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
        problems.add(path, f"can't be read as a table of boundaries: {reason}")
        return None
    return names, labels_of_boundaries(boundaries, size[1])


def _read_table(path: Path) -> tuple[list[str], FloatArray]:
    """The names in the first line and the values ``[columns, boundaries]`` of the others, by the numbers of columns."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = [line for line in csv.reader(stream) if line]
    if not lines:
        raise ValueError("it is empty")
    names, lines = [name.strip() for name in lines[0]], lines[1:]
    if names[0].lower() == "bscan":
        raise ValueError("it is of a volume (bscan); give a table for each B-scan")
    is_numbered = names[0].lower() == "column"
    if not is_numbered and all(_is_number(name) for name in names):
        raise ValueError("its first line does not name the boundaries")
    if {len(line) for line in lines} - {len(names)}:
        raise ValueError(f"it has lines of other lengths than the first, which has {len(names)} fields")
    values = np.asarray([[_number(field) for field in line] for line in lines], dtype=np.float64)
    if is_numbered:
        if not np.array_equal(values[:, 0], np.arange(len(values))):
            raise ValueError("its columns are not numbered 0, 1, 2 … in order")
        names, values = names[1:], values[:, 1:]
    boundary_names(len(names) + 1, names)
    return names, values


def _boundaries_of_table(names: list[str], values: FloatArray, width: int, height: int) -> FloatArray:
    """Boundaries ``[B, W]`` that lie within an image and in their order."""
    if not names or len(values) != width:
        raise ValueError(f"{len(names)} boundaries in {len(values)} columns, its image has {width}")
    boundaries = values.T
    crossing = np.flatnonzero((np.diff(boundaries, axis=0) < 0).any(axis=0))
    outside = np.flatnonzero(((boundaries < 0) | (boundaries > height)).any(axis=0))
    for columns, wrong in ((crossing, "boundaries cross"), (outside, "boundaries leave the image")):
        if columns.size:
            raise ValueError(f"{wrong} in column {columns[0]} (the first is 0)")
    return boundaries


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(field: str) -> float:
    if not field.strip():
        return math.nan
    value = float(field) if _is_number(field) else math.inf
    if math.isinf(value):
        raise ValueError(f"{field!r} is no place of a boundary; separate fields by commas")
    return value
