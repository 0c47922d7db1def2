"""Ends a server at each of its disk operations, or fails one, and judges what the next start makes
of what is left.

    python -m tests.server.sweep [--every N] [--again N] [SCENARIO…]

A scenario is one call of a client on a prepared data folder. It runs in forked children; a fuse in
each counts every operation on the disk (open for writing, write, fsync, rename, link, mkdir,
unlink, rmdir, chmod, SQL statement that writes) and ends the child by SIGKILL at the n-th, for
every n there is; a write is killed half done. The kinds of end: `kill` keeps what was done, as a
dead process leaves it; `power cut` takes back every name whose folder was not fsynced, and the
contents of every file that was not; `torn cut` keeps the names and takes the contents. What SQLite
committed stays in all of them: it syncs at each COMMIT, which `PRAGMA synchronous` vouches for.
`full disk` lets the operation fail instead, and what the server then holds must be whole before any
restart. `--again` ends every N-th restart in the same way at each of *its* operations.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import logging
import os
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from nuitkal_mini.manifest import loads
from nuitkal_mini.server import create_app
from nuitkal_mini.server.application import Application
from nuitkal_mini.server.auth import create_token
from nuitkal_mini.server.store import DATABASE, StoreProblem
from nuitkal_mini.zip_read import read_tree

from .caller import Caller, Reply, files_below, make_manifest, make_signature, make_zip, sha256

MEMORY = "/dev/shm"  # where no fsync waits for a disk: what they do is modelled
KINDS = ("kill", "power cut", "torn cut", "full disk")
WRITES = (
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "ALTER",
    "PRAGMA user_version =",
)
# Audit events
NAMES = {
    "os.rename",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
}

# --- the scenarios --------------------------------------------------------------------------------

CHANNELS = ("stable", "beta")
DONE = (200, 201, 204)
OLD = {"app/main.py": b"one\n" * 100, "lib/big.so": bytes(range(256)) * 20, "readme": b"text"}
NEW = {**OLD, "app/main.py": b"two\n" * 100, "copy/of/big.so": OLD["lib/big.so"]}
WHOLE = make_zip({"only": b"this"})
HASHES = sorted(set(map(sha256, [*OLD.values(), *NEW.values()])))


def publish(
    call: Caller, version: str, tree: Dict[str, bytes], channel: str = "", **fields: str
) -> Reply:
    """Upload as `publish` does: what the server lacks, the manifest, a signature."""
    lacking = call.send("POST", "missing/", {"hashes": sorted(map(sha256, tree.values()))}).json[
        "missing"
    ]
    sent = {path: content for path, content in tree.items() if sha256(content) in lacking}
    manifest = make_manifest(version, tree)
    return call.upload(
        version,
        None,
        channel,
        file=make_zip(sent, b"nuitkal-partial"),
        manifest=manifest,
        signature=make_signature(manifest, version),
        **fields,
    )


def two_releases(call: Caller) -> None:
    publish(call, "1.0", OLD)
    publish(call, "1.1", NEW)


def one_deleted(call: Caller) -> None:
    """The later one: its package is composed again in the same order, so of the same bytes."""
    two_releases(call)
    call("POST", "set_active/1.0/")
    call("DELETE", "versions/1.1/")


def resign(call: Caller) -> Reply:
    signature = make_signature(make_manifest("1.1", NEW), "1.1", app="signed again").decode()
    return call.send("PATCH", "versions/1.1/", {"changelog": "new", "signature": signature})


class Scenario(NamedTuple):
    """What happened before (None: not even a data folder), one call, and how it may end when it is
    repeated.
    """

    before: Optional[Callable[[Caller], Any]]
    call: Callable[[Caller], Reply]
    repeated: Tuple[int, ...]


SCENARIOS = {
    "first start and upload": Scenario(
        None, lambda call: call.upload("1.0", file=WHOLE), (201, 409)
    ),
    "whole upload": Scenario(
        two_releases, lambda call: call.upload("2.0", file=WHOLE, changelog="new"), (201, 409)
    ),
    "composed upload": Scenario(
        lambda call: publish(call, "1.0", OLD), lambda call: publish(call, "1.1", NEW), (201, 409)
    ),
    "inactive upload": Scenario(
        two_releases, lambda call: publish(call, "1.2", OLD, is_active="no"), (201, 409)
    ),
    "activate": Scenario(two_releases, lambda call: call("POST", "set_active/1.0/"), (200,)),
    "deactivate": Scenario(
        two_releases, lambda call: call.send("PATCH", "versions/1.1/", {"is_active": False}), (200,)
    ),
    "edit": Scenario(two_releases, resign, (200,)),
    "promote": Scenario(
        two_releases,
        lambda call: call.send("POST", "channels/beta/promote/1.0/", {"from": "stable"}),
        (201, 409),
    ),
    "delete": Scenario(two_releases, lambda call: call("DELETE", "versions/1.0/"), (204, 404)),
    "deleted one comes back": Scenario(
        one_deleted, lambda call: publish(call, "1.1", NEW), (201, 409)
    ),
}

# --- the fuse -------------------------------------------------------------------------------------


class Fuse:
    """Ends this process at its n-th operation on the disk. Made in a child, for the rest of its
    life.
    """

    def __init__(self, left: int, kind: str, stash: Path) -> None:
        self._left, self._kind, self._stash = left, kind, stash
        self._unsynced: Dict[str, None] = {}  # files with contents that a power cut takes
        self._undo: List[
            Tuple[str, Callable[[], Any]]
        ] = []  # folder that was not fsynced since, how to take the name back
        self.burnt = False
        self._open, self._connect = io.open, sqlite3.connect
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        sqlite3.connect = self._connected  # type: ignore[assignment]
        os.fsync = self._fsync  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def step(self, half: Callable[[], Any] = lambda: None) -> None:
        self._left -= 1
        if self._left == 0:
            self.burnt = True
            if self._kind == "full disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            half()
            if self._kind == "power cut":
                for _, undo in reversed(self._undo):
                    with contextlib.suppress(OSError):
                        undo()
            if self._kind != "kill":
                for path in filter(os.path.exists, self._unsynced):
                    os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrote(self, path: str) -> None:
        if not path.endswith(DATABASE):
            self._unsynced[path] = None

    def _audit(self, event: str, args: Tuple[Any, ...]) -> None:
        if self.burnt or event not in NAMES and event != "open":
            return
        if event != "open":
            if self._kind != "full disk" or event not in (
                "os.remove",
                "os.rmdir",
            ):  # those succeed on a full disk
                self.step()
            self._remember(event, *map(_text, args[:2]))
        elif (
            isinstance(args[2], int)
            and args[2] & (os.O_WRONLY | os.O_RDWR)
            and not isinstance(args[0], int)
        ):
            self.step()
            if args[2] & (os.O_CREAT | os.O_TRUNC) and not os.path.exists(args[0]):
                self.wrote(_text(args[0]))
                self._lose(_text(args[0]), os.unlink, _text(args[0]))

    def _remember(self, event: str, path: str, target: str = "") -> None:
        """How to take an operation back that is about to happen."""
        if event == "os.rename":
            if os.path.exists(target):
                self._lose(target, os.replace, self._keep(target), target)
            self._lose(target, _rename_back, target, path)
            if path in self._unsynced:
                del self._unsynced[path]
                self.wrote(target)
        elif event == "os.link":
            self._lose(target, os.unlink, target)
        elif event == "os.mkdir" and not os.path.exists(path):
            self._lose(path, shutil.rmtree, path)
        elif (
            event == "os.remove" and os.path.isabs(path) and os.path.exists(path)
        ):  # rmtree's are relative to an open folder: of unfinished files only
            self._lose(path, os.replace, self._keep(path), path)

    def _lose(self, name: str, undo: Callable[..., Any], *args: Any) -> None:
        self._undo.append((os.path.dirname(name), lambda: undo(*args)))

    def _keep(self, path: str) -> str:
        self.burnt, kept = True, tempfile.mktemp(dir=str(self._stash))
        os.link(path, kept)
        self.burnt = False
        return kept

    def _fsync(self, descriptor: int) -> None:
        """Not done, only noted: what it would make durable."""
        self.step()
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._unsynced.pop(path, None)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    def _opened(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = self._open(file, mode, *args, **options)
        return opened if set(mode) <= set("rbt") else _Counted(self, opened)

    def _connected(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection = self._connect(*args, **options)
        writes = WRITES if self._kind != "full disk" else ()  # a trace cannot fail the statement
        connection.set_trace_callback(
            lambda statement: self.step() if statement.startswith(writes) else None
        )
        return connection


class _Counted:
    """A file whose writes are operations."""

    def __init__(self, fuse: Fuse, file: Any) -> None:
        self._fuse, self._file = fuse, file

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        if content:
            self._fuse.wrote(os.readlink(f"/proc/self/fd/{self._file.fileno()}"))
            self._fuse.step(half)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _text(path: Any) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""


def _rename_back(target: str, path: str) -> None:
    if os.path.isdir(os.path.dirname(path)):
        os.replace(target, path)
    else:
        os.unlink(target)


# --- the sweep ------------------------------------------------------------------------------------

State = Dict[str, Any]


class Sweep:
    """One scenario over and over, in a folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.scenario = folder, name, SCENARIOS[name]
        self.points = 0
        self.broken: List[str] = []
        self.prepared = folder / "prepared"
        self.token = ""
        if self.scenario.before:
            with serving(self.prepared) as call:
                self.scenario.before(call)
                self.token = str(call.token)
        self.old = self.inspect(self._fresh())
        data = self._fresh()
        with serving(data, self.token) as call:
            assert self.scenario.call(call).status in DONE
        self.new = self.inspect(data)

    def run(self, every: int, again: int) -> None:
        for kind in KINDS:
            for point in range(1, 10_000, every):
                data = self._fresh()
                if not self._dies(point, kind, lambda: self._once(data)):
                    break
                self._judge(data, f"{kind} at {point}")
                if again and point % again == 0:
                    self._kill_restarts(point, kind)

    def _kill_restarts(self, point: int, kind: str) -> None:
        for second in range(1, 10_000):
            data = self._fresh()
            self._dies(point, kind, lambda: self._once(data))
            if not self._dies(second, kind, lambda: create_app(data).close()):
                break
            self._judge(data, f"{kind} at {point}, then at {second} of the restart")

    def _judge(self, data: Path, where: str) -> None:
        self.points += 1
        answered = (self.folder / "answered").is_symlink()
        try:
            state = self.inspect(data)
            assert state in (self.old, self.new), "neither the old state nor the new one"
            assert state == self.new or not answered, "the client was told otherwise"
            with serving(data, self.token) as call:
                reply = self.scenario.call(call)
                assert reply.status in self.scenario.repeated, (reply.status, reply.body)
            assert self.inspect(data) == self.new, "the repeated call did not arrive"
        except Exception as error:
            self.broken.append(f"{self.name}, {where}: {type(error).__name__}: {error}")

    def _once(self, data: Path) -> None:
        with serving(data, self.token) as call:
            reply = self.scenario.call(call)
            if reply.status in DONE:
                os.symlink(data, self.folder / "answered")  # no operation that the fuse knows
            else:
                assert (reply.status, reply.code) == (507, "disk_full")
            assert self._look(call) == (self.new if reply.status in DONE else self.old)

    def _dies(self, point: int, kind: str, work: Callable[[], Any]) -> bool:
        """Whether the fuse went off before the work was done."""
        stash = Path(tempfile.mkdtemp(dir=self.folder))
        child = os.fork()
        if child == 0:
            fuse, failed = Fuse(point, kind, stash), False
            try:
                work()
            except StoreProblem:
                pass  # the disk was full at the start
            except BaseException:
                traceback.print_exc()
                failed = True
            finally:
                os._exit(1 if failed else 3 if fuse.burnt else 0)
        status = os.waitpid(child, 0)[1]
        shutil.rmtree(stash)
        if status == 1 << 8:
            self.broken.append(f"{self.name}, {kind} at {point}: see above")
        return status != 0

    def _fresh(self) -> Path:
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "answered").unlink()
        if self.prepared.exists():
            shutil.copytree(self.prepared, data)
        return data

    def inspect(self, data: Path) -> State:
        """Start the server, and look."""
        with serving(data, self.token) as call:
            state = self._look(call)
            store, own = call.app.store, call.app.store.incoming
            assert set(own.parent.iterdir()) == {
                own,
                own.with_name(own.name + ".lock"),
            } and not any(own.iterdir()), "unfinished files stay"
            with store.database.read() as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return state

    def _look(self, call: Caller) -> State:
        """Everything that the server holds, found to be whole."""
        state = {channel: _releases(call, channel) for channel in CHANNELS}
        shown = [release for releases in state.values() for release in releases.values()]
        held = {sha256 for release in shown for sha256 in release["contents"]}
        assert call.send("POST", "missing/", {"hashes": HASHES}).json["missing"] == [
            sha256 for sha256 in HASHES if sha256 not in held
        ]
        assert files_below(call.app.store.media) == sorted(
            name for release in shown for name in release["files"]
        ), "files that nobody owns, or none"
        return state


