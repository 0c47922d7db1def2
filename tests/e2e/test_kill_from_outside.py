"""strace kills the real client at a system call, or lets that call fail.

The client does not know of it, so a disk operation that bypasses `Disk` is interrupted like the
others. After each, `run` without a server: the tree is exactly the old or the new one, and starts.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

import pytest

from nuitkal_mini import ClientUpdater, UpdaterConfig

from ..client.conftest import Serve, no_proxies, serve
from ..client.site import Site
from ..support import ROOT, need_tool
from ..trees import Tree, read_tree, write_tree

__all__ = ["no_proxies", "serve"]

CALLS = [
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "fsync",
    "fdatasync",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmod",
    "fchmodat",
    "openat",
    "write",
    "ftruncate",
]
ERRORS = ("ENOSPC", "EIO", "EACCES", "EROFS")
AWAY = "http://127.0.0.1:9/check"
OLD: Tree = {
    "main.py": (b"print('old')\n", "644"),
    "lib/a.py": (b"a = 1\n", "644"),
    "tool": (b"#!/bin/sh\n", "755"),
    "gone/deep/x": (b"x", "644"),
    "d/x": (b"x", "644"),
    "f": (b"file", "644"),
    "link": "lib/a.py",
    "same": (b"same" * 1000, "644"),
}
NEW: Tree = {
    "main.py": (b"print('new')\n", "644"),
    "lib/a.py": (b"a = 2\n", "644"),
    "tool": (b"#!/bin/sh\n", "644"),
    "d": (b"now a file", "644"),
    "f/deep": (b"a folder now", "644"),
    "link": "main.py",
    "copy": (b"a = 1\n", "755"),
    "same": (b"same" * 1000, "644"),
}
MINE: Tree = {
    "notes.txt": (b"mine", "644"),
    "lib/mine": (b"mine", "600"),
    "copy.txt": (b"mine", "755"),
}
# `read_tree` tells executable files from others only.
MINE_AS_READ: Tree = {**MINE, "lib/mine": (b"mine", "644")}
OURS = (".update", ".backup", "local_version.json")
# The rename before which an update was killed. The last three are the journal's, which the commit
# makes into a record, and those of the two trust files.
LEFT_BEHIND: Dict[str, Callable[[List[Point]], Point]] = {
    "recovery": lambda renames: renames[len(renames) // 2],
    "cleaning up": lambda renames: renames[-3],
}


class Point(NamedTuple):
    """The `number`-th time that a thread makes this system call."""

    call: str
    number: int


class Story(NamedTuple):
    """A command over a folder, which is in `before` or in `after` whatever happens to it."""

    verb: str
    folder: Path
    url: str
    before: Tree
    after: Tree


# In the plain tests only an update.
LATER = ("first install", "rollback", "recovery", "cleaning up")


@pytest.fixture(params=["update", *(pytest.param(verb, marks=pytest.mark.slow) for verb in LATER)])
def story(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Iterator[Story]:
    site, folder = Site(serve), tmp_path / "client"
    write_tree(folder, MINE)
    updater = ClientUpdater(UpdaterConfig(site.url, folder, retries=0))
    if request.param != "first install":
        site.publish("1.0.0", OLD)
        updater.update()
    site.publish("2.0.0", NEW)
    if request.param == "rollback":
        updater.update()
    story = Story(
        request.param, folder, site.url, {} if request.param == "first install" else OLD, NEW
    )
    saved = tmp_path / "saved"
    folder.rename(saved)
    if story.verb in LEFT_BEHIND:
        update = story._replace(verb="update")
        renames = [point for point in points(update) if point.call == "rename"]
        laid_down(update)
        interrupt(update, LEFT_BEHIND[story.verb](renames), "signal=KILL")
        assert (folder / ".update" / "journal.json").exists()
        shutil.rmtree(saved)
        folder.rename(saved)
    yield story
    shutil.rmtree(saved)


def laid_down(story: Story) -> Path:
    """The folder as it was before the command."""
    shutil.rmtree(story.folder, ignore_errors=True)
    shutil.copytree(story.folder.parent / "saved", story.folder, symlinks=True)
    return story.folder


def command(story: Story, url: str, verb: str = "") -> List[str]:
    verb = verb or ("rollback" if story.verb == "rollback" else "update")
    return [
        sys.executable,
        "-W",
        "error",
        "-m",
        "nuitkal_mini.client",
        verb,
        "--url",
        url,
        "--dir",
        str(story.folder),
    ]


def interrupt(
    story: Story, point: Point, how: str, since: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the command, stopped at a point as `how` says in strace's words.

    `since` "+": and at every such call after it.
    """
    tracer = [
        need_tool("strace"),
        "-f",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        f"trace={point.call}",
        "-e",
        f"inject={point.call}:{how}:when={point.number}{since}",
    ]
    return subprocess.run(
        tracer + command(story, story.url),
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )


