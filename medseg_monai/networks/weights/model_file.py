"""Model files: weights with the settings that they were trained with, written in one place and read once.

``model.pt`` is a plain state dict, which MONAI and every other tool takes. ``model.json`` beside it holds the settings,
and the SHA-256 of the weights that they belong to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from medseg_monai.files import atomic_path, file_sha256, write_json

from .state_dict import as_state_dict, read_tensors, save_tensors

__all__ = [
    "ModelFile",
    "check_settings_file",
    "copy_model",
    "restore_settings",
    "settings_file",
    "trained_with",
    "write_model",
]

logger = logging.getLogger(__name__)

# text that a config cannot take for an expression, a reference or a macro, and a file system not for a path
_WORD = re.compile(r"[A-Za-z0-9][\w+.-]*")

#: among the settings the name of the bundle that the weights are for
_BUNDLE = "bundle"
_FORMAT = "medseg-monai model 1"

# no setting is larger; what is not a number is not smaller
_LARGEST = 1e9


class ModelFile:
    """Weights and the settings that they were trained with, read from a file once.

    The file is opened when something in it is first needed. Its hash is that of the bytes that were loaded, and the
    tensors are kept until :meth:`state_dict` hands them out.

    Settings are data: whatever the file says, a value of another kind than the asker's default is refused, and so is
    text that a config could take for code. Which settings count is up to who asks; others are left alone. Weights
    without settings are taken with the asker's defaults, and the log says so; if these make a network that the weights
    do not fit, loading them is refused.

    Args:
        path: a state dict with its settings beside it, as :func:`write_model` writes them; a plain state dict; what
            ``medseg train`` wrote before, ``{"model": state dict, "settings": …}``; or a training's ``checkpoint.pt``,
            of which only the settings are used. ``None`` or an empty text stands for no file, which has no settings.
        bundle: name of the bundle whose weights are expected; ``None`` takes any.

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

    def __init__(self, path: str | os.PathLike[str] | None, *, bundle: str | None = None) -> None:
        self.path = Path(path) if path else None
        self.bundle = bundle
        self._state: Any = None

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
        """All that is recorded of the weights, as it stands there; nothing if there is no file."""
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
            ValueError: the file is not one of weights, or of another bundle's, or its value is of another kind.
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
            ValueError: the file is damaged, or holds something else than weights, or weights of another bundle.
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
        """The hash and the settings; the tensors go to ``_state``."""
        path = self.path or Path()
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            content = read_tensors(stream, source=path)
        wraps = isinstance(content, Mapping) and any(isinstance(content.get(key), Mapping) for key in _WRAPPED)
        self._state = content.get("model", content) if wraps else content
        settings = content.get("settings", {}) if wraps else _read_settings(path, sha256)
        settings = settings if isinstance(settings, Mapping) else {}
        self._check_bundle(settings.get(_BUNDLE))
        return sha256, settings

    def _check_bundle(self, recorded: Any) -> None:
        if self.bundle and recorded and recorded != self.bundle:
            raise ValueError(
                f"{self.path}: weights of {recorded}, not of {self.bundle}; give this bundle's weights, or take them "
                f"as they are with weights_of={recorded}."
            )


#: entries by which a file is known that holds more than a state dict
_WRAPPED = ("model", "network", "settings")


def settings_file(path: str | os.PathLike[str]) -> Path:
    """Where the settings of a model file are: beside it, ``model.json`` for ``model.pt``.

    Args:
        path: the model file. For another ending than ``.pt``, ``.json`` comes after it, so that ``a.pt`` and ``a.pth``
            have settings of their own.

    Example:
        >>> [settings_file(path).as_posix() for path in ("runs/drive/model.pt", "best.pth")]
        ['runs/drive/model.json', 'best.pth.json']
    """
    file = Path(path)
    return file.with_suffix(".json") if file.suffix == ".pt" else file.with_name(f"{file.name}.json")


def check_settings_file(path: str | os.PathLike[str]) -> None:
    """Make sure, before hours of training, that settings can be written beside a model file.

    Args:
        path: the model file that will be written.

    Raises:
        ValueError: another program's file stands where the settings would go.
    """
    _refuse_foreign(settings_file(path))


