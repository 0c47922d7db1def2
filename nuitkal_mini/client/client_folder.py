"""A client folder with an updater at work in it: nobody else is, nothing is half done, and the program stands still while its files change."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Iterator, Optional, Type

from ..paths import UPDATE_FOLDER
from .config import UpdaterConfig
from .disk import Disk, Held, Lock, check_owned
from .errors import InstallError, LaunchError, UpdaterError
from .install import Installation
from .launch import own_program
from .swap import disk_error

logger = logging.getLogger(__name__)

LOG_BYTES = 10**6


class ClientFolder:
    """The client folder, as the configuration says at the moment of each call."""

    def __init__(self, config: UpdaterConfig, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._log_handler: Optional[logging.Handler] = None

    def open_unlocked(self) -> Installation:
        """What is installed, to be read and not changed: somebody else may be at work."""
        self._open_log()
        config = self._config
        folder = os.path.abspath(config.client_dir)
        if "/" in config.version_file or "\\" in config.version_file:
            raise InstallError(f"version_file must be a plain name, not {config.version_file}")
        return Installation(
            folder,
            config.version_file,
            disk=self._disk,
            preserve=tuple(config.preserve),
            launcher=_launcher_in(folder),
        )

    @contextlib.contextmanager
    def working(self) -> Iterator[Installation]:
        """The client folder to ourselves, with nothing half done in it; disk errors become sentences."""
        installation = self.open_unlocked()
        try:
            folder = installation.at(UPDATE_FOLDER)
            for made in (
                installation.folder,
                folder,
            ):  # one by one, as makedirs leaves the mode of those above to the umask
                os.makedirs(made, 0o755, exist_ok=True)
            check_owned(folder)
            held = _lock(installation).update(self._config.lock_seconds)
            if held is None:
                raise InstallError(
                    f"another updater is at work in {installation.folder}; try again when it is done"
                )
            with held:
                self._recover(installation)
                yield installation
        except UnicodeEncodeError as error:
            raise InstallError(
                f"{installation.folder}: this locale has no name for {error.object}; start in a UTF-8 locale"
            ) from error
        except OSError as error:
            raise InstallError(disk_error(error, installation.folder)) from error

    def try_swap_lock(self, installation: Installation) -> Optional[Held]:
        """The right to change files; None while the program runs."""
        return _lock(installation).swap(0)

    @contextlib.contextmanager
    def swap_lock(self, installation: Installation, error: Type[UpdaterError]) -> Iterator[None]:
        """The right to change files, or an `error` while the program runs."""
        held = self.try_swap_lock(installation)
        if held is None:
            raise error(f"the program in {installation.folder} is running; close it and try again")
        with held:
            yield

    def lock_for_run(self, installation: Installation) -> Held:
        """The right to run the program: no file of it changes while this is held."""
        try:
            held = _lock(installation).lock_for_run(self._config.lock_seconds)
        except OSError as error:
            logger.debug(
                "no lock on %s (%s): nobody can update it from here either",
                installation.folder,
                error,
            )
            return Held()
        if held is None or installation.pending():
            raise LaunchError(
                f"an update of {installation.folder} is being installed; start again when it is done"
            )
        return held

    def close(self) -> None:
        """Close the log file."""
        if self._log_handler is not None:
            logging.getLogger("nuitkal_mini.client").removeHandler(self._log_handler)
            self._log_handler.close()
            self._log_handler = None

    def _recover(self, installation: Installation) -> None:
        if installation.pending():
            with self.swap_lock(installation, InstallError):
                installation.recover()
        else:
            installation.recover()

    def _open_log(self) -> None:
        if self._config.log_file is None or self._log_handler is not None:
            return
        from logging.handlers import (
            RotatingFileHandler,
        )  # not at the top: most apps have no log file, and it loads sockets and queues

        try:
            self._log_handler = RotatingFileHandler(
                self._config.log_file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
            )
        except OSError as error:
            logger.warning("no log file: %s", error)
            self._config.log_file = None
            return
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log = logging.getLogger("nuitkal_mini.client")
        log.addHandler(self._log_handler)
        log.setLevel(min(log.getEffectiveLevel(), logging.INFO))


def _lock(installation: Installation) -> Lock:
    return Lock(installation.at(UPDATE_FOLDER))


def _launcher_in(folder: str) -> str:
    """The path of the running launcher in the app's tree; empty when it lies elsewhere."""
    launcher, root = os.path.realpath(own_program()), os.path.realpath(folder)
    return (
        os.path.relpath(launcher, root).replace(os.sep, "/")
        if launcher.startswith(root + os.sep)
        else ""
    )
