"""Phantom data sets on disk: images, masks, and the data list that training reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, get_args

from PIL import Image

from .case_files import (
    SECTIONS,
    PhantomCase,
    PhantomFile,
    check_counts,
    check_dimensions,
    check_format,
    mask_file,
    write_phantoms,
)
from .fundus import CAMERAS, draw_fundus

__all__ = ["SECTIONS", "FundusTask", "ImageFormat", "PhantomWriter", "check_counts", "write_fundus_phantoms"]

FundusTask = Literal["vessel", "disc"]
ImageFormat = Literal["png", "tif"]


class PhantomWriter(Protocol):
    """The type of the entries of :data:`medseg_monai.phantoms.PHANTOMS`: a writer of one task's phantoms.

    Example:
        >>> import tempfile
        >>> from medseg_monai.phantoms import PHANTOMS, PhantomWriter
        >>> write: PhantomWriter = PHANTOMS["optic_disc_fundus"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(folder, counts={"test": 1}, size=(64, 80), seed=0).name
        'datalist.json'
    """

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
    if task not in get_args(FundusTask):
        raise ValueError(f"task='{task}' is not a fundus task: choose from {', '.join(get_args(FundusTask))}.")
    check_format(image_format, get_args(ImageFormat))
    check_dimensions(size, 2)
    cameras = list(CAMERAS.values())

    def draw(case: PhantomCase) -> tuple[str, dict[str, PhantomFile]]:
        camera = cameras[case.index % len(cameras)]
        phantom = draw_fundus(size=(size[0], size[1]), camera=camera, seed=(seed, case.number))
        return f"phantom_camera_{camera.name}", {
            "image": PhantomFile("images", f".{image_format}", Image.fromarray(phantom.image).save),
            "label": mask_file("labels", phantom.vessels if task == "vessel" else phantom.disc),
            "fov": mask_file("fov", phantom.fov),
        }

    return write_phantoms(folder, counts, draw)
