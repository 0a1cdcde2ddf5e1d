"""DRISHTI-GS1: optic disc in 101 fundus photographs, drawn by four experts."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, by_key, files, hold_out, locate, made_mask, pair, progress

__all__ = ["read_drishti_gs"]

SOURCE = "drishti_gs"
NAME = r"drishtiGS_(\d+)"
SOFT_MAP = rf"{NAME}_ODsegSoftmap"
GROUND_TRUTH = {"Training": ("GT",), "Test": ("Test_GT", "GT")}


def read_drishti_gs(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    r"""Read DRISHTI-GS1: 50 images for training and 51 for testing.

    Layout as published (as in some copies, images may be in sub-folders of ``Images``)::

        Training/Images/drishtiGS_002.png
        Training/GT/drishtiGS_002/SoftMap/drishtiGS_002_ODsegSoftmap.png
        Test/Images/drishtiGS_001.png
        Test/Test_GT/drishtiGS_001/SoftMap/drishtiGS_001_ODsegSoftmap.png     (or Test/GT/...)

    or flat, for a copy of reduced size: ``images/drishtiGS_002.jpg``,
    ``masks_od_softmap/drishtiGS_002_ODsegSoftmap.png`` and ``index.csv`` with the columns ``file`` and
    ``official_split`` (``Training`` or ``Test``).

    Items have ``image``, ``label``, ``patient`` (the image number; patients are not published) and ``source``. The
    label is made from the soft map, 255 times the share of the four experts that marked a pixel: pixels marked by at
    least two experts are above 127 and count.

    Args:
        root: the folder with ``Training`` and ``Test``, a folder above it (archives create ``Drishti-GS1_files``), or
            the flat folder.
        derived: folder for the masks, which are made from the soft maps.
        validation_fraction: part of the official training set that is held out for validation; 0 holds out nothing.
        seed: seed of that choice.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, doubtful or of another size than their image (all are listed), or
            ``validation_fraction`` is not in [0, 1).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_drishti_gs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images/drishtiGS_001.jpg", "masks_od_softmap/drishtiGS_001_ODsegSoftmap.png"):
        ...         path = Path(folder, name)
        ...         path.parent.mkdir()
        ...         Image.new("L", (30, 20), 255).save(path)
        ...     _ = Path(folder, "index.csv").write_text("file,official_split\ndrishtiGS_001.jpg,Test\n")
        ...     datalist = read_drishti_gs(folder, derived=f"{folder}/derived")
        >>> [item["patient"] for item in datalist["test"]]
        ['001']

    Source: Sivaswamy et al., "A comprehensive retinal image dataset for the assessment of glaucoma from the optic nerve
    head analysis", JSM Biomedical Imaging Data Papers 2(1), 2015. The flat layout is this project's own reduced copy.
    """
    inner = "Drishti-GS1_files"
    needs = ("Training/Images", "Test/Images", "masks_od_softmap")
    base = locate(root, source=SOURCE, needs=needs, inside=(inner, f"{inner}/{inner}"))
    problems = Problems(SOURCE, base)
    flat = (base / "masks_od_softmap").is_dir()
    images, masks, split = _flat(base, problems) if flat else _published(base, problems)
    pair(images, masks, problems, kind="soft map")
    for number in images.keys() & masks.keys():
        problems.check_size(images[number], [masks[number]])
    problems.raise_if_any()
    sections: dict[str, list[Item]] = {"Training": [], "Test": []}
    for number in progress(sorted(images), source=SOURCE):
        target = Path(derived) / SOURCE / "label" / f"{images[number].stem}.png"
        label = made_mask(masks[number], target, problems)
        item = {"image": str(images[number]), "label": label, "patient": number, "source": SOURCE}
        sections[split[number]].append(item)
    problems.raise_if_any()
    return hold_out(sections["Training"], sections["Test"], validation_fraction=validation_fraction, seed=seed)


def _published(base: Path, problems: Problems) -> tuple[dict[str, Path], dict[str, Path], dict[str, str]]:
    image_files: list[Path] = []
    mask_files: list[Path] = []
    split: dict[str, str] = {}
    for section, names in GROUND_TRUTH.items():
        found = files(base / section / "Images", "**/*")
        if not found:
            problems.add(base / section / "Images", "no images")
        truth = next((base / section / name for name in names if (base / section / name).is_dir()), None)
        if truth is None:
            problems.add(base / section / names[0], "folder of the ground truth is missing")
        else:
            mask_files += files(truth, "*/SoftMap/*_ODsegSoftmap.*")
        image_files += found
        split |= {path.stem.rpartition("_")[2]: section for path in found}
    return by_key(image_files, NAME, problems), by_key(mask_files, SOFT_MAP, problems), split


def _flat(base: Path, problems: Problems) -> tuple[dict[str, Path], dict[str, Path], dict[str, str]]:
    images = by_key(files(base / "images"), NAME, problems)
    masks = by_key(files(base / "masks_od_softmap"), SOFT_MAP, problems)
    split_of_file = _index(base / "index.csv", problems)
    split: dict[str, str] = {}
    for number, path in images.items():
        if split_of_file.get(path.name) not in GROUND_TRUTH:
            problems.add(path, "index.csv has no official_split 'Training' or 'Test' for it")
        else:
            split[number] = split_of_file[path.name]
    return images, masks, split


def _index(path: Path, problems: Problems) -> dict[str, str]:
    if not path.is_file():
        problems.add(path, "missing")
        return {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return {row.get("file", ""): row.get("official_split", "") for row in csv.DictReader(handle)}
