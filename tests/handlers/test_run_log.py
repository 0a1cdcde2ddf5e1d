"""Entries for MLflow that a server gets when it can, in order and once, and that never hold up who adds them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, RestException

from medseg_monai.handlers.run_log import NoAnswerError, RunLog, is_refusal, why

ADDRESS = "http://mlflow.example"


class Server:
    """Takes entries, unless it is away or hangs."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.requests: list[int] = []
        self.is_away = False
        self.refused: str | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()

    def send(self, entries: list[dict[str, Any]]) -> None:
        self.goes_on.wait(30)
        if self.is_away:
            raise MlflowException("API request failed with exception: Connection refused\nand more")
        if self.refused and any(entry.get("artifact") == self.refused for entry in entries):
            raise RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no such thing"})
        self.requests.append(len(entries))
        self.taken += entries


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr("medseg_monai.handlers.run_log._SHORTEST_PAUSE_S", 0.02)
    monkeypatch.setattr("medseg_monai.handlers.run_log._LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def log(tmp_path: Path, server: Server):
    running = RunLog(tmp_path / "unsent.jsonl", ADDRESS, server.send)
    yield running
    server.goes_on.set()
    running.stop()


def point(step: int) -> dict[str, Any]:
    return {"metrics": [["loss", 0.5 / step, 1700000000000 + step, step]]}


def test_entries_arrive_in_their_order_and_the_file_is_gone(log, server, tmp_path):
    entries = [point(1), {"artifact": "a.png"}, point(2), point(3)]
    for entry in entries:
        log.add(entry)
    assert log.wait(patience=10)
    assert server.taken == entries
    log.stop()
    assert list(tmp_path.iterdir()) == []


def test_points_that_have_waited_go_in_requests_that_mlflow_takes(log, server):
    server.goes_on.clear()
    for step in range(1, 2501):
        log.add(point(step))
    server.goes_on.set()
    assert log.wait(patience=10)
    assert server.taken == [point(step) for step in range(1, 2501)]
    assert max(server.requests) <= 1000
    assert len(server.requests) < 10


def test_a_server_that_is_away_is_said_once_and_gets_everything_when_it_is_back(log, server, caplog):
    caplog.set_level(logging.INFO, logger="medseg_monai")
    server.is_away = True
    for step in range(1, 6):
        log.add(point(step))
    assert not log.wait(patience=0.3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(f"{ADDRESS}: MLflow does not answer; the training goes on, and ")
    assert "\n" not in caplog.messages[0]
    server.is_away = False
    assert log.wait(patience=10)
    assert server.taken == [point(step) for step in range(1, 6)]
    assert caplog.messages[1:] == [f"{ADDRESS}: answers again; MLflow gets what has waited for it."]


def test_what_is_unsent_is_left_to_the_next_process_but_for_a_line_that_was_cut_off(log, server, tmp_path):
    server.is_away = True
    log.add(point(1))
    log.add(point(2))
    log.stop()
    with log.path.open("a") as stream:
        stream.write('{"metrics": [["lo')
    after = Server()
    resumed = RunLog(log.path, ADDRESS, after.send)
    assert resumed.read() == [point(1), point(2)]
    resumed.replace(resumed.read()[1:])
    assert resumed.wait(patience=10)
    assert after.taken == [point(2)]
    resumed.stop()


def test_an_entry_that_a_server_will_never_take_is_counted_and_holds_up_no_other(log, server, caplog):
    server.refused = "bad.png"
    for entry in ({"artifact": "bad.png"}, point(1), {"artifact": "bad.png"}, {"artifact": "good.png"}):
        log.add(entry)
    assert log.wait(patience=10)
    assert server.taken == [point(1), {"artifact": "good.png"}]
    assert log.lost == 2
    assert caplog.messages == [
        f"{ADDRESS}: MLflow does not take an entry of this training: INVALID_PARAMETER_VALUE: no such thing"
    ]


def test_nobody_waits_for_a_server_that_hangs(log, server):
    server.goes_on.clear()
    log.add(point(1))
    assert not log.wait(patience=0.1)
    with pytest.raises(NoAnswerError):
        log.call(len, [], timeout=0.1)
    server.goes_on.set()
    assert log.call(len, [1, 2]) == 2
    assert server.taken == [point(1)]


def test_an_error_of_a_call_is_raised_where_the_call_was_made(log):
    with pytest.raises(ZeroDivisionError):
        log.call(lambda: 1 / 0)
    assert log.call(threading.current_thread).name == "MLflow"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("INVALID_PARAMETER_VALUE", True),
        ("RESOURCE_DOES_NOT_EXIST", True),
        ("TEMPORARILY_UNAVAILABLE", False),
        ("REQUEST_LIMIT_EXCEEDED", False),
        ("PERMISSION_DENIED", False),
    ],
)
def test_only_what_can_never_be_taken_is_given_up(code, expected):
    assert is_refusal(RestException({"error_code": code, "message": "no"})) is expected


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ConnectionResetError("Remote end closed connection"), "Remote end closed connection"),
        (TimeoutError(), "no answer in time"),
        (None, "API request failed"),
    ],
)
def test_the_reason_is_the_systems_own_word(cause, reason):
    error = MlflowException("API request failed\nwith much more")
    error.__context__ = cause
    assert why(error) == reason
