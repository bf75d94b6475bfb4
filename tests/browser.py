"""A headless Chromium under the tests' control, through its DevTools pipe; needs no other package.

https://chromedevtools.github.io/devtools-protocol/ says what can be asked of it.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""The browser, if there is one."""

_FLAGS = (
    "--headless",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    # Whatever is asked for outside fails at once.
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
)


@dataclass
class Page:
    """A page that was opened, and what happened while it was."""

    browser: "Browser"
    url: str
    requests: list[str] = field(default_factory=list)
    """URLs that were asked for, the page's own first."""
    complaints: list[str] = field(default_factory=list)
    """Lines of the console, exceptions, refusals of the page's policy, dialogues."""

    def ask(self, script: str) -> Any:
        """What an expression is in the page, as JSON."""
        found = self.browser.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, all of it or what the window shows."""
        shown = self.browser.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shown["data"]))

    def pdf(self) -> bytes:
        """The page on paper, A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        printed = self.browser.call("Page.printToPDF", printBackground=True, **paper)
        return base64.b64decode(printed["data"])


class Browser:
    """One tab of a Chromium."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._rest, self._number, self._session = b"", 0, ""
        self._page: Page | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, file: Path, width: int = 1200, *, dark: bool = False, media: str = "") -> Page:
        """Open a file in a window of so many CSS pixels, and wait until all of it is there."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        page = self._page = Page(self, file.resolve().as_uri())
        self.call("Page.navigate", url=page.url)
        while self._next().get("method") != "Page.loadEventFired":
            pass
        # Pictures that wait until they are scrolled to are asked for.
        page.ask("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
        done = "Promise.all([...document.images].map(img => img.decode().catch(() => 0)))"
        self.call("Runtime.evaluate", expression=done, awaitPromise=True)
        return page

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        """The next message, noted if it tells of the page."""
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 20)
            if not part:
                raise RuntimeError(f"chromium ended with code {self._process.wait()}")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if self._page is None:
            return
        if method == "Network.requestWillBeSent":
            self._page.requests.append(told["request"]["url"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self._page.complaints.append(json.dumps(told))
        elif method == "Page.javascriptDialogOpening":
            self._page.complaints.append(f"dialogue: {told['message']}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium with a profile of its own, and end it."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads from 3 and writes to 4.
        redirected = f'exec "$0" "$@" 3<&{to_read} 4>&{back_write}'
        process = subprocess.Popen(
            ["bash", "-c", redirected, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, back_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(back_write)
        try:
            yield Browser(process, to_write, back_read)
        finally:
            os.close(to_write)  # which ends it
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(back_read)
