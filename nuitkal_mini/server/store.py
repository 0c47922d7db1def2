"""The data folder: `nuitkal.db`, `media/` for published files, `incoming/` for unfinished ones.

Files are fsynced, renamed into place and their folder fsynced *inside* the transaction that writes
their row. The transaction's lock holds between processes. So a file below media/ that no live row
owns, seen under that lock, is what a crash left and can be deleted, however many servers run. Each
server has a folder of its own below `incoming/` and holds its lock; the next start deletes the
folders whose lock nobody holds.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Set, Tuple

from ..minisign import PublicKey
from ..problem import Problem
from . import attempts
from .attempts import RateLimiter
from .database import Database
from .refused import data_full, disk_full
from .rotations import SIGNATURE_SUFFIX, all_rotations

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

DATABASE = "nuitkal.db"
PACKS = "nuitkal_packs"  # below media/
SPARE_BYTES = 16 * 2**20  # of disk left over for the database and its log


class StoreProblem(Problem):
    """The data folder cannot be used."""


class Store:
    """An opened data folder.

    `incoming` is this process's folder for unfinished files, on media's file system. With
    `public_keys`, only what one of them has signed is accepted. `max_bytes` is what the folder may
    take; `keep` is how many releases older than a channel's active one stay. None is no limit.
    """

    def __init__(
        self,
        root: Path,
        public_keys: Sequence[PublicKey] = (),
        max_bytes: Optional[int] = None,
        keep: Optional[int] = None,
    ) -> None:
        self.public_keys, self.keep = public_keys, keep
        self._root, self._max_bytes = root, max_bytes
        self.limiter = RateLimiter(root / attempts.FILE)
        self.media = root / "media"
        self.database = open_database(root)
        incoming = root / "incoming"
        try:
            make_folders(self.media / PACKS)
            incoming.mkdir(exist_ok=True)
            with self.database.write() as db:
                _sweep_scratch_folders(incoming)
                self.incoming = Path(tempfile.mkdtemp(dir=incoming))
                self._lock = open(_lock_path(self.incoming), "wb")
                lock_file(self._lock)
                self._sweep_media(db)
        except OSError as error:
            raise _unusable(root, error) from error
        self.database.close()  # a server may fork its workers now

    def close(self) -> None:
        """Delete this process's folder of unfinished files and close the connections."""
        self.database.close()
        self.limiter.close()
        shutil.rmtree(self.incoming, ignore_errors=True)
        self._lock.close()
        _unlink(_lock_path(self.incoming))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for one request's unfinished files, deleted at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.incoming))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_space(self, size: int) -> None:
        """Refuse an upload for which the disk, or `max_bytes`, has no room."""
        if shutil.disk_usage(str(self.incoming)).free < size + SPARE_BYTES:
            raise disk_full()
        if self._max_bytes is not None and bytes_below(self._root) + size > self._max_bytes:
            raise data_full()

    def publish_files(self, sources: Mapping[str, Path]) -> None:
        """Rename synced files to their names below media/, durably. Only inside `write()`."""
        for name, source in sources.items():
            target = self.media / name
            make_folders(target.parent)
            os.replace(source, target)
        for folder in {(self.media / name).parent for name in sources}:
            sync_folder(folder)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may publish files as its last step.

        When the disk is full, files that were placed without their row are deleted again.
        """
        try:
            with self.database.write() as db:
                yield db
        except (OSError, sqlite3.Error):
            self.sweep()
            raise

    def sweep(self) -> None:
        """Delete files below media/ that no row owns, and restore signatures."""
        with self.database.write() as db:
            self._sweep_media(db)

    def remove_unowned(self, names: Iterable[str]) -> None:
        """Delete those of the named files that no live release owns."""
        with self.database.write() as db:
            for name in set(names) - owned_names(db):
                _unlink(self.media / name)

    def forget_contents(self, package: Path) -> None:
        """Count a package's contents as missing: it proved damaged or gone."""
        with self.database.write() as db:
            db.execute(
                "DELETE FROM contents WHERE release IN (SELECT id FROM releases WHERE package = ?)",
                (package.relative_to(self.media).as_posix(),),
            )

    def _sweep_media(self, db: sqlite3.Connection) -> None:
        """Delete files that no row owns and restore signatures from their rows.

        A release whose files are gone is reported, and its contents count as missing.
        """
        owned = owned_names(db)
        found = {
            path.relative_to(self.media).as_posix()
            for path in (self.media / PACKS).rglob("update_*")
        }
        for name in found - owned:
            logger.warning("deleting %s, which an interrupted upload or deletion left", name)
            _unlink(self.media / name)
        for (name,) in db.execute("SELECT file FROM deltas WHERE file IS NOT NULL").fetchall():
            if name not in found:
                db.execute("DELETE FROM deltas WHERE file = ?", (name,))
        signatures = {item.manifest: item.signature for item in all_rotations(db)}
        for release, package, signature in db.execute(
            "SELECT id, package, signature FROM releases WHERE deleted_at IS NULL"
        ).fetchall():
            if not {package, manifest_name(package)} <= found:
                logger.error(
                    "the files of %s are gone: restore them from a backup, or delete this version "
                    "and upload it again",
                    package,
                )
                db.execute("DELETE FROM contents WHERE release = ?", (release,))
            elif signature is not None:
                signatures[manifest_name(package)] = signature
        for manifest, signature in signatures.items():
            content = signature.encode("utf-8")
            if not _has_content(self.media / (manifest + SIGNATURE_SUFFIX), content):
                file = write_synced(self.incoming / "signature", content)
                self.publish_files({manifest + SIGNATURE_SUFFIX: file})


