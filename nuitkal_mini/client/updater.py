"""`ClientUpdater`: keeps a program up to date and starts it; one method a verb.

`update` is the path of an update from top to bottom: lock and recover the folder, ask the server,
verify its proof, install or repair. `update.py` holds the steps, `trial.py` and `launch.py` start
the program.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from ..paths import UPDATE_FOLDER
from ..semver import parse
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
from .start_update import NOTICEABLE_SECONDS, BackOff, LateAnswer, StartUpdate
from .trial import Trial

if TYPE_CHECKING:
    from .update import Update

logger = logging.getLogger(__name__)

BACK_OFF_FILE = UPDATE_FOLDER + "/backoff.json"


class ClientUpdater:
    """Keeps the program in `config.client_dir` up to date, and starts it."""

    def __init__(self, config: UpdaterConfig, *, disk: Optional[Disk] = None) -> None:
        self.config = config
        self._client_folder = ClientFolder(config, disk or Disk())
        self._trial = Trial(config, self._client_folder)
        self._failure: Optional[UpdaterError] = None  # of the update that this start tried
        self._start_update: Optional[StartUpdate] = None  # while it goes on behind the program
        #: The offer of the last check or update, if it is lower than what this client may go to.
        self.older_offer: Optional[Release] = None
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
            may_install = update.may_install(release)
            self.older_offer = update.older
            return release if may_install else None

    def update(self, force: bool = False) -> bool:
        """Install the active release, or repair the installed one; whether any file came.

        Args:
            force: install also a version that was rolled back before.

        Raises:
            UpdaterError: the sentence says what happened; the installed program is whole.
        """
        from .update import Update  # with urllib and ssl: a start without an update needs neither

        with self._client_folder.working() as installation:
            update = Update(self.config, self._client_folder, installation)
            return self._follow(update, update.ask(), force)

    def _follow(self, update: Update, release: Release, force: bool) -> bool:
        """The path of an update from the server's answer on; whether any file came."""
        update.follow_rotations(release)
        update.verify_installed_is_active(release)
        warning = update.freeze_warning(release)
        if warning:
            logger.warning("%s", warning)
        if self.config.adopt:
            update.adopt_found(release)
        may_install = update.may_install(release)
        self.older_offer = update.older
        if not may_install and not update.lacks_proof(release):
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
        try:
            return self.run(args)
        finally:
            if self._start_update is not None:
                self._start_update.cancel()

    def try_update(self, force: bool = False) -> Optional[UpdaterError]:
        """Update if possible, as a start does; the error that kept it from it, if there was one.

        Returns after `wait_seconds`: the update then goes on behind the program, and what it
        downloads is installed at the next start. A server that is away is waited for no longer than
        `check_seconds`. After failures that held starts up, the next ones do not wait.
        """
        self._start_update = StartUpdate()
        error: Optional[UpdaterError]
        try:
            error = self._update_within(self._start_update, force, self.config.wait_seconds)
        except UpdaterError as known:
            error = known
        except Exception as fault:  # a broken configuration, folder or environment: it must start
            logger.debug("the update failed unexpectedly", exc_info=True)
            error = UpdaterError(f"the update failed: {fault!r}")
        if isinstance(error, CheckError):  # being offline is nothing to warn of
            logger.info("%s; starting what is here", error)
        elif error is not None:
            logger.warning("%s; starting what is installed", error)
        self._failure = error
        return error

    def _update_within(
        self, start: StartUpdate, force: bool, wait_seconds: Optional[float]
    ) -> Optional[UpdaterError]:
        """Update in a thread that is waited for so long; the error, if it has ended with one."""
        installation = self._client_folder.open_unlocked()
        state, back_off = installation.state(), BackOff(Path(installation.at(BACK_OFF_FILE)))
        if state is None:
            wait_seconds = None  # there is nothing to start
        elif back_off.is_on(time.time()):
            wait_seconds = 0.0

        def work() -> None:
            self._update_at_start(start, force, wait_seconds)
            back_off.succeeded()

        # A start that does not wait for the network still installs what is staged.
        limit = None if wait_seconds is None else wait_seconds or self.config.lock_seconds
        began = time.monotonic()
        has_ended = start.run(work, limit)
        is_slow = time.monotonic() - began > NOTICEABLE_SECONDS
        has_failed = start.error is not None or not (has_ended or start.is_wanted_now)
        if is_slow and state is not None and has_failed:
            back_off.failed(time.time())
        if not has_ended:
            logger.info("the update goes on behind the program")
            if state is not None and state.trial_starts is not None:
                start.cancel()  # or the trial could not be judged: the update holds the lock
        return start.error

    def _update_at_start(
        self, start: StartUpdate, force: bool, wait_seconds: Optional[float]
    ) -> None:
        """Update as `update` does; while the server is silent, install what is staged."""
        from .update import Update, install_staged

        with self._client_folder.working() as installation:
            update = Update(self.config, self._client_folder, installation, start)
            answer = LateAnswer(lambda: update.ask(retry=False))
            is_first, is_awaited = update.state is None, wait_seconds != 0
            try:
                seconds = None if is_first else self.config.check_seconds
                release = answer.within(seconds) if is_awaited else None
            except CheckError:
                install_staged(self.config, self._client_folder, installation, start)
                raise
            if release is None:
                if is_awaited:
                    logger.info("the server has not answered yet; starting what is here")
                install_staged(self.config, self._client_folder, installation, start)
                start.let_start()
                release = answer.within(None)
                update = Update(self.config, self._client_folder, installation, start)
            assert isinstance(release, Release)
            self._follow(update, release, force)

    def start_now(self) -> None:
        """Have `try_update` return: the update goes on behind the program; from any thread."""
        if self._start_update is not None:
            self._start_update.is_wanted_now = True
            self._start_update.let_start()

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
            state, before = installation.state(), installation.rollback_state()
            if state and before and parse(before.version) > parse(state.version):
                raise RollbackError(
                    f"there is no earlier version to go back to: {before.version} was here before, "
                    f"and the server has withdrawn it for {state.version}"
                )
            return installation.rollback(new_identifier(), "asked for").version

    def adopt(self, force: bool = False) -> str:
        """Take a folder that was filled by other means for an installed release; its version.

        The files at the paths of the server's active release count as the program from now on, so
        that an update replaces them, keeps them for a rollback, and fetches only what differs. All
        other files stay the user's.

        Args:
            force: begin anew where the version file and its copies are lost.

        Raises:
            InstallError: a release is installed already.
        """
        from .update import Update

        with self._client_folder.working() as installation:
            if force:
                installation.forget_lost_state()
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
