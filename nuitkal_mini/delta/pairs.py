"""Encoder: which files of the new release a delta carries, and from which old file each is made.

Contents that the old release has anywhere need nothing. Of the others, a file at the same path is
the source; for a new path the removed file whose name is most alike, as for `libfoo-1a2b3c.so` that
carries a hash in its name.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Dict, List, NamedTuple, Sequence

from ..entries import FileEntry

_ALIKE = 0.6  # of names; libraries that differ in a hash of 8 characters and a version have 0.7
_CANDIDATES = 40  # removed files of one kind that are compared: the nearest in size
_SIZES = 4  # a source is at most this many times larger or smaller


class Pair(NamedTuple):
    """Indexes into the new and the old manifest's files; -1: no source."""

    target: int
    source: int


def pair_files(old: Sequence[FileEntry], new: Sequence[FileEntry]) -> List[Pair]:
    """What a delta carries, in the order of the new manifest."""
    contents = {entry.sha256 for entry in old if entry.link is None}
    paths = {entry.path: number for number, entry in enumerate(old) if entry.link is None}
    kept = {entry.path for entry in new}
    removed: Dict[str, List[int]] = {}
    for path, number in paths.items():
        if path not in kept:
            removed.setdefault(_kind(path), []).append(number)
    pairs = []
    for number, entry in enumerate(new):
        if entry.link is None and entry.sha256 not in contents:
            source = paths.get(entry.path, -1)
            if source < 0:
                source = _most_alike(entry, old, removed.get(_kind(entry.path), []))
            pairs.append(Pair(number, source))
    return pairs


def _kind(path: str) -> str:
    """What names must share to be compared: the extension; `.so.6.20.1` counts as `.so`."""
    name = path.rpartition("/")[2]
    return ".so" if ".so." in name or name.endswith(".so") else name.rpartition(".")[2]


def _most_alike(entry: FileEntry, old: Sequence[FileEntry], candidates: Sequence[int]) -> int:
    near = sorted(candidates, key=lambda number: (abs(old[number].size - entry.size), number))
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(entry.path)
    best, best_ratio = -1, _ALIKE
    for number in near[:_CANDIDATES]:
        if not entry.size <= _SIZES * old[number].size <= _SIZES * _SIZES * entry.size:
            continue
        matcher.set_seq1(old[number].path)
        ratio = matcher.ratio() if matcher.quick_ratio() >= best_ratio else 0.0
        if ratio > best_ratio:
            best, best_ratio = number, ratio
    return best
