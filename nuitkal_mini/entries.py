"""The entries of a release's tree, and the rules that hold between them.

A tree that passes `check_tree` can be laid down on Linux, macOS and Windows alike: each path names one
file on all of them, and no link leads out of the tree.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional

from .paths import MAX_PATH_BYTES, UnsafePath, check_component, check_path, fold

MAX_FILES = 200_000  # PySide6's whole wheel has 4,000 files; the rest is headroom. Of folders too
MAX_LINKS = 20_000  # each is walked; a Qt framework has dozens
MAX_STEPS = 100  # of one such walk: Linux follows 40 links


class FileEntry(NamedTuple):
    """A file of a release, or a symlink when `link` is its target (then size 0, no sha256, mode 755)."""

    path: str
    size: int
    sha256: str
    mode: str
    link: Optional[str] = None


def link_entry(path: str, target: str) -> FileEntry:
    """The entry of a symlink."""
    return FileEntry(path, 0, "", "755", target)


def check_tree(files: Iterable[FileEntry], folders: Iterable[str] = ()) -> None:
    """Refuse a tree whose paths collide on some system or whose links lead out of it; `folders` are further ones.

    Raises:
        UnsafePath: two paths are one file after case folding, a folder is spelt two ways, a file is also a
            folder (so nothing lies behind a link), a link's target is outside, or there is too much of it.
    """
    entries: Dict[str, FileEntry] = {}  # by fold, as the folders
    spelling: Dict[str, str] = {}
    for entry in files:
        check_path(entry.path)
        key = fold(entry.path)
        if key in entries:
            raise UnsafePath(
                "{path!r} and {other!r} are one file on Windows and macOS",
                path=entry.path,
                other=entries[key].path,
            )
        entries[key] = entry
        _note_folder(entry.path.rpartition("/")[0], spelling)
    for folder in folders:
        _note_folder(folder, spelling)
    for key in entries.keys() & spelling.keys():
        raise UnsafePath("{path!r} is both a file and a folder", path=entries[key].path)
    links = [entry for entry in entries.values() if entry.link is not None]
    if len(links) > MAX_LINKS:
        raise UnsafePath("the release has more than 20,000 links")
    spelling.update((key, entry.path) for key, entry in entries.items())
    for entry in links:
        _check_link(entry, entries, spelling)


def _note_folder(folder: str, spelling: Dict[str, str]) -> None:
    """Note a folder and those above it, up to the first known one: work and memory grow with the folders, not the depth."""
    while folder:
        key = fold(folder)
        other = spelling.get(key)
        if other == folder:
            return
        if other is not None:
            raise UnsafePath(
                "{path!r} and {other!r} are one folder on Windows and macOS",
                path=folder,
                other=other,
            )
        if len(spelling) == MAX_FILES:
            raise UnsafePath("the release has more than 200,000 folders")
        spelling[key] = folder
        folder = folder.rpartition("/")[0]


def _check_link(entry: FileEntry, entries: Dict[str, FileEntry], spelling: Dict[str, str]) -> None:
    """Walk the target as the file system would, through the tree's other links, and stay inside."""
    place = entry.path.rpartition("/")[0]
    todo = _target_parts(entry)
    for _ in range(MAX_STEPS):  # a loop of links does not end
        if not todo:
            return
        part = todo.pop(0)
        if part == ".." and not place:
            raise UnsafePath("the link {path!r} leads out of the release", path=entry.path)
        if part == "..":
            place = place.rpartition("/")[0]
        elif part not in ("", "."):
            step = f"{place}/{part}" if place else part
            key = fold(step)
            if (
                spelling.get(key, step) != step
            ):  # it would lead to different places on Linux and Windows
                raise UnsafePath(
                    "the link {path!r} spells {other!r} in another way",
                    path=entry.path,
                    other=spelling[key],
                )
            if key in entries and entries[key].link is not None:
                todo = _target_parts(entries[key]) + todo
            else:
                place = step
    raise UnsafePath("the link {path!r} leads through too many links", path=entry.path)


def _target_parts(entry: FileEntry) -> List[str]:
    target = entry.link or ""
    if (
        not target
        or target.startswith("/")
        or len(target.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES
    ):
        raise UnsafePath(
            "the link {path!r} has an empty, absolute or too long target", path=entry.path
        )
    parts = target.split("/")
    for part in parts:
        if part not in ("", ".", ".."):
            check_component(part, entry.path)
    return parts