def _releases(call: Caller, channel: str) -> State:
    releases = {}
    for shown in call.get(f"channels/{channel}/versions/").json["versions"]:
        package, manifest = call.media(shown["download_url"]), call.media(shown["manifest_url"])
        assert (sha256(package), len(package)) == (shown["file_hash"], shown["file_size"])
        of = loads(manifest)
        assert read_tree(io.BytesIO(package), of.app, of.version)._replace(terms=of.terms) == of, (
            "the package is not its manifest's"
        )
        files = [shown["download_url"], shown["manifest_url"]]
        if shown["signature"] is not None:
            files.append(shown["signature_url"])
            assert call.media(shown["signature_url"]).decode() == shown["signature"], (
                "two signatures of one release"
            )
        releases[shown["version"]] = {
            **{name: shown[name] for name in ("is_active", "changelog", "signature", "file_hash")},
            "contents": {entry.sha256 for entry in of.files},
            "files": [url.split("/media/")[1] for url in files],
        }
    active = [version for version, release in releases.items() if release["is_active"]]
    assert active == (
        []
        if call.get(f"channels/{channel}/check/").status == 404
        else [call.get(f"channels/{channel}/check/").json["version"]]
    )
    return releases


@contextlib.contextmanager
def serving(data: Path, token: str = "") -> Iterator[Caller]:
    app = create_app(data)
    assert isinstance(app, Application)
    call = Caller.__new__(Caller)
    call.app, call.token = (
        app,
        token or create_token(app.store.database, secrets.token_hex(8), "sweep"),
    )
    try:
        yield call
    finally:
        app.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="only every N-th operation")
    parser.add_argument("--again", type=int, default=0, help="end every N-th restart, too")
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.dont_write_bytecode = True
    points, broken = 0, []
    for name in args.scenarios:
        with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
            sweep = Sweep(Path(folder), name)
            sweep.run(args.every, args.again)
        points += sweep.points
        broken += sweep.broken
        print(f"{name}: {sweep.points}", file=sys.stderr, flush=True)
    print("\n".join(broken + [f"{points} kill points, {len(broken)} broken"]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
