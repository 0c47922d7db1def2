"""The disk operations with which the client changes the app's folder.

All pass through `Disk.perform`, so that a test can stop the process at any of them, fail them, or
forget what was not yet fsynced. An operation on a file that another process holds open (antivirus
does so for a second or two with fresh files) is tried again, with one budget per transaction.

Modes and fsync are left out, with a DEBUG line, on file systems that have none; every other error
is an error.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import time
from typing import IO, Any, Callable, FrozenSet, Iterable

from .errors import InstallError

logger = logging.getLogger(__name__)

BUSY_SECONDS = 10.0  # antivirus lets go after a second or two
_BUSY = (5, 32, 33)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION
# How file systems say that they have no such operation: CIFS, NFS, FUSE (gocryptfs), FAT, /proc.
UNSUPPORTED = frozenset(
    [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EBADF]
)
# A folder, moreover, may not be readable, or not be a thing to fsync.
_UNSUPPORTED_FOR_FOLDERS = UNSUPPORTED | {errno.EISDIR, errno.EACCES, errno.EPERM}
_NO_MODES = UNSUPPORTED | {errno.EPERM, errno.EACCES}


class Disk:
    """The disk operations of a transaction; all paths are strings."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        self.patience = BUSY_SECONDS  #: seconds left to wait for busy files

    def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        """Do one operation on the file or folder at `path`; tests override this."""
        return call(*args)

    def _do(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
        """Do one operation, again while the file is held open; an error names the file."""
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
        self._do("mkdir", path, _mkdir, path)

    def rmdir(self, path: str) -> None:
        self._do("rmdir", path, os.rmdir, path)

    def symlink(self, target: str, path: str) -> None:
        self._do("symlink", path, os.symlink, target, path)

    def write(self, path: str, chunks: Iterable[bytes], mode: int = 0o644) -> None:
        """Write a file and make its contents durable; its name is durable after `sync_folder`."""
        with self._do("create", path, _create, path, mode) as file:
            for chunk in chunks:
                self._do("write", path, file.write, chunk)
            self._do("flush", path, file.flush)
            self._set_mode_and_sync(file, path, mode)

    def _set_mode_and_sync(self, file: IO[bytes], path: str, mode: int) -> None:
        try:
            self._do("chmod", path, _chmod, path, mode)
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise
            logger.debug("%s; the file keeps the mode that the file system gives it", error)
        self._sync(file.fileno(), path, UNSUPPORTED)

    def _sync(self, descriptor: int, path: str, unsupported: FrozenSet[int]) -> None:
        try:
            self._do("fsync", path, os.fsync, descriptor)
        except OSError as error:
            if error.errno not in unsupported:
                raise
            logger.debug("%s; this file system decides when it is durable", error)

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file's contents, cut at `max_bytes`."""
        data: bytes = self._do("read", path, _read, path, max_bytes)
        return data

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable.

        Windows cannot open folders; NTFS journals its names.
        """
        if os.name != "posix":
            return
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except PermissionError as error:
            logger.debug("%s; a folder that cannot be read cannot be made durable", error)
            return
        try:
            self._sync(descriptor, path, _UNSUPPORTED_FOR_FOLDERS)
        finally:
            os.close(descriptor)

    def sync_file(self, path: str, mode: int = 0o644) -> None:
        """Make a file durable that another process wrote, and give it its mode.

        Windows flushes only through a writable handle.
        """
        with self._do("open", path, open, path, "r+b") as file:
            self._set_mode_and_sync(file, path, mode)

    def remove(self, path: str) -> None:
        """Delete a file, or a folder with its contents, if there is one; links are not followed."""
        if os.path.isdir(path) and not os.path.islink(path):
            for name in os.listdir(path):
                self.remove(os.path.join(path, name))
            self.rmdir(path)
        elif os.path.lexists(path):
            self.unlink(path)


def _create(path: str, mode: int) -> IO[bytes]:
    """A new file with its mode, as far as the umask allows: some file systems cannot change it."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode))


def _mkdir(path: str) -> None:
    """A new folder of mode 755, whatever the umask: as its files, which have 644 or 755.

    With a umask of 0 others could put a module beside ours; with 077 they could not open our files.
    """
    os.mkdir(path, 0o755)
    if os.name == "posix":
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o755 != 0o755:
            try:
                os.chmod(path, mode | 0o755)
            except OSError as error:
                logger.debug("%s; the folder keeps its mode", error)


def _read(path: str, max_bytes: int) -> bytes:
    with open(path, "rb") as file:
        # read(max_bytes) would take memory for all of them first, where there may be none
        return file.read(min(os.fstat(file.fileno()).st_size, max_bytes))


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


def check_owned(path: str, trust_owner: bool = False) -> None:
    """Refuse `.update` or `.backup` when it is a link or no folder.

    Another user's is refused as well, unless `trust_owner` says that owners do not matter.
    """
    found = os.lstat(path)
    if not os.path.isdir(path) or os.path.islink(path):
        raise InstallError(f"{path} is not a folder; remove it and start again")
    if sys.platform != "win32" and not trust_owner and found.st_uid != os.geteuid():
        raise InstallError(
            f"{path} belongs to another user; let that user update, or set `trust_owner`"
        )
