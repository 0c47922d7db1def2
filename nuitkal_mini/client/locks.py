"""Locks on a client folder: one updater at a time, and no file changes while the program runs.

    .update/lock               the updater at work locks it
    .update/runs/N             a running program of the folder's owner locks one of these
    /dev/shm/nuitkal-…-UID-N   a running program of another user, who may not write to `.update/`

Only these files are locked, never a folder, and none is ever unlinked. The owner's have mode 0600,
so that nobody else can lock them. The system drops a lock when its holder dies. On POSIX the
program inherits the descriptor of its lock: a killed launcher does not release it. When the program
ends, the launcher unlocks explicitly, which also counts for processes that inherited the descriptor
(`flock` locks an open file, not a process). The file records the program's process id, so that a
helper that inherited the lock from a program whose launcher was killed does not count as it.

A start takes its lock, then looks for a journal; an updater writes the journal, then looks for
running programs (`Installation.install`). So one of the two always sees the other.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from typing import Callable, Optional, Tuple, Type

logger = logging.getLogger(__name__)

RUNS = "runs"
SHARED_FOLDERS = ("/dev/shm", "/tmp")  # where every user may add files: the first that is there
MAX_RUNS = 256
_RELEASED = "released"  # what a lock file records after its holder gave it up
_LOCKED = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
# A file of another user that cannot be opened is no lock of a program.
_NO_LOCK_FILE = (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EMLINK)


class HeldLock:
    """A lock that this process holds; without a descriptor, the right to act without a lock."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = descriptors

    def record(self, process_id: Optional[int]) -> None:
        """Write into the file which process the lock stands for; None: not known yet."""
        self._write("" if process_id is None else f"{process_id} {_pid_space()}")

    def release(self) -> None:
        """Unlock, also for processes that inherited the descriptor."""
        self._write(_RELEASED)
        if sys.platform != "win32":
            import fcntl

            for descriptor in self.descriptors:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        self.close()

    def _write(self, record: str) -> None:
        if sys.platform != "win32":
            for descriptor in self.descriptors:
                with contextlib.suppress(OSError):  # a full disk; an empty record counts as alive
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, record.encode(), 0)

    def close(self) -> None:
        """Close the descriptors; a child that inherited them keeps the lock."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.release()
        else:
            self.close()  # the launcher is interrupted, and its program may run on


class FolderLocks:
    """The locks in one `.update/` folder; `trust_owner` treats every user as its owner."""

    def __init__(
        self,
        folder: str,
        *,
        trust_owner: bool = False,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._trust_owner = trust_owner
        self._sleep = sleep
        self._clock = clock

    def lock_update(self, wait_seconds: float) -> Optional[HeldLock]:
        """The lock of the updater at work; None when another one kept it for `wait_seconds`."""
        end = self._clock() + wait_seconds
        while True:
            held = _lock_file(os.path.join(self._folder, "lock"), 0o600)
            if held is not None:
                held.record(os.getpid())
                return held
            if self._clock() >= end:
                return None
            self._sleep(0.05)

    def lock_run(self) -> HeldLock:
        """A lock of a program that runs; any number of programs may hold one.

        Raises:
            OSError: this user can lock nothing here.
        """
        folder, prefix, mode = os.path.join(self._folder, RUNS), "", 0o600
        is_foreign = self.is_foreign()
        if (
            sys.platform != "win32" and is_foreign
        ):  # the owner, who may not be root, must be able to look at the lock
            folder, prefix = self._files_of_others()
            prefix, mode = f"{prefix}{os.geteuid()}-", 0o644
        elif not os.path.isdir(folder):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        for number in range(MAX_RUNS):
            try:
                held = _lock_file(os.path.join(folder, f"{prefix}{number}"), mode)
            except PermissionError:
                if not is_foreign:
                    raise
                continue  # somebody else has made a file of this name
            if held is not None:
                held.record(None)
                return held
        raise OSError(errno.EAGAIN, f"{MAX_RUNS} programs run already", folder)

    def is_running(self) -> bool:
        """Whether a program of this folder runs, whoever started it."""
        runs = os.path.join(self._folder, RUNS)
        for name in os.listdir(runs) if os.path.isdir(runs) else ():
            if _is_in_use(os.path.join(runs, name)):
                return True
        if not os.path.isdir(self._folder) or os.name != "posix":
            return False
        shared, prefix = self._files_of_others()
        for name in os.listdir(shared) if os.access(shared, os.R_OK) else ():
            if name.startswith(prefix):
                user = name[len(prefix) :].partition("-")[0]
                if _is_in_use(os.path.join(shared, name), user):
                    return True
        return False

    def is_foreign(self) -> bool:
        """Whether the folder belongs to another user."""
        if sys.platform == "win32" or self._trust_owner:
            return False
        return os.stat(self._folder).st_uid != os.geteuid()

    def _files_of_others(self) -> Tuple[str, str]:
        """Where other users lock files, and how their names begin for this folder."""
        shared = next((path for path in SHARED_FOLDERS if os.path.isdir(path)), SHARED_FOLDERS[-1])
        found = os.stat(self._folder)  # by its inode: it may have several paths
        return shared, f"nuitkal-{found.st_dev:x}-{found.st_ino:x}-"


def _lock_file(path: str, mode: int) -> Optional[HeldLock]:
    """A lock on a file, which is made if need be; None when somebody else has it."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    try:
        if sys.platform != "win32" and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            with contextlib.suppress(OSError):  # a share that has no modes
                os.fchmod(descriptor, mode)
        is_free = _try_lock(descriptor, shared=False)
        if is_free is None:
            is_free = not _records_live_process(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    if is_free:
        return HeldLock(descriptor)
    os.close(descriptor)
    return None


def _is_in_use(path: str, user: str = "") -> bool:
    """Whether a running program holds the lock file, which must be of `user` if one is given."""
    flags = os.O_RDONLY if os.name == "posix" else os.O_RDWR
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in _NO_LOCK_FILE:
            return False
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            return False
        if user and user != str(found.st_uid):
            return False
        is_free = _try_lock(descriptor, shared=True)
        if is_free or os.name != "posix":
            return not is_free
        is_alive = _records_live_process(descriptor)
        return is_alive is True if is_free is None else is_alive is not False
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> Optional[bool]:
    """Whether the file could be locked; None on a file system without locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            getattr(msvcrt, "locking")(descriptor, getattr(msvcrt, "LK_NBLCK"), 1)  # noqa: B009
        else:
            import fcntl  # flock: closing any descriptor of a file would drop its POSIX locks

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if sys.platform == "win32" or error.errno in _LOCKED:
            return False  # on Windows every file system locks, and Wine names no errno
        logger.debug("a lock file cannot be locked (%s); its process id decides", error)
        return None
    return True


def _records_live_process(descriptor: int) -> Optional[bool]:
    """Whether the process that the file records is alive; None when that cannot be told."""
    if sys.platform == "win32":
        return None
    record = os.pread(descriptor, 200, 0).decode("ascii", "replace")
    if record == _RELEASED:
        return False
    process_id, _, pid_space = record.partition(" ")
    if not pid_space or pid_space != _pid_space():
        return None
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        pass  # another user's
    return True


def _pid_space() -> str:
    """Names the boot and the PID namespace, within which a process id means one process (Linux)."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
