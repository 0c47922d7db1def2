"""Headless Chromium over the W3C WebDriver protocol (w3.org/TR/webdriver2), with urllib.

`Browser()` starts chromedriver and one Chromium; `page.find(css)` waits for an element, as a person
would.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional

from .support import need_tool

WAIT_SECONDS = 10.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of a reference to an element
# Without them Chromium looks for Google's hosts at each start.
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


class WebDriverError(Exception):
    """What the driver answered instead."""


class Element:
    """A reference to an element of the page that was there when it was found."""

    def __init__(self, browser: Browser, reference: str) -> None:
        self._browser = browser
        self._path = f"element/{reference}/"
        self.reference = {ELEMENT: reference}

    @property
    def text(self) -> str:
        return str(self._browser.call("GET", self._path + "text"))

    def property(self, name: str) -> Any:
        return self._browser.call("GET", self._path + "property/" + name)

    def click(self) -> None:
        self._browser.call("POST", self._path + "click", {})

    def type(self, text: str) -> None:
        """Type over what is there; into a file input, the path of a file."""
        if self.property("type") != "file":
            self._browser.call("POST", self._path + "clear", {})
        self._browser.call("POST", self._path + "value", {"text": text})


class Browser:
    """A browser with an empty profile; a context manager."""

    def __init__(
        self, language: str = "en", scripts: bool = True, width: int = 1280, height: int = 900
    ) -> None:
        binary, driver = need_tool("chromium"), need_tool("chromedriver")
        self._profile = tempfile.TemporaryDirectory(prefix="browser-")
        self._driver = subprocess.Popen(
            [driver, "--port=0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._base = f"http://127.0.0.1:{self._port()}/"
        options: Dict[str, Any] = {
            "binary": binary,
            "args": [
                *FLAGS,
                f"--user-data-dir={self._profile.name}",
                f"--window-size={width},{height}",
            ],
            "prefs": {
                "intl.accept_languages": language,
                "profile.managed_default_content_settings.javascript": 1 if scripts else 2,
                "credentials_enable_service": False,
                "profile.password_manager_leak_detection": False,
            },
        }
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": options,
        }
        made = self._ask("POST", self._base + "session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"{self._base}session/{made['sessionId']}/"

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            found = re.search(rb"started successfully on port (\d+)", line)
            if found:
                return int(found[1])
        raise WebDriverError("chromedriver did not start")

    def call(self, method: str, command: str, body: Optional[Dict[str, Any]] = None) -> Any:
        """One command of the protocol."""
        return self._ask(method, self._session + command, body)

    def _ask(self, method: str, url: str, body: Optional[Dict[str, Any]]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            url, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            with error:
                told = json.load(error)["value"]
            raise WebDriverError(f"{told['error']}: {told['message']}") from error

    # --- what a person does

    def open(self, url: str) -> None:
        self.call("POST", "url", {"url": url})

    @property
    def url(self) -> str:
        return str(self.call("GET", "url"))

    def find_all(self, css: str) -> List[Element]:
        found = self.call("POST", "elements", {"using": "css selector", "value": css})
        return [Element(self, item[ELEMENT]) for item in found]

    def find(self, css: str) -> Element:
        """The first such element, once there is one."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = self.find_all(css)
            if found:
                return found[0]
            if time.monotonic() > deadline:
                raise WebDriverError(
                    f"no {css} at {self.url}: {self.find_all('body')[0].text[:400]}"
                )
            time.sleep(0.05)

    def fill(self, **fields: str) -> None:
        for name, text in fields.items():
            self.find(f"main [name={name}]").type(text)

    def run(self, script: str, *args: Any) -> Any:
        return self.call("POST", "execute/sync", {"script": script, "args": list(args)})

    def complaints(self) -> List[str]:
        """What the console has said since it was last asked.

        Errors, violations of the content security policy.
        """
        return [
            entry["message"]
            for entry in self.call("POST", "se/log", {"type": "browser"})
            if entry["level"] in ("WARNING", "SEVERE")
        ]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "screenshot")))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._ask("DELETE", self._session.rstrip("/"), None)
        finally:
            self._driver.terminate()
            self._driver.wait()
            assert self._driver.stdout is not None
            self._driver.stdout.close()
            self._profile.cleanup()
