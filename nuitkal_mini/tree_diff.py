"""The difference between two trees of releases."""

from __future__ import annotations

from typing import Iterable, NamedTuple, Tuple

from .entries import FileEntry
from .paths import fold


class Diff(NamedTuple):
    """What turns one tree into another: `changed` are pairs of the old and the new entry."""

    removed: Tuple[FileEntry, ...]
    added: Tuple[FileEntry, ...]
    changed: Tuple[Tuple[FileEntry, FileEntry], ...]


def diff(old: Iterable[FileEntry], new: Iterable[FileEntry]) -> Diff:
    """What turns the tree `old` into `new`; paths that only differ in case are one file."""
    before = {fold(entry.path): entry for entry in old}
    after = {fold(entry.path): entry for entry in new}
    return Diff(
        tuple(entry for key, entry in before.items() if key not in after),
        tuple(entry for key, entry in after.items() if key not in before),
        tuple(
            (before[key], entry)
            for key, entry in after.items()
            if key in before and before[key] != entry
        ),
    )
