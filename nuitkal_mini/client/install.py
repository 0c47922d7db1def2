"""The install transaction: an app's folder goes from one tree to another as a whole, whenever the power goes.

Everything new lies verified and fsynced under `.update/`. A journal says what leaves (`out`, to `.backup/<id>/`) and
what comes (`into`); then there are only renames. The rename of the version file, which holds the journal's id,
commits. Recovery decides by one table, and can be killed at any point itself:

    version file holds the journal's id          -> committed: clean up
    the journal is called journal.undo           -> undo
    all that comes is found, by hash, somewhere  -> go on
    else                                         -> call the journal journal.undo, durably; undo

Names become durable in this order: staged files and the journal; what left; what came; the version file; only
then is anything deleted. The journal ends in `.backup/<id>/`, where it tells a rollback what to put back.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from ..entries import FileEntry
from ..paths import BACKUP_FOLDER, UPDATE_FOLDER
from .disk import BUSY_SECONDS, Disk, check_owned
from .errors import InstallError, RollbackError
from .journal import Journal, dump_journal, parse_journal
from .state import (
    MAX_STATE_BYTES,
    RolledBack,
    State,
    dump_state,
    load_state,
    read_at_most,
    read_state,
)
from .swap import Swap, disk_error
from .swap_plan import Move, SwapPlan, plan_swap
from .tree import IN_RELEASES, ancestors, parent_of

logger = logging.getLogger(__name__)

STAGING = UPDATE_FOLDER + "/staging"
DOWNLOAD = UPDATE_FOLDER + "/download"
_JOURNAL = UPDATE_FOLDER + "/journal.json"
_UNDO = UPDATE_FOLDER + "/journal.undo"
_NEXT = UPDATE_FOLDER + "/next.json"
_STAGED = STAGING + "/next.json"
_COPY = UPDATE_FOLDER + "/state.json"
_KEPT = frozenset(["lock", "state.json", "staging", "download", "journal.json", "journal.undo"])
SETTLED_SECONDS = 2  # FAT rounds times to that: a file touched so lately may change once more and show the same time
_WINDOWS_PATH = (
    259  # characters, without the switch for long paths that no locked-down machine has set
)


class Installation(Swap):
    """A client folder, and the only code that changes the app in it."""

    def __init__(
        self,
        folder: str,
        version_file: str,
        *,
        disk: Optional[Disk] = None,
        preserve: Sequence[str] = (),
        launcher: str = "",
    ) -> None:
        super().__init__(folder, disk or Disk())
        self._version_file = version_file
        self._preserve = preserve
        self._launcher = launcher

    def state(self) -> Optional[State]:
        """What is installed; None before the first install."""
        return load_state(self.folder, self._version_file)

    def damaged(self, files: Iterable[FileEntry]) -> List[FileEntry]:
        """The files that are missing or not as they were installed; edited `preserve`d ones are as they should be."""
        return [
            entry
            for entry in files
            if not self.holds(entry.path, entry)
            and not (self._preserved(entry.path) and self.entry_at(entry.path))
        ]

    def stamp(self, files: Sequence[FileEntry], now: float) -> str:
        """A digest of what the file system says of files that need not be read for it; of `preserve`d ones, only that they are there.

        Empty when one is not there, or was touched so lately (`now` is in seconds since 1970) that its next change might not show.
        """
        seen: List[Tuple[object, ...]] = []
        for entry in files:
            try:
                found = os.lstat(self.at(entry.path))
            except OSError:
                return ""
            if self._preserved(entry.path):
                seen.append((entry.path,))
                continue
            if min(abs(now - found.st_mtime), abs(now - found.st_ctime)) < SETTLED_SECONDS:
                return ""
            seen.append(
                (
                    entry.path,
                    found.st_mode,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                    found.st_ino,
                )
            )
        if any(
            os.path.islink(self.at(folder))
            for folder in {folder for entry in files for folder in ancestors(entry.path)}
        ):
            return ""
        return hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest()

    def plan_swap(
        self, new: Iterable[FileEntry], identifier: str, source_of: Callable[[FileEntry], str]
    ) -> SwapPlan:
        """What turns the folder as it is into the tree `new`; see `arrange.arrange`."""
        return plan_swap(self, self.installed(), new, identifier, source_of, self._preserved)

    def install(self, changes: SwapPlan, state: State) -> None:
        """Make the changes, as one transaction, and `state` the installed one.

        Raises:
            InstallError: everything is as it was, unless the sentence says that the next start will see to it.
        """
        journal = Journal(
            state.id, state, self.state(), self._launcher, _launcher_last(changes, self._launcher)
        )
        self.disk.patience = BUSY_SECONDS
        try:
            text = dump_journal(journal)
            parse_journal(text)  # what recovery would not believe is not begun
            self._check_targets(journal)
            self._write_journal(journal, text)
        except ValueError as error:
            raise InstallError(f"{error}; nothing was installed") from error
        except OSError as error:
            raise InstallError(
                f"{disk_error(error)}; nothing was installed{self._withdraw()}"
            ) from error
        self._roll_forward(journal)
        self._clean_up(journal)

    def rollback(self, identifier: str, reason: str) -> State:
        """Put back the release before, as transaction `identifier`, and keep the one that leaves away.

        Raises:
            RollbackError: there is none, or its backup is damaged; nothing was changed.
        """
        state, rollback_state = self.state(), self._rollback_journal()
        if state is None or rollback_state is None or rollback_state.before is None:
            raise RollbackError("there is no earlier version to go back to")
        came = {
            move.target: move.entry._replace(path=move.target)
            for move in rollback_state.changes.move_in
        }
        stay = [self.entry_at(entry.path) for entry in self.installed() if entry.path not in came]
        # as they are: an edit is no reason to refuse
        target = {
            entry.path: entry for entry in stay if entry is not None and entry.mode in IN_RELEASES
        }
        sources = {}
        for move in rollback_state.changes.move_out:
            if self.holds(move.target, move.entry):
                sources[move.source] = move.target
            elif move.target.startswith(BACKUP_FOLDER + "/"):
                raise RollbackError(f"the backup of {move.source} is damaged; nothing was changed")
            else:
                continue  # the user has taken back what was kept aside
            target[move.source] = move.entry._replace(path=move.source)
        ours = {
            **came,
            **{entry.path: entry for entry in self.installed()},
        }  # `*.new` files are not in the manifest
        before = rollback_state.before._replace(
            id=identifier,
            backup="",
            trial_starts=None,
            trust=state.trust,
            rolled_back=RolledBack(state.version, state.package),
        )
        logger.info("going back from %s to %s: %s", state.version, before.version, reason)
        try:
            self.install(
                plan_swap(
                    self,
                    ours.values(),
                    target.values(),
                    identifier,
                    lambda entry: sources[entry.path],
                    self._preserved,
                ),
                before,
            )
        except InstallError as error:
            raise RollbackError(str(error)) from error
        return before

    def _preserved(self, path: str) -> bool:
        from fnmatch import fnmatchcase

        return any(fnmatchcase(path, pattern) for pattern in self._preserve)

    def _rollback_journal(self) -> Optional[Journal]:
        state = self.state()
        try:
            if state is None or not state.backup or not os.path.lexists(self.at(BACKUP_FOLDER)):
                return None
            check_owned(self.at(BACKUP_FOLDER))
            return self._load(f"{BACKUP_FOLDER}/{state.backup}/journal.json")
        except InstallError as error:
            raise RollbackError(str(error)) from error

    def rollback_state(self) -> Optional[State]:
        """What a rollback would go back to.

        Raises:
            RollbackError: its record is damaged.
        """
        journal = self._rollback_journal()
        return journal.before if journal else None

    def backup_files(self) -> List[Move]:
        """What the backup holds: an update that goes back needs no download of it."""
        try:
            journal = self._rollback_journal()
        except RollbackError:
            return []
        return (
            [move for move in journal.changes.move_out if self.holds(move.target, move.entry)]
            if journal
            else []
        )

    def installed(self) -> Tuple[FileEntry, ...]:
        """The installed tree, empty when nobody knows it."""
        state = self.state()
        tree = state.tree() if state else None
        return tree.files if tree else ()

    def remember(self, state: State) -> None:
        """Replace the state without touching the app."""
        self.disk.patience = BUSY_SECONDS
        try:
            self._write_state(_NEXT, state)
            self.disk.rename(self.at(_NEXT), self.at(self._version_file))
            self._sync_version_file()
            self._write_copy(state)
        except OSError as error:
            raise InstallError(
                f"{disk_error(error)}; the version file could not be written"
            ) from error

    def stage(self, state: State) -> None:
        """Keep what is staged, complete, for a start that finds nobody running the program."""
        self._write_state(_STAGED, state)

    def staged(self) -> Optional[State]:
        """What `stage` kept; None when nothing is."""
        return read_state(self.at(_STAGED))

    def pending(self) -> bool:
        """Whether the app is between two versions; of one that is committed, only the cleaning up may be left."""
        try:
            journal = self._load(_UNDO) or self._load(_JOURNAL)
        except InstallError:
            return True
        return journal is not None and not self._is_committed(journal)

    def recover(self) -> None:
        """Finish or undo what was interrupted, and sweep what it left.

        Raises:
            InstallError: neither was possible; the app must not be started.
        """
        if not os.path.isdir(self.at(UPDATE_FOLDER)):
            return
        self.disk.patience = BUSY_SECONDS
        journal = self._load(_JOURNAL) or self._load(_UNDO)
        if journal is None:
            self._sweep()
        elif self._is_committed(journal):
            self._clean_up(journal)
        else:
            self._resume(journal)

    def _resume(self, journal: Journal) -> None:
        try:
            self.sync(
                STAGING, BACKUP_FOLDER, UPDATE_FOLDER, ""
            )  # whoever was interrupted may not have come to that
        except OSError as error:
            raise InstallError(
                f"{disk_error(error)}; the next start will finish or undo the installation"
            ) from error
        if not os.path.lexists(self.at(_UNDO)) and self._all_found(journal):
            logger.warning(
                "an interrupted installation of %s is being finished", journal.state.version
            )
            self._roll_forward(journal)
            self._clean_up(journal)
        else:
            logger.warning(
                "an interrupted installation of %s is being undone", journal.state.version
            )
            self._roll_back(journal)
            self._sweep()

    def _is_committed(self, journal: Journal) -> bool:
        state = self.state()
        return state is not None and state.id == journal.id

    def _all_found(self, journal: Journal) -> bool:
        return all(
            self.holds(move.source, move.entry) or self.holds(move.target, move.entry)
            for move in journal.changes.move_in
        )

    def _check_targets(self, journal: Journal) -> None:
        for move in journal.changes.move_in:
            if not self.holds(move.source, move.entry):
                raise InstallError(
                    f"{move.target} has changed while the update was prepared; start again"
                )
            full = os.path.abspath(self.at(move.target))
            if os.name == "nt" and len(full) > _WINDOWS_PATH:
                raise InstallError(
                    f"{full} is longer than Windows allows (260 characters); move the program to a shorter path"
                )
        if os.name == "nt":
            for path in [
                *(move.source for move in journal.changes.move_out),
                *([self._version_file] if journal.before else []),
            ]:
                self.disk.rename(self.at(path), self.at(path))  # fails while somebody holds it open

    def _write_journal(self, journal: Journal, text: bytes) -> None:
        for folder in (BACKUP_FOLDER, f"{BACKUP_FOLDER}/{journal.id}", STAGING):
            if not os.path.lexists(self.at(folder)):
                self.disk.mkdir(self.at(folder))
            check_owned(self.at(folder))
        self.disk.write(self.at(_JOURNAL + ".new"), [text])
        self.sync(STAGING, BACKUP_FOLDER, "")
        self.disk.rename(self.at(_JOURNAL + ".new"), self.at(_JOURNAL))
        self.sync(UPDATE_FOLDER)

    def _withdraw(self) -> str:
        """Take back a journal after which nothing has happened yet."""
        try:
            self._forget(_JOURNAL)
        except OSError:
            return " yet; the next start will do it"
        self._sweep()
        return ""

    def _roll_forward(self, journal: Journal) -> None:
        """Forward to the commit; whatever fails before it is undone."""
        try:
            self._write_state(_NEXT, journal.state)
            self.swap(journal)
            self.disk.rename(self.at(_NEXT), self.at(self._version_file))
        except OSError as error:
            if self._is_committed(journal):
                return  # a network's file system can do the rename and lose its answer
            self._roll_back(journal)
            self._sweep()
            raise InstallError(f"{disk_error(error)}; the installed version stays") from error

    def _roll_back(self, journal: Journal) -> None:
        """Undo the transaction; from its first step on there is no way forward any more."""
        try:
            if os.path.lexists(self.at(_JOURNAL)):
                self.disk.rename(self.at(_JOURNAL), self.at(_UNDO))
                self.sync(UPDATE_FOLDER)
            self.swap_back(journal)
            self.disk.unlink(self.at(_UNDO))
            self.sync(UPDATE_FOLDER)
        except OSError as error:
            raise InstallError(
                f"{disk_error(error)}; the next start will undo the installation"
            ) from error

    def _write_state(self, path: str, state: State) -> None:
        self.disk.write(self.at(path), [dump_state(state)])

    def _write_copy(self, state: State) -> None:
        self._write_state(_COPY + ".new", state)
        self.disk.rename(self.at(_COPY + ".new"), self.at(_COPY))

    def _sync_version_file(self) -> None:
        """Make the rename of the version file durable."""
        if os.name == "nt":
            self.disk.sync_file(self.at(self._version_file))
        self.sync("")

    def _clean_up(self, journal: Journal) -> None:
        """Clean up behind a committed transaction. The app is whole: what fails here is left to the next start."""
        try:
            self._sync_version_file()
            self.clear_staging()
            self.sync(UPDATE_FOLDER)  # without the journal nobody would come back for it
            if journal.state.backup == journal.id:
                self.move(_JOURNAL, f"{BACKUP_FOLDER}/{journal.id}/journal.json")
            else:
                self.disk.unlink(self.at(_JOURNAL))
        except OSError as error:
            logger.warning("%s; the next start will clean up", disk_error(error))
            return
        self._sweep()

    def _sweep(self) -> None:
        """Remove what nothing refers to, and mend the version file and its copy."""
        installed, copy = read_state(self.at(self._version_file)), read_state(self.at(_COPY))
        state = installed or copy
        try:
            for name in os.listdir(self.at(UPDATE_FOLDER)):
                if name not in _KEPT:
                    self.disk.remove(self.at(f"{UPDATE_FOLDER}/{name}"))
            for name in os.listdir(self.at(BACKUP_FOLDER)) if self.is_folder(BACKUP_FOLDER) else ():
                if state is None or name != state.backup:
                    self.disk.remove(self.at(f"{BACKUP_FOLDER}/{name}"))
            if state is not None and installed != state:
                self._write_state(_NEXT, state)
                self.disk.rename(self.at(_NEXT), self.at(self._version_file))
            if state is not None and copy != state:
                self._write_copy(state)
        except OSError as error:
            logger.warning("%s; the next start will clean up", disk_error(error))

    def clear_staging(self) -> None:
        """Forget what was downloaded and not installed."""
        for folder in (STAGING, DOWNLOAD):
            self.disk.remove(self.at(folder))

    def _forget(self, path: str) -> None:
        if os.path.lexists(self.at(path)):
            self.disk.unlink(self.at(path))
            self.sync(parent_of(path))

    def _load(self, path: str) -> Optional[Journal]:
        try:
            with open(self.at(path), "rb") as file:
                return parse_journal(read_at_most(file, 2 * MAX_STATE_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InstallError(
                f"{self.at(path)} cannot be read ({error}); remove it and run update"
            ) from error


def _launcher_last(changes: SwapPlan, launcher: str) -> SwapPlan:
    """The launcher is one file, and swapped last: until then the old one starts and recovers."""
    return changes._replace(
        move_out=tuple(sorted(changes.move_out, key=lambda move: move.source == launcher)),
        move_in=tuple(sorted(changes.move_in, key=lambda move: move.target == launcher)),
    )
