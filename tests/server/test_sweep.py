"""The server ended at its disk operations: a sample in the plain tests, all of them with `-m slow`;
and a real one by kill -9.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import List

import pytest

from tests.support import ROOT, RunningServer, need_tool, start_server

from .caller import BOUNDARY, files_below, make_form, make_zip, sha256
from .sweep import WHOLE
from .test_main import begin_upload, request, upload

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="the sweep forks, and asks Linux for names"
)


def sweep(*args: str) -> int:
    """How many points were tried, of which none may be broken."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.sweep", *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
    return int(re.findall(r"^(\d+) kill points, 0 broken$", done.stdout, re.MULTILINE)[0])


def test_a_sample_of_all_ends_leaves_the_old_state_or_the_new_one() -> None:
    assert sweep("--every", "67") > 18


@pytest.mark.slow
def test_every_end_leaves_the_old_state_or_the_new_one() -> None:
    assert sweep() > 1000


@pytest.mark.slow
def test_the_restart_can_be_ended_anywhere_too() -> None:
    assert sweep("--every", "13", "--again", "1") > 1000


def test_a_server_killed_while_it_stores_an_upload_has_it_whole_or_not_at_all(data: Path) -> None:
    for number, delay_seconds in enumerate((0.0, 0.008)):  # an upload is stored in some 10 ms
        package = make_zip({"a": b"%d" % number, "big": bytes(500_000)})
        body = make_form({"version": f"{number}.0", "file": package})
        with start_server(data) as server, begin_upload(server, body, len(body) - 1) as client:
            client.sendall(body[-1:])
            time.sleep(delay_seconds)
            server.kill()
        with start_server(data) as server:
            whole(server, data)
            assert upload_again(server, body) in (201, 409)
            assert request(server, "check/")["version"] == f"{number}.0"
            assert len(whole(server, data)) == number + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "syscall", ["openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "mkdir", "rmdir"]
)
def test_a_server_killed_from_outside_at_any_system_call_of_an_upload_has_it_whole_or_not_at_all(
    tmp_path: Path, syscall: str
) -> None:
    """SQLite's calls are among them. strace counts by thread: one thread carries an upload out."""
    strace, calls, killed = need_tool("strace"), 0, True
    body = make_form({"version": "1.1", "file": WHOLE})
    with start_server(tmp_path / "prepared") as server:
        upload(server, "1.0", make_zip({"a": b"a"}))
    while killed:
        calls, data = calls + 1, tmp_path / str(calls)
        shutil.copytree(tmp_path / "prepared", data)
        with start_server(data) as server:
            rule = [f"trace={syscall}", f"inject={syscall}:signal=SIGKILL:when={calls}"]
            command = [
                strace,
                "-f",
                "-o",
                os.devnull,
                "-e",
                rule[0],
                "-e",
                rule[1],
                "-p",
                str(server.process.pid),
            ]
            with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
                assert tracer.stderr is not None and b"attached" in tracer.stderr.readline()
                try:
                    killed = upload_again(server, body) != 201
                except OSError:
                    killed = True
                server.kill()
        with start_server(data) as server:
            assert whole(server, data) in (["1.0"], ["1.1", "1.0"])
            assert upload_again(server, body) in (201, 409)
            assert (
                whole(server, data) == ["1.1", "1.0"]
                and request(server, "check/")["version"] == "1.1"
            )
    assert calls > 1
    print(f"{calls - 1} calls of {syscall}, 0 broken")


def whole(server: RunningServer, data: Path) -> List[str]:
    """The versions, each downloaded; no other file is there."""
    shown = request(server, "versions/")["versions"]
    for release in shown:
        with urllib.request.urlopen(release["download_url"]) as reply:
            assert sha256(reply.read()) == release["file_hash"]
    assert len(files_below(data / "media")) == 2 * len(shown)
    return [release["version"] for release in shown]


def upload_again(server: RunningServer, body: bytes) -> int:
    try:
        request(
            server, "upload/", body, **{"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        )
        return 201
    except urllib.error.HTTPError as error:
        with error:
            return error.code