def traced(story: Story, calls: Iterable[str], *options: str) -> str:
    """Runs the command undisturbed; strace's lines for these system calls."""
    log = story.folder.parent / "strace.log"
    tracer = [need_tool("strace"), "-f", "-y", "-qq", "-o", str(log), *options]
    subprocess.run(
        [*tracer, "-e", "trace=" + ",".join(calls), *command(story, story.url)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return log.read_text(errors="replace")


def points(story: Story) -> List[Point]:
    """Every system call of the command, undisturbed, by which something in the folder changes."""
    folder = laid_down(story)
    lines = traced(story, CALLS, "-s", "4096").splitlines()
    counts: Counter[Tuple[str, str]] = Counter()
    found: Dict[Point, None] = {}
    for line in lines:
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match is None:
            continue  # the second half of a call that another thread's came between
        counts[match[1], match[2]] += 1
        if str(folder) in line and not (match[2] == "openat" and re.search(r"O_RDONLY", line)):
            found[Point(match[2], counts[match[1], match[2]])] = None
    return list(found)


def judge(story: Story, point: Point) -> str:
    """Start what is there, without a server; whether it is old or new."""
    started = subprocess.run(
        command(story, AWAY, "run"),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert "Traceback" not in started.stderr, (point, started.stderr)
    tree = read_tree(story.folder, OURS)
    tree = {path: item for path, item in tree.items() if not path.startswith("lib/__pycache__/")}
    which = (
        "new"
        if tree == {**story.after, **MINE_AS_READ}
        else "old"
        if tree == {**story.before, **MINE_AS_READ}
        else "mixed"
    )
    assert which != "mixed", (point, sorted(set(tree) ^ set(story.after)), started.stderr)
    assert started.stdout.split() == ([which] if which == "new" or story.before else []), (
        point,
        started.stdout,
        started.stderr,
    )
    left: Set[str] = (
        set(os.listdir(story.folder / ".update")) if (story.folder / ".update").exists() else set()
    )
    assert left <= {"lock", "runs", "log.txt", "state.json", "staging", "download"}, (
        point,
        left,
    )
    return which


def sampled(all_points: List[Point], count: int) -> List[Point]:
    step = max(1, len(all_points) // count)
    return all_points[step // 2 :: step]


@pytest.mark.parametrize(
    "count", [2, pytest.param(50, marks=pytest.mark.slow)], ids=["sample", "many"]
)
def test_killed_at_any_system_call_the_program_is_whole_and_starts(
    story: Story, count: int
) -> None:
    seen = set()
    for point in sampled(points(story), count):
        laid_down(story)
        assert interrupt(story, point, "signal=KILL").returncode == -signal.SIGKILL, point
        seen.add(judge(story, point))
    assert count < 10 or seen == ({"new"} if story.verb == "cleaning up" else {"old", "new"})


@pytest.mark.parametrize(
    "count, since",
    [(1, ""), (1, "+"), *(pytest.param(25, since, marks=pytest.mark.slow) for since in ("", "+"))],
    ids=["sample, once", "sample, for good", "many, once", "many, for good"],
)
def test_when_any_system_call_fails_there_is_a_sentence_and_the_program_is_whole(
    story: Story, count: int, since: str
) -> None:
    for index, point in enumerate(sampled(points(story), count)):
        laid_down(story)
        done = interrupt(story, point, f"error={ERRORS[index % len(ERRORS)]}", since)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, (point, done.stderr)
        has_no_voice = point.call == "write" and since
        assert (
            done.returncode == 0
            or has_no_voice
            or done.stderr.splitlines()[-1].startswith(("update: ", "rollback: "))
        ), (point, done.stderr)
        judge(story, point)
