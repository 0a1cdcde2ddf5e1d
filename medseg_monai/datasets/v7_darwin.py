"""V7-Darwin: both lungs, including the heart, in the frontal chest X-rays of V7 Labs' COVID-19 data set."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_monai.data.datalist import Datalist, Item

from ._common import Mask, Problems, enclosed_area, files, fill_path, locate, progress, save_mask, split_three_ways

__all__ = ["read_v7_darwin"]

SOURCE = "v7_darwin"
ANNOTATIONS = (
    "releases/all-images/annotations",
    "releases/latest/annotations",
    "annotations/all-images",
    "annotations",
)
LUNG = re.compile(r"((left|right)\s+)?lungs?", flags=re.IGNORECASE)
# tag -> why its image is left out; tags have levels, as in "View/Lateral"
LEFT_OUT = {
    re.compile(r"(.*[/ ])?(lateral|sagittal)([/ ].*)?|view/l", flags=re.IGNORECASE): "lateral views",
    re.compile(r"(.*[/ ])?ct([/ ].*)?", flags=re.IGNORECASE): "CT",
}
NO_LUNGS = "without lungs"
PATIENT_TAG = re.compile(r"patient[\s_-]*id[\s/:=]+(.+)", flags=re.IGNORECASE)
# Kermany et al. name their files person100_bacteria_475.jpeg, IM-0115-0001.jpeg and NORMAL2-IM-1427-0001.jpeg
PATIENT_IN_NAME = re.compile(r"(person\d+)_.*|((?:NORMAL\d*-)?IM-\d+)-\d+.*", flags=re.IGNORECASE)

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Export:
    """One JSON file: its image, the image's size ``(width, height)``, and the annotations."""

    path: Path
    image: Path
    original_name: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]

    @property
    def tags(self) -> list[str]:
        """Names of the annotations without a shape."""
        return [str(one.get("name", "")) for one in self.annotations if not _shape(one)]

    @property
    def lungs(self) -> list[dict[str, Any]]:
        """The shapes of the lungs."""
        named = (one for one in self.annotations if LUNG.fullmatch(str(one.get("name", "")).strip()))
        return [shape for one in named if (shape := _shape(one))]

    @property
    def patient(self) -> str:
        """The patient's number from the tags, or else from the name of the original file, or else that name."""
        tagged = (match[1].strip() for tag in self.tags if (match := PATIENT_TAG.fullmatch(tag.strip())))
        stem = Path(self.original_name).stem
        in_name = PATIENT_IN_NAME.fullmatch(stem)
        return next(tagged, None) or (in_name and (in_name[1] or in_name[2])) or stem

    @property
    def left_out(self) -> str:
        """The reason why the paper leaves the image out; empty if it keeps the image."""
        reasons = (why for tag in self.tags for name, why in LEFT_OUT.items() if name.fullmatch(tag.strip()))
        return next(reasons, "") or ("" if self.lungs else NO_LUNGS)


