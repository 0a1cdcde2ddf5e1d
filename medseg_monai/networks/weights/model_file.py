"""Model files: weights with the settings that they were trained with; all are written here and read once."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .state_dict import as_state_dict, read_tensors, save_atomically

__all__ = ["ModelFile", "trained_with", "write_model"]

# text that a config cannot take for an expression, a reference or a macro, and a file system not for a path
_WORD = re.compile(r"[A-Za-z0-9][\w+.-]*")


class ModelFile:
    """Weights and the settings that they were trained with, read from a file once.

    The file is opened when something in it is first needed. Its hash is that of the bytes that were loaded, and the
    tensors are kept until :meth:`state_dict` hands them out.

    Settings are data: a value of another type than the default that the caller passes is refused, and so is text that a
    config could take for code. The caller chooses which settings to read; the others are ignored.

    Args:
        path: a file with ``{"model": state dict, "settings": …}`` as ``medseg train`` writes it, with a plain state
            dict, or a training's ``checkpoint.pt``, of which only the settings are used. ``None`` or an empty string
            means that there is no file and that there are no settings.

    Attributes:
        path: the file; ``None`` if there is none.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights import ModelFile, write_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model(f"{folder}/model.pt", {"weight": torch.zeros(3)}, {"image_size": [96, 112]})
        ...     model = ModelFile(f"{folder}/model.pt")
        ...     model.setting("image_size", [256, 256]), model.setting("threshold", 0.5), list(model.state_dict())
        ([96, 112], 0.5, ['weight'])
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path) if path else None
        self._state: dict[str, torch.Tensor] | None = None

    @property
    def exists(self) -> bool:
        """Whether the file exists."""
        return self.path is not None and self.path.is_file()

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, 64 hexadecimal digits; empty if there is no file."""
        return self._read[0] if self.exists else ""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the file records, unchecked; empty if there is no file."""
        return dict(self._read[1]) if self.exists else {}

    def setting(self, key: str, default: Any) -> Any:
        """Return the value of a setting that the model was trained with.

        Args:
            key: name of the setting, e.g. ``"image_size"``.
            default: value to return if there is no file or if the file does not record this setting. The recorded value
                must have the same type: a boolean, a number, a word, or a list of these.

        Returns:
            the recorded value or ``default``.

        Raises:
            ValueError: the file does not hold weights, or the recorded value has another type.
        """
        settings = self._read[1] if self.exists else {}
        if key not in settings:
            return default
        value = settings[key]
        if not _is_like(value, default):
            raise ValueError(
                f"{self.path}: its setting {key} is {value!r}, expected a value such as {default!r}; "
                "ask for a corrected file, or do not use this one."
            )
        return list(value) if isinstance(value, tuple) else value

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Hand out the weights. They are not kept, so a second call reads the file again.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or does not hold weights.
        """
        if not self.exists:
            raise FileNotFoundError(f"{self.path}: no such file with weights.")
        if self._state is None:
            self.__dict__.pop("_read", None)
        _ = self._read
        state, self._state = self._state, None
        return as_state_dict(state, self.path or "")

    @cached_property
    def _read(self) -> tuple[str, Mapping[str, Any]]:
        """Read the hash and the settings; the tensors go to ``_state``."""
        with Path(self.path or "").open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            content = read_tensors(stream, source=self.path)
        settings: Any = None
        self._state = content
        if isinstance(content, Mapping):
            settings = content.get("settings")
            self._state = content.get("model", content)
        return sha256, settings if isinstance(settings, Mapping) else {}


def trained_with(checkpoint: str | os.PathLike[str], key: str, default: Any) -> Any:
    """Return one setting of a model file, for the configs of bundles that are older than :class:`ModelFile`.

    Args:
        checkpoint: the model file; it need not exist.
        key: name of the setting.
        default: see :meth:`ModelFile.setting`.

    Raises:
        ValueError: see :meth:`ModelFile.setting`.

    Example:
        >>> from medseg_monai.networks.weights.model_file import trained_with
        >>> trained_with("no_such_model.pt", "image_size", [256, 256])
        [256, 256]
    """
    return ModelFile(checkpoint).setting(key, default)


def write_model(
    path: str | os.PathLike[str], state: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None = None
) -> None:
    """Write weights with the settings that they were trained with, as a whole or not at all.

    Args:
        path: file to write or to replace; its folder is created if it does not exist.
        state: names and tensors.
        settings: values that prediction needs to treat images as training did; plain values only.

    Raises:
        OSError: the file cannot be written; an earlier file under ``path`` is still there.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights import ModelFile, write_model
        >>> network = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model(f"{folder}/model.pt", network.state_dict(), {"image_size": [96, 112]})
        ...     network.load_state_dict(ModelFile(f"{folder}/model.pt").state_dict())
        <All keys matched successfully>
    """
    save_atomically({"model": dict(state), "settings": dict(settings or {})}, path)


def _is_like(value: Any, default: Any) -> bool:
    """Tell whether a value has the type of a default; any single value has the type of ``None``."""
    if isinstance(default, (list, tuple)) or isinstance(value, (list, tuple)):
        both = isinstance(default, (list, tuple)) and isinstance(value, (list, tuple))
        return both and all(_is_like(one, default[0] if default else None) for one in value)
    if default is None:
        return value is None or any(_is_like(value, kind) for kind in (True, 0, ""))
    if isinstance(default, str):
        return isinstance(value, str) and bool(_WORD.fullmatch(value))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, (int, float)) and math.isfinite(value)
