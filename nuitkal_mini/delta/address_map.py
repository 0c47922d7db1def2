"""Where an address of the old executable has gone in the new one: from the matches, and from
corrections.

Zucchini calls this projection. An address that a match covers moves with the match, the longest
where several do; any other moves as the nearest covered or corrected address does.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from typing import Dict, Iterator, List, Tuple

from .format import MAX_LEARNED, DeltaError, Matches
from .image import Image

_CACHED = 200_000
_BEFORE_ALL, _BEHIND_ALL = -(2**60), 2**60

MovedPiece = Tuple[int, int, int]  # old address, length, new address minus old address


class AddressMap:
    """Call it with an old address to get the predicted new one."""

    def __init__(self, old: Image, new: Image, matches: Matches) -> None:
        self._starts, self._ends, self._shifts = array("q"), array("q"), array("q")
        for start, end, shift in _longest(_pieces(old, new, matches)):
            if len(self._ends) and self._ends[-1] == start and self._shifts[-1] == shift:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)
                self._shifts.append(shift)
        self._learned: Dict[int, int] = {}
        self._points: List[int] = []  # learned addresses that no match covers, sorted
        self._cache: Dict[int, int] = {}

    def __call__(self, address: int) -> int:
        found = self._learned.get(address)
        if found is None:
            found = self._cache.get(address)
        if found is not None:
            return found
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._ends[index]:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            found = self._cache[address] = address + self._shifts[index]
            return found
        return address + self._nearest_shift(address, index)

    def learn(self, address: int, actual: int) -> None:
        """Remember where an address has really gone; no more than the format's number of them."""
        if address not in self._learned:
            if len(self._learned) >= MAX_LEARNED:
                return
            index = bisect_right(self._starts, address) - 1
            if index < 0 or address >= self._ends[index]:
                insort(self._points, address)
        self._learned[address] = actual

    def _nearest_shift(self, address: int, index: int) -> int:
        """The shift of a learned point in the same hole, else that of the nearer side."""
        if not self._starts:
            return 0
        before = self._ends[index] if index >= 0 else _BEFORE_ALL
        behind = self._starts[index + 1] if index + 1 < len(self._starts) else _BEHIND_ALL
        at = bisect_right(self._points, address)
        if at and self._points[at - 1] >= before:
            point = self._points[at - 1]
            return self._learned[point] - point
        if index < 0:
            return self._shifts[0]
        if behind - address < address - before:
            if at < len(self._points) and self._points[at] < behind:
                point = self._points[at]
                return self._learned[point] - point
            return self._shifts[index + 1]
        return self._shifts[index]


def _pieces(old: Image, new: Image, matches: Matches) -> List[MovedPiece]:
    """The matches in addresses, cut where a segment ends in either file."""
    pieces: List[MovedPiece] = []
    limit = 2 * len(matches) + 10_000  # damage: a match may be cut once for each segment
    for new_at, old_at, length in matches:
        while length > 0:
            source, target = old.segment_at(old_at), new.segment_at(new_at)
            step = min(
                length,
                old.next_segment_offset(old_at) - old_at,
                new.next_segment_offset(new_at) - new_at,
            )
            address, moved = old.address_of(old_at), new.address_of(new_at)
            if address >= 0 and moved >= 0 and source and target:
                covered = min(
                    step,
                    source.offset + source.file_size - old_at,
                    target.offset + target.file_size - new_at,
                )
                pieces.append((address, covered, moved - address))
                if len(pieces) > limit:
                    raise DeltaError("the delta's matches cross too many segments")
            new_at, old_at, length = new_at + step, old_at + step, length - step
    return pieces


def _longest(pieces: List[MovedPiece]) -> Iterator[Tuple[int, int, int]]:
    """(start, end, shift) of each covered range, by the longest piece, the first of equals."""
    from heapq import heappop, heappush  # a client without a delta does without it

    order = sorted(range(len(pieces)), key=lambda index: pieces[index][0])
    active: List[Tuple[int, int, int, int]] = []  # a heap of (-length, number, end, shift)
    at = _BEFORE_ALL
    for index in [*order, -1]:
        start = pieces[index][0] if index >= 0 else _BEHIND_ALL
        while active and at < start:
            _, _, end, shift = active[0]
            if end <= at:
                heappop(active)
                continue
            stop = min(end, start)
            yield at, stop, shift
            at = stop
        at = start
        if index >= 0:
            address, length, shift = pieces[index]
            heappush(active, (-length, index, address + length, shift))