def read_v7_darwin(
    root: str | os.PathLike[str],
    *,
    derived: str | os.PathLike[str],
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """Read V7 Labs' COVID-19 chest X-ray data set: 6500 images of many sizes, with the lungs as polygons.

    Layout as ``darwin dataset pull v7-labs/covid-19-chest-x-ray-dataset:all-images`` writes it; the annotations may
    also be in ``annotations/all-images``, as in V7's repository::

        images/000001.jpeg
        releases/all-images/annotations/000001.json     Darwin JSON 1.0 or 2.0, names its image and the image's size

    Lungs are the annotations named "Lung", "Left Lung" or "Right Lung". All their paths (``polygon`` with ``path``,
    ``additional_paths`` or ``paths``, or ``complex_polygon``) are drawn by the even-odd rule, so that a path within
    another is a hole, and the lungs are merged. Coordinates are pixel indices. Points outside the image are moved to
    its border, as in V7's own program, and a path that then encloses less than a pixel is not drawn. The masks include
    most of the heart. The class "Ignore" is not used.

    As in the Res-CR-Net paper (section 1.2.2: "removing all sagittal views and CT scans"), images with a tag lateral,
    sagittal or CT are left out, and so are images without lungs, since lateral views and CT have none either. One
    warning says how many and which. The paper keeps 6395 images.

    Items have ``image``, ``label`` (written to ``derived`` in the size of the image), ``patient`` and ``source``. The
    patient is the tag "Patient ID/...", or else the number in the name of the original file (person100, IM-0115), or
    else that name. There is no official split; the split is seeded, by default 60/20/20.

    Args:
        root: the folder with ``images``.
        derived: folder for the masks.
        validation_fraction: part of the patients for validation; a fifth is for testing, the rest for training.
        seed: seed of the split.

    Returns:
        ``training``, ``validation`` and ``test``, with absolute paths.

    Raises:
        FileNotFoundError: if ``root`` is not such a folder.
        ValueError: if JSON files, images or polygons are missing, broken or of another size than they say (all are
            named), or ``validation_fraction`` is not in [0, 0.8).

    Example:
        >>> import json
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from medseg_monai.datasets import read_v7_darwin
        >>> corners = [{"x": 5, "y": 5}, {"x": 20, "y": 5}, {"x": 20, "y": 15}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     annotations = Path(folder, "annotations")
        ...     for path in (annotations, Path(folder, "images")):
        ...         path.mkdir()
        ...     for name in ("000001", "000002"):
        ...         Image.new("L", (30, 20)).save(f"{folder}/images/{name}.png")
        ...         image = {"filename": f"{name}.png", "width": 30, "height": 20}
        ...         lung = {"name": "Lung", "polygon": {"path": corners}}
        ...         _ = (annotations / f"{name}.json").write_text(json.dumps({"image": image, "annotations": [lung]}))
        ...     datalist = read_v7_darwin(folder, derived=f"{folder}/derived", validation_fraction=0.0)
        >>> {section: len(items) for section, items in datalist.items()}
        {'training': 1, 'validation': 0, 'test': 1}

    Source: V7 Labs, https://github.com/v7labs/covid-19-xray-dataset; Abdallah et al., Res-CR-Net, 2020, 1.1 and 1.2.
    We had no files; the layout follows V7's documentation and public programs.
    """
    inner = "covid-19-chest-x-ray-dataset"
    base = locate(root, source=SOURCE, needs=("images",), inside=(inner, f"v7-labs/{inner}"))
    problems = Problems(SOURCE, base)
    exports = list(_exports(base / "images", _annotations(base, problems), problems))
    problems.raise_if_any()
    _say_what_is_left_out(base, exports)
    kept = {export.path.stem: export for export in exports if not export.left_out}
    target = Path(derived) / SOURCE / "label"
    items = [_item(kept[name], target / f"{name}.png", problems) for name in progress(kept, source=SOURCE)]
    problems.raise_if_any()
    return split_three_ways(items, validation_fraction=validation_fraction, seed=seed)


def _annotations(base: Path, problems: Problems) -> list[Path]:
    found = next((paths for name in ANNOTATIONS if (paths := files(base / name, suffixes=(".json",)))), [])
    if not found:
        problems.add(base / ANNOTATIONS[0], "no annotations")
    return found


def _exports(images: Path, annotations: list[Path], problems: Problems) -> Iterator[_Export]:
    taken: dict[Path, Path] = {}
    for path in annotations:
        try:
            export = _read(path, images)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            problems.add(path, f"is not Darwin JSON of an image ({type(error).__name__}: {error})")
            continue
        if not export.image.is_file():
            problems.add(path, f"names an image that is missing: {export.image.name}")
        elif export.image in taken:
            problems.add(path, f"second annotation of {export.image.name} beside {taken[export.image].name}")
        else:
            taken[export.image] = path
            yield export
    for image in files(images, "**/*"):
        if taken and image not in taken:
            problems.add(image, "image without annotation")


def _read(path: Path, images: Path) -> _Export:
    content = json.loads(path.read_text(encoding="utf-8"))
    if "item" in content:  # Darwin JSON 2.0
        item = content["item"]
        (slot,) = item["slots"]
        name, folder, size = item["name"], item.get("path") or "/", slot
        original = slot["source_files"][0]["file_name"] if slot.get("source_files") else name
    else:
        size = content["image"]
        name, folder = size["filename"], size.get("path") or "/"
        original = size.get("original_filename") or name
    annotations = [dict(one) for one in content["annotations"]]
    nested = images / folder.strip("/") / name
    image = nested if nested.is_file() else images / name
    return _Export(path, image, str(original), (int(size["width"]), int(size["height"])), annotations)


def _shape(annotation: Mapping[str, Any]) -> dict[str, Any] | None:
    return annotation.get("polygon") or annotation.get("complex_polygon")


def _say_what_is_left_out(base: Path, exports: list[_Export]) -> None:
    reasons = [*LEFT_OUT.values(), NO_LUNGS]
    names = {why: [export.image.name for export in exports if export.left_out == why] for why in reasons}
    listed = "; ".join(f"{len(found)} {why}: {', '.join(found)}" for why, found in names.items() if found)
    if listed:
        _LOGGER.warning("%s: of %d images, these are left out: %s.", base, len(exports), listed)


def _item(export: _Export, derived: Path, problems: Problems) -> Item:
    item: Item = {"image": str(export.image), "patient": export.patient, "source": SOURCE}
    size = problems.image_size(export.image)
    if size and size != export.size:
        problems.add(export.image, f"is {size[0]}x{size[1]}, its annotation {export.size[0]}x{export.size[1]}")
    elif size:
        try:
            item["label"] = save_mask(_draw(export), derived)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problems.add(export.path, f"bad polygon: {error}")
    return item


def _draw(export: _Export) -> Mask:
    width, height = export.size
    mask = np.zeros((height, width), dtype=np.bool_)
    for shape in export.lungs:
        lung = np.zeros_like(mask)
        for points in _paths(shape):
            inside = points.clip(0, (width - 1, height - 1))
            if enclosed_area(inside) >= 1:  # of a smaller path, the border would be drawn
                lung ^= fill_path(inside, export.size)  # even-odd rule: an area inside two paths is a hole
        if not lung.any():
            raise ValueError("a lung encloses no pixel of the image")
        mask |= lung
    return mask


def _paths(shape: Mapping[str, Any]) -> Iterator[NDArray[np.float64]]:
    """The paths ``[N, 2]`` of ``(x, y)`` of a polygon, both outlines and holes."""
    first = shape["paths"] if "paths" in shape else shape["path"]
    paths = [*(first if first and isinstance(first[0], list) else [first]), *(shape.get("additional_paths") or [])]
    for path in paths:
        points = np.array([(point["x"], point["y"]) for point in path], dtype=np.float64).reshape(-1, 2)
        if len(points) < 3:
            raise ValueError(f"{len(points)} points are no contour")
        if not np.isfinite(points).all():
            raise ValueError("a coordinate is not a finite number")
        yield points
