"""The first starts of a new version: it is kept when it has lived long enough, or is rolled back.

Only a start that finds no other instance running judges: by one crash that it observed, or by three starts that nobody
confirmed. Ctrl-C, SIGTERM, logging off and a power cut are no crash.
"""

from __future__ import annotations

import logging
from typing import Tuple

from ..semver import parse
from .client_folder import ClientFolder
from .disk import Held
from .errors import InstallError, LaunchError, RollbackError
from .install import Installation
from .journal import new_identifier
from .state import State

logger = logging.getLogger(__name__)

MAX_STARTS = 3  # of a version that never lived long enough to confirm itself
# Exit codes of a program that somebody ended: SIGHUP, SIGINT, SIGTERM; on Windows Ctrl-C and logging off
NO_CRASH = (129, 130, 143, -1073741510, 0x40010004)


class Trial:
    """Starts of the program in a client folder, judged while its version is on trial."""

    def __init__(self, workplace: ClientFolder) -> None:
        self._workplace = workplace

    def right_to_run(self, place: Installation) -> Tuple[Held, bool]:
        """A lock under which no file of the program changes, and whether this start judges a version on trial.

        What was interrupted is finished or undone first.

        Raises:
            LaunchError: the program must not start now.
        """
        state = place.state()
        try:
            if not place.pending() and (state is None or state.trial < 0):
                return self._workplace.run(place), False
            with self._workplace.working():
                alone = self._workplace.try_swap_lock(place)
                if alone is None:
                    return self._workplace.run(place), False
                with alone:
                    judges = self._count_start(place)
                return self._workplace.run(place), judges
        except InstallError as error:
            if place.pending():
                raise LaunchError(
                    f"the program is between two versions and cannot start: {error}"
                ) from error
            logger.warning("%s; this start is not judged", error)
            return self._workplace.run(place), False

    def end(self, confirmed: bool) -> None:
        """End the trial, or take back the start that was counted for it."""
        try:
            with self._workplace.working() as place:
                state = place.state()
                if state is not None and state.trial >= 0:
                    place.remember(
                        state._replace(trial=-1 if confirmed else max(0, state.trial - 1))
                    )
                    logger.info(
                        "%s %s", state.version, "is confirmed" if confirmed else "stays on trial"
                    )
        except InstallError as error:
            logger.warning("%s; the trial goes on", error)

    def crashed(self, code: int, interrupted: bool) -> bool:
        """Judge a program that ended within its trial; True when it was rolled back and the one before should start.

        `interrupted`: it was asked to end. Many then exit with 1, and a Nuitka program may die of it, so the code says nothing.
        """
        if code == 0 or code in NO_CRASH or interrupted:
            self.end(confirmed=code == 0)
            return False
        try:
            with self._workplace.working() as place, self._workplace.swap_lock(place, InstallError):
                state = place.state()
                return (
                    state is not None
                    and state.trial >= 0
                    and self._go_back(
                        place, state, f"it ended with exit code {code} while on trial"
                    )
                )
        except InstallError as error:
            logger.warning("%s; the trial goes on", error)
            return False

    def _count_start(self, place: Installation) -> bool:
        state = place.state()
        if state is None or state.trial < 0:
            return False
        if state.trial >= MAX_STARTS:
            self._go_back(place, state, f"{MAX_STARTS} starts without confirmation")
            return False
        place.remember(state._replace(trial=state.trial + 1))
        return True

    def _go_back(self, place: Installation, state: State, reason: str) -> bool:
        """Roll a version on trial back, if the developer's `minimum` and the backup allow it."""
        minimum = state.trust.minimum()
        try:
            past = place.past()
            if past is not None and minimum is not None and parse(past.version) < minimum:
                raise RollbackError(
                    f"{past.version} is below {minimum.text}, the lowest version that the developer still allows"
                )
            place.rollback(new_identifier(), reason)
            return True
        except RollbackError as error:
            logger.error("%s cannot be rolled back: %s", state.version, error)
            place.remember(state._replace(trial=-1))
            return False
