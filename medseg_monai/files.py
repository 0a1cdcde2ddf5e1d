"""Files: reading them or refusing them in one line, writing them completely or not at all, and hashing them.

Every other module may import this one; it imports none of them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = [
    "LOCK_NAME",
    "REPORT_FILES",
    "as_utf8",
    "atomic_path",
    "file_sha256",
    "has_ending",
    "locked_folder",
    "one_line",
    "refuse_given",
    "remove_leftovers",
    "same_place",
    "write_csv",
    "write_json",
    "write_text",
]

REPORT_FILES = ("report.json", "report.csv")
"""Files that a prediction run leaves in the folder of its results, by which the folder is known."""

#: file that a folder holds while :func:`locked_folder` has it, with one line about the owner
LOCK_NAME = ".medseg.lock"

#: a temporary file of :func:`atomic_path`
_TEMPORARY = re.compile(r"\..*\.medseg-[0-9a-f]{32}(\.[^.]*)?")
_LONGEST_COMMAND = 200


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary path beside ``path``, and rename it to ``path`` if the block ends without an error.

    A block that raises leaves neither the temporary file nor a half-written ``path``. The folder is created if it is
    missing. What a killed process leaves, :func:`remove_leftovers` removes.

    Args:
        path: the file to write or replace.

    Yields:
        The path to write to, with the suffix of ``path``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import atomic_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "a.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "a.txt").read_text()
        'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.medseg-{uuid.uuid4().hex}{target.suffix}")
    try:
        yield temporary
        _flush_to_disc(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: str | os.PathLike[str], work: str) -> Iterator[None]:
    """Have a folder for one piece of work alone, and remove what killed ones have left half-written in it.

    The folder is created if it is missing. The operating system frees the lock of a process that ends in whatever way,
    so that a kill leaves nothing that blocks. A thread that has the folder may enter it again.

    The lock is that of ``flock``. On NFS it holds between machines if the server has locks, as it does by default. On
    a file system without them, ``.medseg.lock`` itself is the lock, and stays after a kill until it is deleted by hand.

    Args:
        folder: folder that the work writes into; its subfolders are not locked.
        work: what is done there, with an article, for the message to the next who tries: ``"a training"``.

    Raises:
        BlockingIOError: somebody else has the folder; the message names the work, process, machine, start and command.
        OSError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> from threading import Thread
        >>> from medseg_monai.files import locked_folder
        >>> def also_train(folder):
        ...     try:
        ...         with locked_folder(folder, "a training"):
        ...             print("never printed")
        ...     except BlockingIOError as error:
        ...         print("in use by a training (process" in str(error))
        >>> with tempfile.TemporaryDirectory() as folder, locked_folder(folder, "a training"):
        ...     other = Thread(target=also_train, args=[folder])
        ...     other.start()
        ...     other.join()
        True
    """
    target = Path(folder)
    made = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    file = target / LOCK_NAME
    lock = FileLock(file, is_singleton=True)  # which the same thread may take again
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(
            f"{target}: in use by {_read_owner(file)}; wait until that has ended, or choose another folder."
        ) from None
    is_first = lock.lock_counter == 1
    try:
        if is_first:
            file.write_text(as_utf8(_owner(work)) + "\n", encoding="utf-8")
            remove_leftovers(target)
        yield
    finally:
        if is_first:
            file.unlink(missing_ok=True)  # while it is held: whoever has opened it by now sees that it has no name
        lock.release()
        for path in made if is_first else []:
            with suppress(OSError):  # it is not empty, as nearly always
                path.rmdir()


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed processes have left of :func:`atomic_path`.

    Args:
        folder: a folder that nobody else writes into; its subfolders are left alone.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import atomic_path, remove_leftovers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     killed = atomic_path(Path(folder, "a.txt")).__enter__()
        ...     _ = killed.write_text("ha")
        ...     remove_leftovers(folder)
        ...     killed.exists()
        False
    """
    for path in Path(folder).glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _owner(work: str) -> str:
    command = shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    if len(command) > _LONGEST_COMMAND:
        command = f"{command[:_LONGEST_COMMAND]} ..."
    about = f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}"
    return " ".join(f"{work} ({about})".split())


