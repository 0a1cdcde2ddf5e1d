"""LCTSC: lungs in chest CT for radiotherapy planning, as axial slices or as volumes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from tifffile import imwrite

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.data.readers import VolumeReader
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.files import atomic_path, has_ending
from medseg_monai.transforms import Affine, grid_distance

from ._common import Mask, Problems, locate, pair, progress, save_mask, split_three_ways
from ._volumes import SAME_PLACE, save_label_volume, size_text

__all__ = ["read_lctsc"]

_ENDING = ".nii.gz"


@dataclass(frozen=True, eq=False)
class _Volume:
    """A volume turned so that its axes point up, to the back and to the left, and its metadata.

    Attributes:
        values: ``[D, H, W]``.
        affine: ``[4, 4]`` to RAS, mm.
        meta: of the file.
    """

    values: NDArray[Any]
    affine: Affine
    meta: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Volume:
        """Read a file as a training will.

        Raises:
            ValueError: a file that is refused.
        """
        reader = VolumeReader()
        values, meta = reader.get_data(reader.read(path))
        stored = np.asarray(meta["affine"], dtype=np.float64)
        turn = ornt_transform(io_orientation(stored), axcodes2ornt("SPL"))
        affine = np.asarray(stored @ inv_ornt_aff(turn, values.shape))
        return cls(apply_orientation(values, turn), affine, meta)


def read_lctsc(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    slices: bool = True,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read chest CT of the Lung CT Segmentation Challenge 2017 (LCTSC) with masks of the lungs.

    The layout is this project's own; any chest CT in Hounsfield units with lungs fits it::

        images/LCTSC-Test-S1-101.nii.gz        the scan
        masks_lungs/LCTSC-Test-S1-101.nii.gz   0 background; every other value is lung (1 right, 2 left)

    By default the scans are cut into axial slices in the format of :func:`read_lung_ct2d`: TIFF in Hounsfield units and
    8-bit PNG, rows to the back and columns to the patient's left, all written to ``derived``. They are numbered from
    the feet up (``LCTSC-Test-S1-101_Z_0001``). Every slice is kept, also one without lung, with an empty label.

    Items have ``image``, ``label``, ``patient`` (the name of the scan) and ``source``. There is no official split of
    these scans; the split is seeded and by patient.

    On the command line, ``lctsc`` are the slices, and ``lctsc_volumes`` the scans themselves, with masks of both lungs
    as one label.

    Args:
        root: the folder that has ``images`` and ``masks_lungs``.
        derived: folder for the slices and labels.
        slices: whether to cut the scans into slices.
        validation_fraction: part of the patients for validation; a fifth is for testing.
        seed: seed of the split, see :func:`~medseg_monai.data.datalist.split_by_patient`.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, unreadable, on another grid than their scan, or without lung (all are listed);
            ``validation_fraction`` is outside its range or there are too few patients.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel as nib
        >>> import numpy as np
        >>> from medseg_monai.datasets import read_lctsc
        >>> scan = np.full((6, 5, 4), -800, np.int16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind, values in (("images", scan), ("masks_lungs", np.uint8(scan < 0))):
        ...         Path(folder, kind).mkdir()
        ...         for name in ("a", "b"):
        ...             nib.save(nib.Nifti1Image(values, np.eye(4)), f"{folder}/{kind}/{name}.nii.gz")
        ...     datalist = read_lctsc(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        ...     [Path(item["image"]).name for item in datalist["test"]]
        ['b_Z_0001.tif', 'b_Z_0002.tif', 'b_Z_0003.tif', 'b_Z_0004.tif']

    Source: Yang et al., "Autosegmentation for thoracic radiation treatment planning", Medical Physics 45, 2018; TCIA,
    LCTSC.
    """
    source = "lctsc" if slices else "lctsc_volumes"
    base = locate(root, source=source, needs=("masks_lungs",))
    problems = Problems(source, base)
    scans, masks = (_files(base / folder) for folder in ("images", "masks_lungs"))
    if not scans:
        problems.add(base / "images", f"no scans NAME{_ENDING}")
    pair(scans, masks, problems)
    target = Path(os.path.abspath(derived)) / source
    prepare = partial(_cut if slices else _as_volume, target=target)
    items: list[Item] = []
    for name in progress(sorted(scans.keys() & masks.keys()), source=source):
        try:
            scan, lungs = _read_pair(scans[name], masks[name])
        except (OSError, ValueError) as error:
            problems.add_error(masks[name], error)
            continue
        prepared = prepare(name, scans[name], scan, lungs)
        items += [{"image": image, "label": label, "patient": name, "source": source} for image, label in prepared]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _files(folder: Path) -> dict[str, Path]:
    """Index volumes by their names without the ending."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    kept = (path for path in found if has_ending(path, (_ENDING[1:],)) and not path.name.startswith("."))
    return {path.name[: -len(_ENDING)]: path for path in kept}


def _read_pair(image: Path, mask: Path) -> tuple[_Volume, Mask]:
    """Read a scan and its lungs, both turned.

    Raises:
        ValueError: a file that is refused, another grid, or no lung.
    """
    scan, label = _Volume.read(image), _Volume.read(mask)
    if scan.values.shape != label.values.shape:
        sizes = size_text(label.values.shape), size_text(scan.values.shape)
        raise ValueError(f"is {sizes[0]} voxels, its scan {sizes[1]} (axes S, P, L)")
    if grid_distance(scan.affine, label.affine, scan.values.shape) > SAME_PLACE:
        raise ValueError("lies beside its scan")
    if not label.values.any():
        raise ValueError("label is empty")
    return scan, label.values > 0


def _cut(name: str, _: Path, scan: _Volume, lungs: Mask, *, target: Path) -> list[tuple[str, str]]:
    """Write the slices of a scan and their masks; return the paths of both."""
    whole = scan.values.astype(np.int16)
    values = whole if np.array_equal(whole, scan.values) else scan.values.astype(np.float32)
    paths = []
    for number, (rows, mask) in enumerate(zip(values, lungs, strict=True), start=1):
        image = target / "image" / f"{name}_Z_{number:04d}.tif"
        with atomic_path(image) as temporary:
            imwrite(temporary, rows, photometric="minisblack")
        paths.append((str(image), save_mask(mask, target / "label" / f"{name}_Z_{number:04d}.png")))
    return paths


def _as_volume(name: str, image: Path, scan: _Volume, lungs: Mask, *, target: Path) -> list[tuple[str, str]]:
    """Write the lungs of a scan as one label, in the order of axes that the scan's file has; return both paths."""
    stored = np.asarray(scan.meta["affine"], dtype=np.float64)
    back = ornt_transform(axcodes2ornt("SPL"), io_orientation(stored))
    label = apply_orientation(lungs, back)
    path = save_label_volume(label, stored, target / "label" / f"{name}.nii.gz", forms=NiftiForms.of_meta(scan.meta))
    return [(str(image), path)]
