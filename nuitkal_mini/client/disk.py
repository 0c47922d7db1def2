"""Every operation with which the client changes the app's folder, and the lock on it.

They pass through one method, `Disk.perform`, so that a test can stop the process at any of them, fail
them, or forget what was not yet fsynced. Windows' rules hold everywhere: a file that somebody holds open
(antivirus does so for a second or two with fresh files) is tried again, with one budget per transaction.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import IO, Any, Callable, Iterable, Optional

from .errors import InstallError

BUSY_SECONDS = 10.0  # antivirus lets go after a second or two
_BUSY = (5, 32, 33)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION
_RUN_SLOTS = 256


class Disk:
    """The disk operations of a transaction; all paths are strings."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        self.patience = BUSY_SECONDS  #: seconds left to wait for busy files

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        """Do one operation, on what lies at a path; tests override this."""
        return call(*args)

    def _do(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        """One operation, tried again while somebody holds the file open; an error names the file."""
        pause = 0.05
        while True:
            try:
                return self.perform(operation, path, call, *args)
            except OSError as error:
                if error.filename is None:
                    error.filename = path
                if getattr(error, "winerror", None) not in _BUSY or self.patience <= 0:
                    raise
            self._sleep(min(pause, self.patience))
            self.patience -= pause
            pause = min(pause * 2, 1.0)

    def rename(self, source: str, target: str) -> None:
        self._do("rename", source, os.replace, source, target)

    def link(self, source: str, target: str) -> None:
        self._do("link", source, os.link, source, target)

    def unlink(self, path: str) -> None:
        self._do("unlink", path, _unlink, path)

    def mkdir(self, path: str) -> None:
        # 755 and not the umask alone: with a umask of 0 anybody could put a module beside ours
        self._do("mkdir", path, os.mkdir, path, 0o755)

    def rmdir(self, path: str) -> None:
        self._do("rmdir", path, os.rmdir, path)

    def symlink(self, target: str, path: str) -> None:
        self._do("symlink", path, os.symlink, target, path)

    def write(self, path: str, chunks: Iterable[bytes], mode: int = 0o644) -> None:
        """Write a whole file and make its contents durable; its name is durable after `sync_folder`."""
        with self._do("create", path, _create, path) as file:
            for chunk in chunks:
                self._do("write", path, file.write, chunk)
            self._do("flush", path, file.flush)
            self._do("chmod", path, _chmod, path, mode)
            self._do("fsync", path, os.fsync, file.fileno())

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable. (Windows cannot open folders; NTFS journals its names.)"""
        if os.name == "posix":
            descriptor = os.open(path, os.O_RDONLY)
            try:
                self._do("fsync", path, os.fsync, descriptor)
            except OSError as error:
                if (
                    error.errno != errno.EINVAL
                ):  # a file system that does this for files only: some networks', FUSE
                    raise
            finally:
                os.close(descriptor)

    def sync_file(self, path: str, mode: int = 0o644) -> None:
        """Flush a file through a writable handle, as Windows wants it after a rename; `mode` is the one that its writer meant to give it."""
        with self._do("open", path, open, path, "r+b") as file:
            self._do("chmod", path, _chmod, path, mode)
            self._do("fsync", path, os.fsync, file.fileno())

    def remove(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing there is fine. Links are not followed."""
        if os.path.isdir(path) and not os.path.islink(path):
            for name in os.listdir(path):
                self.remove(os.path.join(path, name))
            self.rmdir(path)
        elif os.path.lexists(path):
            self.unlink(path)


def _create(path: str) -> IO[bytes]:
    """A new file that nobody else can write to, not even for the moment before it gets its mode (with a umask of 0)."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except PermissionError:
        if os.name != "nt":
            raise
        os.chmod(path, 0o600)  # Windows does not delete read-only files
        os.unlink(path)


def _chmod(path: str, mode: int) -> None:
    if os.name == "posix":
        os.chmod(path, mode)


class Lock:
    """Who may do what in a client folder, by locks that the system drops when their holder dies.

    One updater works at a time (`update`); a program runs under a shared lock (`run`), which the swap of files
    needs for itself (`swap`). POSIX: flock on `.update/` for the updater, on `.update/lock` for the others; a
    child inherits the latter's descriptor. Windows has no shared mode in msvcrt: each run locks one free
    byte of 256, the swap all of them, the updater the byte after these.
    """

    def __init__(
        self,
        folder: str,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._sleep = sleep
        self._clock = clock

    def update(self, wait_seconds: float) -> Optional[Held]:
        """The right to update, or None when another updater kept it for `wait_seconds`."""
        if os.name == "posix":
            return self._wait(wait_seconds, lambda: _flock(self._folder, os.O_RDONLY, shared=False))
        return self._wait(wait_seconds, lambda: _lock_bytes(self._file(), _RUN_SLOTS, 1))

    def lock_for_run(self, wait_seconds: float) -> Optional[Held]:
        """The right to run the program: no file of it changes while this is held."""
        if os.name == "posix":
            return self._wait(
                wait_seconds, lambda: _flock(self._file(), os.O_RDWR | os.O_CREAT, shared=True)
            )
        return self._wait(
            wait_seconds,
            lambda: next(
                (
                    held
                    for held in (_lock_bytes(self._file(), slot, 1) for slot in range(_RUN_SLOTS))
                    if held
                ),
                None,
            ),
        )

    def swap(self, wait_seconds: float) -> Optional[Held]:
        """The right to change the program's files, or None while it runs."""
        if os.name == "posix":
            return self._wait(
                wait_seconds, lambda: _flock(self._file(), os.O_RDWR | os.O_CREAT, shared=False)
            )
        return self._wait(wait_seconds, lambda: _lock_bytes(self._file(), 0, _RUN_SLOTS))

    def _file(self) -> str:
        return os.path.join(self._folder, "lock")

    def _wait(self, wait_seconds: float, attempt: Callable[[], Optional[Held]]) -> Optional[Held]:
        end = self._clock() + wait_seconds
        while True:
            held = attempt()
            if held or self._clock() >= end:
                return held
            self._sleep(0.05)


class Held:
    """A lock that is held, by its open descriptors; closing them (or dying) gives it up."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = descriptors

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _flock(path: str, flags: int, shared: bool) -> Optional[Held]:
    if sys.platform == "win32":
        raise NotImplementedError  # and mypy reads no further there, which it would after an assertion
    import fcntl  # flock and not lockf: a POSIX record lock is lost when any descriptor of the file is closed

    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Held(descriptor)


def _lock_bytes(path: str, start: int, count: int) -> Optional[Held]:
    import msvcrt

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    try:
        os.lseek(descriptor, start, os.SEEK_SET)
        getattr(msvcrt, "locking")(descriptor, getattr(msvcrt, "LK_NBLCK"), count)  # noqa: B009 - mypy on Linux
    except OSError:
        os.close(descriptor)
        return None
    return Held(descriptor)


def check_owned(path: str) -> None:
    """Refuse `.update` or `.backup` when it is a link, no folder, or another user's."""
    found = os.lstat(path)
    if not os.path.isdir(path) or os.path.islink(path):
        raise InstallError(f"{path} is not a folder; remove it and start again")
    if sys.platform != "win32" and found.st_uid != os.geteuid():
        raise InstallError(f"{path} belongs to another user; let that user update, or remove it")
