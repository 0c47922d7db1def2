"""A backup of a data folder that servers work on: a folder that can take its place.

1. SQLite's backup API copies the database beside the older backup: one consistent state.
2. The files of its releases are linked, or copied to another disk. A release that was deleted
   meanwhile has no files any more: then step 1 is done again.
3. The new database is renamed over the older one: from here on the backup is the new one.
4. Files that no release of it has are deleted.

Whenever a backup stops, the one before or the new one is whole. A repeated backup copies only new
files.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Optional, Set

from ..problem import Problem
from .store import (
    DATABASE,
    PACKS,
    lock_file,
    make_folders,
    owned_names,
    sync_folder,
    write_synced,
)

TRIES = 20  # a deletion must fall into each of them for a backup to fail
_BLOCK = 2**20


class Backup(NamedTuple):
    """What a backup did: files it holds below media/, how many of them are new, and their bytes."""

    files: int
    new_files: int
    new_bytes: int


def back_up(root: Path, destination: Path) -> Backup:
    """Bring the backup in `destination` up to the present state of the data folder `root`.

    Raises:
        Problem: `root` is no data folder, `destination` lies in it, another backup runs, or the
        disk
            refuses.
    """
    if not (root / DATABASE).is_file():
        raise Problem("{path} holds no data of a server; nothing was backed up", path=str(root))
    inside = os.path.realpath(destination) + os.sep
    if inside.startswith(os.path.realpath(root) + os.sep):
        raise Problem(
            "{path} lies in the data folder; choose a folder outside of it", path=str(destination)
        )
    try:
        make_folders(destination)
        with open(destination / "backup.lock", "wb") as lock:
            try:
                lock_file(lock)
            except OSError as error:
                raise Problem(
                    "another backup into {path} is running; try again when it is done",
                    path=str(destination),
                ) from error
            return _back_up(root, destination)
    except (OSError, sqlite3.Error) as error:
        raise Problem(
            "the backup into {path} failed, the one before is kept: {reason}",
            path=str(destination),
            reason=error,
        ) from error


def _back_up(root: Path, destination: Path) -> Backup:
    snapshot = destination / (DATABASE + ".new")
    for _ in range(TRIES):
        _copy_database(root / DATABASE, snapshot)
        with closing(sqlite3.connect(str(snapshot))) as db:
            names = owned_names(db)
        try:
            new = [
                link_or_copy(root / "media" / name, destination / "media" / name) for name in names
            ]
        except FileNotFoundError:
            continue  # deleted since the database was copied
        break
    else:
        raise Problem(
            "files of a release are missing in {path}; run check-data on it", path=str(root)
        )
    for folder in {(destination / "media" / name).parent for name in names}:
        sync_folder(folder)
    os.replace(snapshot, destination / DATABASE)
    sync_folder(destination)
    _delete_others(destination / "media", names)
    sizes = [size for size in new if size is not None]
    return Backup(len(names), len(sizes), sum(sizes))


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)  # passwords and tokens are in it, as hashes
    with closing(sqlite3.connect(str(source), timeout=30)) as live:
        with closing(sqlite3.connect(str(target))) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file
    with open(target, "r+b") as file:
        os.fsync(file.fileno())


def link_or_copy(source: Path, target: Path) -> Optional[int]:
    """Link or copy a file; its size when it is new.

    Published files never change, but by a rename.
    """
    there, found = _stat(target), os.stat(source)
    if there is not None and os.path.samestat(there, found):
        return None
    if there is not None and (there.st_size, there.st_mtime_ns) == (
        found.st_size,
        found.st_mtime_ns,
    ):
        return None
    make_folders(target.parent)
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without hard links
        with open(source, "rb") as file, open(part, "wb") as out:
            shutil.copyfileobj(file, out, _BLOCK)
        write_synced(part)
        os.utime(part, ns=(found.st_mtime_ns, found.st_mtime_ns))
    os.replace(part, target)
    return found.st_size


def _stat(path: Path) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _delete_others(media: Path, names: Set[str]) -> None:
    """Files of releases that were deleted, and what an interrupted backup left."""
    for path in list((media / PACKS).rglob("update_*")):
        if path.relative_to(media).as_posix() not in names:
            path.unlink()
