"""Shared by the readers of the public data sets: finding and checking files, masks as 8-bit images, splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from tqdm import tqdm

from medseg_monai.data.datalist import Datalist, Item, patient_rank, shorten, split_by_patient
from medseg_monai.files import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "Mask",
    "Problems",
    "by_key",
    "enclosed_area",
    "field_of_view",
    "files",
    "fill_path",
    "foreground",
    "hold_out",
    "locate",
    "made_mask",
    "mask_file",
    "pair",
    "polygon",
    "progress",
    "read_contour",
    "save_grey",
    "save_mask",
    "split_fold",
    "split_three_ways",
    "union",
]

Mask = NDArray[np.bool_]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff")
FOREGROUND_ABOVE = 127
GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B")
TEST_FRACTION = 0.2


class Problems:
    """Missing and doubtful files of one data set, collected and raised as one error.

    Args:
        source: name of the data set.
        root: folder of the data set; the paths in the error are relative to it.
    """

    def __init__(self, source: str, root: Path) -> None:
        self.source = source
        self.root = root
        self._found: list[str] = []

    def add(self, path: Path, wrong: str) -> None:
        """Note what is wrong with a file."""
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        self._found.append(f"{name.as_posix()}: {wrong}")

    def add_error(self, path: Path, error: Exception) -> None:
        """Note what a reader raised on a file; its message names the file too."""
        self.add(path, str(error).removeprefix(f"{path}: ").removesuffix("."))

    def image_size(self, path: Path) -> tuple[int, int] | None:
        """Return ``(width, height)`` from the header, or note that the file can't be read."""
        try:
            with Image.open(path) as image:
                return image.size
        except (OSError, UnidentifiedImageError):
            self.add(path, "can't be read as an image")
            return None

    def check_size(self, image: Path, masks: Iterable[Path]) -> None:
        """Note the masks whose size differs from that of the image; only headers are read."""
        size = self.image_size(image)
        for mask in masks:
            found = self.image_size(mask)
            if size and found and size != found:
                self.add(mask, f"is {found[0]}x{found[1]}, its image {size[0]}x{size[1]}")

    def raise_if_any(self) -> None:
        """Raise a ``ValueError`` with the first ten problems and their total number, if there are any."""
        if self._found:
            raise ValueError(
                f"{self.root}: {len(self._found)} missing or doubtful files in {self.source}: "
                f"{shorten(self._found)}; complete or remove them"
            )


def locate(root: str | os.PathLike[str], *, source: str, needs: Iterable[str], inside: Iterable[str] = ()) -> Path:
    """Find the folder of a data set: ``root``, or a folder that an archive creates inside it.

    Args:
        root: the folder that the user names.
        source: name of the data set, for the error.
        needs: paths of which the folder must have one; each stands for one layout.
        inside: sub-folders of ``root`` to try after ``root`` itself.

    Returns:
        The absolute path of the first folder that has one of ``needs``.

    Raises:
        FileNotFoundError: if ``root`` is not a folder, or none of the folders has one of ``needs``.
    """
    base = Path(os.path.abspath(root))
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: no such folder; name the folder of {source} as published")
    wanted = tuple(needs)
    for candidate in (base, *(base / name for name in inside)):
        if any((candidate / need).exists() for need in wanted):
            return candidate
    raise FileNotFoundError(
        f"{base}: not a folder of {source} as published, it has none of: {', '.join(wanted)}; name one that has them"
    )


