"""Phantom data sets on disk: images, masks, and the data list that training reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from medseg_monai.data.datalist import write_datalist

from .fundus import CAMERAS, FundusPhantom, draw_fundus

__all__ = ["SECTIONS", "FundusTask", "ImageFormat", "PhantomWriter", "check_counts", "write_fundus_phantoms"]

SECTIONS = ("training", "validation", "test")

FundusTask = Literal["vessel", "disc"]
ImageFormat = Literal["png", "tif"]


class PhantomWriter(Protocol):
    """The type of the entries of :data:`medseg_monai.phantoms.PHANTOMS`: a writer of one task's phantoms."""

    def __call__(
        self, folder: str | os.PathLike[str], *, counts: Mapping[str, int], size: tuple[int, ...], seed: int
    ) -> Path:
        """Write phantoms and their data list into ``folder``.

        Args:
            folder: folder to write into; created if it is missing.
            counts: number of phantoms in each section, ``training``, ``validation`` and ``test``.
            size: spatial size of the phantoms, rows first.
            seed: the same seed writes the same files.

        Returns:
            Path of the data list.
        """
        ...


def write_fundus_phantoms(
    folder: str | os.PathLike[str],
    *,
    task: FundusTask,
    counts: Mapping[str, int],
    size: tuple[int, ...],
    seed: int,
    image_format: ImageFormat = "png",
) -> Path:
    """Write fundus phantoms of both cameras and their data list.

    ``folder`` gets ``images/phantom_0001.png`` (RGB), ``labels/phantom_0001.png`` and ``fov/phantom_0001.png`` (8 bits,
    0 and 255) and ``datalist.json``. Cameras alternate within each section, and each phantom is a different patient.

    Args:
        folder: folder to write into; created if it is missing. Phantoms with the same numbers are overwritten.
        task: structure in the labels, ``"vessel"`` or ``"disc"``.
        counts: number of phantoms in each section, ``training``, ``validation`` and ``test``; a missing one is empty.
        size: rows and columns ``(H, W)``, each at least 64.
        seed: the same seed writes the same files; the task does not change the images.
        image_format: format of the images, ``"png"`` or ``"tif"``; masks are always PNG.

    Returns:
        Path of the data list, whose items have ``image``, ``label``, ``fov``, ``patient`` and ``source``
        (``phantom_camera_a`` or ``phantom_camera_b``).

    Raises:
        ValueError: for an unknown task, section or format, a negative count, no phantom at all, or a bad size.

    Example:
        >>> import tempfile
        >>> from medseg_monai.data import load_datalist
        >>> from medseg_monai.phantoms import write_fundus_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_fundus_phantoms(folder, task="vessel", counts={"training": 2}, size=(64, 80), seed=0)
        ...     [item["source"] for item in load_datalist(path, "training")]
        ['phantom_camera_a', 'phantom_camera_b']
    """
    _check(task=task, counts=counts, size=size, image_format=image_format)
    root = Path(folder)
    for name in ("images", "labels", "fov"):
        (root / name).mkdir(parents=True, exist_ok=True)
    cameras = list(CAMERAS.values())
    datalist: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    number = 0
    for section in SECTIONS:
        for index in range(counts.get(section, 0)):
            number += 1
            camera = cameras[index % len(cameras)]
            phantom = draw_fundus(size=(size[0], size[1]), camera=camera, seed=(seed, number))
            files = _write(phantom, root, task=task, patient=f"phantom_{number:04d}", image_format=image_format)
            datalist[section].append({**files, "source": f"phantom_camera_{camera.name}"})
    path = root / "datalist.json"
    write_datalist(datalist, path)
    return path


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse numbers of phantoms that are not possible.

    Args:
        counts: number of phantoms in each section.

    Raises:
        ValueError: for an unknown section, a negative count, or no phantom at all.
    """
    if unknown := sorted(set(counts) - set(SECTIONS)):
        raise ValueError(f"counts has unknown sections {', '.join(unknown)}: choose from {', '.join(SECTIONS)}.")
    if min(counts.values(), default=0) < 0 or sum(counts.values()) == 0:
        raise ValueError(f"counts={dict(counts)} asks for no phantom: give at least one section a positive number.")


def _check(*, task: str, counts: Mapping[str, int], size: tuple[int, ...], image_format: str) -> None:
    if task not in get_args(FundusTask):
        raise ValueError(f"task='{task}' is not a fundus task: choose from {', '.join(get_args(FundusTask))}.")
    if image_format not in get_args(ImageFormat):
        raise ValueError(
            f"image_format='{image_format}' is not written: choose from {', '.join(get_args(ImageFormat))}."
        )
    check_counts(counts)
    if len(size) != 2:
        raise ValueError(f"size={size} is not a 2D size: give rows and columns.")


def _write(phantom: FundusPhantom, root: Path, *, task: FundusTask, patient: str, image_format: str) -> dict[str, str]:
    files = {
        "image": root / "images" / f"{patient}.{image_format}",
        "label": root / "labels" / f"{patient}.png",
        "fov": root / "fov" / f"{patient}.png",
    }
    Image.fromarray(phantom.image).save(files["image"])
    _mask(phantom.vessels if task == "vessel" else phantom.disc).save(files["label"])
    _mask(phantom.fov).save(files["fov"])
    return {**{key: str(path) for key, path in files.items()}, "patient": patient}


def _mask(mask: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
