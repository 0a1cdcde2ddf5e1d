"""LiTS: liver and liver tumours in 131 CT scans of seven hospitals."""

from __future__ import annotations

import logging
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from medseg_monai.data.datalist import Datalist, Item, shorten
from medseg_monai.data.readers.nifti_header import NiftiForms
from medseg_monai.files import one_line
from medseg_monai.transforms import grid_distance

from ._common import Mask, Problems, locate, pair, progress
from ._volumes import (
    MAX_SHARE_IN_AIR,
    SAME_PLACE,
    save_label_volume,
    share_in_air,
    size_text,
    split_five_to_one,
)

__all__ = ["read_lits"]

_LOGGER = logging.getLogger(__name__)

NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", flags=re.IGNORECASE)
TUMOUR = ("merge", "background", "separate")

# a scan has up to a thousand slices; this many are enough to see whether a mask lies on tissue
_SLICES_LOOKED_AT = 24

Labels = NDArray[np.uint8]


def read_lits(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    tumour: str = "merge",
    source: str = "lits",
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the training set of the Liver Tumor Segmentation Challenge (LiTS): 131 CT scans with liver and tumours.

    Layout: files in any folders below ``root``, as the batches are published or as somebody has sorted them since;
    volumes and segmentations are matched by their numbers::

        Training Batch 1/volume-0.nii            (or .nii.gz) Hounsfield units
        Training Batch 1/segmentation-0.nii      0 background, 1 liver, 2 tumour
        Training Batch 2/volume-28.nii
        ...

    Other files, such as the ``test-volume-0.nii`` of the test set, are left out: they have no segmentation.

    Items have ``image``, ``label``, ``patient`` (``volume-0``; which scans share a patient was not published) and
    ``source``. Labels are written to ``derived`` as 8-bit NIfTI with the affine of the volume. There is no official
    split of these scans; the split is seeded, five to one as in the paper, and validation is taken from the training
    scans.

    In some cases the header of the segmentation places it beside its volume or mirrors it, although the voxels are in
    the same order. The header is used if both grids are the same in world space (the axes may be stored in another
    order) and the liver lies on tissue, not in air. Otherwise two readings are compared with the volume: voxel by
    voxel, and turned by the directions in the header (the two are the same if only the position or the spacing
    differs). The reading that lies on tissue is used, and a warning in the log states the file and the reading. If both
    lie on tissue although they differ, or neither does, the file is refused.

    On the command line, ``lits`` labels the liver with its tumours as one, ``lits_liver_only`` leaves the tumours to
    background, and ``lits_tumour`` has both labels. The ANU-Net paper's sentence is "we only consider liver as positive
    class and others as negative class" (section 4.1), "others" being tumour and background: ``lits_liver_only``. A
    tumour left out makes a hole in the organ, so ``lits`` keeps it.

    Args:
        root: the folder that has the batches.
        derived: folder for the labels.
        tumour: ``"merge"`` counts tumours as liver (label 1); ``"background"`` counts them as background, which is what
            the paper's sentence says; ``"separate"`` keeps 1 for liver and 2 for tumour.
        source: ``source`` of the items.
        validation_fraction: part of the training scans for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not a folder.
        ValueError: if files are missing, present twice, unreadable or doubtful: other labels than 0, 1 and 2, no liver,
            another shape, a mask in air (all are listed); ``tumour`` is unknown; ``validation_fraction`` is not in
            [0, 1) or there are too few scans.

    Example:
        >>> import tempfile
        >>> from medseg_monai.datasets import read_lits
        >>> from medseg_monai.phantoms import write_lits_layout
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_lits_layout(f"{folder}/LiTS", patients=2, size=(8, 32, 40), seed=0)
        ...     datalist = read_lits(f"{folder}/LiTS", derived=f"{folder}/derived", validation_fraction=0.0)
        >>> sorted(item["patient"] for items in datalist.values() for item in items)
        ['volume-0', 'volume-1']

    Source: Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Medical Image Analysis 84, 2023. On the
    headers: issues 622 and 850 of nnU-Net (geometry mismatch of LiTS, voxels aligned); eva of kaiko.ai reads both files
    with the volume's header. We did not have the published files.
    """
    if tumour not in TUMOUR:
        raise ValueError(f"tumour='{tumour}' is unknown: choose from {', '.join(TUMOUR)}.")
    base = locate(root, source=source, needs=(".",))
    problems = Problems(source, base)
    volumes, segmentations = _find(base, problems)
    if not volumes:
        problems.add(base, "no volume-N.nii below")
    pair(volumes, segmentations, problems, kind="segmentation")
    target = Path(derived) / source / "label"
    items: list[Item] = []
    for number in progress(sorted(volumes.keys() & segmentations.keys(), key=int), source=source):
        try:
            labels, scan = _labels(segmentations[number], volumes[number])
            wanted = _with_tumour_as(tumour, labels)
        except ValueError as error:
            problems.add(segmentations[number], str(error))
            continue
        forms = NiftiForms.of_header(scan.header)
        label = save_label_volume(wanted, scan.affine, target / f"{number}.nii.gz", forms=forms)
        items.append({"image": str(volumes[number]), "label": label, "patient": f"volume-{number}", "source": source})
    problems.raise_if_any()
    return split_five_to_one(items, validation_fraction=validation_fraction, seed=seed)


def _with_tumour_as(tumour: str, labels: Labels) -> Mask | Labels:
    if tumour == "background" and not (labels == 1).any():
        raise ValueError("has tumour only; without it the label is empty")
    return {"merge": labels > 0, "background": labels == 1, "separate": labels}[tumour]


def _find(base: Path, problems: Problems) -> tuple[dict[str, Path], dict[str, Path]]:
    """Index volumes and segmentations by their numbers."""
    found: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
    for path in sorted(base.rglob("*")):
        match = NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        indexed, number = found[match[1].lower()], str(int(match[2]))
        if number in indexed:
            problems.add(path, f"second {match[1].lower()} {number} beside {indexed[number].relative_to(base)}")
        else:
            indexed[number] = path
    return found["volume"], found["segmentation"]


def _labels(segmentation: Path, volume: Path) -> tuple[Labels, Any]:
    """Return labels 0, 1, 2 on the grid of the volume, and the volume as ``nibabel`` opens it.

    Raises:
        ValueError: if a file is broken, or the position of the segmentation on the volume is not certain.
    """
    scan, published = _open(volume), _open(segmentation)
    with _reading(segmentation):
        values = np.asarray(published.dataobj)
    known = (values == 0) | (values == 1) | (values == 2)
    if not known.all():
        raise ValueError(f"has values {shorten(f'{value:g}' for value in np.unique(values[~known]))}, expected 0, 1, 2")
    if not values.any():
        raise ValueError("label is empty")
    labels: Labels = values.astype(np.uint8)
    turn = ornt_transform(io_orientation(published.affine), io_orientation(scan.affine))
    turned: Labels = apply_orientation(labels, turn)
    affine = published.affine @ inv_ornt_aff(turn, labels.shape)
    with _reading(volume):
        readings = {
            reading: share_in_air(*_sample(scan, candidate > 0))
            for reading, candidate in {"turned": turned, "stored": labels}.items()
            if candidate.shape == scan.shape
        }
    if not readings:
        raise ValueError(f"is {size_text(labels.shape)} voxels, its volume {size_text(scan.shape)}")
    on_tissue = [reading for reading, share in readings.items() if share <= MAX_SHARE_IN_AIR]
    in_place = turned.shape == scan.shape and grid_distance(scan.affine, affine, scan.shape) <= SAME_PLACE
    if in_place and "turned" in on_tissue:
        return turned, scan
    if not on_tissue:
        raise ValueError(f"{min(readings.values()):.0%} of the liver lies in air; it does not belong to {volume.name}")
    if len(on_tissue) == 2 and not np.array_equal(turned, labels):
        raise ValueError(f"its header does not fit {volume.name}, and the liver lies on tissue with it and without it")
    _LOGGER.warning(
        "%s: its header does not fit %s; read %s, where the liver lies on tissue.",
        segmentation,
        volume.name,
        "voxel by voxel" if on_tissue[-1] == "stored" else "by the directions of its axes",
    )
    return (labels if on_tissue[-1] == "stored" else turned), scan


def _sample(scan: Any, mask: Mask) -> tuple[NDArray[Any], Mask]:
    """Return slices of the volume and of the mask, evenly spaced through the mask; only these are read."""
    occupied = np.flatnonzero(mask.any(axis=(0, 1)))
    first, last = int(occupied[0]), int(occupied[-1])
    chosen = slice(first, last + 1, max(1, (last + 1 - first) // _SLICES_LOOKED_AT))
    return np.asarray(scan.dataobj[:, :, chosen]), mask[:, :, chosen]


def _open(path: Path) -> Any:
    with _reading(path):
        image = nib.load(path)
    if len(image.shape) != 3:
        raise ValueError(f"{path.name} has {len(image.shape)} dimensions, expected 3")
    return image


def _reading(path: Path) -> AbstractContextManager[None]:
    return one_line(f"{path.name} is truncated or damaged; copy it again")
