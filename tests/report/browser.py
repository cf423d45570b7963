"""A headless Chromium over its debugging pipe: enough to open a page, listen to it and ask it things.

with Chromium() as browser:
    page = browser.open("file:///...")
    page.evaluate("document.title")
    page.requests, page.errors
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import pytest

TIMEOUT_S = 60
DRAWN = "document.documentElement.dataset.drawn === 'true'"  # what a page with figures says when it is done
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = (
    "No Chromium on PATH, and this test opens the report in one. Install it (Debian, Ubuntu: apt-get install chromium)."
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"
).split()


def needed() -> None:
    """Leave the test, or fail it in CI, where there is no browser."""
    if executable() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(INSTALL)


def executable() -> str | None:
    """The first browser found."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser process; commands go in by a pipe, answers and events out by another, each ended by a zero byte."""

    def __enter__(self) -> Chromium:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        wire = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        command = ["bash", "-c", wire, "bash", executable() or "chromium", *FLAGS, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(
            command, pass_fds=(read_commands, write_answers), stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(read_commands)
        os.close(write_answers)
        self.buffer, self.events, self.last_id = b"", [], 0
        return self

    def __exit__(self, *exception: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events on the way are kept."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], TIMEOUT_S)
            assert ready, f"Chromium said nothing for {TIMEOUT_S} s"
            received = os.read(self.answers, 1 << 20)
            assert received, "Chromium ended"
            self.buffer += received
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str, width: int = 1300, dark: bool = False) -> Page:
        """Open a page and wait until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        self.events.clear()
        self.call("Page.navigate", session, url=url)
        page = Page(self, session)
        while not page.event("Page.loadEventFired"):
            self.events.append(self.receive())
        return page


class Page:
    """An open page."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.perf_counter() + TIMEOUT_S
        while not self.evaluate(condition):
            assert time.perf_counter() < deadline, f"not true within {TIMEOUT_S} s: {condition}"
            time.sleep(0.05)

    def event(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a kind so far."""
        return [event["params"] for event in self.browser.events if event.get("method") == method]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.browser.call("Runtime.evaluate", self.session, **options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as by hand: whatever has the focus hears of it first."""
        text = {"text": key} if len(key) == 1 else {}
        self.browser.call("Input.dispatchKeyEvent", self.session, type="keyDown", key=key, **text)
        self.browser.call("Input.dispatchKeyEvent", self.session, type="keyUp", key=key)

    def names_of_controls(self) -> list[tuple[str, str]]:
        """(role, name) of all that a reader can operate, as a screen reader is told."""
        roles = {"button", "checkbox", "combobox", "DisclosureTriangle", "link", "searchbox", "spinbutton", "textbox"}
        nodes = self.browser.call("Accessibility.getFullAXTree", self.session)["nodes"]
        told = [(node["role"]["value"], node["name"]["value"]) for node in nodes if not node["ignored"]]
        return [(role, name) for role, name in told if role in roles]

    @property
    def errors(self) -> list[Any]:
        """Uncaught exceptions, console errors and warnings, and what the browser logged about the page."""
        console = [e for e in self.event("Runtime.consoleAPICalled") if e["type"] in ("error", "warning", "assert")]
        return [*self.event("Runtime.exceptionThrown"), *console, *self.event("Log.entryAdded")]

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and data: included."""
        return [event["request"]["url"] for event in self.event("Network.requestWillBeSent")]
