"""Makes deltas behind the server's back: a thread that starts one child process for each.

The thread looks for a missing delta after every change of the database. The child runs at low
priority with limited memory, holds a lock so that several servers over one data folder make each
delta once, and checks what it has encoded before it is published. A child that is killed leaves
nothing but a counted attempt.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Dict, Optional

from ..delta.format import DeltaError
from ..delta.pairs import pair_files
from ..delta.write import Release, write_delta
from ..entries import FileEntry
from ..manifest import Manifest, loads
from ..problem import Problem
from ..zip_read import Directory, Member, open_member, read_directory
from .database import Database
from .deltas import Pair, begin, finish, next_pair
from .releases import StoredRelease, read_manifest, release_by_id
from .store import Store, lock_file, write_synced

logger = logging.getLogger(__name__)

LOCK = "deltas.lock"  # in the data folder
WORTH = 0.7  # of what a client would fetch otherwise: a delta above it is not offered
REQUEST_BYTES = 500  # of a request and the head of its response
SECONDS_FOR_ONE = 3600.0
MEMORY = 3 * 2**30  # of a child; encoding takes about ten times the largest file
NICE = 19
_LOOK_SECONDS = 2.0
_BUSY_SECONDS = 30.0
BUSY = 3  # the child's exit code while another one holds the lock


class DeltaMaker:
    """The thread; `close()` ends it and the child that runs."""

    def __init__(self, database: Database, root: Path, count: int) -> None:
        self._database, self._root, self._count = database, root, count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deltas", daemon=True)

    def start(self) -> None:
        if self._count:
            self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        seen: Optional[int] = None
        while not self._stop.wait(_LOOK_SECONDS):
            generation = self._database.generation()
            if generation == seen:
                continue
            with self._database.read() as db:
                is_missing = next_pair(db, self._count) is not None
            if not is_missing:
                seen = generation
            elif self._make_one() != 0:
                self._stop.wait(_BUSY_SECONDS)

    def _make_one(self) -> int:
        """Run a child; its exit code."""
        arguments = ["make-delta", "--data", str(self._root), "--deltas", str(self._count)]
        home = str(Path(__file__).resolve().parents[2])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        child = subprocess.Popen(
            [sys.executable, "-m", "nuitkal_mini.server", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
        )
        waited = 0.0
        while waited < SECONDS_FOR_ONE and not self._stop.is_set():
            try:
                return child.wait(0.2)
            except subprocess.TimeoutExpired:
                waited += 0.2
        child.kill()
        return child.wait()


def make_next(root: Path, count: int) -> bool:
    """Make the delta that is missing next; False when another process is at it.

    Raises:
        Problem: it could not be made; the attempt is counted.
    """
    with open(root / LOCK, "ab") as lock:
        try:
            lock_file(lock)
        except OSError:
            return False
        with closing(Store(root)) as store:
            with store.write() as db:
                pair = next_pair(db, count)
                if pair is None:
                    return True
                begin(db, pair)
                source, target = release_by_id(db, pair.source), release_by_id(db, pair.release)
            try:
                _make(store, pair, source, target)
            except MemoryError as error:
                raise Problem(
                    "the delta from {source} to {target} takes too much memory",
                    source=source.version,
                    target=target.version,
                ) from error
    return True


def limit_resources() -> None:
    """Let this process work when nobody else wants to, with bounded memory."""
    if sys.platform != "win32":
        import resource

        os.nice(NICE)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _make(store: Store, pair: Pair, source: StoredRelease, target: StoredRelease) -> None:
    with store.scratch() as folder, open(store.media / source.package, "rb") as old_file, open(
        store.media / target.package, "rb"
    ) as new_file:
        old = _Package(old_file, read_manifest(store, source))
        new = _Package(new_file, read_manifest(store, target))
        path = folder / "delta"
        most = int(WORTH * _bytes_without(old.manifest, new, target.file_size)) - REQUEST_BYTES
        size, digest = 0, hashlib.sha256()
        with open(path, "wb") as out:
            for piece in write_delta(
                Release(old.text, old.read), Release(new.text, new.read, target.signature or "")
            ):
                size += len(piece)
                if size > most:
                    break
                digest.update(piece)
                out.write(piece)
        if size > most:
            with store.write() as db:
                finish(db, pair, None, size, None)
            logger.info("a delta from %s to %s does not pay", source.version, target.version)
            return
        name = f"{target.package[: -len('.zip')]}.from_{source.version}.delta"
        write_synced(path)
        with store.write() as db:
            if finish(db, pair, name, size, digest.hexdigest()):
                store.publish_files({name: path})
    logger.info("the delta from %s to %s has %d bytes", source.version, target.version, size)


class _Package:
    """A release's package: its manifest, and the content of each file."""

    def __init__(self, file: BinaryIO, text: bytes) -> None:
        self.text, self.manifest = text, loads(text)
        self._file = file
        self.directory: Directory = read_directory(file)
        self.members: Dict[str, Member] = {member.path: member for member in self.directory.members}

    def read(self, entry: FileEntry) -> bytes:
        """An entry's content. Raises DeltaError when the package has another one."""
        content = b"".join(open_member(self._file, self.members[entry.path]))
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DeltaError(
                "the package holds another {path!r} than its manifest", path=entry.path
            )
        return content


def _bytes_without(old: Manifest, new: _Package, package_size: int) -> int:
    """What a client fetches without the delta: the manifest, and ranges or the whole package."""
    directory = package_size - new.directory.start
    needed = [new.manifest.files[pair.target] for pair in pair_files(old.files, new.manifest.files)]
    contents = sum(new.members[entry.path].end - new.members[entry.path].offset for entry in needed)
    requests = 3 * REQUEST_BYTES  # for the manifest, the directory and the contents
    ways = min(package_size, directory + contents)
    return len(zlib.compress(new.text)) + ways + requests
