"""The trial of a new version: its first starts confirm it, or it is rolled back.

Only a start that finds no other instance running judges. It rolls back after one crash that it
observed, or after three starts without confirmation. Ctrl-C, SIGTERM, logging off and a power cut
are no crash.
"""

from __future__ import annotations

import logging
from typing import Tuple

from ..semver import parse
from .client_folder import ClientFolder
from .errors import InstallError, LaunchError, RollbackError
from .install import Installation
from .journal import new_identifier
from .locks import HeldLock
from .state import State

logger = logging.getLogger(__name__)

MAX_STARTS = 3  # of a version that never ran long enough to be confirmed
# Exit codes of a program that was asked to end: SIGHUP, SIGINT, SIGTERM; Windows: Ctrl-C, logoff
NO_CRASH = (129, 130, 143, -1073741510, 0x40010004)


class Trial:
    """Starts of the program in a client folder, judged while its version is on trial."""

    def __init__(self, client_folder: ClientFolder) -> None:
        self._client_folder = client_folder

    def right_to_run(self, installation: Installation) -> Tuple[HeldLock, bool]:
        """A lock under which no file of the program changes, and whether this start judges a trial.

        An interrupted install is finished or undone first.

        Raises:
            LaunchError: the program must not start now.
        """
        state = installation.state()
        try:
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
        if code == 0 or code in NO_CRASH or interrupted:
            self.end(confirmed=code == 0)
            return False
        try:
            with self._client_folder.working() as installation:
                self._client_folder.refuse_while_running(installation, InstallError)
                state = installation.state()
                return (
                    state is not None
                    and state.trial_starts is not None
                    and self._go_back(
                        installation, state, f"it ended with exit code {code} while on trial"
                    )
                )
        except InstallError as error:
            logger.warning("%s; the trial goes on", error)
            return False

    def _count_start(self, installation: Installation) -> bool:
        state = installation.state()
        if state is None or state.trial_starts is None:
            return False
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
