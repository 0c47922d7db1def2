"""Deciding what must leave and what must come, to turn the folder as it is into a release's tree.

Nothing is changed here. Files that the installed manifest does not list are the user's: they are never deleted, and one
that is in the way of a new file is kept beside it.
"""
from __future__ import annotations

import os
from typing import Callable, Dict, Iterable, List, NamedTuple, Set, Tuple

from ..manifest import BACKUP_FOLDER, FileEntry, fold
from .errors import InstallError
from .tree import IN_RELEASES, Tree, same


class Move(NamedTuple):
    """A rename within the client folder of what `entry` describes."""

    source: str
    target: str
    entry: FileEntry


class Changes(NamedTuple):
    """What must happen on disk: `out` leaves, then folders are dropped and made, then `into` arrives."""

    out: Tuple[Move, ...]
    into: Tuple[Move, ...]
    drop: Tuple[str, ...]  # deepest first
    make: Tuple[str, ...]  # shallowest first


def arrange(place: Tree, old: Iterable[FileEntry], new: Iterable[FileEntry], identifier: str,
            source_of: Callable[[FileEntry], str], preserved: Callable[[str], bool]) -> Changes:
    """What turns the folder, in which the tree `old` was installed, into the tree `new`.

    A user's file in the way is kept as `NAME.user-<identifier>`; a `preserved` one that was edited stays, and the shipped
    one comes beside it as `NAME.new`.

    Raises:
        InstallError: a link, another file system, or a folder with the user's files is in the way.
    """
    return _Arrangement(place, old, identifier).of(tuple(new), source_of, preserved)


class _Arrangement:
    """Builds `Changes`, looking at the disk as it is."""

    def __init__(self, place: Tree, old: Iterable[FileEntry], identifier: str) -> None:
        self._place = place
        self._old = {fold(entry.path): entry for entry in old}
        self._id = identifier
        self._out: Dict[str, Move] = {}
        self._drop: Set[str] = set()
        self._make: Set[str] = set()
        self._seen: Set[str] = set()

    def of(self, new: Tuple[FileEntry, ...], source_of: Callable[[FileEntry], str], preserved: Callable[[str], bool]) -> Changes:
        by_fold = {fold(entry.path): entry for entry in new}
        for key, entry in self._old.items():
            if key not in by_fold or by_fold[key].path != entry.path:
                self._retire(entry, renamed=key in by_fold)
        into = []
        for entry in new:
            target = self._target(entry, preserved)
            if target:
                into.append(Move(source_of(entry), target, entry))
        for move in into:
            for folder in ancestors(move.target):
                self._clear_way(folder)
        needed = {folder for entry in new for folder in ancestors(entry.path)}
        for move in self._out.values():
            if move.target.startswith(BACKUP_FOLDER + "/"):
                self._drop.update(folder for folder in ancestors(move.source) if folder not in needed)
        dropped = set(map(fold, self._drop))  # where names ignore case, `lib` goes with `Lib`
        self._make.update(folder for move in into for folder in ancestors(move.target) if fold(folder) in dropped)
        return Changes(tuple(self._out.values()), tuple(into),
                       tuple(sorted(self._drop, key=lambda path: (-path.count("/"), path))),
                       tuple(sorted(self._make, key=lambda path: (path.count("/"), path))))

    def _leave(self, path: str, found: FileEntry, keep: bool) -> None:
        target = f"{path}.user-{self._id}" if keep else f"{BACKUP_FOLDER}/{self._id}/{len(self._out)}"
        self._out[path] = Move(path, target, found._replace(path=path))

    def _retire(self, entry: FileEntry, renamed: bool) -> None:
        """A path that the new tree does not have; what the user has changed stays as the user's."""
        found = self._place.look(entry.path)
        if found is not None and found.mode in IN_RELEASES and (renamed or same(found, entry)):
            self._leave(entry.path, found, keep=False)

    def _target(self, entry: FileEntry, preserved: Callable[[str], bool]) -> str:
        """Where the new entry goes, after what is there has been arranged to leave; empty when it is there."""
        path = entry.path
        before = self._old.get(fold(path))
        found = self._place.look(path)
        if found is None or before is not None and before.path != path and self._is_leaving(path, before.path):
            return path
        if found.mode == "special":
            raise InstallError(f"{self._place.at(path)} is a device or a socket; remove it and update again")
        if found.mode == "folder":
            self._empty(path)
            return path
        if same(found, entry):
            return ""
        listed = before is not None and before.path == path
        if preserved(path) and not (listed and before is not None and same(found, before)):
            return self._beside(entry) if before is None or before._replace(mode="") != entry._replace(mode="") else ""
        self._leave(path, found, keep=not listed)
        return path

    def _is_leaving(self, path: str, old_path: str) -> bool:
        """Whether both spellings name one file, which leaves already (Windows, macOS)."""
        return old_path in self._out and os.path.samestat(os.lstat(self._place.at(path)), os.lstat(self._place.at(old_path)))

    def _beside(self, entry: FileEntry) -> str:
        """The name under which the shipped file comes beside one that the user has edited."""
        for name in (entry.path + ".new", f"{entry.path}.new-{self._id}"):
            found = self._place.look(name)
            if found is None:
                return name
            if same(found, entry):
                return ""
        return ""

    def _empty(self, path: str) -> None:
        """A folder is in the way of a file: all in it must be leaving."""
        for folder, folders, files in os.walk(self._place.at(path)):
            relative = os.path.relpath(folder, self._place.folder).replace(os.sep, "/")
            if os.path.basename(folder) == "__pycache__":
                folders.clear()
                continue
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in files + links:
                if f"{relative}/{name}" not in self._out:
                    raise InstallError(f"{self._place.at(path)} must become a file, but {name} in it is not the program's; move it away and update again")
            self._drop.add(relative)

    def _clear_way(self, folder: str) -> None:
        """Every folder above a new file is a real one on this file system, or will be made."""
        if folder in self._seen:
            return
        self._seen.add(folder)
        full = self._place.at(folder)
        found = self._place.look(folder)
        if found is None or folder in self._out:
            self._make.add(folder)
        elif found.mode == "folder":
            if os.lstat(full).st_dev != os.stat(self._place.folder).st_dev:
                raise InstallError(f"{full} lies on another file system; make it a plain folder and update again")
        elif found.link is not None or found.mode == "special":
            raise InstallError(f"{full} is a link or special file where the program has a folder; remove it and update again")
        else:
            self._leave(folder, found, keep=True)
            self._make.add(folder)


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def ancestors(path: str) -> List[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
