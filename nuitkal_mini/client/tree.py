"""Reading an app's folder: what lies at a path, and whether it is what a release has there."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Dict, Iterator, List, Optional, Tuple, Union

from ..entries import FileEntry, link_entry
from ..paths import UPDATE_FOLDER

IN_RELEASES = ("644", "755")
# Of the updater's own files, written with mode 644, one of them is there whenever trees are
# compared.
_PLAIN = (
    f"{UPDATE_FOLDER}/staging/manifest.json",
    f"{UPDATE_FOLDER}/state.json",
    f"{UPDATE_FOLDER}/journal.json",
)


class Tree:
    """A client folder, looked at by the paths of a manifest.

    Each file is hashed once while it does not change.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._digests: Dict[Tuple[str, int, int, int], str] = {}
        self._modes: Optional[bool] = None

    def at(self, path: str) -> str:
        """The file system's name of a path of the tree."""
        return os.path.join(self.folder, path.replace("/", os.sep))

    def entry_at(self, path: str) -> Optional[FileEntry]:
        """What lies at a path: None for nothing; mode `folder` or `special` for what no release
        has there.

        What lies behind a link is not in this tree.
        """
        full = self.at(path)
        if any(os.path.islink(self.at(folder)) for folder in ancestors(path)):
            return None
        found = self.lstat(path)
        if found is None:
            return None
        if stat.S_ISLNK(found.st_mode):
            return link_entry(path, os.readlink(full).replace(os.sep, "/"))
        if not stat.S_ISREG(found.st_mode):
            return FileEntry(path, 0, "", "folder" if stat.S_ISDIR(found.st_mode) else "special")
        return FileEntry(
            path,
            found.st_size,
            self._digest(full, found),
            "755" if found.st_mode & 0o100 else "644",
        )

    def holds(self, path: str, entry: FileEntry) -> bool:
        """Whether exactly `entry` lies at a path."""
        found = self.lstat(path)
        if found is None:
            return False
        if entry.link is None and found.st_size != entry.size:
            return False  # saves the hashing
        seen = self.entry_at(path)
        return seen is not None and seen.mode in IN_RELEASES and self.same(seen, entry)

    def same(self, found: FileEntry, entry: FileEntry) -> bool:
        """Whether what was found is the entry, under any name.

        Modes count where files have them.
        """
        alike = found._replace(path=entry.path, mode=entry.mode) == entry
        return alike and (
            found.mode == entry.mode or found.mode in IN_RELEASES and not self._has_modes()
        )

    def _has_modes(self) -> bool:
        """False on Windows and where every file is executable.

        ExFAT, FAT, NTFS, most CIFS shares.
        """
        if self._modes is None:
            found = [self.lstat(path) for path in _PLAIN] if os.name == "posix" else []
            # and not os.access, which noexec decides
            self._modes = os.name == "posix" and not any(
                plain is not None and plain.st_mode & 0o100 for plain in found
            )
        return self._modes

    def lstat(self, path: str) -> Optional[os.stat_result]:
        """What the file system says of a path, None for nothing there.

        A failed read is an OSError.
        """
        try:
            return os.lstat(self.at(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_one_file(self, path: str, other: str) -> bool:
        """Whether two names lead to one file."""
        found, twin = self.lstat(path), self.lstat(other)
        if found is None or twin is None:
            return False
        return found.st_ino != 0 and os.path.samestat(found, twin)

    def _digest(self, full: str, found: os.stat_result) -> str:
        key = (full, found.st_size, found.st_mtime_ns, found.st_ino)
        if key not in self._digests:
            self._digests[key] = sha256_of(full)
        return self._digests[key]


def chunks_of(path: Union[str, os.PathLike[str]]) -> Iterator[bytes]:
    """A file's contents in pieces."""
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(2**18), b"")


def sha256_of(path: Union[str, os.PathLike[str]]) -> str:
    """The SHA-256 of a file's contents, in lower-case hex."""
    digest = hashlib.sha256()
    for chunk in chunks_of(path):
        digest.update(chunk)
    return digest.hexdigest()


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def ancestors(path: str) -> List[str]:
    """The folders above a path, shallowest first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
