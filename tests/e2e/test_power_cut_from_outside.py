"""strace records what the real client does to the disk; what a power cut can leave of it recovers.

The model of `tests/client/sweep.py` decides which writes and renames survive; here its log comes
from the kernel, so that a disk operation that bypasses `Disk`, or an fsync that never reaches the
system, would show. It cannot show what a file system does wrong: it trusts fsync, and a rename
within one folder is done or not.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Dict, List, Optional, Set

import pytest

from nuitkal_mini.client.install import Installation

from ..client.conftest import no_proxies, serve
from ..client.sweep import Image, Op, Unsynced, image_of, lay_down, survivors
from ..trees import Tree, read_tree
from .test_kill_from_outside import MINE_AS_READ, OURS, Story, laid_down, story, traced

__all__ = ["no_proxies", "serve", "story"]

KINDS = {
    "openat": "create",
    "write": "write",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "link": "link",
    "linkat": "link",
    "symlink": "symlink",
    "symlinkat": "symlink",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "chmod": "chmod",
    "fchmod": "chmod",
    "fchmodat": "chmod",
}
TWO_NAMES = ("rename", "link", "symlink")
# Locks and logs are no part of a transaction; a download is verified before anything else happens.
LEFT_OUT = (".update/lock", ".update/runs", ".update/log.txt", ".update/download")
NAMES = re.compile(r'(?:<((?:\\x..)+)>, )?"((?:\\x..)*)"')  # each after its folder's descriptor
DESCRIPTOR = re.compile(r"\d+<((?:\\x..)+)>")


def recorded(story: Story) -> List[Op]:
    """The operations of the story's command in its folder, in their order."""
    folders = {node.path for node in image_of(os.fspath(story.folder)) if node.kind == "dir"}
    ops: List[Op] = []
    unfinished: Dict[str, int] = {}  # by thread: a call that another thread's came between
    for line in traced(story, KINDS, "-xx", "-s", "1000000").splitlines():
        thread, call = line.split(None, 1)
        if call.startswith("<... "):
            begun = unfinished.pop(thread, -1)
            assert begun < 0 or " = -1 " not in call, call
            continue
        op = operation(call, os.fspath(story.folder), folders)
        if op is not None and " = -1 " not in call:
            if call.endswith("<unfinished ...>"):
                unfinished[thread] = len(ops)
            ops.append(op)
    return ops


def operation(call: str, folder: str, folders: Set[str]) -> Optional[Op]:
    """What a line of strace did in the folder; None: nothing that lasts."""
    name, arguments = call.split("(", 1)
    kind = KINDS[name]
    if kind == "create" and "O_CREAT" not in arguments:
        return None
    found = [
        os.path.join(decoded(home), decoded(path)) if kind != "symlink" else decoded(path)
        for home, path in NAMES.findall(arguments)
    ]
    data = b""
    if kind in ("write", "fsync") or name == "fchmod":
        match = DESCRIPTOR.match(arguments)
        if match is None:
            return None  # a pipe
        texts = NAMES.findall(arguments)
        data = raw(texts[0][1]) if kind == "write" else b""
        found = [decoded(match[1])]
    if kind == "symlink":
        found.reverse()
    if kind == "chmod":
        data = re.findall(r", 0?([0-7]{3,4})\b", arguments)[-1].encode()
    if kind == "unlink" and "AT_REMOVEDIR" in arguments:
        kind = "rmdir"
    if not (found[0] + "/").startswith(folder + "/"):
        return None
    path = os.path.relpath(found[0], folder)
    path = "" if path == "." else path
    target = ""
    if kind in TWO_NAMES:
        target = found[1] if kind == "symlink" else os.path.relpath(found[1], folder)
    if path.startswith(LEFT_OUT):
        return None
    if kind == "rename" and path in folders:
        folders |= {target + other[len(path) :] for other in folders if other.startswith(path)}
        kind = "move folder"
    elif kind == "mkdir":
        folders.add(path)
    return Op(kind, path, target, data)


def raw(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def decoded(text: str) -> str:
    return os.fsdecode(raw(text))


def assert_whole(story: Story, image: Image) -> str:
    """After recovery the tree is that of the version that is installed; its name."""
    lay_down(image, str(story.folder))
    installation = Installation(str(story.folder), "local_version.json", disk=Unsynced())
    installation.recover()
    state = installation.state()
    trees: Dict[Optional[str], Tree] = {None: {}, "1.0.0": story.before, "2.0.0": story.after}
    version = state.version if state else None
    found = read_tree(story.folder, OURS)
    assert found == {**trees[version], **MINE_AS_READ} and not installation.pending()
    return str(version)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
def test_what_a_power_cut_leaves_of_the_systems_calls_recovers(story: Story) -> None:
    ops = recorded(story._replace(folder=laid_down(story)))
    laid_down(story)
    start = image_of(str(story.folder))
    seen: Set[Image] = set()
    versions: Set[str] = set()
    for count in range(0, len(ops) + 1, 2):
        for image in survivors(start, tuple(ops[:count]), draws=2):
            if image not in seen:
                seen.add(image)
                versions.add(assert_whole(story, image))
    assert any(op.kind == "fsync" for op in ops)
    assert len(versions) == (1 if story.verb == "cleaning up" else 2)


def test_a_line_of_strace_becomes_an_operation() -> None:
    def hexed(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    at = f"AT_FDCWD<{hexed('/home')}>, "
    lines = {
        f'openat({at}"{hexed("/app/a")}", O_WRONLY|O_CREAT, 0600) = 3<{hexed("/app/a")}>': Op(
            "create", "a"
        ),
        f'write(3<{hexed("/app/a")}>, "{hexed("x,")}", 2) = 2': Op("write", "a", "", b"x,"),
        f"fsync(3<{hexed('/app')}>) = 0": Op("fsync", ""),
        f'unlinkat(3<{hexed("/app/d")}>, "{hexed("e")}", AT_REMOVEDIR) = 0': Op("rmdir", "d/e"),
        f'rename("{hexed("/app/d")}", "{hexed("/app/e")}") = 0': Op("move folder", "d", "e"),
        f'symlink("{hexed("../x")}", "{hexed("/app/l")}") = 0': Op("symlink", "l", "../x"),
        f"fchmod(3<{hexed('/app/a')}>, 0644) = 0": Op("chmod", "a", "", b"644"),
        f'mkdir("{hexed("/application")}", 0777) = 0': None,
        f'write(3<{hexed("/app/.update/log.txt")}>, "{hexed("x")}", 1) = 1': None,
    }
    for line, op in lines.items():
        assert operation(line, "/app", {"d"}) == op, line
