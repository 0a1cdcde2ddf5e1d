"""What a run in MLflow is to hold, kept in a file until the server has it, so that no training waits for a server."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from requests.exceptions import Timeout

__all__ = ["NoAnswerError", "RunLog", "is_refusal", "why"]

#: points that MLflow takes in one request
_POINTS = 1000
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: answers after which the same request would be refused again; others (no server, no right, too many requests) may pass
_REFUSALS = frozenset({400, 404, 409, 413, 422})

logger = logging.getLogger(__name__)


def is_refusal(error: BaseException) -> bool:
    """Whether a server has understood a request and will never take it."""
    return isinstance(error, MlflowException) and error.get_http_status_code() in _REFUSALS


def why(error: BaseException) -> str:
    """Why a call to MLflow has failed: what the network or the system says, or the first line of MLflow's error."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, (Timeout, TimeoutError)):
            return "no answer in time"
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        if isinstance(link, ConnectionError):
            return str(link)
        link = link.__cause__ or link.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class RunLog:
    """A thread that makes all calls to MLflow, and a file of entries that it has not sent yet.

    :meth:`add` only appends a line to the file, whatever the server does. The thread sends the entries in their order;
    while the server does not answer, it tries again after growing pauses. The log says once that a server is away and
    once that it is back. Since the file is the queue, a kill loses no entry, and a long outage takes no memory. A point
    that is sent twice, as when its answer was lost, has the same time, and MLflow keeps it once.

    Since only this thread calls MLflow, a signal to the main thread breaks off no call, and no database stays locked.

    Args:
        path: file for the entries; it exists while there are any.
        address: the server, for the log.
        send: is called in the thread with entries of one kind, up to as many as one request holds; raises if it fails.

    Example:
        >>> import tempfile
        >>> from medseg_monai.handlers.run_log import RunLog
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = RunLog(f"{folder}/unsent.jsonl", "a list", print)
        ...     log.add({"artifact": "config.json"})
        ...     sent = log.wait(patience=5)
        ...     log.stop()
        [{'artifact': 'config.json'}]
        >>> sent, log.lost
        (True, 0)
    """

    def __init__(
        self, path: str | os.PathLike[str], address: str, send: Callable[[list[dict[str, Any]]], object]
    ) -> None:
        self.path = Path(path)
        self.address = address
        self.lost = 0
        self.reason = ""
        self._send = send
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # of the file and its numbers
        self._sent = 0  # bytes of the file
        self._pause = 0.0
        self._next_try = 0.0
        self._answered = 0.0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Keep an entry for MLflow.

        Args:
            entry: plain values; ``"metrics"`` holds a list of points, and other kinds are sent one by one.

        Raises:
            OSError: the file cannot be written.
        """
        self._append([entry])
        self._do(self._send_next)

    def read(self) -> list[dict[str, Any]]:
        """The entries that an earlier process has left; a line that a kill has cut off is none."""
        return list(_parsed(self.path.read_bytes().splitlines())) if self.path.exists() else []

    def replace(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Send these entries instead of those that an earlier process has left.

        Args:
            entries: the entries.
        """
        with self._lock:
            self._sent = 0
            self.path.unlink(missing_ok=True)
        for entry in entries:
            self.add(entry)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:
        """Call a function in the thread, after what it is doing, and wait for its result.

        Args:
            function: function that calls MLflow.
            arguments: its arguments.
            timeout: seconds to wait; ``None`` waits as long as it takes.

        Raises:
            NoAnswerError: there is no result by then.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._do(run)
        return future.result(timeout)

    def wait(self, patience: float, limit: float | None = None) -> bool:
        """Wait until MLflow has every entry.

        Args:
            patience: seconds without an answer after which to give up.
            limit: seconds after which to give up even though entries are being sent; ``None`` for no limit.

        Returns:
            whether it has them all.
        """
        began = time.monotonic()
        self._pause, self._next_try = min(self._pause, _SHORTEST_PAUSE_S / 2), 0.0
        self._do(self._send_next)
        while self._unsent():
            now = time.monotonic()
            if now - max(began, self._answered) > patience or (limit is not None and now - began > limit):
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        """End the thread, after what it is doing unless that takes long, and remove the file if nothing is left."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(1)
            self._thread = None
        with self._lock:
            if not self._size():
                self.path.unlink(missing_ok=True)

    def _do(self, job: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="MLflow", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._pause or None)
            except queue.Empty:
                job = self._send_next
            if job is None:
                return
            job()

    def _send_next(self) -> None:
        """Send what one request holds; the rest comes after what else is to be done."""
        if time.monotonic() < self._next_try:
            return
        entries, size = self._next()
        if not entries and not size:
            return
        try:
            if entries:
                self._send(entries)
        except Exception as error:
            if isinstance(error, (MlflowException, OSError)) and not is_refusal(error):
                self._fail(error)
                return
            self.reason = why(error)
            if not self.lost:
                logger.warning("%s: MLflow does not take an entry of this training: %s", self.address, self.reason)
            self.lost += len(entries)
        if self._pause:
            logger.info("%s: answers again; MLflow gets what has waited for it.", self.address)
        self._pause, self._answered = 0.0, time.monotonic()
        self._mark_sent(size)
        self._do(self._send_next)

    def _fail(self, error: Exception) -> None:
        self.reason = why(error)
        if not self._pause:
            logger.warning(
                "%s: MLflow does not answer; the training goes on, and %s keeps what is to be logged (%s).",
                self.address,
                self.path,
                self.reason,
            )
        self._pause = min(max(2 * self._pause, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        self._next_try = time.monotonic() + self._pause

    def _append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        try:
            with self._lock, self.path.open("ab", buffering=0) as stream:  # a kill loses nothing that was written
                stream.write(text.encode())
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror}); make room and resume.") from error

    def _next(self) -> tuple[list[dict[str, Any]], int]:
        """The next entries of one kind, and their bytes in the file."""
        with self._lock:
            if not self._size():
                return [], 0
            with self.path.open("rb") as stream:
                stream.seek(self._sent)
                lines = [line for line, _ in zip(stream, range(_POINTS), strict=False)]
        entries: list[dict[str, Any]] = []
        size = points = 0
        for line in lines:
            parsed = list(_parsed([line]))
            points += sum(len(entry.get("metrics", [])) or _POINTS for entry in parsed)
            if entries and points > _POINTS:
                break
            entries += parsed
            size += len(line)
        return entries, size

    def _mark_sent(self, size: int) -> None:
        with self._lock:
            self._sent += size
            if self._sent >= self._size():
                self.path.write_bytes(b"")
                self._sent = 0

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _unsent(self) -> int:
        with self._lock:
            return self._size() - self._sent


def _parsed(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry
