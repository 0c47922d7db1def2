"""The version file and its two copies: reading, writing and mending them.

The version file holds the state, `.update/state.json` a copy of it, `.backup/trust.json` the
version and the trust state alone. A file that is missing or does not parse is mended from the
next one. A file that cannot be read (EACCES, EIO, EMFILE) is no damage: nothing is touched, and
the next start tries again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import List, Optional

from ..paths import BACKUP_FOLDER, UPDATE_FOLDER
from .disk import Disk, check_owned
from .errors import InstallError
from .state import MAX_STATE_BYTES, State, dump_state, parse_state
from .swap import disk_error

logger = logging.getLogger(__name__)

NEXT = UPDATE_FOLDER + "/next.json"
COPY = UPDATE_FOLDER + "/state.json"
PINS = BACKUP_FOLDER + "/trust.json"


class StateLost(InstallError):
    """There was a state, and no file holds it any more."""


def read_if_there(disk: Disk, path: str, limit: int) -> Optional[bytes]:
    """A file's bytes, at most `limit`; None when there is none.

    Raises:
        InstallError: it cannot be read, which is no damage.
    """
    try:
        return disk.read(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InstallError(
            f"{disk_error(error)}; nothing was changed, try again when it can be read"
        ) from error


class StateFiles:
    """The files that hold the state of one client folder."""

    def __init__(
        self, folder: str, version_file: str, disk: Disk, trust_owner: bool = False
    ) -> None:
        self._folder = folder
        self._version_file = version_file
        self._disk = disk
        self._trust_owner = trust_owner
        self._source = ""  # the file that the state was read from
        self._digest = b""  # of what was in it

    def read(self) -> Optional[State]:
        """The state; None when nothing was ever installed.

        Raises:
            InstallError: a file cannot be read.
            StateLost: every file is damaged or missing, and there was an installation.
        """
        damaged = []
        for path in (self._version_file, COPY, PINS):
            text = self._read(path)
            if text is None:
                continue
            try:
                state = parse_state(text)
            except (ValueError, TypeError) as error:
                logger.warning("%s is damaged (%s); going by its copy", self._at(path), error)
                damaged.append(path)
                continue
            self._source, self._digest = path, hashlib.sha256(text).digest()
            return state
        if self._was_installed(damaged):
            raise StateLost(
                f"{self._at(self._version_file)} and its copies are damaged or missing, so it is "
                "not known what is installed; restore one, or run adopt --force to begin anew"
            )
        return None

    def is_installed(self, identifier: str) -> bool:
        """Whether the version file holds a transaction's id: it has committed.

        Raises:
            InstallError: that cannot be read.
        """
        state = self.read()
        return state is not None and state.id == identifier

    def write(self, path: str, state: State) -> None:
        """Write a state, durably, at a path of the client folder."""
        self._disk.write(self._at(path), [dump_state(state)])

    def commit(self) -> None:
        """Make the state in `NEXT` the installed one."""
        self._disk.rename(self._at(NEXT), self._at(self._version_file))
        self._source, self._digest = self._version_file, b""

    def mend(self, state: State) -> None:
        """Bring the version file and its copies in line with the state, whichever are not."""
        if self._source != self._version_file:
            self.write(NEXT, state)
            self.commit()
        copy = self._read(COPY)
        if copy is None or hashlib.sha256(copy).digest() != self._digest:
            self._replace(COPY, copy, dump_state(state))
        if not os.path.lexists(self._at(BACKUP_FOLDER)):
            self._disk.mkdir(self._at(BACKUP_FOLDER))
        check_owned(self._at(BACKUP_FOLDER), self._trust_owner)
        pins = dump_state(State(state.version, trust=state.trust))
        self._replace(PINS, self._read(PINS), pins)

    def _replace(self, path: str, found: Optional[bytes], text: bytes) -> None:
        if found != text:
            self._disk.write(self._at(path + ".new"), [text])
            self._disk.rename(self._at(path + ".new"), self._at(path))

    def _read(self, path: str) -> Optional[bytes]:
        return read_if_there(self._disk, self._at(path), MAX_STATE_BYTES)

    def _was_installed(self, damaged: List[str]) -> bool:
        """Whether the folder had a state, when no file is whole and these are damaged."""
        try:
            names = os.listdir(self._at(BACKUP_FOLDER))
        except (FileNotFoundError, NotADirectoryError):
            return damaged not in ([], [self._version_file])  # it may be somebody else's file
        journals = [self._at(f"{BACKUP_FOLDER}/{name}/journal.json") for name in names]
        return bool(damaged) or any(map(os.path.exists, journals))

    def _at(self, path: str) -> str:
        return os.path.join(self._folder, path.replace("/", os.sep))
