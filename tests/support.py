"""What the tests ask of the machine.

On a developer's machine a missing tool skips its tests; in CI, which installs them all, it fails
them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn, Optional

import pytest


def need_tool(name: str) -> str:
    """The path of a command, or the end of this test."""
    path = shutil.which(name)
    return path if path is not None else unavailable("%s is not installed" % name)


def unavailable(reason: str) -> NoReturn:
    if (
        os.environ.get("CI") and os.name != "nt"
    ):  # the Windows that CI has, Wine's, brings no tools along
        pytest.fail("CI must not skip: " + reason, pytrace=False)
    pytest.skip(reason)


def peak_kilobytes() -> int:
    """The most memory that this process has had so far.

    Windows counts elsewhere: 0 there, and the limits are held on POSIX.
    """
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1024 if sys.platform == "darwin" else 1
    )


ROOT = Path(__file__).parent.parent
START_SECONDS = 30.0  # a loaded machine; usually 0.3


class RunningServer:
    """`python -m nuitkal_mini.server` on a free port.

    `url` ends with a slash, `api` is the base of its API, `token` may publish.
    """

    def __init__(self, data: Path, *args: str) -> None:
        self.data = data
        self._log = tempfile.TemporaryFile()
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "nuitkal_mini.server",
            "--port",
            "0",
            "--data",
            str(data),
            *(() if "--deltas" in args else ("--deltas", "0")),  # else a process an upload
            *args,
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log
        )
        assert self.process.stdout is not None
        ready = re.match(rb"Serving on (https?://\S+/)", self.process.stdout.readline())
        if ready is None:
            self.kill()
            raise AssertionError("the server did not start:\n" + self.log())
        self.url = ready[1].decode()
        self.api = self.url + "api/nuitkal_pack/"
        shown = re.search(r"password: (\S+)\n  token: (\S+)", self.log())
        self.password: Optional[str] = (
            shown[1] if shown else None
        )  # of `admin`, when the data folder was new
        self.token = shown[2] if shown else self._new_token()

    def _new_token(self) -> str:
        from nuitkal_mini.server.auth import create_token
        from nuitkal_mini.server.store import open_database

        database = open_database(self.data)
        try:
            return create_token(database, f"of process {self.process.pid}", "tests")
        finally:
            database.close()

    def log(self) -> str:
        """What the server has written to stderr so far."""
        return os.pread(self._log.fileno(), 2**20, 0).decode()

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self.process.terminate()
        return self._wait()

    def kill(self) -> int:
        """End it as a power cut does."""
        self.process.kill()
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(START_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.stop()
        self._log.close()


def start_server(data: Path, *args: str) -> RunningServer:
    """A server of its own process over a data folder, once it accepts connections.

    A context manager.
    """
    return RunningServer(data, *args)
