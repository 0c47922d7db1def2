"""The publisher's commands against the real server, as processes."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest

from nuitkal_mini.manifest import loads
from nuitkal_mini.zip_read import read_tree as tree_of_package

from .conftest import write
from .test_commands import environment, run


class Live(NamedTuple):
    base: str
    token: str
    data: Path

    def publish(
        self, command: str, *arguments: Any, channel: str = ""
    ) -> subprocess.CompletedProcess[str]:
        base = self.base + (f"channels/{channel}/" if channel else "")
        return run(command, *arguments, "--server", base, env=environment(NUITKAL_TOKEN=self.token))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base + path) as response:
            content: bytes = response.read()
        return content

    def check(self, channel: str = "") -> Dict[str, Any]:
        release: Dict[str, Any] = json.loads(
            self.get(f"channels/{channel}/check/" if channel else "check/")
        )
        return release


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    data = tmp_path_factory.mktemp("data")
    server = [sys.executable, "-m", "nuitkal_mini.server"]
    token = subprocess.run(
        [*server, "token", "create", "tests", "--data", str(data)],
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    with subprocess.Popen(
        [*server, "--data", str(data), "--port", "0"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = next(
                line for line in process.stdout if line.startswith("Serving on ")
            ).split()[-1]
            yield Live(address + "api/nuitkal_pack/", token, data)
        finally:
            process.terminate()


def released(live: Live, release: Dict[str, Any]) -> List[str]:
    """The paths of a release whose package is what its manifest says."""
    with urllib.request.urlopen(release["manifest_url"]) as response:
        manifest = loads(response.read())
    with urllib.request.urlopen(release["download_url"]) as response:
        assert (
            tree_of_package(io.BytesIO(response.read()), manifest.app, manifest.version) == manifest
        )
    return [entry.path for entry in manifest.files]


def test_publish_change_publish_promote_go_back(live: Live, program: Path) -> None:
    if os.name != "nt":
        (program / "start").symlink_to("lib/tool.sh")
    first = live.publish(
        "upload",
        program,
        "--app",
        "story",
        "--version",
        "1.0.0",
        "--changelog",
        "first\nрелиз",
        channel="story",
    )
    assert first.stdout == "uploaded 1.0.0: 4 of 4 files sent, 0.1 MB of 0.1 MB\n", first.stderr
    assert live.check("story")["changelog"] == "first\nрелиз"

    write(program, "main.py", b"print('hello again')\n")
    write(program, "lib/new.py", b"")
    second = live.publish(
        "upload", program, "--app", "story", "--version", "1.0.1", "--inactive", channel="story"
    )
    assert second.stdout == "uploaded 1.0.1: 1 of 5 files sent, 0.0 MB of 0.1 MB\n"
    assert live.check("story")["version"] == "1.0.0"

    assert live.publish("activate", "1.0.1", channel="story").stdout == "1.0.1 is active\n"
    assert "lib/new.py" in released(live, live.check("story"))

    promoted = live.publish("promote", "1.0.1", "--from", "story", channel="stable-story")
    assert promoted.stdout == "promoted 1.0.1 from story; it is active\n"
    assert live.check("stable-story")["file_hash"] == live.check("story")["file_hash"]

    assert live.publish("activate", "1.0", channel="story").stdout == "1.0.0 is active\n"
    assert "lib/new.py" not in released(live, live.check("story"))


def test_uploading_again_is_fine_with_the_same_content_and_refused_with_other(
    live: Live, program: Path
) -> None:
    upload: List[Any] = ["upload", program, "--app", "again", "--version", "1.0.0"]
    assert live.publish(*upload, channel="again").returncode == 0
    repeated = live.publish(*upload, channel="again")
    assert (repeated.returncode, repeated.stdout) == (
        0,
        "1.0.0 is on the server with the same content; nothing to send\n",
    )
    write(program, "main.py", b"")
    changed = live.publish(*upload, channel="again")
    assert changed.returncode == 1 and changed.stderr.splitlines()[-1].endswith(
        "choose a new version number"
    )
    assert (
        live.publish(
            "upload", program, "--app", "another", "--version", "2.0.0", channel="again"
        ).returncode
        == 1
    )


def test_the_servers_sentences_arrive_in_english(live: Live, program: Path) -> None:
    assert live.publish("activate", "9.9.9").stderr.startswith("error: the server refused: ")
    assert live.publish("activate", "9.9.9").stderr.isascii()
    wrong = run("activate", "1.0.0", "--server", live.base, "--token", "wr0ng")
    assert wrong.returncode == 1 and wrong.stderr.isascii() and "check --token" in wrong.stderr
    lost = run(
        "activate", "1.0.0", "--server", live.base.replace("api/", "app/"), "--token", live.token
    )
    assert lost.returncode == 1 and "the API's base" in lost.stderr


def test_a_release_is_signed_on_upload_and_again_later(
    live: Live, program: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    assert run("keygen", key).returncode == 0
    assert (
        live.publish(
            "upload",
            program,
            "--app",
            "signed",
            "--version",
            "1.0.0",
            "--key",
            key,
            channel="signed",
        ).returncode
        == 0
    )
    first = live.check("signed")["signature"]
    assert "app:signed\tversion:1.0.0" in first
    assert live.publish("resign", "1.0.0", "--key", key, channel="signed").returncode == 0
    assert live.check("signed")["signature"].startswith(first.splitlines()[0])


def test_a_large_tree_is_sent_once(live: Live, program: Path) -> None:
    generator = random.Random(7)
    for number in range(300):
        write(
            program,
            f"data/{number // 20}/{number}",
            generator.getrandbits(8 * 3000).to_bytes(3000, "big"),
        )
    write(program, "blob", generator.getrandbits(8 * 3_000_000).to_bytes(3_000_000, "big"))
    first = live.publish(
        "upload", program, "--app", "large", "--version", "1", channel="large"
    ).stdout
    assert " of 305 files sent, " in first and first.endswith(
        " MB of 4.0 MB\n"
    )  # some are known from other channels
    write(program, "data/3/61", b"changed")
    assert (
        live.publish("upload", program, "--app", "large", "--version", "2", channel="large").stdout
        == "uploaded 2: 1 of 305 files sent, 0.0 MB of 4.0 MB\n"
    )
    assert len(released(live, live.check("large"))) == 305
