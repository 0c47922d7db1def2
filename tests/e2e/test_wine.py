"""The main job between two systems.

The server and the publisher on Linux, the client on a CPython for Windows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import ROOT, need_tool, start_server
from ..trees import read_tree, write_tree
from ..windows.wine import awake, python_exe, windows_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Wine is Linux's way to Windows"),
]
OURS = (".update", ".backup", "local_version.json")


def test_a_windows_client_follows_a_server_on_linux_there_and_back(tmp_path: Path) -> None:
    need_tool("wine")
    windows, app, user = python_exe("3.11"), tmp_path / "app", tmp_path / "user"
    with start_server(tmp_path / "data") as server, awake(windows):

        def publish(*arguments: object) -> None:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "nuitkal_mini.publish",
                    *map(str, arguments),
                    "--server",
                    server.api,
                    "--token",
                    server.token,
                ],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        def run() -> str:
            child = windows.popen(
                "-m",
                "nuitkal_mini.client",
                "run",
                "--url",
                server.api + "check/",
                "--dir",
                windows_path(user),
                "--",
                "an argument",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = child.communicate()
            assert child.returncode == 7, err.decode("utf-8", "replace")
            return out.decode().strip()

        for version in ("1.0.0", "1.0.1"):
            write_tree(
                app,
                {
                    "main.py": (
                        f"import sys\nprint({version!r}, sys.platform, sys.argv[1])\n"
                        "sys.exit(7)\n".encode(),
                        "644",
                    ),
                    f"lib/{version}": (b"x" * 1000, "644"),
                },
            )
            publish("upload", app, "--app", "windows", "--version", version)
            assert run() == f"{version} win32 an argument"
        assert read_tree(user, OURS).keys() == read_tree(app).keys()
        publish("activate", "1.0.0")
        assert run() == "1.0.0 win32 an argument"
        assert "lib/1.0.1" not in read_tree(user, OURS)
