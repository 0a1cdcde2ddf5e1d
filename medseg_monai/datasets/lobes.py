"""Any folder of chest scans with lobe labels, with an explicit label map."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from medseg_monai.data.datalist import Datalist, Item, shorten, split_by_patient
from medseg_monai.data.readers import VolumeReader
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.transforms import Affine, grid_distance

from ._common import Problems, locate, pair, progress
from ._volumes import SAME_PLACE, save_label_volume, size_text

__all__ = ["LABEL_MAPS", "VOLUME_SUFFIXES", "read_lobes"]

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")

# label value in the file -> the paper's order: 0 background, 1 LUL, 2 LLL, 3 RUL, 4 RLL, 5 RML
LABEL_MAPS: dict[str, dict[int, int]] = {
    # Xie et al., "Relational modeling for robust and efficient pulmonary lobe segmentation in CT scans", IEEE TMI 2020
    "paper": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5},
    # LOLA11's page "Details", section "Task": left upper 10, lower 11; right upper 20, middle 21, lower 22
    "lola11": {0: 0, 10: 1, 11: 2, 20: 3, 21: 5, 22: 4},
    # Tang et al., "Automatic pulmonary lobe segmentation using deep learning", ISBI 2019: labels of 50 scans of LUNA16.
    # Their publication does not say what the values mean. Public programs that train on them use the lobe values of the
    # Chest Imaging Platform (below) and leave out 1 (lung in no lobe) and 512 to 520 (airways); its rule is type * 256
    # + region. We did not have the files: look at one before you rely on this map.
    "luna16": {0: 0, 1: 0, 4: 3, 5: 5, 6: 4, 7: 1, 8: 2, 512: 0, 516: 0, 517: 0, 518: 0, 519: 0, 520: 0},
    # Chest Imaging Platform, cipChestConventions.h, enum ChestRegion, which labels of COPDGene scans follow: right
    # superior 4, middle 5, inferior 6; left superior 7, inferior 8. Its types (airway, vessel: the value plus a
    # multiple of 256) are not in the map: remove them first.
    "copdgene": {0: 0, 4: 3, 5: 5, 6: 4, 7: 1, 8: 2},
}
"""Known label maps; the source code states where each comes from."""


@dataclass(frozen=True)
class _Grid:
    """Shape and affine (RAS, mm) with the axes turned to the closest to RAS, so that storage order does not matter."""

    shape: tuple[int, ...]
    affine: Affine

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: Affine) -> _Grid:
        """Turn the axes of a grid."""
        turn = io_orientation(affine)
        turned = apply_orientation(np.empty(shape, dtype=np.bool_), turn).shape
        return cls(tuple(int(length) for length in turned), np.asarray(affine @ inv_ornt_aff(turn, shape)))

    def difference(self, other: _Grid) -> str:
        """Describe how the other grid differs; empty if it does not."""
        if self.shape != other.shape:
            return f"is {size_text(self.shape)} voxels, its image {size_text(other.shape)} (axes R, A, S)"
        share = grid_distance(self.affine, other.affine, self.shape)
        if share > SAME_PLACE:
            spacing = np.linalg.norm(self.affine[:3, :3], axis=0).min()
            return f"lies up to {share * spacing:.3g} mm beside its image"
        return ""


def read_lobes(
    folder: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    label_map: str | Mapping[int, int] = "paper",
    images: str = "images",
    labels: str = "labels",
    label_suffix: str = "",
    source: str = "lobes",
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read chest scans and their lobe labels.

    Layout::

        images/NAME.nii.gz   (or .nii, .mha, .mhd, .nrrd, or a folder NAME with one DICOM series)
        labels/NAME.nii.gz   (or .nii, .mha, .mhd, .nrrd)

    Image and label must have the same grid in world space; the order and direction of their axes in the files may
    differ. Items have ``image``, ``label``, ``patient`` (NAME) and ``source``. Labels that are already in the paper's
    order are used as they are. Others are written to ``derived`` as 8-bit NIfTI in the same grid.

    On the command line the name of the data set selects the label map: ``lobes`` (paper), ``lobes_lola11``,
    ``lobes_luna16``, ``lobes_copdgene``.

    Args:
        folder: the folder that has ``images`` and ``labels``.
        derived: folder for the labels that have to be made.
        label_map: a name in :data:`LABEL_MAPS`, or label value -> 0 to 5 in the paper's order.
        images: name of the folder of the scans.
        labels: name of the folder of the labels.
        label_suffix: ending that the names of the labels have and those of the scans do not, such as
            ``_LobeSegmentation``; a label without it is accepted too.
        source: ``source`` of the items.
        validation_fraction: part of the patients for validation.
        test_fraction: part of the patients for testing; 1 together with ``validation_fraction=0`` means all.
        seed: seed of the split, see :func:`~medseg_monai.data.datalist.split_by_patient`.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``folder`` is not such a folder.
        ValueError: if a label or an image is missing, can't be read or is there twice, their grids differ, a label has
            a value outside the map (all are listed), ``label_map`` is unknown, or the fractions can't be filled.

    Example:
        >>> import tempfile
        >>> from medseg_monai.datasets import read_lobes
        >>> from medseg_monai.phantoms import write_thorax_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_thorax_phantoms(folder, counts={"test": 2}, size=(32, 32, 32), seed=0)
        ...     datalist = read_lobes(folder, derived=f"{folder}/derived", validation_fraction=0.5, test_fraction=0.5)
        >>> {section: len(items) for section, items in datalist.items()}
        {'training': 0, 'validation': 1, 'test': 1}
    """
    lookup = _lookup(label_map)
    for name in (images, labels):
        base = locate(folder, source=source, needs=(name,))
    problems = Problems(source, base)
    scans = _by_stem(base / images, problems, with_folders=True)
    masks = _by_stem(base / labels, problems, suffix=label_suffix)
    if not scans:
        problems.add(base / images, "no scans")
    pair(scans, masks, problems, kind="label")
    target = Path(os.path.abspath(derived)) / source / "label"
    items: list[Item] = []
    for name in progress(sorted(scans.keys() & masks.keys()), source=source):
        try:
            label = _label_file(masks[name], target / f"{name}.nii.gz", scan=scans[name], lookup=lookup)
        except (OSError, ValueError) as error:
            problems.add_error(masks[name], error)
            continue
        items.append({"image": str(scans[name]), "label": str(label), "patient": name, "source": source})
    problems.raise_if_any()
    fractions = {
        "training": 1 - validation_fraction - test_fraction,
        "validation": validation_fraction,
        "test": test_fraction,
    }
    return split_by_patient(items, fractions=fractions, seed=seed)


