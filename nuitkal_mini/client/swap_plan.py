"""Deciding which files move out and in, to turn the folder as it is into a release's tree.

Nothing is changed here. Files that the installed manifest does not list are the user's: they are
never deleted, and one that is in the way of a new file is kept beside it.
"""

from __future__ import annotations

import os
from typing import Callable, Dict, Iterable, Iterator, NamedTuple, Set, Tuple

from ..entries import FileEntry
from ..paths import BACKUP_FOLDER, fold
from .errors import InstallError
from .tree import IN_RELEASES, Tree, ancestors, parent_of


class Move(NamedTuple):
    """A rename within the client folder of what `entry` describes."""

    source: str
    target: str
    entry: FileEntry


class SwapPlan(NamedTuple):
    """The changes of a transaction, in the order of its steps, except that folders come last."""

    move_out: Tuple[Move, ...]
    move_in: Tuple[Move, ...]
    delete_bytecode: Tuple[str, ...]  # cached bytecode of what leaves
    remove_dirs: Tuple[str, ...]  # folders, deepest first, if they are empty by then
    make_dirs: Tuple[str, ...]  # shallowest first


def plan_swap(
    installation: Tree,
    old: Iterable[FileEntry],
    new: Iterable[FileEntry],
    identifier: str,
    source_of: Callable[[FileEntry], str],
    preserved: Callable[[str], bool],
) -> SwapPlan:
    """What turns the folder, in which the tree `old` was installed, into the tree `new`.

    A user's file in the way is kept as `NAME.user-<identifier>`; a `preserved` one that was
    edited stays, and the shipped one comes beside it as `NAME.new`.

    Raises:
        InstallError: a link, another file system, or a folder with the user's files is in the way.
    """
    return _SwapPlanner(installation, old, identifier).plan(tuple(new), source_of, preserved)


