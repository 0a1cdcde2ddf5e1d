"""Programs that the tests start on loopback and end by their process."""

from __future__ import annotations

import signal
import socket
import subprocess

__all__ = ["end", "free_port"]

_PATIENCE_S = 30


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Ask a program to end, and kill it if it does not."""
    process.send_signal(how)
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