def _read_owner(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    return lines[0] if lines else "another process"


@contextmanager
def one_line(
    message: str, *, passing: type[Exception] | tuple[type[Exception], ...] = (MemoryError, PermissionError)
) -> Iterator[None]:
    """Refuse a file in one line, whatever error the library raises that reads it in the block.

    Libraries, decompression and decoders each raise errors of their own for damaged files.

    Args:
        message: one line with the file, what is wrong, and the remedy.
        passing: errors that already say what is wrong.

    Raises:
        ValueError: ``message``, for any other error.

    Example:
        >>> import json
        >>> from medseg_monai.files import one_line
        >>> with one_line("a.json: damaged; copy it again."):
        ...     json.loads("{")
        Traceback (most recent call last):
        ValueError: a.json: damaged; copy it again.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        raise ValueError(message) from error


def same_place(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to the same file or folder: by their names, through links, or in another case.

    Args:
        one: a path, which need not exist.
        other: another path.

    Example:
        >>> same_place("runs/a", "runs/b/../a"), same_place("runs/a", "runs/b")
        (True, False)
    """
    names = {os.path.normcase(os.path.abspath(path)) for path in (one, other)}
    return len(names) == 1 or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def refuse_given(
    written: Iterable[str | os.PathLike[str]], given: Iterable[str | os.PathLike[str] | None], remedy: str
) -> None:
    """Refuse to write over a file that was given as an input.

    Args:
        written: files that are about to be written.
        given: files that were given; ``None`` for none.
        remedy: what to do instead.

    Raises:
        ValueError: one of them is in both.

    Example:
        >>> refuse_given(["a.json"], ["a.json", "b.json"], "name another file")
        Traceback (most recent call last):
        ValueError: a.json: was given as an input and would be written over; name another file.
    """
    inputs = [path for path in given if path is not None]
    for path in written:
        if any(same_place(path, one) for one in inputs):
            raise ValueError(f"{path}: was given as an input and would be written over; {remedy}.")


def write_json(path: str | os.PathLike[str], content: Any, *, allow_nan: bool = True) -> None:
    """Write JSON, indented, all or nothing.

    Args:
        path: the file to write or replace.
        content: anything that :func:`json.dumps` accepts.
        allow_nan: ``False`` refuses numbers that are not finite, since JSON has no form for them.

    Raises:
        ValueError: a number that is not finite, if ``allow_nan`` is ``False``.
        OSError: the file cannot be written.

    Example:
        >>> import json
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import write_json
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "a.json"), {"cases": 2})
        ...     json.loads(Path(folder, "a.json").read_text())
        {'cases': 2}
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=allow_nan) + "\n")


def as_utf8(text: str) -> str:
    r"""A text that every stream takes: the bytes of a file name that is not UTF-8 are written as ``\udcXX``.

    Args:
        text: a text with names of files, in which Python holds such bytes as lone surrogates.

    Example:
        >>> import os
        >>> from medseg_monai.files import as_utf8
        >>> print(as_utf8(os.fsdecode(b"caf\xe9.png")))
        caf\udce9.png
    """
    return text.encode(errors="backslashreplace").decode()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8, all or nothing; what UTF-8 cannot hold is written as :func:`as_utf8` says.

    Args:
        path: the file to write or replace.
        text: the content.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import write_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, "a.md"), "a table")
        ...     Path(folder, "a.md").read_text()
        'a table'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(as_utf8(text), encoding="utf-8")


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    r"""Write a table as CSV with a header, all or nothing; what UTF-8 cannot hold is written as for :func:`write_text`.

    Args:
        path: the file to write or replace.
        rows: values by the names of their columns; a missing value or ``None`` becomes an empty field, and values
            without a column are left out.
        columns: the columns, in their order.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import write_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(Path(folder, "a.csv"), [{"case": "x", "dice": 0.5}], ["case", "dice"])
        ...     Path(folder, "a.csv").read_text()
        'case,dice\nx,0.5\n'
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.DictWriter(stream, fieldnames=list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def has_ending(path: str | os.PathLike[str], endings: Iterable[str]) -> bool:
    """Whether a file's name ends in one of several endings, in upper or lower case.

    MONAI's ``is_supported_format`` finds them anywhere in a name, so that ``scan.nii.gz.md5`` is a scan to it.

    Args:
        path: the file.
        endings: endings without the dot in front.

    Example:
        >>> [has_ending(name, ["nii", "nii.gz"]) for name in ("scan.NII.GZ", "scan.nii.gz.md5", "nii")]
        [True, False, False]
    """
    return Path(path).name.lower().endswith(tuple(f".{ending.lower()}" for ending in endings))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Args:
        path: file to read.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medseg_monai.files import file_sha256
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a").write_bytes(b"")
        ...     file_sha256(Path(folder, "a"))[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush_to_disc(path: Path) -> None:
    """Make sure that a power failure after the renaming cannot leave an empty file under the new name."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
