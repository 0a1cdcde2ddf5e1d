"""COVID-19 CT slices: lungs in 8-bit pictures of chest CT, a test set."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from medseg_monai.data.datalist import Datalist, Item
from medseg_monai.files import one_line

from ._common import Problems, by_key, files, locate, pair, progress
from ._slices import check_slice, slice_mask

__all__ = ["read_covid19_ct"]

SOURCE = "covid19_ct"
_COLUMNS = ("file", "guessed_case")


def read_covid19_ct(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Datalist:
    r"""Read slices of the "COVID-19 CT scans" as 8-bit pictures: 100 slices of about 19 cases with 256x256 pixels.

    The layout is this project's own; the files come from a public repository of slices of 20 scans::

        images/0684.png         8-bit grey, contrast equalised: values do not follow Hounsfield units
        masks_lungs/0684.png    both lungs, 0 and 255
        index.csv               columns file and guessed_case, one line an image

    All are for testing: another preparation than that of a data set in Hounsfield units, and cases that are only
    guessed, from breaks in the similarity of neighbouring slices.

    Items have ``image``, ``label`` (the published mask, or one written to ``derived`` if that is no 8-bit picture),
    ``patient`` (``case_7``) and ``source``.

    Args:
        root: the folder that has ``images``, ``masks_lungs`` and ``index.csv``.
        derived: folder for the masks that have to be made.
        validation_fraction: not used.
        seed: not used.

    Returns:
        ``training`` and ``validation``, which are empty, and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if files are missing, unreadable, of another size than their image, or not in the index (all are
            listed).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_covid19_ct
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for kind in ("images", "masks_lungs"):
        ...         Path(folder, kind).mkdir()
        ...         Image.new("L", (30, 20)).save(f"{folder}/{kind}/0684.png")
        ...     _ = Path(folder, "index.csv").write_text("file,guessed_case\n0684.png,7\n")
        ...     datalist = read_covid19_ct(folder, derived=f"{folder}/derived")
        >>> [item["patient"] for item in datalist["test"]]
        ['case_7']

    Source: https://github.com/dstaroff/COVID19-CT-Segmentation, of the slices of "COVID-19 CT scans" (20 cases).
    """
    base = locate(root, source=SOURCE, needs=("masks_lungs",))
    problems = Problems(SOURCE, base)
    images = by_key(files(base / "images"), r"(\d+)", problems)
    masks = by_key(files(base / "masks_lungs"), r"(\d+)", problems)
    if not images:
        problems.add(base / "images", "no slices 0684.png")
    pair(images, masks, problems)
    cases = _cases(base / "index.csv", problems)
    target = Path(derived) / SOURCE / "label"
    items: list[Item] = []
    for name in progress(sorted(images.keys() & masks.keys()), source=SOURCE):
        image = images[name]
        if image.name not in cases:
            problems.add(image, "not in index.csv")
            continue
        label = slice_mask(masks[name], target / f"{name}.png", check_slice(image, problems), problems)
        items.append({"image": str(image), "label": label, "patient": f"case_{cases[image.name]}", "source": SOURCE})
    problems.raise_if_any()
    return {"training": [], "validation": [], "test": items}


def _cases(index: Path, problems: Problems) -> dict[str, str]:
    """The guessed case of each file; empty if the index cannot be read, which is noted."""
    if not index.is_file():
        problems.add(index, "no such file")
        return {}
    try:
        with one_line("not a table of UTF-8"), index.open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
    except ValueError as error:
        problems.add(index, str(error))
        return {}
    if rows and (missing := [column for column in _COLUMNS if column not in rows[0]]):
        problems.add(index, f"no column {', '.join(missing)}")
        return {}
    return {row["file"]: row["guessed_case"] for row in rows}
