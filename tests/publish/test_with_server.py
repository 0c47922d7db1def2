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
from nuitkal_mini.minisign import parse_public_key, parse_signatures, verify
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
        packed = tree_of_package(io.BytesIO(response.read()), manifest.app, manifest.version)
        assert packed.files == manifest.files
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


# --- what is on the server


def upload(live: Live, program: Path, version: str, channel: str, *more: Any) -> str:
    done = live.publish(
        "upload", program, "--app", channel, "--version", version, *more, channel=channel
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(live: Live, channel: str) -> List[str]:
    found = json.loads(live.publish("list", "--json", channel=channel).stdout)
    return [release["version"] for release in found["versions"]]


def test_releases_are_listed_shown_deleted_and_pruned(live: Live, program: Path) -> None:
    for number in range(1, 6):
        upload(live, program, f"1.{number}", "kept", *(["--inactive"] if number > 2 else []))
    lines = live.publish("list", channel="kept").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1.5", "1.4", "1.3", "1.2", "1.1"]
    assert [line.endswith("active") for line in lines] == [False] * 3 + [True, False]
    shown = live.publish("show", "v1.3.0", channel="kept")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("1.3  20") and "signed by: nobody" in shown.stdout
    assert json.loads(live.publish("show", "1.3", "--json", channel="kept").stdout)["file_hash"]

    kept = live.publish("delete", "1.2", channel="kept")
    assert (kept.returncode, "1.2 is active; activate another" in kept.stderr) == (1, True)
    tried = live.publish("prune", "--keep", "1", "--dry-run", channel="kept")
    assert tried.stdout == "would delete 1.4, 1.3, 1.1\n" and len(listed(live, "kept")) == 5
    assert live.publish("delete", "1.4", channel="kept").stdout == "deleted 1.4\n"
    assert live.publish("prune", "--keep", "1", channel="kept").stdout == "deleted 1.3, 1.1\n"
    assert listed(live, "kept") == ["1.5", "1.2"]
    assert live.publish("prune", "--keep", "1", channel="kept").stdout == "deleted nothing\n"
    assert "9 is not on the server" in live.publish("show", "9", channel="kept").stderr


def test_a_dry_run_sends_nothing(live: Live, program: Path) -> None:
    write(program, "dry", os.urandom(2_000_000))
    said = upload(live, program, "1", "dry", "--dry-run")
    assert said.startswith("would upload 1: ") and "of 5 files sent" in said
    assert listed(live, "dry") == []


def test_the_channel_may_be_an_option(live: Live, program: Path, tmp_path: Path) -> None:
    log = write(tmp_path, "changes.txt", "\ufeffнове\n".encode())
    options = ["--app", "a", "--version", "1", "--channel", "win-x64", "--changelog-file", log]
    done = live.publish("upload", program, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["uploaded"] is True
    assert live.check("win-x64")["changelog"] == "нове\n"
    twice = live.publish("list", "--channel", "a", channel="b")
    assert twice.returncode == 1 and "names a channel already" in twice.stderr


def test_a_changelog_from_standard_input(live: Live, program: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nuitkal_mini.publish", "upload", str(program), "--app", "in"]
        + ["--version", "1", "--server", live.base, "--channel", "in", "--changelog-file", "-"],
        input=b"from a pipe",
        env=environment(NUITKAL_TOKEN=live.token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    assert live.check("in")["changelog"] == "from a pipe"


def test_the_main_program_is_named_and_missed(live: Live, program: Path) -> None:
    wrong = live.publish(
        "upload", program, "--app", "m", "--version", "1", "--main", "x.py", channel="m"
    )
    assert wrong.returncode == 1 and "--main x.py is not a file of" in wrong.stderr
    upload(live, program, "1", "m", "--main", "main.py")
    with urllib.request.urlopen(live.check("m")["manifest_url"]) as response:
        assert loads(response.read()).main == "main.py"
    (program / "main.py").rename(program / "other.py")
    warned = live.publish("upload", program, "--app", "m", "--version", "2", channel="m")
    assert warned.returncode == 0
    assert "warning: the release before (1) has main.py, this one has not" in warned.stderr
    quiet = live.publish(
        "upload", program, "--app", "m", "--version", "3", "--main", "other.py", channel="m"
    )
    assert "warning" not in quiet.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bits")
def test_a_lost_executable_bit_is_missed(live: Live, program: Path) -> None:
    upload(live, program, "1", "bits")
    (program / "lib/tool.sh").chmod(0o644)
    warned = live.publish("upload", program, "--app", "bits", "--version", "2", channel="bits")
    assert "lib/tool.sh was executable in the release before (1)" in warned.stderr


def test_keys_are_rotated_in_one_step(live: Live, program: Path, tmp_path: Path) -> None:
    keys = {name: tmp_path / name for name in ("old", "new", "newest")}
    for key in keys.values():
        assert run("keygen", key).returncode == 0
    public = {name: (tmp_path / f"{name}.pub").read_text().splitlines()[1] for name in keys}
    upload(live, program, "1", "keys", "--key", keys["old"], "--changelog", "one")

    def rotate(version: str, old: str, new: str) -> subprocess.CompletedProcess[str]:
        return live.publish(
            "rotate", "--key", keys[old], "--new", keys[new], "--version", version, channel="keys"
        )

    done = rotate("2", "old", "new")
    assert done.returncode == 0, done.stderr
    assert "Sign the following releases with the new key" in done.stdout
    active = live.check("keys")
    assert (active["version"], active["changelog"]) == ("2", "one")
    with urllib.request.urlopen(active["manifest_url"]) as response:
        content = response.read()
    assert loads(content).terms.keys == (public["old"], public["new"])
    assert len(parse_signatures(active["signature"])) == 2
    for name in ("old", "new"):
        assert verify([parse_public_key(public[name])], content, active["signature"])
    assert released(live, active)

    assert "not above the active version 2" in rotate("2.0", "new", "newest").stderr
    assert "among the keys of 2 already" in rotate("3", "new", "old").stderr
    assert "not among the trusted keys" in rotate("3", "newest", "new").stderr
    assert rotate("3", "new", "newest").returncode == 0
    with urllib.request.urlopen(live.check("keys")["manifest_url"]) as response:
        assert loads(response.read()).terms.keys == tuple(public.values())
    both = upload(live, program, "4", "keys", "--key", keys["new"], "--key", keys["newest"])
    assert both and len(parse_signatures(live.check("keys")["signature"])) == 2