class _SwapPlanner:
    """Builds a `SwapPlan`, looking at the disk as it is."""

    def __init__(self, installation: Tree, old: Iterable[FileEntry], identifier: str) -> None:
        self._installation = installation
        self._old = {fold(entry.path): entry for entry in old}
        self._new: Dict[str, FileEntry] = {}
        self._id = identifier
        self._move_outs: Dict[str, Move] = {}
        self._sources_by_fold: Dict[str, str] = {}  # the sources in `out`, by fold
        self._bytecode_paths: Set[str] = set()
        self._dirs_to_remove: Set[str] = set()
        self._dirs_to_make: Set[str] = set()
        self._checked_dirs: Set[str] = set()

    def plan(
        self,
        new: Tuple[FileEntry, ...],
        source_of: Callable[[FileEntry], str],
        preserved: Callable[[str], bool],
    ) -> SwapPlan:
        self._new = {fold(entry.path): entry for entry in new}
        for key, entry in self._old.items():
            if key not in self._new or self._new[key].path != entry.path:
                self._plan_removal(entry, keep=preserved(entry.path))
        into = []
        for entry in new:
            target = self._target(entry, preserved)
            if target:
                into.append(Move(source_of(entry), target, entry))
        if into or self._move_outs:
            self._check_folder("")
        for folder in [folder for move in into for folder in ancestors(move.target)]:
            self._clear_way(folder)
        self._remove_emptied_dirs({folder for entry in new for folder in ancestors(entry.path)})
        self._bytecode_paths.update(
            cached for path in self._move_outs for cached in self._bytecode(path)
        )
        dropped = set(
            map(fold, self._dirs_to_remove)
        )  # where names ignore case, `lib` goes with `Lib`
        self._dirs_to_make.update(
            folder for move in into for folder in ancestors(move.target) if fold(folder) in dropped
        )
        return SwapPlan(
            tuple(self._move_outs.values()),
            tuple(into),
            tuple(
                sorted(
                    path
                    for path in self._bytecode_paths
                    if fold(path) not in self._new and path not in self._move_outs
                )
            ),
            tuple(sorted(self._dirs_to_remove, key=lambda path: (-path.count("/"), path))),
            tuple(sorted(self._dirs_to_make, key=lambda path: (path.count("/"), path))),
        )

    def _move_out(self, path: str, found: FileEntry, keep: bool) -> None:
        target = (
            f"{path}.user-{self._id}"
            if keep
            else f"{BACKUP_FOLDER}/{self._id}/{len(self._move_outs)}"
        )
        self._move_outs[path] = Move(path, target, found._replace(path=path))
        self._sources_by_fold[fold(path)] = path

    def _plan_removal(self, entry: FileEntry, keep: bool) -> None:
        """Plan for a path that the new tree lacks or spells otherwise; an edited file stays."""
        found = self._installation.entry_at(entry.path)
        if found is None or found.mode not in IN_RELEASES:
            return
        if self._installation.same(found, entry):
            self._move_out(entry.path, found, keep=False)
        elif fold(entry.path) in self._new:
            self._move_out(entry.path, found, keep=keep)

    def _target(self, entry: FileEntry, preserved: Callable[[str], bool]) -> str:
        """Where the new entry goes, once what is there moves out; empty if it is there already."""
        path = entry.path
        before = self._old.get(fold(path))
        found = self._installation.entry_at(path)
        if found is None or self._is_leaving(path):
            return path
        if found.mode == "special":
            raise InstallError(
                f"{self._installation.at(path)} is a device or a socket; remove it and update again"
            )
        if found.mode == "folder":
            self._empty(path)
            return path
        if self._installation.same(found, entry):
            return ""
        listed = before is not None and before.path == path
        if preserved(path) and not (
            listed and before is not None and self._installation.same(found, before)
        ):
            return (
                self._name_for_shipped_copy(entry)
                if before is None or before._replace(mode="") != entry._replace(mode="")
                else ""
            )
        self._move_out(path, found, keep=not listed)
        return path

    def _is_leaving(self, path: str) -> bool:
        """Whether what lies at a path moves out already, perhaps under another spelling."""
        twin = self._sources_by_fold.get(fold(path), path)
        return (
            path in self._move_outs or twin != path and self._installation.is_one_file(path, twin)
        )

    def _name_for_shipped_copy(self, entry: FileEntry) -> str:
        """The name under which the shipped file comes beside one that the user has edited."""
        for name in (entry.path + ".new", f"{entry.path}.new-{self._id}"):
            found = self._installation.entry_at(name)
            if found is None and fold(name) not in self._new:
                return name
            if found is not None and self._installation.same(found, entry):
                return ""
        return ""

    def _empty(self, path: str) -> None:
        """A folder is in the way of a file: all in it must be leaving."""
        for folder, folders, files in os.walk(self._installation.at(path)):
            relative = os.path.relpath(folder, self._installation.folder).replace(os.sep, "/")
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in files + links:
                if self._is_leaving(f"{relative}/{name}"):
                    continue
                if "__pycache__" not in relative.split("/"):
                    raise InstallError(
                        f"{self._installation.at(path)} must become a file, but {name} in it "
                        "is not the program's; move it away and update again"
                    )
                self._bytecode_paths.add(f"{relative}/{name}")
            self._dirs_to_remove.add(relative)

    def _remove_emptied_dirs(self, needed: Set[str]) -> None:
        """Remove the folders that only the old release had, if only cached bytecode stays there."""
        left = {
            move.source
            for move in self._move_outs.values()
            if move.target.startswith(BACKUP_FOLDER + "/")
        }
        for folder in {folder for path in left for folder in ancestors(path)}:
            self._check_folder(folder)
            if folder not in needed:
                self._dirs_to_remove.add(folder)
        for folder in list(self._dirs_to_remove):
            stay = (
                {f"{folder}/{name}" for name in os.listdir(self._installation.at(folder))}
                - left
                - self._dirs_to_remove
            )
            if stay == {f"{folder}/__pycache__"} and not os.path.islink(
                self._installation.at(f"{folder}/__pycache__")
            ):
                self._empty(f"{folder}/__pycache__")

    def _bytecode(self, path: str) -> Iterator[str]:
        """Cached bytecode of a module: Python trusts it when size and time, in seconds, match."""
        stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
        folder = f"{parent_of(path)}/__pycache__".lstrip("/")
        if (
            suffix in ("py", "pyw")
            and (self._installation.entry_at(folder) or FileEntry(path, 0, "", "")).mode == "folder"
        ):
            for name in os.listdir(self._installation.at(folder)):
                if name.startswith(stem + dot) and name.endswith(".pyc"):
                    yield f"{folder}/{name}"

    def _check_folder(self, folder: str) -> None:
        """A folder that gains or loses a name must let us, and by a rename."""
        full = self._installation.at(folder) if folder else self._installation.folder
        if os.lstat(full).st_dev != os.stat(self._installation.folder).st_dev:
            raise InstallError(
                f"{full} lies on another file system; make it a plain folder and update again"
            )
        if not os.access(full, os.W_OK | os.X_OK):
            raise InstallError(
                f"{full} may not be changed by this user: Permission denied; "
                "let its owner update, or give write access"
            )

    def _clear_way(self, folder: str) -> None:
        """Every folder above a new file is a real one on this file system, or will be made."""
        if folder in self._checked_dirs:
            return
        self._checked_dirs.add(folder)
        found = self._installation.entry_at(folder)
        if found is None or self._is_leaving(folder):
            self._dirs_to_make.add(folder)
        elif found.mode == "folder":
            self._check_folder(folder)
        elif found.link is not None or found.mode == "special":
            raise InstallError(
                f"{self._installation.at(folder)} is a link or special file where the program "
                "has a folder; remove it and update again"
            )
        else:
            self._move_out(folder, found, keep=True)
            self._dirs_to_make.add(folder)
