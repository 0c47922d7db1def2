"""`ClientUpdater`: keeps a program up to date and starts it; one method a verb.

`update` is the path of an update from top to bottom: lock and recover the folder, ask the server,
verify its proof, install or repair. `update.py` holds the steps, `trial.py` and `launch.py` start
the program.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from .client_folder import ClientFolder
from .config import UpdaterConfig
from .disk import Disk
from .errors import (
    CheckError,
    InstallError,
    LaunchError,
    RollbackError,
    UpdaterError,
    VerificationError,
)
from .journal import new_identifier
from .launch import occupy_standard_streams, run
from .release import Release
from .trial import Trial

logger = logging.getLogger(__name__)


class ClientUpdater:
    """Keeps the program in `config.client_dir` up to date, and starts it."""

    def __init__(self, config: UpdaterConfig, *, disk: Optional[Disk] = None) -> None:
        self.config = config
        self._client_folder = ClientFolder(config, disk or Disk())
        self._trial = Trial(config, self._client_folder)
        self._failure: Optional[UpdaterError] = None  # of the update that this start tried
        occupy_standard_streams()

    def __enter__(self) -> ClientUpdater:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log file."""
        self._client_folder.close()

    @property
    def installed_version(self) -> Optional[str]:
        """The version that is installed, None before the first install."""
        state = self._client_folder.open_unlocked().state()
        return state.version if state else None

    def check(self) -> Optional[Release]:
        """The server's active release, or None when the installed version is the active one.

        Raises:
            CheckError: the server cannot be reached, does not say, or shows nothing newer than
                `max_age_days`.
            VerificationError: it has no proof that the installed version is the active one.
        """
        from .update import Update

        with self._client_folder.working_if_allowed() as installation:
            update = Update(self.config, self._client_folder, installation)
            release = update.ask()
            update.follow_rotations(release)
            update.verify_installed_is_active(release)
            warning = update.freeze_warning(release)
            if warning:
                raise CheckError(warning)
            return release if update.may_install(release) else None

    def update(self, force: bool = False) -> bool:
        """Install the active release, or repair the installed one; whether any file came.

        Args:
            force: install also a version that was rolled back before.

        Raises:
            UpdaterError: the sentence says what happened; the installed program is whole.
        """
        return self._update(force, None)

    def _update(self, force: bool, check_seconds: Optional[float]) -> bool:
        from .update import Update  # with urllib and ssl: a start without an update needs neither

        with self._client_folder.working() as installation:
            update = Update(self.config, self._client_folder, installation)
            release = update.ask(check_seconds)
            update.follow_rotations(release)
            update.verify_installed_is_active(release)
            warning = update.freeze_warning(release)
            if warning:
                logger.warning("%s", warning)
            if not update.may_install(release) and not update.lacks_proof(release):
                return update.repair(release)
            if update.was_rolled_back(release) and not force:
                return False
            return update.install(release)

    def update_and_run(self, args: Optional[Sequence[str]] = None, force: bool = False) -> int:
        """Update if possible, start the program in any case; its exit code.

        Raises:
            LaunchError: there is nothing to start, or it cannot be started.
        """
        self.try_update(force)
        return self.run(args)

    def try_update(self, force: bool = False) -> Optional[UpdaterError]:
        """Update if possible, as a start does; the error that kept it from it, if there was one.

        A server that is away is waited for no longer than `check_seconds`; an update that is
        staged is then installed without it.
        """
        self._failure = None
        try:
            self._update(force, self.config.check_seconds)
        except CheckError as error:
            logger.warning("%s; starting what is here", error)
            self._failure = error
            self._try_install_staged()
        except UpdaterError as error:
            logger.warning("%s; starting what is installed", error)
            self._failure = error
        except Exception as error:  # a broken configuration, folder or environment: it must start
            logger.warning("%r; starting what is installed", error)
            logger.debug("the update failed unexpectedly", exc_info=True)
            self._failure = UpdaterError(f"the update failed: {error!r}")
        return self._failure

    def _try_install_staged(self) -> None:
        from .update import install_staged

        try:
            with self._client_folder.working() as installation:
                install_staged(self.config, self._client_folder, installation)
        except UpdaterError as error:
            logger.warning("%s; starting what is installed", error)
            self._failure = error

    def run(self, args: Optional[Sequence[str]] = None) -> int:
        """Start the program and wait for it; its exit code.

        `args` are its arguments, None: those of this process. A new version on trial that crashes
        is rolled back, and the one before is started.

        Raises:
            LaunchError: it cannot be started.
        """
        try:
            return self._trial.run(list(sys.argv[1:] if args is None else args))
        except (UpdaterError, OSError, TypeError, ValueError) as error:
            sentence = str(error)
            if self._failure is not None and not self._is_installed():
                sentence = f"nothing is installed yet: {self._failure}"
            raise LaunchError(sentence) from error

    def _is_installed(self) -> bool:
        try:
            return self.installed_version is not None
        except (UpdaterError, OSError):
            return False

    def run_launcher(self, args: Optional[Sequence[str]] = None) -> int:
        """Start `main_script`, a launcher that is in its own release; its exit code.

        For a stub beside the launcher. An interrupted update is finished or undone first. Unlike
        `run` this holds no lock, as the launcher itself has to update, and judges no trial, as the
        launcher does that.

        Raises:
            LaunchError: it cannot be started.
        """
        try:
            with self._client_folder.reading():
                pass
        except InstallError as error:
            logger.warning("%s; that is left to the launcher", error)
        return run(
            self.config.main_script,
            Path(self._client_folder.open_unlocked().folder),
            sys.argv[1:] if args is None else args,
            python=self.config.python,
        )

    def confirm(self) -> None:
        """Keep the version on trial; called by a program that is up."""
        self._trial.end(confirmed=True)

    def rollback(self) -> str:
        """Go back to the version before, and keep the one that leaves away; the version then.

        Raises:
            RollbackError: there is none; nothing was changed.
        """
        if self.installed_version is None:
            raise RollbackError("there is no earlier version to go back to")
        with self._client_folder.working() as installation:
            self._client_folder.refuse_while_running(installation, RollbackError)
            return installation.rollback(new_identifier(), "asked for").version

    def adopt(self) -> str:
        """Take a folder that was filled by other means for an installed release; its version.

        The files at the paths of the server's active release count as the program from now on, so
        that an update replaces them, keeps them for a rollback, and fetches only what differs. All
        other files stay the user's.

        Raises:
            InstallError: a release is installed already.
        """
        from .update import Update

        with self._client_folder.working() as installation:
            update = Update(self.config, self._client_folder, installation)
            if update.state is not None and update.state.manifest:
                raise InstallError(
                    f"{update.state.version} is installed in {installation.folder} already; "
                    "there is nothing to adopt"
                )
            return update.adopt(update.ask())

    def verify(self) -> List[str]:
        """The paths of the installed release that are missing or not as they were installed.

        Raises:
            VerificationError: no release is installed, or its manifest is not known.
        """
        with self._client_folder.reading() as installation:
            files = installation.installed()
            if not files:
                raise VerificationError(
                    f"nothing that could be verified is installed in {installation.folder}; "
                    "run update first"
                )
            return [entry.path for entry in installation.damaged(files)]

    def status(self) -> List[Tuple[str, str]]:
        """The installed release and what is remembered of it, as (name, value) pairs for people."""
        with self._client_folder.reading() as installation:
            state = installation.state()
            if state is None:
                return [("installed", "nothing")]
            lines = [
                ("installed", state.version),
                ("files", str(len(installation.installed()))),
                ("app", state.trust.app or "not named"),
                ("signed", "only" if state.trust.keys else "not asked for"),
            ]
            if state.trial_starts is not None:
                lines.append(("on trial", f"{state.trial_starts} starts so far"))
            if state.backup:
                lines.append(("rollback", "possible"))
            if state.rolled_back is not None:
                lines.append(("kept away", state.rolled_back.version))
            return lines
