"""A training that starts from weights: the overlay and the settings by which it does."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg_monai.files import atomic_path
from medseg_monai.handlers import read_settings

from .loader import BundleError, flat_keys, merged_config

__all__ = ["OVERLAY_NAME", "start_from", "trained_settings"]

OVERLAY_NAME = "fine_tune.json"


def start_from(
    root: Path, configs: Sequence[str], checkpoint: str | os.PathLike[str], output_dir: Path
) -> tuple[list[str], dict[str, Any]]:
    """Configs and flat keys by which a bundle's training starts from weights instead of at random.

    Only the network's state is taken: optimiser, schedule and epochs start anew.

    Args:
        root: folder of the bundle.
        configs: ``train`` and overlays.
        checkpoint: weights that the bundle's network takes whole.
        output_dir: folder of the training; the overlay is written there, where a resumed training finds it.

    Returns:
        the configs with the overlay, and the flat keys with which the weights were trained (widths, image size).

    Raises:
        BundleError: there is no such file.
    """
    path = Path(checkpoint).absolute()
    if not path.is_file():
        raise BundleError(f"{path}: no weights to start from; name the model.pt of a training.")
    overlay = {
        "fine_tune_from": str(path),
        "network": {
            "_target_": "medseg_monai.bundle.load_network",
            "network_def": "@network_def",
            "checkpoint": "@fine_tune_from",
            "device": "@device",
            "fast": False,
        },
    }
    file = output_dir.absolute() / OVERLAY_NAME
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(overlay, indent=2) + "\n", encoding="utf-8")
    return [*configs, str(file)], trained_settings(root, configs, path)


def trained_settings(root: Path, configs: Sequence[str], checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model file says of its training, as far as the configs have such keys.

    Args:
        root: folder of the bundle.
        configs: ``train`` and overlays.
        checkpoint: the model file.
    """
    keys = flat_keys(merged_config(root, configs))
    return {key: value for key, value in read_settings(checkpoint).items() if key in keys}
