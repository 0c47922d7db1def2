"""The install transaction: a client folder goes from one release's tree to another's as a whole.

The new files lie verified and fsynced in `.update/staging/`. The journal lists every rename: what
moves out to `.backup/<id>/`, and what moves in. The rename of the version file, which then holds
the journal's id, commits. Recovery has one rule, that of SQLite's rollback journal:

    the version file holds the journal's id -> committed: clean up
    it does not                             -> undo; what is staged stays

Undoing is renames alone and needs no space: the next version file and every new folder are made
before the journal. Names become durable in this order: staged files and the journal; what moved
out; what moved in; the version file. Only then is anything deleted. The journal ends in
`.backup/<id>/`, where it tells a rollback what to put back.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from ..entries import FileEntry, check_owned_names, check_tree
from ..manifest import Manifest
from ..paths import BACKUP_FOLDER, UPDATE_FOLDER, UnsafePath
from .disk import BUSY_SECONDS, Disk, check_owned
from .errors import InstallError, RollbackError
from .journal import Journal, dump_journal, parse_journal
from .locks import RUNS
from .log_file import LOG_FILES
from .state import MAX_STATE_BYTES, RolledBack, State, parse_state
from .state_files import NEXT, PINS, StateFiles, StateLost, read_if_there
from .swap import Swap, disk_error
from .swap_plan import Move, SwapPlan, plan_swap
from .tree import IN_RELEASES, ancestors, parent_of

logger = logging.getLogger(__name__)

STAGING = UPDATE_FOLDER + "/staging"
DOWNLOAD = UPDATE_FOLDER + "/download"
_JOURNAL = UPDATE_FOLDER + "/journal.json"
_STAGED = STAGING + "/next.json"
_KEPT = frozenset(
    ["lock", RUNS, *LOG_FILES, "state.json", "staging", "download", "journal.json", "backoff.json"]
)
# FAT rounds times to that: a file touched so lately may change once more and show the same time
SETTLED_SECONDS = 2
# Characters, without the switch for long paths that no locked-down machine has set
_WINDOWS_PATH = 259


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
        is_running: Callable[[], bool] = lambda: False,
        trust_owner: bool = False,
    ) -> None:
        super().__init__(folder, disk or Disk())
        self._is_running = is_running
        self._trust_owner = trust_owner
        self._version_file = version_file
        self._preserve = preserve
        self._launcher = launcher
        self._files = StateFiles(folder, version_file, self.disk, trust_owner)
        self._is_state_known = False  # from `recover` on, while its caller holds the lock
        self._state: Optional[State] = None
        self._manifest: Optional[Manifest] = None
        self._manifest_text = ""  # of which `_manifest` is the value

    def state(self) -> Optional[State]:
        """What is installed, None before the first install; read once after `recover`.

        Raises:
            InstallError: the files that hold it cannot be read.
            StateLost: they are damaged or missing.
        """
        return self._state if self._is_state_known else self._files.read()

    def forget_lost_state(self) -> None:
        """Where `state` raises `StateLost`: take the folder for one with nothing installed."""
        try:
            self.state()
        except StateLost:
            self._state, self._is_state_known = None, True

    def manifest(self) -> Optional[Manifest]:
        """The installed manifest, parsed once; None when nobody knows it."""
        state = self.state()
        if state is None:
            return None
        if self._manifest_text != state.manifest:
            self._manifest_text, self._manifest = state.manifest, state.tree()
        return self._manifest

    def damaged(self, files: Iterable[FileEntry]) -> List[FileEntry]:
        """The files that are missing or not as they were installed.

        `preserve`d ones may be edited.
        """
        return [
            entry
            for entry in files
            if not self.holds(entry.path, entry)
            and not (self._preserved(entry.path) and self.entry_at(entry.path))
        ]

    def stamp(self, files: Sequence[FileEntry], now: float) -> str:
        """A digest of the files' sizes, times, modes and inodes: none need be read.

        Of `preserve`d files it covers only that they are there. It is empty when a file is not
        there, or was changed so lately (`now` is in seconds since 1970) that its next change
        might not show.
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
        """What turns the folder as it is into the tree `new`; see `swap_plan.plan_swap`.

        Raises:
            InstallError: `new` brings what the updater owns, or something is in the way.
        """
        entries = tuple(new)
        try:
            check_tree(entries)
            check_owned_names(entries, [self._version_file])
        except UnsafePath as error:
            raise InstallError(f"{error}; nothing was installed") from error
        return plan_swap(self, self.installed(), entries, identifier, source_of, self._preserved)

    def install(self, changes: SwapPlan, state: State) -> None:
        """Make the changes, as one transaction, and `state` the installed one.

        Raises:
            InstallError: everything is as it was, or the sentence says that the next start will
            undo it.
        """
        changes = _launcher_last(changes, self._launcher)
        journal = Journal(state.id, state, self.state(), self._launcher, changes)
        self.disk.patience = BUSY_SECONDS
        try:
            text = dump_journal(journal)
            parse_journal(text)  # recovery must be able to read it
            self._check_targets(journal)
            self._prepare(journal, text)
            if self._is_running():  # it was started before it could see the journal
                raise InstallError(
                    f"the program in {self.folder} was started; close it and try again"
                    f"{self._withdraw()}"
                )
        except ValueError as error:
            raise InstallError(f"{error}; nothing was installed") from error
        except OSError as error:
            said = f"{disk_error(error)}; nothing was installed{self._withdraw()}"
            raise InstallError(said) from error
        try:
            self.swap(journal)
            self._files.commit()
        except OSError as error:
            # On a network's file system a rename can be done and its answer lost
            if not self._files.is_installed(journal.id):
                self._undo(journal)
                raise InstallError(f"{disk_error(error)}; the installed version stays") from error
        self._state = state
        self._clean_up(journal)

    def rollback(self, identifier: str, reason: str) -> State:
        """Put back the release before, as transaction `identifier`; the one that leaves stays away.

        Raises:
            RollbackError: there is none, or its backup is damaged; nothing was changed.
        """
        state, journal = self.state(), self._rollback_journal()
        if state is None or journal is None or journal.before is None:
            raise RollbackError("there is no earlier version to go back to")
        came = {
            move.target: move.entry._replace(path=move.target) for move in journal.changes.move_in
        }
        stay = [self.entry_at(entry.path) for entry in self.installed() if entry.path not in came]
        # as they are: an edit is no reason to refuse
        target = {
            entry.path: entry for entry in stay if entry is not None and entry.mode in IN_RELEASES
        }
        sources = self._backup_sources(journal)
        target.update((path, move.entry._replace(path=path)) for path, move in sources.items())
        # `*.new` files came, and are not in the manifest
        ours = {**came, **{entry.path: entry for entry in self.installed()}}
        before = journal.before._replace(
            id=identifier,
            backup="",
            trial_starts=None,
            trust=state.trust,
            rolled_back=RolledBack(state.version, state.package),
        )
        logger.info("going back from %s to %s: %s", state.version, before.version, reason)
        try:
            changes = plan_swap(
                self,
                ours.values(),
                target.values(),
                identifier,
                lambda entry: sources[entry.path].target,
                self._preserved,
            )
            self.install(changes, before)
        except InstallError as error:
            raise RollbackError(str(error)) from error
        return before

    def _backup_sources(self, journal: Journal) -> Dict[str, Move]:
        """The journal's moves that a rollback takes back, by the path to which a file returns."""
        sources = {}
        for move in journal.changes.move_out:
            if self.holds(move.target, move.entry):
                sources[move.source] = move
            elif move.target.startswith(BACKUP_FOLDER + "/"):
                raise RollbackError(f"the backup of {move.source} is damaged; nothing was changed")
            # else the user has taken back what was kept aside
        return sources

    def _preserved(self, path: str) -> bool:
        from fnmatch import fnmatchcase

        return any(fnmatchcase(path, pattern) for pattern in self._preserve)

    def _rollback_journal(self) -> Optional[Journal]:
        state = self.state()
        try:
            if state is None or not state.backup or self.lstat(BACKUP_FOLDER) is None:
                return None
            check_owned(self.at(BACKUP_FOLDER), self._trust_owner)
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
        manifest = self.manifest()
        return manifest.files if manifest else ()

    def remember(self, state: State) -> None:
        """Replace the state without touching the app."""
        self.disk.patience = BUSY_SECONDS
        try:
            self._files.write(NEXT, state)
            self._files.commit()
            self._state = state
            self._sync_version_file()
            self._files.mend(state)
        except OSError as error:
            raise InstallError(
                f"{disk_error(error)}; the version file could not be written"
            ) from error

    def stage(self, state: State) -> None:
        """Keep what is staged, complete, for a start that finds nobody running the program."""
        self._files.write(_STAGED, state)

    def staged(self) -> Optional[State]:
        """What `stage` kept; None when nothing is."""
        try:
            return parse_state(self.disk.read(self.at(_STAGED), MAX_STATE_BYTES))
        except (OSError, ValueError, TypeError):
            return None  # then it is staged again

    def has_journal(self) -> bool:
        """Whether an install was interrupted, or is going on."""
        return os.path.lexists(self.at(_JOURNAL))

    def pending(self) -> bool:
        """Whether the app is between two versions; behind a commit only the cleaning up is left."""
        try:
            journal = self._load(_JOURNAL)
            return journal is not None and not self._files.is_installed(journal.id)
        except InstallError:
            return True

    def recover(self) -> None:
        """Undo what was interrupted, or clean up behind it; the caller holds the update lock.

        Raises:
            InstallError: that was not possible; the app must not be started.
        """
        self.disk.patience = BUSY_SECONDS
        journal = self._load(_JOURNAL)
        try:
            self._state = self._files.read()
        except StateLost:
            if journal is None or journal.before is None:
                return  # each call of `state` says it
            self._state = journal.before
        self._is_state_known = True
        if journal is None:
            self._sweep()
        elif self._state is not None and self._state.id == journal.id:
            self._clean_up(journal)
        else:
            logger.warning(
                "an interrupted installation of %s is being undone", journal.state.version
            )
            self._undo(journal)

    def _check_targets(self, journal: Journal) -> None:
        for move in journal.changes.move_in:
            if not self.holds(move.source, move.entry):
                raise InstallError(
                    f"{move.target} has changed while the update was prepared; start again"
                )
            full = os.path.abspath(self.at(move.target))
            if os.name == "nt" and len(full) > _WINDOWS_PATH:
                raise InstallError(
                    f"{full} is longer than Windows allows (260 characters); "
                    "move the program to a shorter path"
                )
        if os.name == "nt":
            for path in [
                *(move.source for move in journal.changes.move_out),
                *([self._version_file] if journal.before else []),
            ]:
                self.disk.rename(self.at(path), self.at(path))  # fails while somebody holds it open

    def _prepare(self, journal: Journal, text: bytes) -> None:
        """Write all that needs space: folders, the next version file, and at last the journal."""
        for folder in (BACKUP_FOLDER, journal.backup_folder, STAGING):
            if self.lstat(folder) is None:
                self.disk.mkdir(self.at(folder))
            check_owned(self.at(folder), self._trust_owner)
        for _, prepared in journal.new_folders():
            self.disk.mkdir(self.at(prepared))
        self._files.write(NEXT, journal.state)
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

    def _undo(self, journal: Journal) -> None:
        """Take back every rename of a transaction that has not committed; what was staged stays."""
        try:
            self.swap_back(journal)
            self.disk.unlink(self.at(_JOURNAL))
            self.sync(UPDATE_FOLDER)
        except OSError as error:
            said = f"{disk_error(error)}; the next start will undo the installation"
            raise InstallError(said) from error
        self._sweep()

    def _sync_version_file(self) -> None:
        """Make the rename of the version file durable."""
        if os.name == "nt":
            self.disk.sync_file(self.at(self._version_file))
        self.sync("")

    def _clean_up(self, journal: Journal) -> None:
        """Clean up behind a commit. The app is whole: what fails here is left to the next start."""
        try:
            self._sync_version_file()
            self.clear_staging()
            self.sync(UPDATE_FOLDER)  # without the journal nobody would come back for it
            if journal.state.backup == journal.id:
                self.move(_JOURNAL, f"{journal.backup_folder}/journal.json")
            else:
                self.disk.unlink(self.at(_JOURNAL))
        except OSError as error:
            logger.warning("%s; the next start will clean up", disk_error(error))
            return
        self._sweep()

    def _sweep(self) -> None:
        """Remove what nothing refers to, and mend the version file and its copies."""
        try:
            state = self.state()
            self._remove_leftovers(state.backup if state else "")
            if state is not None:
                self._files.mend(state)
        except OSError as error:
            logger.warning("%s; the next start will clean up", disk_error(error))
        except InstallError as error:
            logger.warning("%s", error)

    def _remove_leftovers(self, backup: str) -> None:
        # They are not waited for: on Windows the launcher's old file is held while it runs.
        self.disk.patience = 0.0
        try:
            for name in os.listdir(self.at(UPDATE_FOLDER)):
                if name not in _KEPT:
                    self.disk.remove(self.at(f"{UPDATE_FOLDER}/{name}"))
            for name in os.listdir(self.at(BACKUP_FOLDER)) if self.is_folder(BACKUP_FOLDER) else ():
                if name not in (backup, PINS.rpartition("/")[2]):
                    self.disk.remove(self.at(f"{BACKUP_FOLDER}/{name}"))
        except OSError as error:
            logger.warning("%s; the next start will clean up", disk_error(error))

    def clear_staging(self, kept: str = "") -> None:
        """Forget what was downloaded and not installed, but for the download of the name `kept`."""
        self.disk.remove(self.at(STAGING))
        if not kept:
            self.disk.remove(self.at(DOWNLOAD))
            return
        for name in os.listdir(self.at(DOWNLOAD)):
            if name != kept:
                self.disk.remove(self.at(f"{DOWNLOAD}/{name}"))

    def _forget(self, path: str) -> None:
        if self.lstat(path) is not None:
            self.disk.unlink(self.at(path))
            self.sync(parent_of(path))

    def _load(self, path: str) -> Optional[Journal]:
        full = self.at(path)
        text = read_if_there(self.disk, full, 2 * MAX_STATE_BYTES)
        try:
            return None if text is None else parse_journal(text)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InstallError(
                f"{full} is damaged ({error}), so an interrupted update cannot be undone; "
                "delete this file and run update, which repairs the program"
            ) from error


def _launcher_last(changes: SwapPlan, launcher: str) -> SwapPlan:
    """The launcher is one file, and swapped last: until then the old one starts and recovers."""
    return changes._replace(
        move_out=tuple(sorted(changes.move_out, key=lambda move: move.source == launcher)),
        move_in=tuple(sorted(changes.move_in, key=lambda move: move.target == launcher)),
    )
