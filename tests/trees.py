"""Random release trees that are legal everywhere; they are laid on a disk and read back.

A tree is a dict: path -> (contents, mode) of a file, or the target of a symlink.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple, Union

from hypothesis import strategies as st

from nuitkal_mini.entries import FileEntry, check_tree, link_entry
from nuitkal_mini.manifest import Manifest
from nuitkal_mini.paths import UnsafePath

Item = Union[Tuple[bytes, str], str]
Tree = Dict[str, Item]

# Few names, so that two trees meet: files against folders, other cases, other links.
_NAMES = st.sampled_from(
    ["a", "b", "A", "lib", "Lib", "ä", "straße", "main.py", "data.bin", "x y", "名字"]
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_CONTENTS = st.sampled_from([b"", b"x", b"print(1)\n", b"\0" * 70_000]) | st.binary(max_size=40)
_FILES = st.tuples(_CONTENTS, st.sampled_from(["644", "755"]))
_TARGETS = st.lists(_NAMES | st.just(".."), min_size=1, max_size=3).map("/".join)


def entries_of(tree: Tree) -> List[FileEntry]:
    """The manifest entries of a tree, sorted by path."""
    return sorted(
        link_entry(path, item)
        if isinstance(item, str)
        else FileEntry(path, len(item[0]), hashlib.sha256(item[0]).hexdigest(), item[1])
        for path, item in tree.items()
    )


def manifest_of(tree: Tree, app: str = "app", version: str = "1.0.0") -> Manifest:
    return Manifest(app, version, tuple(entries_of(tree)))


@st.composite
def trees(draw: st.DrawFn, max_size: int = 8, links: bool = True) -> Tree:
    """Any legal tree: an item that would break a rule beside those before it is left out."""
    tree: Tree = {}
    items = _FILES | _TARGETS if links else _FILES
    drawn = draw(st.lists(st.tuples(_PATHS, items), max_size=max_size))
    # Files first: a link must lead to something.
    for path, item in sorted(drawn, key=lambda pair: isinstance(pair[1], str)):
        try:
            check_tree(entries_of({**tree, path: item}))
        except UnsafePath:
            continue
        tree[path] = item
    return tree


def here(tree: Tree) -> Tree:
    """The tree as this machine can hold it.

    Windows has no executable bits, and neither it (without its developer mode) nor Wine has links.
    """
    with tempfile.TemporaryDirectory() as scratch:
        link = os.path.join(scratch, "link")
        with contextlib.suppress(OSError):
            os.symlink("target", link)
        has_links = os.path.islink(link)
    held = {
        path: item if isinstance(item, str) or os.name == "posix" else (item[0], "644")
        for path, item in tree.items()
    }
    return {path: item for path, item in held.items() if has_links or not isinstance(item, str)}


def write_tree(folder: Path, tree: Tree) -> None:
    """Lay the tree down; `folder` is made, what is in it stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, item in tree.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(item, str):
            place.symlink_to(item)
        else:
            place.write_bytes(item[0])
            place.chmod(int(item[1], 8))


def read_tree(folder: Path, without: Tuple[str, ...] = ()) -> Tree:
    """The tree in `folder`, without the top-level names in `without` and empty folders."""
    tree: Tree = {}
    for parent, folders, files in os.walk(folder):
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in without]
        for name in files + [name for name in folders if (Path(parent) / name).is_symlink()]:
            place = Path(parent) / name
            path = place.relative_to(folder).as_posix()
            if path in without:
                continue
            if place.is_symlink():
                tree[path] = os.readlink(place)
            else:
                tree[path] = (place.read_bytes(), "755" if place.stat().st_mode & 0o111 else "644")
    return tree
