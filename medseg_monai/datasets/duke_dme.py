"""Duke's set of macular oedema: eight boundaries by two graders in B-scans of ten patients."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.layers import labels_of_boundaries

from ._common import Problems, files, locate, progress, save_grey, split_three_ways
from ._layers import SPECTRALIS_AXIAL_UM
from .oct_folders import layer_items

__all__ = ["read_duke_dme"]

SOURCE = "duke_dme"
BOUNDARIES = 8
CLASSES = BOUNDARIES + 1
GRADERS = {"label": "manualLayers1", "label_expert2": "manualLayers2"}


def read_duke_dme(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read the 110 annotated B-scans of ten patients with diabetic macular oedema, by Spectralis.

    Layout as published: ``Subject_01.mat`` to ``Subject_10.mat``, each with ``images`` (496 x 768 x 61),
    ``manualLayers1`` and ``manualLayers2`` (8 x 768 x 61: rows from 1, ``nan`` where a grader left a boundary open, and
    in the B-scans that nobody has drawn). B-scans of which grader 1 drew nothing are left out; the others are written
    to ``derived`` with their labels. Or PNG files: ``images/NAME.png``, ``masks/NAME.png`` (grader 1),
    ``masks_grader2/NAME.png`` (optional) and ``index.csv`` with the patient of each; these are used as they are.

    Classes: 0 vitreous, 1 NFL, 2 GCL and IPL, 3 INL, 4 OPL, 5 ONL and inner segments, 6 ellipsoid and outer segments, 7
    RPE to Bruch's membrane, 8 below; 255 in columns in which a boundary is open. Where boundaries cross they are drawn
    in the order of their depth. Items have ``image``, ``label`` (grader 1), ``label_expert2`` (grader 2), ``patient``,
    ``source`` and ``axial_um``. There is no official split; the split is seeded, by patient.

    Args:
        root: the folder.
        derived: folder for images and labels from ``.mat`` files.
        validation_fraction: part of the patients for validation.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful, without these arrays or of other sizes (all are listed), or
            ``validation_fraction`` is out of its range.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from scipy.io import savemat
        >>> from medseg_monai.datasets import read_duke_dme
        >>> layers = np.full((8, 20, 3), np.nan)
        >>> layers[:, 4:12, 1] = np.arange(5, 29, 3)[:, None]
        >>> volume = {"images": np.zeros((40, 20, 3), np.uint8), "manualLayers1": layers, "manualLayers2": layers}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(1, 6):
        ...         savemat(f"{folder}/Subject_{number:02d}.mat", volume)
        ...     datalist = read_duke_dme(folder, derived=f"{folder}/derived")
        >>> [Path(item["label"]).name for item in datalist["test"]], datalist["test"][0]["axial_um"]
        (['Subject_01_01.png'], 3.87)

    Source: Chiu et al., "Kernel regression based segmentation of optical coherence tomography images with diabetic
    macular edema", Biomedical Optics Express 6(4), 2015. The layout of the ``.mat`` files is that of public programs
    which read them; none was at hand.
    """
    subjects = tuple(f"Subject_{number:02d}.mat" for number in range(1, 11))
    base = locate(root, source=SOURCE, needs=(*subjects, "images"), inside=("2015_BOE_Chiu",))
    volumes = files(base, "Subject_*.mat", suffixes=(".mat",))
    if volumes:
        items = _items_of_volumes(volumes, Path(derived) / SOURCE, Problems(SOURCE, base))
    else:
        items = layer_items(
            base,
            source=SOURCE,
            axial_um=SPECTRALIS_AXIAL_UM,
            classes=CLASSES,
            needs=("patient",),
            experts={"label_expert2": "masks_grader2"},
        )
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _items_of_volumes(paths: list[Path], target: Path, problems: Problems) -> list[Item]:
    read: dict[Path, dict[str, NDArray[Any]]] = {}
    for path in paths:
        if not re.fullmatch(r"Subject_\d+", path.stem):
            problems.add(path, "unexpected name")
        elif arrays := _arrays(path, problems):
            read[path] = arrays
    problems.raise_if_any()
    items: list[Item] = []
    for stem in progress([str(path) for path in read], source=SOURCE):
        items += _write_volume(Path(stem).stem, read[Path(stem)], target)
    return items


def _arrays(path: Path, problems: Problems) -> dict[str, NDArray[Any]] | None:
    """The arrays of a volume; a file without them is noted."""
    names = ("images", *GRADERS.values())
    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # SciPy raises many types on damaged files
        problems.add(path, f"can't be read as a MATLAB file: {error}")
        return None
    if missing := [name for name in names if name not in content]:
        problems.add(path, f"has no {', '.join(missing)}")
        return None
    rows, columns, scans = (*content["images"].shape, 0, 0, 0)[:3]
    expected = (BOUNDARIES, columns, scans)
    wrong = [name for name in GRADERS.values() if content[name].shape != expected]
    if content["images"].ndim != 3 or wrong:
        problems.add(path, f"{', '.join(wrong) or 'images'}: another shape than 8 boundaries of {columns}x{scans}")
        return None
    if np.nanmax(content["images"]) > 255 or not rows:
        problems.add(path, "grey values above 255")
        return None
    return {name: content[name] for name in names}


def _write_volume(subject: str, arrays: dict[str, NDArray[Any]], target: Path) -> list[Item]:
    drawn = np.isfinite(arrays["manualLayers1"]).any(axis=(0, 1))
    items: list[Item] = []
    for scan in np.flatnonzero(drawn).tolist():
        name = f"{subject}_{scan:02d}.png"
        grey = np.rint(arrays["images"][..., scan]).astype(np.uint8)
        item: Item = {"image": save_grey(grey, target / "image" / name)}
        for key, grader in GRADERS.items():
            rows_from_1 = arrays[grader][..., scan].astype(np.float64)
            item[key] = save_grey(labels_of_boundaries(rows_from_1 - 1, len(grey)), target / key / name)
        items.append({**item, "patient": subject, "source": SOURCE, "axial_um": SPECTRALIS_AXIAL_UM})
    return items
