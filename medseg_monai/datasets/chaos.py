"""CHAOS: liver in CT; liver, kidneys and spleen in three MRI sequences, 20 patients each, as DICOM with PNG masks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg_monai.data.datalist import Datalist, Item, shorten
from medseg_monai.data.dicom import SeriesGeometry, check_geometry, find_series, read_series
from medseg_monai.transforms import grid_distance

from ._common import Mask, Problems, files, locate, progress
from ._volumes import MAX_SHARE_IN_AIR, SAME_PLACE, save_label_volume, share_in_air, split_five_to_one

__all__ = ["MODALITIES", "ORGANS", "read_chaos"]

ORGANS = ("liver", "spleen", "kidney")

# folder of the series, folder of the series whose names the masks have, folder of the masks
_CT = {"ct": ("DICOM_anon", "DICOM_anon", "Ground")}
_T1_IN = "T1DUAL/DICOM_anon/InPhase"
_MR = {
    "t1_in": (_T1_IN, _T1_IN, "T1DUAL/Ground"),
    "t1_out": ("T1DUAL/DICOM_anon/OutPhase", _T1_IN, "T1DUAL/Ground"),
    "t2": ("T2SPIR/DICOM_anon", "T2SPIR/DICOM_anon", "T2SPIR/Ground"),
}
MODALITIES = (*_CT, *_MR, "mr")

# The masks have the value 255 in CT, and 63, 126, 189 and 252 in MRI, for which the organisers give these ranges.
_Levels = dict[str, tuple[tuple[int, int], ...]]
_CT_LEVELS: _Levels = {"liver": ((255, 255),)}
_MR_LEVELS: _Levels = {"liver": ((55, 70),), "kidney": ((110, 135), (175, 200)), "spleen": ((240, 255),)}
_UNKNOWN = 2


@dataclass(frozen=True)
class _Scan:
    patient: str
    images: Path
    named: Path
    masks: Path


def read_chaos(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    modality: str = "ct",
    organ: str = "liver",
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the training set of the Combined Healthy Abdominal Organ Segmentation challenge (CHAOS).

    Layout as published::

        Train_Sets/CT/1/DICOM_anon/i0000,0000b.dcm           Ground/liver_GT_000.png
        Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase/IMG-0004-00002.dcm
        Train_Sets/MR/1/T1DUAL/DICOM_anon/OutPhase/IMG-0004-00001.dcm
        Train_Sets/MR/1/T1DUAL/Ground/IMG-0004-00002.png     one mask for both phases
        Train_Sets/MR/1/T2SPIR/DICOM_anon/IMG-0002-00001.dcm Ground/IMG-0002-00001.png

    For CT, ``root`` may also be the folder of one case, with ``DICOM_anon`` and ``Ground`` or ``images`` and ``masks``;
    this case is then the whole test set.

    Items have ``image`` (the folder of the series), ``label``, ``patient`` and ``source``. The patient is ``ct_1`` or
    ``mr_1``, since CT and MRI show different people; the sequences of one patient share the name and therefore fall
    into one section. The label is 1 for one organ (both kidneys count as one, as in the paper) and 0 for everything
    else. It is written to ``derived`` as 8-bit NIfTI on the grid of the series.

    A mask belongs to one DICOM file and gets the position of that file's ``ImagePositionPatient``. The file is the one
    with the same name (MRI) or, if no name is shared (CT), the one with the same rank when both are sorted by the
    numbers in their names. This is the organisers' rule; their evaluation uses the names and no position. In CT set 3
    the numbers run down the body: the first mask is the uppermost slice, which is the last slice of the volume as it is
    loaded. For pairs by rank, the files must run through the body in one direction and the masks must be numbered
    without a gap. A liver in CT must lie on tissue.

    There is no official split of the patients with masks; the split is seeded, five to one as in the paper, and
    validation is taken from the training patients.

    On the command line the names are ``chaos_ct``, and ``chaos_`` with ``t1_in``, ``t1_out``, ``t2`` or ``mr`` (all
    three) and the organ, such as ``chaos_mr_spleen``.

    Args:
        root: the folder with ``CT`` and ``MR``, one of the two folders above it, or the folder of one CT case.
        derived: folder for the labels.
        modality: ``"ct"``, ``"t1_in"``, ``"t1_out"``, ``"t2"``, or ``"mr"`` for all three MRI sequences, as in the
            paper.
        organ: ``"liver"``, ``"spleen"`` or ``"kidney"``; CT has only the liver.
        validation_fraction: part of the training patients for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if a series is missing or not one regular volume; if masks and slices differ in number or size or
            can't be paired; if masks have other grey values or nothing of the organ (all are listed); if ``modality``
            or ``organ`` is unknown; or if ``validation_fraction`` is not in [0, 1) or there are too few patients.

    Example:
        >>> import tempfile
        >>> from medseg_monai.datasets import read_chaos
        >>> from medseg_monai.phantoms import write_chaos_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     patients = write_chaos_layout(folder, patients=2, size=(8, 32, 40), seed=0)
        ...     datalist = read_chaos(patients, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['ct_1', 'ct_2']

    Source: Kavur et al., "CHAOS Challenge", Medical Image Analysis 69, 2021; names and positions: the comment in
    ``transformToRealCoordinates`` of the organisers' ``CHAOSmetrics.py``. The CT reader was tried on their set 3. We
    had no MRI files: their layout follows public programs that convert them.
    """
    source = _source(modality, organ)
    sequences = _MR if modality == "mr" else {modality: {**_CT, **_MR}[modality]}
    base, found = _find(root, sequences, source)
    problems = Problems(source, base)
    if not found:
        problems.add(base, "no patients")
    dicom, levels = ("CT", _CT_LEVELS) if modality == "ct" else ("MR", _MR_LEVELS)
    target = Path(derived) / source / "label"
    items: list[Item] = []
    for name in progress(found, source=source):
        scan = found[name]
        if missing := [path for path in (scan.images, scan.named, scan.masks) if not path.is_dir()]:
            problems.add(missing[0], "no such folder")
            continue
        try:
            geometry, placed = _masks(scan, dicom=dicom)
            mask = _organ(placed, geometry, _table(organ, levels))
            if dicom == "CT" and (share := share_in_air(read_series(geometry)[0], mask)) > MAX_SHARE_IN_AIR:
                raise ValueError(f"{share:.0%} of the liver lies in air; the masks do not belong to these slices")
        except (OSError, ValueError) as error:
            problems.add(scan.masks, str(error))
            continue
        label = save_label_volume(mask, geometry.affine, target / f"{name}.nii.gz")
        items.append({"image": str(scan.images), "label": label, "patient": scan.patient, "source": source})
    problems.raise_if_any()
    if any(scan.masks.parent == base for scan in found.values()):  # one case by itself
        return {"training": [], "validation": [], "test": items}
    return split_five_to_one(items, validation_fraction=validation_fraction, seed=seed)