def files(folder: Path, pattern: str = "*", *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """List files by glob pattern and suffix, sorted by path.

    Hidden files are left out: archives from a Mac have one beside each file.
    """
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def by_key(paths: Iterable[Path], pattern: str, problems: Problems) -> dict[str, Path]:
    """Index files by the first group of a pattern that matches their whole stem, ignoring case.

    A name that does not match and a key that occurs twice are noted in ``problems``.
    """
    indexed: dict[str, Path] = {}
    for path in paths:
        match = re.fullmatch(pattern, path.stem, flags=re.IGNORECASE)
        if match is None:
            problems.add(path, "unexpected name")
        elif match[1] in indexed:
            problems.add(path, f"second file of {match[1]} beside {indexed[match[1]].name}")
        else:
            indexed[match[1]] = path
    return indexed


def pair(images: Mapping[str, Path], masks: Mapping[str, Path], problems: Problems, *, kind: str = "mask") -> None:
    """Note each image without a mask and each mask without an image."""
    for key in sorted(images.keys() - masks.keys()):
        problems.add(images[key], f"image without {kind}")
    for key in sorted(masks.keys() - images.keys()):
        problems.add(masks[key], f"{kind} without image")


def foreground(path: Path) -> Mask:
    """Decode a mask of any image mode.

    A value above 127 in any channel (a palette is resolved first) is foreground. If no value is above 127, the image
    must have only one value besides 0, which is the foreground: some masks are published as 0 and 1.

    Returns:
        ``[H, W]``.

    Raises:
        OSError: if the file is broken.
        ValueError: if the mask has no foreground, or if it is not clear which values are foreground.
    """
    with Image.open(path) as image:
        # greyscale modes are taken as they are: converting would clip 16 bits
        values = np.asarray(image if image.mode in GREY_MODES else image.convert("RGB"))
    values = values if values.ndim == 2 else values.max(axis=-1)
    if values.max() > FOREGROUND_ABOVE:
        return np.asarray(values > FOREGROUND_ABOVE)
    if not values.any():
        raise ValueError("mask is empty")
    if np.unique(values[values > 0]).size > 1:
        raise ValueError(f"mask has several values and none above {FOREGROUND_ABOVE}")
    return np.asarray(values > 0)


def mask_file(published: Path, derived: Path, problems: Problems) -> str:
    """Return the path of an 8-bit single-channel image in which foreground is above 127.

    This is the published file itself if it is such an image, otherwise a PNG that is written to ``derived``. A mask
    that is broken or empty is noted in ``problems``.
    """
    try:
        with Image.open(published) as image:
            if image.mode == "L" and np.asarray(image).max() > FOREGROUND_ABOVE:
                return str(published)
    except OSError as error:
        problems.add(published, str(error))
        return str(published)
    return made_mask(published, derived, problems)


def made_mask(published: Path, derived: Path, problems: Problems) -> str:
    """Write a published mask to ``derived`` as a PNG of 0 and 255, and return its path.

    A mask that is broken or empty is noted in ``problems``.
    """
    try:
        return save_mask(foreground(published), derived)
    except (OSError, ValueError) as error:
        problems.add(published, str(error))
        return str(published)


def union(published: Iterable[Path], problems: Problems) -> Mask | None:
    """Decode masks of the same size and merge them; a broken or empty mask is noted in ``problems``.

    Returns:
        ``[H, W]``, or ``None`` if a mask was noted.
    """
    merged: Mask | None = None
    complete = True
    for path in published:
        try:
            mask = foreground(path)
            merged = mask if merged is None else merged | mask
        except (OSError, ValueError) as error:
            problems.add(path, str(error))
            complete = False
    return merged if complete else None


def save_mask(mask: Mask, path: Path) -> str:
    """Write a mask ``[H, W]`` as an 8-bit PNG of 0 and 255, all or nothing, and return its absolute path."""
    return save_grey(mask.astype(np.uint8) * np.uint8(255), path)


def save_grey(values: NDArray[np.integer], path: Path) -> str:
    """Write values ``[H, W]`` of 8 or 16 bits as a grey PNG, all or nothing, and return its absolute path."""
    target = Path(os.path.abspath(path))
    with atomic_path(target) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")
    return str(target)


def field_of_view(image: Path) -> Mask:
    """Derive the field of view of a fundus photograph.

    The brightest channel is compared with 0.12 of its 90th percentile, so that exposure does not matter; the largest
    connected part is kept and its holes are filled.

    Returns:
        ``[H, W]``. On DRIVE's 20 test images its IoU with the published masks is 0.996 on average, 0.985 at worst.

    Raises:
        ValueError: if the image is black.
    """
    with Image.open(image) as opened:
        brightest = np.asarray(opened.convert("RGB")).max(axis=-1)
    parts, _ = ndimage.label(brightest > 0.12 * np.percentile(brightest, 90))
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.size == 0:
        raise ValueError("image is black, no field of view can be derived")
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax() + 1))


