"""What clients send: files and params that the server can use, in folders of their own, and known by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monai.data.utils import is_supported_format
from monailabel.utils.sessions import SessionInfo, Sessions
from starlette.datastructures import UploadFile

from medseg_monai.data.readers.itk_header import data_files

__all__ = ["SentSessions", "Uploads", "check_file_name", "read_params", "refuse_detached"]

_LONGEST_NAME = 200  # bytes; file systems allow 255, and a name gets additions
_DEEPEST = 32
_SESSION = re.compile(r"[0-9a-f-]{1,64}")
_ITK_SUFFIXES = ("mha", "mhd", "nrrd", "nhdr")


class Uploads:
    """The images that came with requests that are not answered yet.

    Args:
        folder: folder for nothing else; only the server's user can read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}

    @contextmanager
    def keep(self, file: UploadFile) -> Iterator[str]:
        """Keep a file as long as the block runs.

        Args:
            file: what the client sent.

        Yields:
            the name that the file has here.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"upload-{uuid.uuid4().hex}"
        path = self._folder / "".join([name, *Path(file.filename or "image.nii.gz").suffixes])
        self._paths[name] = path
        try:
            with path.open("wb") as stream:
                shutil.copyfileobj(file.file, stream)
            yield name
        finally:
            del self._paths[name]
            path.unlink(missing_ok=True)

    def path(self, name: str) -> Path | None:
        """Where the file of a name is; ``None`` for any other name, whatever it looks like."""
        return self._paths.get(name)


class SentSessions(Sessions):
    """MONAI Label's sessions, whose ids cannot be paths, and which leave nothing behind if they cannot be opened."""

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """The session of an id, if there is one."""
        return super().get_session(session_id, update_ts, fetch_cache) if _SESSION.fullmatch(session_id) else None

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Open a session for a file or a folder that a client sent.

        Raises:
            HTTPException: 422 for an archive that cannot be unpacked.
        """
        received = Path(data_file)
        folder = received if received.is_dir() else received.parent
        try:
            if uncompress and received.is_file():
                data_file = str(folder / uuid.uuid4().hex)
                shutil.unpack_archive(received, data_file)
            added: tuple[str, SessionInfo] = super().add_session(data_file, expiry, False, session_id)
        except Exception as error:  # each format of archives raises errors of its own
            shutil.rmtree(folder)
            raise HTTPException(422, f"{received.name}: no archive that can be unpacked; send it as .zip.") from error
        return added

    def image(self, path: str) -> Path | None:
        """The image of an open session, if the path is exactly that."""
        return Path(path) if any(one is not None and one.image == path for one in self.values()) else None


def check_file_name(file: UploadFile) -> None:
    """Refuse a file whose name cannot be the name of a file.

    Args:
        file: what a client sent.

    Raises:
        HTTPException: with status 422.
    """
    name = file.filename or ""
    last = re.split(r"[/\\]", name)[-1]
    if "\0" in name or (name and last in ("", ".", "..")) or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise HTTPException(422, "The name of the file is too long, or cannot be a name; rename the file.")


def read_params(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The params of a request.

    Args:
        given: as JSON, or read already.

    Raises:
        json.JSONDecodeError: no JSON.
        HTTPException: 422 for anything but an object, and for an object that JSON cannot give back.
    """
    try:
        params = json.loads(given or "{}") if given is None or isinstance(given, str) else given
        is_flat_enough = _depth(params) <= _DEEPEST
    except RecursionError:
        is_flat_enough = False
    if not is_flat_enough:
        raise HTTPException(422, f"params: nested more than {_DEEPEST} deep.")
    if not isinstance(params, Mapping):
        raise HTTPException(422, 'params: expected an object, such as {"threshold": 0.5}.')
    try:
        json.dumps(params, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise HTTPException(422, "params: a number that is not finite, or a text that is not Unicode.") from error
    return dict(params)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested in a value."""
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, (Mapping, list))]:
        level = [child for one in level for child in (one.values() if isinstance(one, Mapping) else one)]
        depth += 1
    return depth


def refuse_detached(path: str | os.PathLike[str]) -> None:
    """Refuse a header without its voxels: it would choose a file of the server in their place.

    Args:
        path: a file that a client sent.

    Raises:
        HTTPException: with status 422.
    """
    file = Path(path)
    if not file.is_file() or not is_supported_format(file, _ITK_SUFFIXES):
        return
    try:
        named = data_files(file)
    except ValueError as error:
        raise HTTPException(422, f"{file.name}: truncated, damaged or incomplete; copy it again.") from error
    if named:
        raise HTTPException(422, f"{file.name}: its voxels are in another file; send one file, .nrrd or .mha.")