def _source(modality: str, organ: str) -> str:
    """Name of the data set, as on the command line."""
    if modality not in MODALITIES:
        raise ValueError(f"modality='{modality}' is unknown: choose from {', '.join(MODALITIES)}.")
    if organ not in ORGANS:
        raise ValueError(f"organ='{organ}' is unknown: choose from {', '.join(ORGANS)}.")
    if modality == "ct" and organ != "liver":
        raise ValueError(f"organ='{organ}': CHAOS has only the liver in CT; choose an MRI sequence.")
    return "chaos_ct" if modality == "ct" else f"chaos_{modality}_{organ}"


def _find(
    root: str | os.PathLike[str], sequences: dict[str, tuple[str, str, str]], source: str
) -> tuple[Path, dict[str, _Scan]]:
    """Return the folder that was found, and the scans by the names of their labels."""
    kind = "CT" if "ct" in sequences else "MR"
    single = {"Ground": "DICOM_anon", "masks": "images"} if kind == "CT" else {}
    inside = ("Train_Sets", "CHAOS_Train_Sets", "CHAOS_Train_Sets/Train_Sets")
    base = locate(root, source=source, needs=(kind, *single), inside=inside)
    if not (base / kind).is_dir():
        masks = next(name for name in single if (base / name).is_dir())
        images = base / single[masks]
        return base, {base.name: _Scan(base.name, images, images, base / masks)}
    patients = sorted(path for path in (base / kind).iterdir() if path.is_dir() and not path.name.startswith("."))
    return base, {
        f"{patient.name}_{sequence}": _Scan(f"{kind.lower()}_{patient.name}", *(patient / part for part in parts))
        for patient in sorted(patients, key=_numbers)
        for sequence, parts in sequences.items()
    }