def _lookup(label_map: str | Mapping[int, int]) -> dict[int, int]:
    if isinstance(label_map, str):
        if label_map not in LABEL_MAPS:
            raise ValueError(
                f"label_map='{label_map}' is unknown: choose from {', '.join(LABEL_MAPS)}, or give a table."
            )
        return LABEL_MAPS[label_map]
    if wrong := sorted(set(label_map.values()) - set(LABEL_MAPS["paper"])):
        raise ValueError(f"label_map leads to {wrong}: the paper's order has 0 to 5.")
    return dict(label_map)


def _by_stem(folder: Path, problems: Problems, *, suffix: str = "", with_folders: bool = False) -> dict[str, Path]:
    """Index volumes by their name without its ending; other files, such as the ``.raw`` of an ``.mhd``, are skipped."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in VOLUME_SUFFIXES if path.name.lower().endswith(ending)), "")
        is_case = path.is_dir() if not ending else path.is_file()
        if path.name.startswith(".") or not is_case or (not ending and not with_folders):
            continue
        stem = path.name[: len(path.name) - len(ending)].removesuffix(suffix)
        if stem in found:
            problems.add(path, f"second file of {stem} beside {found[stem].name}")
        else:
            found[stem] = path
    return found


def _label_file(published: Path, derived: Path, *, scan: Path, lookup: Mapping[int, int]) -> Path:
    """Return the label in the paper's order: the published file if it is, otherwise a file written to ``derived``.

    Both files are read whole, so that a scan that training would refuse is refused here.

    Raises:
        OSError: if a file is broken.
        ValueError: if the label's grid is not that of its scan, or a value is outside the map.
    """
    values, meta = _read(published)
    if wrong := _grid(values, meta).difference(_grid(*_read(scan))):
        raise ValueError(wrong)
    present = {value for part in values for value in np.unique(part).tolist()}
    if unknown := sorted(present - set(lookup)):
        names = shorten(f"{value:g}" for value in unknown)
        raise ValueError(f"has values {names} outside the label map ({', '.join(map(str, sorted(lookup)))})")
    if present <= {0}:
        raise ValueError("label is empty")
    if all(lookup[int(value)] == value for value in present):
        return published
    mapped = np.zeros(values.shape, dtype=np.uint8)
    for value in present:
        mapped[values == value] = lookup[int(value)]
    return Path(save_label_volume(mapped, meta["affine"], derived, forms=NiftiForms.of_meta(meta)))


def _grid(values: NDArray[Any], meta: Mapping[str, Any]) -> _Grid:
    return _Grid.of(values.shape, np.asarray(meta["affine"], dtype=np.float64))


def _read(path: Path) -> tuple[NDArray[Any], Mapping[str, Any]]:
    """Read a volume by the reader of training and evaluation, so that what is listed here can be read there."""
    reader = VolumeReader()
    return reader.get_data(reader.read(path))
