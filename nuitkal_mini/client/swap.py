"""The renames of a transaction, forward and back.

Each can be interrupted at any point and done again, by another process, any number of times: what has left or come is
left alone. A folder's names are durable before anything relies on them.
"""

from __future__ import annotations

import logging
import os
from typing import Iterable

from .disk import Disk
from .journal import Journal
from .tree import Tree, ancestors, parent_of

logger = logging.getLogger(__name__)


class Swap(Tree):
    """A client folder whose files can be moved; `sync` and `move` take paths of the tree."""

    def __init__(self, folder: str, disk: Disk) -> None:
        super().__init__(folder)
        self.disk = disk

    def swap(self, journal: Journal) -> None:
        """What leaves, leaves; what comes, comes."""
        changes = journal.changes
        for move in changes.move_out:
            if not os.path.lexists(self.at(move.target)) or self.is_one_file(
                move.source, move.target
            ):  # or it left before
                self._set_aside(move.source, move.target, move.source == journal.launcher)
        self.sync(
            *(parent_of(move.target) for move in changes.move_out)
        )  # nothing may arrive, durably, over what is not kept
        for path in changes.delete_bytecode:
            if os.path.lexists(self.at(path)):
                self.disk.unlink(self.at(path))
        self._drop(changes.remove_dirs)
        for folder in changes.make_dirs:
            if not self.is_folder(folder):
                self.disk.mkdir(self.at(folder))
        for move in changes.move_in:
            if os.path.lexists(self.at(move.source)):
                if move.target != journal.launcher:
                    self._set_user_file_aside(move.source, move.target, journal)
                self.move(move.source, move.target)
        for move in changes.move_out:
            if self.is_one_file(move.source, move.target):  # a launcher that has no successor
                self.disk.unlink(self.at(move.source))
        self.sync(
            *map(
                parent_of,
                [
                    *(move.target for move in changes.move_in),
                    *(move.source for move in changes.move_out),
                    *changes.make_dirs,
                    *changes.remove_dirs,
                    *changes.delete_bytecode,
                ],
            )
        )

    def swap_back(self, journal: Journal) -> None:
        """Undo `swap`, however far it came. What somebody has put in the way since is kept beside."""
        changes = journal.changes
        left = {move.source for move in changes.move_out}
        for move in reversed(changes.move_in):
            is_gone = not os.path.lexists(self.at(move.source)) or self.is_one_file(
                move.source, move.target
            )
            if is_gone and self.holds(move.target, move.entry):
                self._make_parents(move.source, journal)
                self._set_aside(move.target, move.source, move.target == journal.launcher in left)
        self.sync(
            *(parent_of(move.source) for move in changes.move_in)
        )  # as above: a rollback's files come from an earlier backup
        self._drop(reversed(changes.make_dirs))
        for move in reversed(changes.move_out):
            if os.path.lexists(self.at(move.target)):
                self._make_parents(move.source, journal)
                if move.source != journal.launcher:
                    self._set_user_file_aside(move.target, move.source, journal)
                self.move(move.target, move.source)
        self.sync(
            *map(
                parent_of,
                [
                    *(move.target for move in changes.move_in),
                    *(move.source for move in changes.move_out),
                    *changes.make_dirs,
                    *changes.remove_dirs,
                ],
            )
        )

    def _set_aside(self, path: str, target: str, is_launcher: bool) -> None:
        """Rename; the launcher gets a second name, and the file that comes is renamed over the first: it is never missing."""
        if is_launcher and os.name == "posix":
            try:
                return (
                    None
                    if self.is_one_file(path, target)
                    else self.disk.link(self.at(path), self.at(target))
                )
            except OSError as error:
                logger.debug(
                    "%s; for a moment there will be no launcher", disk_error(error)
                )  # exFAT has no hard links
        if os.path.lexists(self.at(path)):
            self.move(path, target)

    def move(self, source: str, target: str) -> None:
        """Rename; a power cut may have left one file under both names, where a rename does nothing."""
        if self.is_one_file(source, target):
            self.disk.unlink(self.at(source))
        else:
            self.disk.rename(self.at(source), self.at(target))

    def _set_user_file_aside(self, incoming: str, path: str, journal: Journal) -> None:
        """Somebody put something where `incoming` goes, after we had looked."""
        kept = f"{path}.user-{journal.id}"
        while os.path.lexists(self.at(kept)):
            kept += "-"
        if os.path.lexists(self.at(path)) and not self.is_one_file(incoming, path):
            self.disk.rename(self.at(path), self.at(kept))

    def _make_parents(self, path: str, journal: Journal) -> None:
        for folder in ancestors(path):
            if not self.is_folder(folder):
                self._set_user_file_aside("", folder, journal)
                self.disk.mkdir(self.at(folder))

    def _drop(self, folders: Iterable[str]) -> None:
        """Remove those that are empty. One that cannot go, as somebody works in it, does no harm: folders are not part of a release."""
        for folder in folders:
            try:
                if self.is_folder(folder) and not os.listdir(self.at(folder)):
                    self.disk.rmdir(self.at(folder))
            except OSError as error:
                logger.debug("%s; the empty folder stays", disk_error(error))

    def is_folder(self, path: str) -> bool:
        """Whether a real folder lies at a path, and no link to one."""
        return os.path.isdir(self.at(path)) and not os.path.islink(self.at(path))

    def sync(self, *folders: str) -> None:
        """Make the names in folders durable; those that have gone are left out, the tree's own folder is ""."""
        for folder in sorted(set(folders)):
            full = self.at(folder) if folder else self.folder
            if os.path.isdir(full):
                self.disk.sync_folder(full)


def disk_error(error: OSError, unnamed: str = "the disk") -> str:
    """The file and what is wrong with it; `unnamed` where the system does not say which file.

    Of a rename both names: one of them is the program's own, the other a number in `.update/` or `.backup/`.
    """
    names = [name for name in (error.filename, error.filename2) if name is not None] or [unnamed]
    return f"{' -> '.join(os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name) for name in names)}: {error.strerror or error}"