def _masks(scan: _Scan, *, dicom: str) -> tuple[SeriesGeometry, list[Path]]:
    """Return the grid of the series, and the masks in the order of its third axis."""
    geometry = _geometry(scan.images, dicom)
    named = geometry if scan.named == scan.images else _geometry(scan.named, dicom)
    if named is not geometry and (
        named.shape != geometry.shape or grid_distance(geometry.affine, named.affine, geometry.shape) > SAME_PLACE
    ):
        raise ValueError(f"drawn on {scan.named.name}, whose grid is not that of {scan.images.name}")
    return geometry, _in_space(files(scan.masks, suffixes=(".png",)), named.files)


def _geometry(folder: Path, dicom: str) -> SeriesGeometry:
    series = find_series(folder)
    if len(series) != 1:
        raise ValueError(f"{folder}: {len(series)} DICOM series, expected one; leave one in the folder")
    return check_geometry(series[0], modality=dicom)


def _in_space(masks: Sequence[Path], slices: Sequence[Path]) -> list[Path]:
    """Sort masks in the order of their slices in the volume.

    Args:
        masks: the masks in any order.
        slices: the DICOM files in the order of the third axis.

    Raises:
        ValueError: if it is not certain which mask belongs to which slice.
    """
    if len(masks) != len(slices):
        raise ValueError(f"{len(masks)} masks for {len(slices)} slices")
    by_name = {mask.stem: mask for mask in masks}
    names = [path.stem for path in slices]
    if shared := by_name.keys() & set(names):
        if len(shared) < len(names):
            raise ValueError(f"masks without a slice of the same name: {shorten(sorted(by_name.keys() - shared))}")
        return [by_name[name] for name in names]
    by_rank = sorted(masks, key=_numbers)
    steps = {_steps(first, second) for first, second in pairwise(by_rank)}
    if len(steps) > 1:
        raise ValueError("masks are not numbered in even steps, so one is missing or has another name")
    ranked = sorted(slices, key=_numbers)
    if ranked == list(slices):
        return by_rank
    if ranked[::-1] == list(slices):
        return by_rank[::-1]
    raise ValueError("no mask has the name of a slice, and the names of the slices do not follow their positions")


def _numbers(path: Path) -> tuple[list[int], str]:
    """Sort by the numbers in a name, then by the name."""
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.stem


def _steps(first: Path, second: Path) -> tuple[int, ...]:
    """The differences between the numbers in two names, and between how many numbers the names have."""
    before, after = _numbers(first)[0], _numbers(second)[0]
    return (len(after) - len(before), *(b - a for a, b in zip(before, after, strict=False)))


def _table(organ: str, levels: _Levels) -> NDArray[np.uint8]:
    """Return for each grey value 1 if it is the organ, 0 if background or another organ, else ``_UNKNOWN``."""
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    table[0] = 0
    for name, ranges in levels.items():
        for low, high in ranges:
            table[low : high + 1] = name == organ
    return table


def _organ(masks: Sequence[Path], geometry: SeriesGeometry, table: NDArray[np.uint8]) -> Mask:
    """Decode masks into one volume ``[X, Y, Z]``.

    Raises:
        OSError: if a file is broken.
        ValueError: if a mask has another size or grey value, or no mask has the organ.
    """
    volume = np.stack(list(_decoded(masks, geometry.shape[:2], table)), axis=-1)
    if not volume.any():
        raise ValueError("no voxel of the organ in any mask")
    return volume


def _decoded(masks: Sequence[Path], size: tuple[int, int], table: NDArray[np.uint8]) -> Iterator[Mask]:
    for path in masks:
        with Image.open(path) as image:
            if image.size != size:
                raise ValueError(f"{path.name} is {image.width}x{image.height}, its slice {size[0]}x{size[1]}")
            if image.mode not in ("1", "L", "P"):
                raise ValueError(f"{path.name} has mode {image.mode}, expected 8-bit grey")
            grey = np.asarray(image.convert("L"))
        meaning = table[grey]
        if (meaning == _UNKNOWN).any():
            values = np.unique(grey[meaning == _UNKNOWN]).tolist()
            raise ValueError(f"{path.name} has grey values {shorten(map(str, values))}, which stand for no organ")
        yield (meaning == 1).T
