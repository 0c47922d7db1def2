"""Makes deltas behind the server's back: a thread that starts one child process for each.

The thread looks for a missing delta after every change of the database. The child runs at low
priority with limited memory, holds a lock so that several servers over one data folder make each
delta once, and checks what it has encoded before it is published. A child that is killed leaves
nothing but a counted attempt.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Optional

from ..problem import Problem
from .database import Database
from .deltas import Pair, begin, finish, next_pair
from .releases import StoredRelease, read_manifest, release_by_id
from .store import Store, lock_file, write_synced

logger = logging.getLogger(__name__)

LOCK = "deltas.lock"  # in the data folder
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
    # Here: the encoder is the child's, and no server's start waits for it.
    from ..delta.packages import Published, write_package_delta

    with store.scratch() as folder, open(store.media / source.package, "rb") as old, open(
        store.media / target.package, "rb"
    ) as new:
        path = folder / "delta"
        with open(path, "wb") as out:
            size, sha256 = write_package_delta(
                Published(old, source.file_size, read_manifest(store, source)),
                Published(
                    new, target.file_size, read_manifest(store, target), target.signature or ""
                ),
                out,
            )
        if sha256 is None:
            with store.write() as db:
                finish(db, pair, None, size, None)
            logger.info("a delta from %s to %s does not pay", source.version, target.version)
            return
        name = f"{target.package[: -len('.zip')]}.from_{source.version}.delta"
        write_synced(path)
        with store.write() as db:
            if finish(db, pair, name, size, sha256):
                store.publish_files({name: path})
    logger.info("the delta from %s to %s has %d bytes", source.version, target.version, size)
