"""DRIVE: retinal vessels in 40 fundus photographs."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item

from ._common import Problems, by_key, field_of_view, files, hold_out, locate, mask_file, pair, progress, save_mask

__all__ = ["read_drive"]

SOURCE = "drive"


def read_drive(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read DRIVE as the challenge published it: 20 images for training and 20 for testing, 565x584 pixels.

    Layout (the same in ``training`` and ``test``, with files named by image number)::

        training/images/21_training.tif     test/images/01_test.tif
        training/1st_manual/21_manual1.gif  test/1st_manual/01_manual1.gif    the vessels
                                            test/2nd_manual/01_manual2.gif    the second observer (optional)
        training/mask/21_training_mask.gif  test/mask/01_test_mask.gif        the field of view (optional)

    Items have ``image``, ``label``, ``fov``, ``patient`` (the image number), ``source`` and, if there is a second
    observer, ``label_expert2``. A missing field of view is derived from the image and written to ``derived``. A mask
    that is not 8-bit greyscale of 0 and 255 (the second observer's has a palette) is converted and written there too.

    Args:
        root: the folder with ``training`` and ``test``, or the folder above it if that folder is called ``DRIVE``.
        derived: folder for the masks that have to be made.
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
        >>> from medseg_monai.datasets import read_drive
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for section, number in (("training", "21"), ("test", "01")):
        ...         for name in (f"images/{number}_{section}.tif", f"1st_manual/{number}_manual1.gif"):
        ...             path = Path(folder, section, name)
        ...             path.parent.mkdir(parents=True)
        ...             Image.new("L", (30, 20), 255).save(path)
        ...     datalist = read_drive(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> {section: [item["patient"] for item in items] for section, items in datalist.items()}
        {'training': ['21'], 'validation': [], 'test': ['01']}

    Source: Staal et al., "Ridge-based vessel segmentation in color images of the retina", IEEE TMI 23(4), 2004;
    https://drive.grand-challenge.org.
    """
    base = locate(root, source=SOURCE, needs=("training/images", "test/images"), inside=("DRIVE",))
    problems = Problems(SOURCE, base)
    sections = {name: _section(base / name, problems) for name in ("training", "test")}
    problems.raise_if_any()
    target = Path(derived) / SOURCE
    items = {name: _items(found, target, problems) for name, found in sections.items()}
    problems.raise_if_any()
    return hold_out(items["training"], items["test"], validation_fraction=validation_fraction, seed=seed)


def _section(folder: Path, problems: Problems) -> dict[str, dict[str, Path]]:
    """Files of one section: key of the item -> image number -> path; headers are checked."""
    images = by_key(files(folder / "images"), rf"(\d+)_{folder.name}", problems)
    if not images:
        problems.add(folder / "images", "no images")
    found = {"image": images, "label": by_key(files(folder / "1st_manual"), r"(\d+)_manual1", problems)}
    pair(images, found["label"], problems, kind="1st_manual")
    optional = {"label_expert2": ("2nd_manual", r"(\d+)_manual2"), "fov": ("mask", rf"(\d+)_{folder.name}_mask")}
    for key, (name, pattern) in optional.items():
        if (folder / name).is_dir():
            found[key] = by_key(files(folder / name), pattern, problems)
            pair(images, found[key], problems, kind=name)
    for number, image in images.items():
        problems.check_size(image, [found[key][number] for key in found if key != "image" and number in found[key]])
    return found


def _items(found: dict[str, dict[str, Path]], derived: Path, problems: Problems) -> list[Item]:
    items: list[Item] = []
    for number in progress(sorted(found["image"]), source=SOURCE):
        image = found["image"][number]
        item: Item = {"image": str(image), "patient": number, "source": SOURCE}
        for key, by_number in found.items():
            if key != "image":
                item[key] = mask_file(by_number[number], derived / key / f"{image.stem}.png", problems)
        if "fov" not in found:
            item["fov"] = _derived_fov(image, derived / "fov" / f"{image.stem}.png", problems)
        items.append(item)
    return items


def _derived_fov(image: Path, target: Path, problems: Problems) -> str:
    try:
        return save_mask(field_of_view(image), target)
    except (OSError, ValueError) as error:
        problems.add(image, str(error))
        return str(target)
