"""Which bytes of a package to fetch: the whole of it, or a few ranges. Pure.

A package ends with its directory, and a server that composes packages puts the newest contents
right before it. So one request for the tail often brings both the directory and all that changed;
what is missing then follows by exact ranges.
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Optional

from ..entries import FileEntry
from ..zip_read import Directory

# Bytes of contents to ask for before it is known where they lie: cheaper than one more request.
SPECULATION = 64 * 1024
GAP = 16 * 1024  # bytes between two ranges that cost less than one more request
MAX_RANGES = 32
WHOLE_SHARE = 0.8  # of the tree: from there on ranges save nothing, as contents compress alike
REQUEST_BYTES = 500  # of a request and the head of its response
_DIRECTORY_ENTRY = 46  # bytes, and the name; other packers add up to some 40
_LOCAL_HEADER = 30
_END_RECORD = 22


class Range(NamedTuple):
    """The bytes of a file from `start` to `end`, which is not included."""

    start: int
    end: int


def delta_is_fewer(delta_size: int, package_size: int) -> bool:
    """Whether a delta, which brings the manifest too, takes fewer bytes than manifest and package.

    Ranges may take fewer than the package; a server offers only deltas that are fewer than those.
    """
    return delta_size + REQUEST_BYTES < package_size + 2 * REQUEST_BYTES


def whole_is_fewer(needed: Iterable[FileEntry], files: Iterable[FileEntry]) -> bool:
    """Whether so much of the tree is needed that the whole package is the fewest bytes."""
    return sum(entry.size for entry in needed) >= WHOLE_SHARE * sum(entry.size for entry in files)


def first_tail(needed: Iterable[FileEntry], files: Iterable[FileEntry], package_size: int) -> Range:
    """The tail to ask for first: the directory, and the needed contents if they are few."""
    directory = _END_RECORD + sum(
        _DIRECTORY_ENTRY + len(entry.path.encode("utf-8")) for entry in files
    )
    contents = sum(_LOCAL_HEADER + len(entry.path.encode("utf-8")) + entry.size for entry in needed)
    length = directory + (contents if contents <= SPECULATION else 0)
    return Range(max(0, package_size - length), package_size)


def ranges_for(
    directory: Directory, needed: Iterable[FileEntry], tail: Range
) -> Optional[List[Range]]:
    """The ranges to fetch beside the `tail`, few requests for few bytes.

    None when the package lacks a path.
    """
    members = {member.path: member for member in directory.members}
    try:
        wanted = sorted(
            Range(members[entry.path].offset, members[entry.path].end) for entry in needed
        )
    except KeyError:
        return None
    wanted = [part for part in wanted if part.start < tail.start]
    gap = GAP
    merged = merge_ranges(wanted, gap)
    while len(merged) > MAX_RANGES:
        gap *= 2
        merged = merge_ranges(wanted, gap)
    return merged


def merge_ranges(ranges: Iterable[Range], gap: int) -> List[Range]:
    """The ranges, sorted by `start`; two with at most `gap` bytes between them become one."""
    merged: List[Range] = []
    for part in ranges:
        if merged and part.start - merged[-1].end <= gap:
            merged[-1] = Range(merged[-1].start, max(part.end, merged[-1].end))
        else:
            merged.append(part)
    return merged
