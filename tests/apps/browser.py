"""A headless Chromium of Debian's, driven by Chrome's DevTools protocol over a pipe: no driver is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.apps.debian import environment_of, unpacked

__all__ = ["Browser", "open_browser"]

_SIZE = (1280, 720)

#: this machine alone: no name is resolved, and nothing runs that would ask somebody by itself
_OFFLINE = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)

#: and nothing that a container or a machine without screen and graphics card lacks; viewers draw with WebGL
_HEADLESS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--force-color-profile=srgb",
)


class Browser:
    """One page of a running Chromium.

    Attributes:
        events: what the browser has reported so far, oldest first.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._commands, self._answers = commands, answers
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        width, height = _SIZE
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Answer of the browser to a command of the protocol."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            message = self._next(deadline)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to a page; it is not waited for."""
        assert not self.call("Page.navigate", url=url).get("errorText")

    def evaluate(self, expression: str) -> Any:
        """Value of an expression of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Value of an expression once it is true in the page; fails with what is to be read on the page instead."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression}: not so on the page:\n{self.text()}\n{self.complaints()}"
            time.sleep(0.2)
        return value

    def wait_for_text(self, text: str, seconds: float = 60) -> None:
        """Wait until a text is to be read on the page."""
        self.wait_for(f"document.body && document.body.innerText.includes({json.dumps(text)})", seconds)

    def click(self, expression: str) -> None:
        """Press the left button on the middle of an element that an expression of JavaScript finds."""
        box = f"(() => {{ const box = ({expression}).getBoundingClientRect();"
        x, y = self.evaluate(box + " return [box.x + box.width / 2, box.y + box.height / 2]; })()")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> list[str]:
        """Addresses that the page asked for over the network, or tried to, in their order."""
        self.evaluate("0")  # takes in what has been reported
        refused = {
            event["params"]["requestId"]
            for event in self.events
            if event.get("method") == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp"
        }
        asked = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [(one["requestId"], one["request"]["url"]) for one in asked]
        return [url for number, url in urls if number not in refused and urlsplit(url).scheme not in ("data", "blob")]

    def complaints(self) -> list[str]:
        """Errors that the page has logged or not caught."""
        lines = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                lines.append(str(event["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                lines.append(f"{event['params']['entry']['text']} {event['params']['entry'].get('url', '')}")
        return lines

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            received = os.read(self._answers, 1 << 20)
            assert received, "Chromium has ended"
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with a profile of its own in ``folder``, where it also writes ``netlog.json`` and ``chromium.log``."""
    root = unpacked("chromium")
    packaged = root / "usr/lib/chromium/chromium"
    program = str(packaged) if packaged.is_file() else "/usr/bin/chromium"  # the machine may have it already
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [program, *_HEADLESS, *_OFFLINE, f"--user-data-dir={folder / 'profile'}"]
    arguments += ["--remote-debugging-pipe", f"--log-net-log={folder / 'netlog.json'}", "about:blank"]
    environment = environment_of(root)
    environment["LD_LIBRARY_PATH"] += f":{root}/usr/lib/x86_64-linux-gnu/pulseaudio"
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()

    def take_pipes() -> None:  # Chromium reads from 3 and writes to 4
        reading, writing = os.dup(to_read), os.dup(to_write)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")},
            preexec_fn=take_pipes,
            pass_fds=(3, 4),
        )
    os.close(to_read)
    os.close(to_write)
    try:
        browser = Browser(commands, answers)
        yield browser
        browser.call("Browser.close")
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