def read_contour(path: Path) -> NDArray[np.float64]:
    """Read a contour from text.

    A line holds either one point ``x y`` or one number, with ``x`` and ``y`` in turn. Numbers are separated by blanks,
    commas or semicolons. Lines of words before the points are skipped. The points end at a line with the word
    "ellipse": such a file (from RIM-ONE) begins with the centre of the disc, which is left out, and ends with a fitted
    ellipse, which is not used.

    Returns:
        ``[N, 2]`` of ``(x, y)`` = (column, row) in pixels.

    Raises:
        ValueError: if the text is something else or has fewer than three points.
    """
    rows: list[list[float]] = []
    with_ellipse = False
    for line in path.read_text(encoding="latin-1").splitlines():
        if with_ellipse := "ellipse" in line.lower():
            break
        try:
            numbers = [float(word) for word in re.split(r"[\s,;]+", line.strip()) if word]
        except ValueError:
            if rows:
                raise ValueError(f"not a point: '{line.strip()}'") from None
            continue
        if numbers:
            rows.append(numbers)
    widths = {len(row) for row in rows}
    flat = [number for row in rows for number in row]
    if not (widths == {2} or widths == {1}) or len(flat) % 2:
        raise ValueError("not a list of points x y")
    points = np.array(flat, dtype=np.float64).reshape(-1, 2)[1 if with_ellipse else 0 :]
    if len(points) < 3:
        raise ValueError(f"{len(points)} points are no contour")
    return points


