"""Starts of the program, and the trial of a new version: it is confirmed, or rolled back.

A new version that cannot be started at all (no such file, no interpreter, a binary for another
machine) is rolled back in the same start. With `confirm_seconds` it must also run that long: it is
rolled back after one crash that a start observed, or after three starts without confirmation.
Ctrl-C, SIGTERM, logging off and a power cut are no crash. Only a start that finds no other instance
running judges.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Optional, Sequence, Tuple, Union

from ..paths import UPDATE_FOLDER
from ..semver import parse
from .client_folder import ClientFolder
from .config import UpdaterConfig
from .errors import InstallError, LaunchError, RollbackError
from .install import Installation
from .journal import new_identifier
from .launch import Child, start
from .locks import HeldLock
from .state import State

logger = logging.getLogger(__name__)

MAX_STARTS = 3  # of a version that never ran long enough to be confirmed
# Exit codes of a program that was asked to end: SIGHUP, SIGINT, SIGTERM; Windows: Ctrl-C, logoff
NO_CRASH = (129, 130, 143, -1073741510, 0x40010004)
# Exit codes of a program that never ran: a shell found no interpreter or library (126, 127);
# Windows: STATUS_INVALID_IMAGE_FORMAT, _DLL_NOT_FOUND, _ORDINAL_NOT_FOUND, _ENTRYPOINT_NOT_FOUND
NEVER_RAN = (126, 127, *(code - (1 << 32) for code in (0xC000007B, 0xC0000135, 0xC0000138)))
NEVER_RAN += (0xC0000139 - (1 << 32),)
START_SECONDS = 2.0  # within which a program that cannot run has ended


class Trial:
    """Starts of the program in a client folder, judged while its version is on trial."""

    def __init__(self, config: UpdaterConfig, client_folder: ClientFolder) -> None:
        self._config = config
        self._client_folder = client_folder

    def run(self, arguments: Sequence[str]) -> int:
        """Start the program and wait for it, again after a rollback; its exit code.

        Raises:
            LaunchError: it cannot be started.
        """
        installation = self._client_folder.open_unlocked()
        held, judges = self.right_to_run(installation)
        with held:
            child = self._try_start(installation, arguments, held)
            if isinstance(child, Child):
                code, judges = self._wait(child, judges)
        if isinstance(child, LaunchError):
            if judges and self._roll_back(f"it cannot be started: {child}"):
                return self.run(arguments)
            raise child
        if judges and self.crashed(code, child.interrupted):
            return self.run(arguments)
        return code

    def _try_start(
        self, installation: Installation, arguments: Sequence[str], held: HeldLock
    ) -> Union[Child, LaunchError]:
        try:
            state = installation.state()
        except InstallError:  # the program must start all the same
            state = None
        main = main_of(state) or self._config.main_script
        logger.info("starting %s", main)
        try:
            child = start(
                main,
                Path(installation.folder),
                arguments,
                python=self._config.python,
                pass_fds=held.descriptors,
            )
        except LaunchError as error:
            return error
        held.record(child.process_id)
        return child

    def _wait(self, child: Child, judges: bool) -> Tuple[int, bool]:
        """The exit code, and whether the program ended while it was on trial."""
        code = child.wait(self._confirm_seconds() or START_SECONDS) if judges else child.wait()
        if code is None:
            self.end(confirmed=True)
            code, judges = child.wait(), False
        assert code is not None
        return code, judges

    def right_to_run(self, installation: Installation) -> Tuple[HeldLock, bool]:
        """A lock under which no file of the program changes, and whether this start judges a trial.

        An interrupted install is finished or undone first.

        Raises:
            LaunchError: the program must not start now.
        """
        update_folder = installation.at(UPDATE_FOLDER)
        if os.path.islink(update_folder):  # nothing is read or written where it leads
            logger.warning("%s is a link and not used; remove it to get updates", update_folder)
            return HeldLock(), False
        try:
            state = installation.state()
            if not installation.pending() and (state is None or state.trial_starts is None):
                return self._client_folder.lock_run(installation), False
            with self._client_folder.working() as installation:
                is_alone = not self._client_folder.is_running(installation)
                judges = is_alone and self._count_start(installation)
                return self._client_folder.lock_run(installation), judges
        except InstallError as error:
            if installation.pending():
                raise LaunchError(
                    f"the program is between two versions and cannot start: {error}"
                ) from error
            logger.warning("%s; this start is not judged", error)
            return self._client_folder.lock_run(installation), False

    def end(self, confirmed: bool) -> None:
        """End the trial, or uncount the start that was counted for it."""
        try:
            state = self._client_folder.open_unlocked().state()
            if state is None or state.trial_starts is None:
                return
            with self._client_folder.working() as installation:
                state = installation.state()
                if state is not None and state.trial_starts is not None:
                    installation.remember(
                        state._replace(
                            trial_starts=None if confirmed else max(0, state.trial_starts - 1)
                        )
                    )
                    logger.info(
                        "%s %s", state.version, "is confirmed" if confirmed else "stays on trial"
                    )
        except InstallError as error:
            logger.warning("%s; the trial goes on", error)

    def crashed(self, code: int, interrupted: bool) -> bool:
        """Judge a program that ended within its trial; True when it was rolled back.

        `interrupted`: a signal asked it to end. Many programs then exit with 1, so the exit code
        says nothing.
        """
        only_starts = not self._confirm_seconds()
        if code == 0 or code in NO_CRASH or interrupted or only_starts and code not in NEVER_RAN:
            self.end(confirmed=code == 0 or only_starts)
            return False
        return self._roll_back(f"it ended with exit code {code} while on trial")

    def _roll_back(self, reason: str) -> bool:
        try:
            with self._client_folder.working() as installation:
                self._client_folder.refuse_while_running(installation, InstallError)
                state = installation.state()
                if state is None or state.trial_starts is None:
                    return False
                return self._go_back(installation, state, reason)
        except InstallError as error:
            logger.warning("%s; the trial goes on", error)
            return False

    def _confirm_seconds(self) -> float:
        """How long a new version must run; 0: it need only start (also for senseless values)."""
        try:
            seconds = float(self._config.confirm_seconds)
        except (TypeError, ValueError):
            return 0.0
        return seconds if 0 < seconds <= threading.TIMEOUT_MAX else 0.0

    def _count_start(self, installation: Installation) -> bool:
        state = installation.state()
        if state is None or state.trial_starts is None:
            return False
        if not self._confirm_seconds():
            return True  # the first start that succeeds confirms it
        if state.trial_starts >= MAX_STARTS:
            self._go_back(installation, state, f"{MAX_STARTS} starts without confirmation")
            return False
        installation.remember(state._replace(trial_starts=state.trial_starts + 1))
        return True

    def _go_back(self, installation: Installation, state: State, reason: str) -> bool:
        """Roll back the version on trial, if the signed `minimum` and the backup allow it."""
        minimum = state.trust.minimum()
        try:
            rollback_state = installation.rollback_state()
            if (
                rollback_state is not None
                and minimum is not None
                and parse(rollback_state.version) < minimum
            ):
                raise RollbackError(
                    f"{rollback_state.version} is below {minimum.text}, "
                    "the lowest version that the developer still allows"
                )
            installation.rollback(new_identifier(), reason)
            return True
        except RollbackError as error:
            logger.error("%s cannot be rolled back: %s", state.version, error)
            installation.remember(state._replace(trial_starts=None))
            return False


def main_of(state: Optional[State]) -> str:
    """The program that the installed manifest names; empty when it names none."""
    if state is None or '"main"' not in state.manifest:  # parsing takes time at each start
        return ""
    manifest = state.tree()
    return manifest.main if manifest else ""
