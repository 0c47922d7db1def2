"""The client folder that a configuration names: who may read it, change it, or run its program."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import ContextManager, Iterator, Optional, Type

from ..paths import UPDATE_FOLDER
from .config import UpdaterConfig
from .disk import Disk, check_owned
from .errors import InstallError, LaunchError, UpdaterError
from .install import Installation
from .launch import own_program, unpack_folder
from .locks import FolderLocks, HeldLock
from .log_file import LogFile
from .swap import disk_error

logger = logging.getLogger(__name__)


class ClientFolder:
    """The client folder, as the configuration says at the moment of each call."""

    def __init__(self, config: UpdaterConfig, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._log: Optional[LogFile] = None

    def open_unlocked(self) -> Installation:
        """The installation, to be read and not changed: another updater may be at work."""
        config = self._config
        try:
            # POSIX: a link may lead to another file system, where `.update/` must then lie as well.
            # Windows: the real path of a network drive is a UNC path, in which cmd cannot work.
            absolute = os.path.realpath if os.name == "posix" else os.path.abspath
            folder = absolute(os.fspath(config.client_dir))
            unpacked = unpack_folder()
            if unpacked and (folder + os.sep).startswith(unpacked + os.sep):
                raise InstallError(
                    f"{folder} lies where this launcher was unpacked, and is deleted when it ends; "
                    "give client_dir as own_folder() / NAME"
                )
            self._open_log(folder)
            name = config.version_file
            if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
                raise InstallError(f"version_file must be a plain name, not {name!r}")
            return Installation(
                folder,
                name,
                disk=self._disk,
                preserve=tuple(config.preserve or ()),
                launcher=_launcher_in(folder),
                is_running=self._locks(folder).is_running,
                trust_owner=config.trust_owner,
            )
        except FileNotFoundError as error:
            raise InstallError(
                f"the working directory is gone; name client_dir {config.client_dir} in full"
            ) from error
        except (OSError, TypeError, ValueError, AttributeError) as error:
            raise InstallError(f"the configuration names no usable folder: {error}") from error

    @contextlib.contextmanager
    def working(self) -> Iterator[Installation]:
        """The installation, with the update lock held and no install half done.

        Makes the folder if need be. A disk error becomes an InstallError.
        """
        installation = self.open_unlocked()
        folder = installation.at(UPDATE_FOLDER)
        with _disk_errors(installation):
            # one by one: makedirs leaves the mode of the folders above to the umask
            for made in (installation.folder, folder):
                os.makedirs(made, 0o755, exist_ok=True)
            check_owned(folder, self._config.trust_owner)
            locks = self._locks(installation.folder)
            held = locks.lock_update(self._config.lock_seconds)
            if held is None:
                raise InstallError(
                    f"another updater is at work in {installation.folder}; "
                    "try again when it is done"
                )
            with held:
                installation.recover()
                yield installation

    @contextlib.contextmanager
    def reading(self) -> Iterator[Installation]:
        """The installation, to be read; needs no right to write, and creates nothing.

        An interrupted install is finished or undone first, where this user may do so.

        Raises:
            InstallError: it is between two versions.
        """
        installation = self.open_unlocked()
        with _disk_errors(installation):
            if installation.has_journal():
                try:
                    with self.working():
                        pass
                except InstallError:
                    if installation.pending():
                        raise
                installation = self.open_unlocked()  # what was read is older than the recovery
            yield installation

    def working_if_allowed(self) -> ContextManager[Installation]:
        """As `working` where this user may change an installation, else as `reading`."""
        installation = self.open_unlocked()
        is_ours = (
            os.access(installation.at(UPDATE_FOLDER), os.W_OK)
            and not self._locks(installation.folder).is_foreign()
        )
        return self.working() if is_ours else self.reading()

    def is_running(self, installation: Installation) -> bool:
        """Whether the program runs, so that its files must not change."""
        return self._locks(installation.folder).is_running()

    def refuse_while_running(self, installation: Installation, error: Type[UpdaterError]) -> None:
        """Raise an `error` while the program runs."""
        if self.is_running(installation):
            raise error(f"the program in {installation.folder} is running; close it and try again")

    def lock_run(self, installation: Installation) -> HeldLock:
        """A lock under which the program runs and no file of it changes.

        Raises:
            LaunchError: an update is being installed, or waits to be undone.
        """
        end = time.monotonic() + self._config.lock_seconds
        while True:
            if not installation.pending():
                held = self._try_lock_run(installation)
                if not installation.pending():
                    return held
                held.release()
            if time.monotonic() >= end:
                raise LaunchError(
                    f"an update of {installation.folder} is being installed; "
                    "start again when it is done"
                )
            time.sleep(0.05)

    def close(self) -> None:
        """Close the log file."""
        if self._log is not None:
            self._log.detach()
            self._log = None

    def _try_lock_run(self, installation: Installation) -> HeldLock:
        try:
            return self._locks(installation.folder).lock_run()
        except OSError as error:
            logger.debug("no lock in %s (%s); starting without", installation.folder, error)
            return HeldLock()

    def _locks(self, folder: str) -> FolderLocks:
        return FolderLocks(
            os.path.join(folder, UPDATE_FOLDER), trust_owner=self._config.trust_owner
        )

    def _open_log(self, folder: str) -> None:
        """Log to the configured file, or to the default one once `.update/` is there."""
        setting = self._config.log_file
        path = os.path.join(folder, UPDATE_FOLDER, "log.txt")
        if setting is not None and setting is not True:
            path = os.fspath(setting) if setting else ""
        if self._log is not None and self._log.path == path:
            return
        self.close()
        if path:
            self._log = LogFile(path)
            self._log.attach()


@contextlib.contextmanager
def _disk_errors(installation: Installation) -> Iterator[None]:
    """Turns an OSError into an InstallError that names the file."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise InstallError(
            f"{installation.folder}: this locale has no name for {error.object}; "
            "start in a UTF-8 locale"
        ) from error
    except OSError as error:
        raise InstallError(disk_error(error, installation.folder)) from error


def _launcher_in(folder: str) -> str:
    """The path of the running launcher in the app's tree; empty when it lies elsewhere."""
    try:
        launcher, root = os.path.realpath(own_program()), os.path.realpath(folder)
    except OSError:  # the working directory is gone, and the launcher's path is relative to it
        return ""
    if not launcher.startswith(root + os.sep):
        return ""
    return os.path.relpath(launcher, root).replace(os.sep, "/")
