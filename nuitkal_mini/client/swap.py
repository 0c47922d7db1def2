"""The renames of a transaction, forward and back.

`swap` runs once, in the process that wrote the journal. `swap_back` undoes it, however far it
came, and can itself be interrupted anywhere and run again by another process. It needs no free
space: nothing is created, except a folder that somebody removed meanwhile. A folder's names are
durable before a later step relies on them, and where a file arrives they are durable before they
are where it left.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Iterator

from .disk import Disk
from .journal import Journal
from .swap_plan import SwapPlan
from .tree import Tree, ancestors, parent_of

logger = logging.getLogger(__name__)


class Swap(Tree):
    """A client folder whose files can be moved; `sync` and `move` take paths of the tree."""

    def __init__(self, folder: str, disk: Disk) -> None:
        super().__init__(folder)
        self.disk = disk

    def swap(self, journal: Journal) -> None:
        """Move out what leaves, then move in what comes."""
        changes = journal.changes
        for move in changes.move_out:
            self._set_aside(move.source, move.target, move.source == journal.launcher)
        for path in changes.delete_bytecode:
            if self.lstat(path) is not None:
                self.disk.unlink(self.at(path))
        for path, emptied in journal.emptied_folders():
            self._move_emptied(path, emptied)
        # Nothing may leave, durably, before it is durably kept: the backup comes before the folders
        # in which a user's file was only renamed. And nothing may arrive over what is not kept.
        kept_in = {parent_of(move.target) for move in changes.move_out}
        self.sync(*([journal.backup_folder] if changes.make_dirs or kept_in else []), *kept_in)
        for path, prepared in journal.new_folders():
            if not self.is_folder(path):
                self.disk.rename(self.at(prepared), self.at(path))
        for move in changes.move_in:
            if move.target != journal.launcher:
                self._set_user_file_aside(move.source, move.target, journal)
            self.move(move.source, move.target)
        for move in changes.move_out:
            if self.is_one_file(move.source, move.target):  # a launcher that has no successor
                self.disk.unlink(self.at(move.source))
        self._sync_changed(changes)

    def swap_back(self, journal: Journal) -> None:
        """Undo `swap`, however far it came; what somebody put in the way since is kept beside."""
        changes = journal.changes
        left = {move.source for move in changes.move_out}
        for move in reversed(changes.move_in):
            is_gone = self.lstat(move.source) is None or self.is_one_file(move.source, move.target)
            if is_gone and self.holds(move.target, move.entry):
                self._set_aside(move.target, move.source, move.target == journal.launcher in left)
        # As in `swap`; a rollback's files return to an earlier backup
        self.sync(*(parent_of(move.source) for move in changes.move_in))
        for path in reversed(changes.make_dirs):
            self._remove_empty(path)
        for path, emptied in reversed(journal.emptied_folders()):
            if self.lstat(emptied) is not None and not self.is_folder(path):
                self._make_parents(path, journal)
                self._set_user_file_aside(emptied, path, journal)
                self.disk.rename(self.at(emptied), self.at(path))
        for move in reversed(changes.move_out):
            if self.lstat(move.target) is not None:
                self._make_parents(move.source, journal)
                if move.source != journal.launcher:
                    self._set_user_file_aside(move.target, move.source, journal)
                self.move(move.target, move.source)
        self._sync_changed(changes)

    def _sync_changed(self, changes: SwapPlan) -> None:
        """Make the names durable in the app's folders, those of deleted bytecode among them.

        Undo needs the latter too: a later plan does not see bytecode that only a power cut brings
        back.
        """
        self.sync(*_changed_folders(changes), *map(parent_of, changes.delete_bytecode))

    def _set_aside(self, path: str, target: str, is_launcher: bool) -> None:
        """Rename. The launcher gets a second name, and the next file is renamed over the first one.

        So it is never missing.
        """
        if is_launcher and os.name == "posix":
            try:
                if not self.is_one_file(path, target):
                    self.disk.link(self.at(path), self.at(target))
                return
            except OSError as error:  # exFAT has no hard links
                logger.debug("%s; for a moment there will be no launcher", disk_error(error))
        if self.lstat(path) is not None:
            self.move(path, target)

    def move(self, source: str, target: str) -> None:
        """Rename, also where a power cut left one file under both names (rename does nothing)."""
        if self.is_one_file(source, target):
            self.disk.unlink(self.at(source))
        else:
            self.disk.rename(self.at(source), self.at(target))

    def _set_user_file_aside(self, incoming: str, path: str, journal: Journal) -> None:
        """Keep, under another name, what somebody put where `incoming` goes since we looked."""
        kept = f"{path}.user-{journal.id}"
        while self.lstat(kept) is not None:
            kept += "-"
        if self.lstat(path) is not None and not self.is_one_file(incoming, path):
            self.disk.rename(self.at(path), self.at(kept))

    def _make_parents(self, path: str, journal: Journal) -> None:
        for folder in ancestors(path):
            if not self.is_folder(folder):
                self._set_user_file_aside("", folder, journal)
                self.disk.mkdir(self.at(folder))

    def _move_emptied(self, path: str, emptied: str) -> None:
        """Move an empty folder out. One that cannot move does no harm: no release lists folders."""
        try:
            if not self.is_folder(path) or os.listdir(self.at(path)):
                return
            try:
                self.disk.rename(self.at(path), self.at(emptied))
            except OSError:  # overlayfs does not rename a folder of a lower layer
                self.disk.rmdir(self.at(path))
                return
            if os.listdir(self.at(emptied)):  # somebody was faster
                self.disk.rename(self.at(emptied), self.at(path))
        except OSError as error:
            logger.debug("%s; the empty folder stays", disk_error(error))

    def _remove_empty(self, path: str) -> None:
        try:
            if self.is_folder(path) and not os.listdir(self.at(path)):
                self.disk.rmdir(self.at(path))
        except OSError as error:
            logger.debug("%s; the empty folder stays", disk_error(error))

    def is_folder(self, path: str) -> bool:
        """Whether a real folder lies at a path, and no link to one."""
        found = self.lstat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def sync(self, *folders: str) -> None:
        """Make the names in folders durable, in this order, except those that have gone.

        "" is the tree's own folder.
        """
        for folder in dict.fromkeys(folders):
            full = self.at(folder) if folder else self.folder
            if os.path.isdir(full):
                self.disk.sync_folder(full)


def _changed_folders(changes: SwapPlan) -> Iterator[str]:
    """The folders of the app in which a transaction changes names."""
    for move in changes.move_in:
        yield parent_of(move.target)
    for move in changes.move_out:
        yield parent_of(move.source)
    for path in (*changes.make_dirs, *changes.remove_dirs):
        yield parent_of(path)


def disk_error(error: OSError, unnamed: str = "the disk") -> str:
    """The file and what is wrong with it; `unnamed` where the system does not say which file.

    Of a rename both names: one of them is the program's own, the other a number in `.update/` or
    `.backup/`.
    """
    names = [name for name in (error.filename, error.filename2) if name is not None] or [unnamed]
    texts = [os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name) for name in names]
    return f"{' -> '.join(texts)}: {error.strerror or error}"
