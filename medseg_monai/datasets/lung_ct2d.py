"""Finding and Measuring Lungs in CT Data: lungs in slices of chest CT, the data of CE-Net's paper."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, by_key, files, locate, pair, progress, split_fold, split_three_ways
from ._slices import check_slice, slice_mask

__all__ = ["FOLDS", "read_lung_ct2d"]

_LOGGER = logging.getLogger(__name__)

SOURCE = "lung_ct2d"
NAME = r"(ID_\d+_Z_\d+)"

FOLDS = 5
"""Parts of the cross-validation."""


def read_lung_ct2d(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    fold: int | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read "Finding and Measuring Lungs in CT Data" (K. S. Mader, Kaggle, 2017): slices of chest CT with lung masks.

    Layout, as its two archives unpack::

        2d_images/ID_0000_Z_0142.tif   512x512, Hounsfield units, integers with a sign
        2d_masks/ID_0000_Z_0142.tif    the lungs, 0 and 255

    Slices in Hounsfield units may be TIFF of 16 bits and more or of floats; 8-bit pictures of a window are taken too,
    see :class:`medseg_monai.data.CTSliceReader`. Slices without lungs are kept with an empty label. The paper has 534
    slices "with respective label images"; the archives, as we recall them, have 267 images and 267 masks, which are 534
    files. The log says how many were found.

    Items have ``image``, ``label`` (the published mask; one that is not an 8-bit picture is written to ``derived`` as
    such), ``patient`` (``ID_0000``) and ``source``. Which slice is in which part of the paper's split was not
    published: a fifth of the patients is for testing, or one of five folds.

    On the command line, ``lung_ct2d`` is the split of four fifths to one, and ``lung_ct2d_fold1`` to
    ``lung_ct2d_fold5`` are the cross-validation: each patient is in the test section of one of them, if all are made
    with the same seed.

    Args:
        root: the folder that has ``2d_images`` and ``2d_masks``.
        derived: folder for the masks that have to be made.
        fold: 1 to 5, the part of the patients that is for testing; ``None`` takes a fifth by itself.
        validation_fraction: part of the patients for validation; with ``fold``, of those that are not for testing.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, present twice, unreadable, of another size than their image, or in doubtful
            units (all are listed); ``fold`` or ``validation_fraction`` is outside its range, or there are too few
            patients.

    Example:
        >>> import tempfile
        >>> from medseg_monai.datasets import read_lung_ct2d
        >>> from medseg_monai.phantoms import write_finding_lungs_layout
        >>> with tempfile.TemporaryDirectory() as folder:  # phantoms in the folders and files of the data set
        ...     root = write_finding_lungs_layout(f"{folder}/lungs", patients=2, size=(32, 40), seed=0)
        ...     datalist = read_lung_ct2d(root, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> [item["patient"] for item in datalist["training"]]
        ['ID_0001', 'ID_0001']

    Source: https://www.kaggle.com/kmader/finding-lungs-in-ct-data; Gu et al., "CE-Net", IEEE TMI 2019, Section III-D.
    We did not have the published files.
    """
    if fold is not None and fold not in range(1, FOLDS + 1):
        raise ValueError(f"fold={fold}: there are {FOLDS} folds, from 1.")
    name_of_set = SOURCE if fold is None else f"{SOURCE}_fold{fold}"
    base = locate(root, source=name_of_set, needs=("2d_images",))
    problems = Problems(name_of_set, base)
    images = by_key(files(base / "2d_images"), NAME, problems)
    masks = by_key(files(base / "2d_masks"), NAME, problems)
    if not images:
        problems.add(base / "2d_images", "no slices ID_0000_Z_0142.tif")
    pair(images, masks, problems)
    target = Path(derived) / SOURCE / "label"
    items: list[Item] = []
    for name in progress(sorted(images.keys() & masks.keys()), source=SOURCE):
        size = check_slice(images[name], problems)
        label = slice_mask(masks[name], target / f"{name}.png", size, problems)
        patient = name.partition("_Z_")[0]
        items.append({"image": str(images[name]), "label": label, "patient": patient, "source": SOURCE})
    problems.raise_if_any()
    _LOGGER.info("%s: %d slices of %d patients.", base, len(items), len({item["patient"] for item in items}))
    if fold is None:
        return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)
    return split_fold(items, fold=fold, folds=FOLDS, validation_fraction=validation_fraction, seed=seed)
