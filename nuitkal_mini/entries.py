"""The entries of a release's tree, and the rules that hold between them.

A tree that passes `check_tree` can be laid down on Linux, macOS and Windows alike: each path names
one file on all of them, and each link leads to a file or folder of the tree. No path of the tree is
the updater's own, so no link leads there either.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional

from .paths import MAX_PATH_BYTES, UnsafePath, check_component, check_path, fold

MAX_FILES = 200_000  # PySide6's whole wheel has 4,000 files; the rest is headroom. Of folders too
MAX_LINKS = 20_000  # each is walked; a Qt framework has dozens
MAX_STEPS = 100  # of one such walk: Linux follows 40 links


class FileEntry(NamedTuple):
    """A file, or a symlink when `link` is its target (then size 0, no sha256, mode 755)."""

    path: str
    size: int
    sha256: str
    mode: str
    link: Optional[str] = None


def link_entry(path: str, target: str) -> FileEntry:
    """The entry of a symlink."""
    return FileEntry(path, 0, "", "755", target)


def check_tree(files: Iterable[FileEntry], folders: Iterable[str] = ()) -> None:
    """Refuse a tree whose paths collide on some system, or whose links lead to nothing of the tree.

    `folders` are empty ones beside those of the files.

    Raises:
        UnsafePath: two paths are one file after case folding, a folder is spelt two ways, a file is
        also
            a folder (so nothing lies behind a link), a link leads to the tree's root, out of it or
            to what it does not hold, or there is too much of it.
    """
    entries: Dict[str, FileEntry] = {}  # by their folded paths, as are the folders
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


def check_owned_names(files: Iterable[FileEntry], names: Iterable[str]) -> None:
    """Refuse a tree that has one of these names at its top, in whatever spelling.

    They are a client's own besides those that `check_path` knows, such as a configured version
    file. A link cannot lead there when the tree passes `check_tree` and this.
    """
    owned = {fold(name) for name in names}
    for entry in files:
        if fold(entry.path.split("/", 1)[0]) in owned:
            raise UnsafePath(
                "{path!r} belongs to the updater; leave it out of the release", path=entry.path
            )


def _note_folder(folder: str, spelling: Dict[str, str]) -> None:
    """Note a folder and those above it, up to the first known one.

    Work and memory grow with the number of folders, not with their depth.
    """
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
    """Walk the target as a file system does, through further links, to something of the tree."""
    place = entry.path.rpartition("/")[0]
    parts = _target_parts(entry)
    for _ in range(MAX_STEPS):  # a loop of links does not end
        if not parts:
            break
        part = parts.pop(0)
        if part == ".." and not place:
            raise UnsafePath("the link {path!r} leads out of the release", path=entry.path)
        if part in ("", ".", ".."):
            place = place.rpartition("/")[0] if part == ".." else place
            continue
        step = f"{place}/{part}" if place else part
        found = entries.get(fold(step))
        _check_step(entry, step, spelling)
        if found is not None and found.link is not None:
            parts = _target_parts(found) + parts
            continue
        if found is not None and parts:
            raise _leads_to_nothing(entry, f"{step}/{parts[0]}")  # behind a file
        place = step
    else:
        raise UnsafePath("the link {path!r} leads through too many links", path=entry.path)
    if not place:
        raise UnsafePath("the link {path!r} leads to the release's own folder", path=entry.path)


def _check_step(entry: FileEntry, step: str, spelling: Dict[str, str]) -> None:
    other = spelling.get(fold(step))
    if other is None:
        raise _leads_to_nothing(entry, step)
    if other != step:  # it would lead to different places on Linux and Windows
        raise UnsafePath(
            "the link {path!r} spells {other!r} in another way", path=entry.path, other=other
        )


def _leads_to_nothing(entry: FileEntry, place: str) -> UnsafePath:
    return UnsafePath(
        "the link {path!r} leads to {other!r}, which is not in the release; "
        "add that, or leave the link out",
        path=entry.path,
        other=place,
    )


def _target_parts(entry: FileEntry) -> List[str]:
    target = entry.link or ""
    length = len(target.encode("utf-8", "surrogatepass"))
    if not target or target.startswith("/") or length > MAX_PATH_BYTES:
        raise UnsafePath(
            "the link {path!r} has an empty, absolute or too long target", path=entry.path
        )
    parts = target.split("/")
    for part in parts:
        if part not in ("", ".", ".."):
            check_component(part, entry.path)
    return parts