def polygon(points: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Fill a contour.

    Args:
        points: ``[N, 2]`` of ``(x, y)`` in pixels.
        size: ``(width, height)`` of the image.

    Returns:
        ``[H, W]``.

    Raises:
        ValueError: if a point is outside the image, or the contour encloses less than a pixel.
    """
    if (points < 0).any() or (points > np.array(size)).any():
        raise ValueError(f"contour leaves its image of {size[0]}x{size[1]}")
    if enclosed_area(points) < 1:
        raise ValueError("contour encloses no pixel")
    return fill_path(points, size)


def fill_path(points: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Mark the pixels whose centre lies within a closed path or on it, by the even-odd rule.

    It is the mask of ``skimage.draw.polygon2mask``, which asks every pixel about every edge: a lung with hundreds of
    points takes it seconds. Here each edge is cut by the rows that it crosses, and the cuts of a row are counted from
    left to right. (A pixel whose centre lies on the path twice is one on the path; scikit-image leaves some of these
    out. PIL's ``ImageDraw`` is as fast and draws another mask: it drops the fractions of the points and widens the path
    by an outline.)

    Args:
        points: ``[N, 2]`` of ``(x, y)``, none of them outside ``(0, 0)`` to ``size``.
        size: ``(width, height)`` of the image.

    Returns:
        ``[H, W]``.

    Example:
        >>> import numpy as np
        >>> from medseg_monai.datasets._common import fill_path
        >>> fill_path(np.array([[0.5, 0], [3, 0], [0.5, 2.5]]), (5, 3)).astype(int)
        array([[0, 1, 1, 1, 0],
               [0, 1, 1, 0, 0],
               [0, 1, 0, 0, 0]])
    """
    stop = np.roll(points, -1, axis=0)
    rows, columns, on_path, counted = _cut_by_rows(points, stop)
    width, height = size
    toggles = np.zeros((height + 1, width + 2), dtype=np.bool_)  # a path may run along the far border, one pixel beyond
    np.logical_xor.at(toggles, (rows[counted], columns[counted]), True)
    mask = np.logical_xor.accumulate(toggles, axis=1)
    mask[rows[on_path], columns[on_path]] = True
    _mark_level_edges(mask, points, stop)
    return mask[:height, :width]


def _cut_by_rows(
    start: NDArray[np.float64], stop: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask, Mask]:
    """Cut each edge by the rows from its upper end to its lower one.

    Returns:
        for each cut its row, the first column that does not lie left of it, whether that column lies on it, and whether
        the cut counts: a row through a corner is cut by both its edges, and only the one that begins there counts.
    """
    swapped = (start[:, 1] > stop[:, 1])[:, None]
    upper, lower = np.where(swapped, stop, start), np.where(swapped, start, stop)
    sloped = upper[:, 1] < lower[:, 1]
    upper, lower = upper[sloped], lower[sloped]
    first = np.ceil(upper[:, 1]).astype(np.int64)
    number = np.floor(lower[:, 1]).astype(np.int64) - first + 1
    edge = np.repeat(np.arange(len(number)), number)
    rows = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number)
    (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
    near = np.rint(x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    # seen from the pixel, so that one on the path or beside it is told as exactly as its coordinates allow
    right = ((x0 - near) * (y1 - rows) - (x1 - near) * (y0 - rows)) / (y1 - y0)
    return rows, np.where(right > 0, near + 1, near).astype(np.int64), right == 0, rows < y1


def _mark_level_edges(mask: Mask, start: NDArray[np.float64], stop: NDArray[np.float64]) -> None:
    """Mark the pixels on edges that run along a row."""
    level = (start[:, 1] == stop[:, 1]) & (start[:, 1] == np.rint(start[:, 1]))
    for (x0, y), (x1, _) in zip(start[level], stop[level], strict=True):
        mask[int(y), int(np.ceil(min(x0, x1))) : int(max(x0, x1)) + 1] = True


def enclosed_area(points: NDArray[np.float64]) -> float:
    """Area within a contour ``[N, 2]`` in square pixels, by the shoelace formula."""
    x, y = points.T
    return float(abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2)


def progress(keys: Iterable[str], *, source: str) -> Iterable[str]:
    """Iterate with a progress bar that appears after two seconds, and only on a terminal."""
    return tqdm(list(keys), desc=f"reading {source}", unit="image", delay=2, leave=False, disable=None)


def hold_out(training: list[Item], test: list[Item], *, validation_fraction: float, seed: int) -> Datalist:
    """Keep an official split, and hold out a part of its training set for validation.

    Args:
        training: items of the official training set; may be empty.
        test: items of the official test set.
        validation_fraction: part of the training patients that goes to validation, 0 or more and below 1.
        seed: seed of the choice, see :func:`~medseg_monai.data.datalist.split_by_patient`.

    Raises:
        ValueError: if ``validation_fraction`` is outside its range, or there are too few patients.
    """
    _check_fraction(validation_fraction, below=1.0)
    if not training:
        return {"training": [], "validation": [], "test": test}
    fractions = {"training": 1 - validation_fraction, "validation": validation_fraction}
    return {**split_by_patient(training, fractions=fractions, seed=seed), "test": test}


def split_three_ways(items: list[Item], *, validation_fraction: float, seed: int) -> Datalist:
    """Split a data set that has no official split.

    A fifth of the patients is for testing, ``validation_fraction`` for validation, and the rest for training.

    Raises:
        ValueError: if ``validation_fraction`` is negative or leaves nothing to train on, or there are too few patients.
    """
    _check_fraction(validation_fraction, below=1 - TEST_FRACTION)
    fractions = {
        "training": 1 - TEST_FRACTION - validation_fraction,
        "validation": validation_fraction,
        "test": TEST_FRACTION,
    }
    return split_by_patient(items, fractions=fractions, seed=seed)


def split_fold(items: list[Item], *, fold: int, folds: int, validation_fraction: float, seed: int) -> Datalist:
    """Split for a cross-validation: with one seed, each patient is for testing in exactly one of the folds.

    Args:
        items: items with a ``patient``.
        fold: the fold whose patients are for testing, from 1.
        folds: number of folds, whose numbers of patients differ by one at most.
        validation_fraction: part of the other patients that goes to validation.
        seed: seed of the folds and of the validation.

    Raises:
        ValueError: if ``validation_fraction`` is outside its range, or there are too few patients.
    """
    patients = sorted({str(item["patient"]) for item in items}, key=lambda name: (patient_rank(name, seed), name))
    if len(patients) < folds:
        raise ValueError(f"{len(patients)} patients can't be divided into {folds} folds")
    tested = set(patients[fold - 1 :: folds])
    test = [item for item in items if item["patient"] in tested]
    rest = [item for item in items if item["patient"] not in tested]
    return hold_out(rest, test, validation_fraction=validation_fraction, seed=seed)


def _check_fraction(fraction: float, *, below: float) -> None:
    if not 0 <= fraction < below:
        raise ValueError(f"validation_fraction must be 0 or more and below {below:g}, got {fraction}")
