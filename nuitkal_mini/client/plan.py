"""Which bytes of a package to fetch: the whole of it, or a few ranges.

A package ends with its directory, and a server that composes packages puts the newest contents right before
it. So one request for the tail often brings both the directory and all that has changed; what is missing
then follows by exact ranges.
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Optional, Sequence

from ..entries import FileEntry
from ..zip_read import Directory

SPECULATION = (
    64 * 1024
)  # bytes of contents to ask for before knowing where they lie: costs less than a request more
GAP = 16 * 1024  # bytes between two ranges that cost less than a request more
MAX_RANGES = 32
_DIRECTORY_ENTRY = 46  # bytes, and the name; other packers add up to some 40
_LOCAL_HEADER = 30
_END_RECORD = 22


class Range(NamedTuple):
    """Bytes `start` to `end` (not included) of a package."""

    start: int
    end: int


def whole_is_fewer(needed: Iterable[FileEntry], files: Iterable[FileEntry]) -> bool:
    """Whether so much of the tree is needed that ranges save nothing (contents compress about alike)."""
    return sum(entry.size for entry in needed) >= 0.8 * sum(entry.size for entry in files)


def first_tail(needed: Iterable[FileEntry], files: Iterable[FileEntry], package_size: int) -> Range:
    """The tail to ask for first: the directory, and what is needed too if that is little."""
    directory = _END_RECORD + sum(
        _DIRECTORY_ENTRY + len(entry.path.encode("utf-8")) for entry in files
    )
    contents = sum(_LOCAL_HEADER + len(entry.path.encode("utf-8")) + entry.size for entry in needed)
    length = directory + (contents if contents <= SPECULATION else 0)
    return Range(max(0, package_size - length), package_size)


def ranges_for(
    directory: Directory, needed: Iterable[FileEntry], have: Range
) -> Optional[List[Range]]:
    """The ranges to fetch beyond `have`, fewest requests for few bytes; None when the package lacks a path."""
    members = {member.path: member for member in directory.members}
    try:
        wanted = sorted(
            Range(members[entry.path].offset, members[entry.path].end) for entry in needed
        )
    except KeyError:
        return None
    wanted = [piece for piece in wanted if piece.start < have.start]
    gap = GAP
    merged = _merge(wanted, gap)
    while len(merged) > MAX_RANGES:
        gap *= 2
        merged = _merge(wanted, gap)
    return merged


def _merge(wanted: Sequence[Range], gap: int) -> List[Range]:
    merged: List[Range] = []
    for piece in wanted:
        if merged and piece.start - merged[-1].end <= gap:
            merged[-1] = Range(merged[-1].start, max(piece.end, merged[-1].end))
        else:
            merged.append(piece)
    return merged