def bytes_below(folder: Path) -> int:
    """The size of the files in a folder and below it; one with several names counts once."""
    sizes: Dict[Tuple[int, int], int] = {}
    for home, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another request's, which has ended
                found = os.lstat(os.path.join(home, name))
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def write_synced(path: Path, content: Optional[bytes] = None) -> Path:
    """Write (or keep) a file's bytes and fsync it, before the write lock is taken.

    A slow disk needs minutes for gigabytes.
    """
    with open(path, "r+b" if content is None else "wb") as file:
        file.write(content or b"")
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o644)  # a web server in front may read it itself
    return path


def open_database(root: Path) -> Database:
    """The database of a data folder; both are made when they are missing.

    Raises:
        StoreProblem, DatabaseProblem: it cannot be used, or is of a newer version.
    """
    try:
        make_folders(root)
        (root / DATABASE).touch(mode=0o600)  # for its owner only, whoever else may read the media
    except OSError as error:
        raise _unusable(root, error) from error
    return Database(root / DATABASE)


def _unusable(root: Path, error: OSError) -> StoreProblem:
    return StoreProblem(
        "the data folder {path} cannot be used: {reason}",
        path=str(root),
        reason=error.strerror or error,
    )


def manifest_name(package: str) -> str:
    """The name of the manifest beside a package."""
    return package[: -len(".zip")] + ".json"


def signature_name(package: str) -> str:
    """The name of the manifest's signature beside a package."""
    return manifest_name(package) + SIGNATURE_SUFFIX


def owned_names(db: sqlite3.Connection) -> Set[str]:
    names = set()
    for package, signed in db.execute(
        "SELECT package, signature IS NOT NULL FROM releases WHERE deleted_at IS NULL"
    ):
        names.update([package, manifest_name(package)] + [signature_name(package)] * signed)
    names.update(name for (name,) in db.execute("SELECT file FROM deltas WHERE file IS NOT NULL"))
    for rotation in all_rotations(db):
        names.update([rotation.manifest, rotation.manifest + SIGNATURE_SUFFIX])
    return names


def _has_content(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _sweep_scratch_folders(incoming: Path) -> None:
    for scratch in {
        path.with_suffix("") for path in incoming.iterdir()
    }:  # of a server, or of its lock alone
        try:
            with open(_lock_path(scratch), "ab") as lock:
                lock_file(lock)
        except OSError:
            continue  # its server lives
        shutil.rmtree(scratch, ignore_errors=True)
        _unlink(_lock_path(scratch))


def _lock_path(scratch: Path) -> Path:
    # Beside it: Windows does not delete what is open
    return scratch.with_name(scratch.name + ".lock")


def lock_file(file: IO[bytes]) -> None:
    """Lock a file until it is closed, or the process ends.

    Raises:
        OSError: another process has it.
    """
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folders(folder: Path) -> None:
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("could not delete %s (%s); the next start will", path, error.strerror)
