"""Launchers and programs that Nuitka compiled: they update, start and replace themselves.

They also survive being killed. The standalone launcher is built with the package, the onefile one
with the vendored file, so that two builds cover both; the third build is a program.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pytest

from ..client.conftest import no_proxies, serve  # the fixtures
from ..client.site import Site
from ..support import need_tool
from ..trees import Tree, read_tree
from . import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="built on Linux"),
]
__all__ = ["no_proxies", "serve"]
HERE = Path(__file__).parent
OURS = (".update", ".backup", "local_version.json")
SCRIPT = b"""#!/bin/sh
echo "program version 1 [$*]"
read line && echo "read $line"
exit 7
"""


class Launcher(NamedTuple):
    """A compiled launcher, and how to make its next version."""

    made: Path
    mode: str

    def version(self, number: int) -> bytes:
        """The launcher's binary as version 1 to 9, which differ in one digit."""
        content = self.made.read_bytes()
        first = b"launcher version 1"
        assert content.count(first) == 1
        return content.replace(first, first[:-1] + b"%d" % number)


@pytest.fixture(scope="module")
def standalone_program() -> Path:
    return build.binary((HERE / "program.py").read_text(encoding="utf-8"), "standalone", {})


@pytest.fixture(scope="module", params=["standalone with the package", "onefile with one file"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    script = (HERE / "launcher.py").read_text(encoding="utf-8")
    if request.param.startswith("onefile"):
        return Launcher(build.binary(script, "onefile", build.one_file()), "onefile")
    return Launcher(
        build.binary(
            script.replace("from nuitkal_update", "from nuitkal_mini"),
            "standalone",
            build.package(),
        ),
        "standalone",
    )


@pytest.fixture
def site(serve: Any) -> Site:
    return Site(serve)


def environment(site: Site, tmp_path: Path, **more: str) -> Dict[str, str]:
    scratch = tmp_path / "tmp"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "TEST_URL": site.url, "TMPDIR": str(scratch), **more}


def start(program: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def program_tree(kind: str, standalone_program: Path) -> Tree:
    if kind == "a Python program":
        return {"main.py": ((HERE / "program.py").read_bytes(), "644"), "lib/data": (b"1", "644")}
    if kind == "a shell script":
        return {"main.sh": (SCRIPT, "644"), "lib/data": (b"1", "644")}
    return {f"program/{path}": item for path, item in read_tree(standalone_program.parent).items()}


MAINS = {
    "a Python program": "main.py",
    "a shell script": "main.sh",
    "a standalone program": "program/start.bin",
}


def next_release(tree: Tree) -> Tree:
    return {
        path: (item[0].replace(b"program version 1", b"program version 2"), item[1])
        if not isinstance(item, str)
        else item
        for path, item in tree.items()
    }


@pytest.mark.parametrize("kind", MAINS)
def test_it_installs_updates_and_starts(
    launcher: Launcher, standalone_program: Path, site: Site, tmp_path: Path, kind: str
) -> None:
    own = build.copy_to(tmp_path / "My 程序", launcher.made)
    tree = program_tree(kind, standalone_program)
    env = environment(site, tmp_path, TEST_MAIN=MAINS[kind])
    for version, release in (("1", tree), ("2", next_release(tree))):
        site.publish(f"1.0.{version}", release)
        child = start(own, "a b", '"', env=env, cwd="/")
        out, err = child.communicate(b"typed\n")
        assert child.returncode == 7, err.decode()
        assert (
            out.startswith(f"program version {version}".encode())
            and b"read typed" in out
            and b"a b" in out
        ), out
        assert b"LD_LIBRARY_PATH None" in out or kind == "a shell script"
    assert read_tree(own.parent / "app", without=OURS) == next_release(tree)


@pytest.mark.parametrize("way", ["its path", "a bare name on PATH", "a link", "a relative path"])
def test_it_finds_its_folder_whatever_way_it_was_started(
    launcher: Launcher, site: Site, tmp_path: Path, way: str
) -> None:
    own = build.copy_to(tmp_path / "a place", launcher.made)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "other-name").symlink_to(own)
    site.publish("1.0.0", {"main.sh": (SCRIPT, "644")})
    program, folder, search = {
        "its path": (str(own), "/", ""),
        "a bare name on PATH": (own.name, "/", f"{own.parent}:"),
        "a link": ("other-name", "/", f"{tmp_path}/links:"),
        "a relative path": (f"{own.parent.name}/{own.name}", str(tmp_path), ""),
    }[way]
    env = environment(site, tmp_path, TEST_MAIN="main.sh", PATH=search + os.environ["PATH"])
    done = subprocess.run(
        ["env", program], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert done.returncode == 7 and (own.parent / "app" / "main.sh").exists()


def test_a_signal_reaches_the_program_and_its_exit_code_comes_back(
    launcher: Launcher, standalone_program: Path, site: Site, tmp_path: Path
) -> None:
    own = build.copy_to(tmp_path / "own", launcher.made)
    site.publish("1.0.0", program_tree("a Python program", standalone_program))
    child = start(own, "wait", env=environment(site, tmp_path))
    assert child.stdout is not None
    for line in child.stdout:
        if line == b"ready\n":
            break
    child.send_signal(signal.SIGTERM)
    rest, err = child.communicate()
    arrives = (
        signal.SIGINT if launcher.mode == "onefile" else signal.SIGTERM
    )  # Nuitka's bootstrap makes a Ctrl-C of what it gets
    assert rest == b"signal %d\n" % arrives and b"Traceback" not in err, err.decode()
    assert child.returncode == 33 or launcher.mode == "onefile", child.returncode
    print("exit code of", launcher.mode, child.returncode)


# --- it updates itself ----------------------------------------------------------------------------


def own_release(launcher: Launcher, number: int) -> Tree:
    """A release with the launcher in it, beside what it starts."""
    return {
        "start.bin": (launcher.version(number), "755"),
        "main.sh": (SCRIPT.replace(b"version 1", b"version %d" % number), "644"),
        "lib/data": (b"%d" % number * 1000, "644"),
    }


def said_version(own: Path, env: Dict[str, str]) -> str:
    return (
        subprocess.run(
            [str(own)], env={**env, "TEST_VERB": "version"}, stdout=subprocess.PIPE, check=True
        )
        .stdout.decode()
        .strip()
    )


def test_it_replaces_itself_while_it_runs_and_the_next_start_is_the_new_one(
    launcher: Launcher, site: Site, tmp_path: Path
) -> None:
    own = build.copy_to(tmp_path / "own", launcher.made)
    env = environment(site, tmp_path, TEST_DIR=".", TEST_MAIN="main.sh")
    site.publish("1.0.1", own_release(launcher, 1))
    assert subprocess.run([str(own)], env=env, stdin=subprocess.DEVNULL).returncode == 7
    for number in (2, 3):
        site.publish(f"1.0.{number}", own_release(launcher, number))
        done = subprocess.run([str(own)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert (done.returncode, done.stdout) == (7, b"program version %d []\n" % number)
        assert said_version(own, env) == f"launcher version {number}"
    backups = list((own.parent / ".backup").rglob("*"))
    assert any(path.is_file() and path.read_bytes() == launcher.version(2) for path in backups)


CALLS = ("rename", "link,linkat", "unlink", "mkdir", "rmdir", "fsync")


def killed_at(call: str, number: int) -> List[str]:
    """What to put before a command line so that its n-th such system call kills it."""
    return [
        need_tool("strace"),
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:signal=SIGKILL:when={number}",
    ]


def test_killed_at_any_step_of_replacing_itself_the_next_start_is_whole(
    launcher: Launcher, site: Site, tmp_path: Path
) -> None:
    """After each, the launcher starts without a server, and the version it starts is whole."""
    folder = tmp_path / "own"
    env = environment(site, tmp_path, TEST_DIR=".", TEST_MAIN="main.sh", TEST_VERB="update")
    own = build.copy_to(folder, launcher.made)
    site.publish("1.0.1", own_release(launcher, 1))
    subprocess.run([str(own)], env=env, check=True)
    before = read_tree(folder, without=OURS)
    shutil.copytree(folder, tmp_path / "kept", symlinks=True)
    site.publish("1.0.2", own_release(launcher, 2))
    after = {**before, **own_release(launcher, 2)}
    ends: List[int] = []
    call, number = 0, 1
    while call < len(CALLS):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder, symlinks=True)
        killed = subprocess.run(
            [*killed_at(CALLS[call], number), str(own)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        offline = subprocess.run(
            [str(own)],
            env={**env, "TEST_VERB": "run", "TEST_URL": "http://127.0.0.1:9/check"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert offline.returncode == 7, (CALLS[call], number, offline.stderr)
        found = read_tree(folder, without=OURS)
        assert found in (before, after), (CALLS[call], number)
        ends.append(1 if found == before else 2)
        number += 1
        if killed.returncode == 0:  # it has no more of these
            call, number = call + 1, 1
    assert set(ends) == {1, 2} and len(ends) > 20, ends
    print(
        launcher.mode,
        "killed at",
        len(ends),
        "steps:",
        ends.count(1),
        "times the old version, else the new one",
    )


# --- what it costs --------------------------------------------------------------------------------


def test_a_start_that_finds_nothing_costs_little_above_one_request(
    launcher: Launcher, site: Site, tmp_path: Path
) -> None:
    own = build.copy_to(tmp_path / "own", launcher.made)
    files = {f"lib/{number}": (b"%d" % number * 50_000, "644") for number in range(100)}
    site.publish("1.0.0", {**files, "main.py": (b"", "644")})
    env = environment(site, tmp_path)
    subprocess.run([str(own)], env={**env, "TEST_VERB": "update"}, check=False)

    times: Dict[str, List[float]] = {"request": [], "update": []}
    for _ in range(15):  # by turns, as other work shares the cores
        for verb, seconds in times.items():
            began = time.perf_counter()
            subprocess.run([str(own)], env={**env, "TEST_VERB": verb}, check=True)
            seconds.append(time.perf_counter() - began)
    request, update = min(times["request"]), min(times["update"])
    print(
        f"{launcher.mode}: one request {1000 * request:.0f} ms, "
        f"an update that finds nothing {1000 * update:.0f} ms"
    )
    assert update - request < 0.06
