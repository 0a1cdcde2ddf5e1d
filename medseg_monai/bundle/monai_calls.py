"""What a call to MONAI that is under way was given: a config cannot know it, since MONAI does not tell it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from monai.bundle import ConfigWorkflow
from monai.utils import ensure_tuple

__all__ = ["config_files_in_use", "loaded_by_monai"]

_PACKAGE = "monai.bundle."


def config_files_in_use() -> list[Path]:
    """Config files of the active calls to MONAI, from the innermost outwards; absolute paths."""
    found: list[Path] = []
    for frame in _calls():
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow) and hasattr(workflow, "config_root_path"):
            found.append(workflow.config_root_path / "a_config.json")  # MONAI keeps only the folder
        files = frame.f_locals.get("config_file_") or ()  # in the commands that need no workflow
        found += [Path(file) for file in ensure_tuple(files)]
    return [file.absolute() for file in found]


def loaded_by_monai() -> str | None:
    """The weights that :func:`monai.bundle.load` is about to put into the network of a bundle.

    ``load`` takes the network from ``train.json`` and leaves out, without an error, whatever does not fit. So a config
    builds that network with the settings of these weights.

    Returns:
        the file; ``None`` if no such call is active.

    Example:
        >>> from medseg_monai.bundle import loaded_by_monai
        >>> loaded_by_monai() is None
        True
    """
    for frame in _calls():
        if frame.f_globals["__name__"] == f"{_PACKAGE}scripts" and frame.f_code.co_name == "load":
            file = frame.f_locals.get("full_path")
            return None if file is None else str(file)
    return None


def _calls() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_PACKAGE):
            yield frame
        frame = frame.f_back