def restore_settings(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write the settings of a model file again if they are lost or damaged.

    Args:
        path: the model file.
        settings: its settings.

    Raises:
        OSError: they cannot be written.
    """
    beside = settings_file(path)
    try:
        is_anothers = beside.is_file() and not _is_ours(_content(beside))
    except ValueError:  # damaged
        is_anothers = False
    if _entry_of(Path(path)) is None and not is_anothers:
        write_json(beside, {"format": _FORMAT, "sha256": file_sha256(path), "settings": dict(settings)})


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
    """Write weights as a plain state dict, and the settings that they were trained with beside them.

    Each file is written all or nothing, and at no moment do weights and settings that do not belong together count as
    one model: settings name the weights by their hash, and those of the weights that are being replaced are kept until
    they are gone.

    Args:
        path: file to write or to replace; its folder is created if it does not exist.
        state: names and tensors.
        settings: values that prediction needs to treat images as training did; plain values only.

    Raises:
        OSError: it cannot be written; what ``path`` held before is still there.
        ValueError: another program's file stands where the settings would go.

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
    _refuse_foreign(settings_file(path))
    with atomic_path(path) as temporary:
        save_tensors(dict(state), temporary, target=path)
        current = {"format": _FORMAT, "sha256": file_sha256(temporary), "settings": dict(settings or {})}
        write_json(settings_file(path), {**current, "previous": _entry_of(Path(path))})
    write_json(settings_file(path), current)


def copy_model(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy weights with their settings, the weights all or nothing.

    Args:
        source: the model file.
        target: file to write or to replace; its folder is made.

    Raises:
        OSError: one of them cannot be read or written.
        ValueError: another program's file stands where the settings would go.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from medseg_monai.networks.weights import ModelFile, copy_model, write_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model(f"{folder}/a.pt", {"weight": torch.zeros(3)}, {"filters": 4})
        ...     copy_model(f"{folder}/a.pt", f"{folder}/b.pt")
        ...     ModelFile(f"{folder}/b.pt").settings
        {'filters': 4}
    """
    _refuse_foreign(settings_file(target))
    entry = _entry_of(Path(source))
    current = {"format": _FORMAT, **entry} if entry else None
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        if current:
            write_json(settings_file(target), {**current, "previous": _entry_of(Path(target))})
    if current:
        write_json(settings_file(target), current)
    elif _entries(settings_file(target)):
        settings_file(target).unlink()  # of the weights that were replaced


def _refuse_foreign(beside: Path) -> None:
    """Refuse to replace a file that is not one of settings."""
    try:
        is_free = not beside.is_file() or not beside.stat().st_size or _is_ours(_content(beside))
    except ValueError:  # be it damaged settings: whose they are cannot be told
        is_free = False
    if not is_free:
        raise ValueError(f"{beside}: another program's file; settings go there: choose another name for the weights.")


def _content(beside: Path) -> Any:
    """What stands in a file of settings, or in another program's of that name; ``None`` if there is none."""
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{beside}: damaged; fetch it anew with its weights.") from error


def _is_ours(content: Any) -> bool:
    return isinstance(content, Mapping) and content.get("format") == _FORMAT


def _read_settings(path: Path, sha256: str) -> Mapping[str, Any]:
    """The settings beside a plain state dict."""
    entries = _entries(settings_file(path)) or _entries(settings_file(path.resolve()))  # a link may have another name
    if not entries:
        logger.warning("%s: no settings beside it (%s): the defaults are used.", path, settings_file(path).name)
        return {}
    settings = next((entry["settings"] for entry in entries if entry["sha256"] == sha256), None)
    if settings is None:
        raise ValueError(
            f"{path}: damaged, or {settings_file(path).name} beside it belongs to other weights (SHA-256 differs); "
            f"fetch both anew, or remove {settings_file(path).name} to take the weights with the defaults."
        )
    found: Mapping[str, Any] = settings
    return found


def _entry_of(path: Path) -> dict[str, Any] | None:
    """Hash and settings of the weights that a file holds, if the settings stand beside it."""
    try:
        entries = _entries(settings_file(path))
    except ValueError:  # whoever loads the weights is told
        return None
    if not entries or not path.is_file():
        return None
    sha256 = file_sha256(path)
    found = (entry for entry in entries if entry["sha256"] == sha256)
    return next(({key: entry[key] for key in ("sha256", "settings")} for entry in found), None)


def _entries(beside: Path) -> list[Mapping[str, Any]]:
    """What a file of settings says of the weights, and of those that they were about to replace; the latest first."""
    content = _content(beside)
    if not _is_ours(content):
        return []  # none, or another program's
    entries = [entry for entry in (content, content.get("previous")) if isinstance(entry, Mapping)]
    if not all(
        isinstance(entry.get("settings"), Mapping) and isinstance(entry.get("sha256"), str) for entry in entries
    ):
        raise ValueError(f"{beside}: damaged; fetch it anew with its weights.")
    return entries


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a default; a default of ``None`` takes any single value, or a list of these."""
    if isinstance(value, (list, tuple)):
        each = default[0] if isinstance(default, (list, tuple)) and default else None
        return (default is None or isinstance(default, (list, tuple))) and all(_is_like(one, each) for one in value)
    if default is None:
        return value is None or any(_is_like(value, kind) for kind in (True, 0, ""))
    if isinstance(default, str):
        return isinstance(value, str) and bool(_WORD.fullmatch(value))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if not (isinstance(default, (int, float)) and isinstance(value, (int, float))):
        return False
    return abs(value) <= _LARGEST and (isinstance(default, float) or value == int(value))
