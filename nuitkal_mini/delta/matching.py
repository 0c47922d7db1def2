"""Encoder: what two files have in common, as approximate matches.

Exact anchors are found first (on the diagonal of the last one, near it, or anywhere by an index of
the old file's slices), then joined and extended while half of the bytes agree, as bsdiff does.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Dict, Iterator, List, Optional, Tuple, Union

from .format import Matches

_KEY = (
    24  # bytes of an indexed slice: shorter matches cost more than they save, and mislead the map
)
_STEP = 8  # every eighth offset, of what a coarse index has left unmatched
_OFFSETS = 8  # kept for one slice
_SMALL = 2**18  # files below it are indexed finely at once
_KEYS = 700_000  # about as many in the coarse index: a key takes 170 bytes
_MORE_KEYS = 1_500_000
_NEAR = 2048  # bytes about the diagonal that are searched directly
_NEAR_KEY = 16
_GOOD = 128  # a near match of this length is taken without asking the index
_LOOKED_AT = 4096  # bytes of a candidate from the index
_EXTENSION = 4096  # bytes that a match may grow into a gap
_JOINED = 64  # bytes between two anchors on one diagonal that become one match

Anchor = Tuple[int, int, int]  # new, old, length
_EQUAL = bytes([1] + [0] * 255)


def find_matches(old: bytes, new: bytes) -> Matches:
    """The matches of `new` in `old`, sorted and apart in `new`."""
    return _extend(old, new, _anchors(old, new))


def _anchors(old: bytes, new: bytes) -> List[Anchor]:
    index = _Index(old)
    if len(old) < _SMALL:
        index.add(0, len(old), _STEP)
        return _Search(old, new, index).run()
    index.add(0, len(old), max(16, (len(old) // _KEYS + 7) // 8 * 8))
    anchors = _Search(old, new, index).run()
    keys = _MORE_KEYS
    end = 0
    for start, stop in sorted([(o, o + length) for _, o, length in anchors] + [(len(old), 0)]):
        if start - end >= _KEY and keys > 0:
            low = (max(0, end - 64) + _STEP - 1) // _STEP * _STEP
            index.add(low, min(len(old), start + 64), _STEP)
            keys -= (start - end) // _STEP
        end = max(end, stop)
    return _Search(old, new, index).run()


class _Index:
    """Offsets of slices of the old file."""

    def __init__(self, old: bytes) -> None:
        self._old = old
        self._offsets: Dict[bytes, Union[int, List[int]]] = {}
        self.get = self._offsets.get

    def add(self, start: int, stop: int, step: int) -> None:
        old, offsets, get = self._old, self._offsets, self.get
        for at in range(start, stop - _KEY + 1, step):
            key = old[at : at + _KEY]
            known = get(key)
            if known is None:
                offsets[key] = at
            elif isinstance(known, int):
                if known != at:
                    offsets[key] = [known, at]
            elif len(known) < _OFFSETS and at not in known:
                known.append(at)


class _Search:
    """One pass over the new file.

    `done` is the end of what has been matched, `diagonal` is old minus new offset.
    """

    def __init__(self, old: bytes, new: bytes, index: _Index) -> None:
        self.old, self.new, self.index = old, new, index
        self.diagonal = self.done = 0

    def run(self) -> List[Anchor]:
        old, new = self.old, self.new
        found: List[Anchor] = []
        at = 0
        while at < len(new):
            start = at + self.diagonal
            if 0 <= start < len(old):
                length = common_prefix(old, start, new, at, min(len(old) - start, len(new) - at))
                if length >= 8:
                    found.append((at, start, length))
                    at += length
                    self.done = at
                    if at >= len(new):
                        break
            skip = self._on_diagonal(at)
            if skip is not None:
                at += skip
                continue
            place = self._near(at) or self._anywhere(at)
            if place is None:
                break
            at, start = place
            self.diagonal = start - at
        return found

    def _on_diagonal(self, at: int) -> Optional[int]:
        """How many bytes to skip where half of the next 64 agree, 12 of them in a row."""
        start = at + self.diagonal
        if not 0 <= start < len(self.old) - 40:
            return None
        equal = _differences(self.old[start : start + 64], self.new[at : at + 64])
        skip = equal.find(bytes(12))
        return skip if skip >= 0 and equal.count(0) * 2 >= len(equal) else None

    def _near(self, at: int) -> Optional[Tuple[int, int]]:
        """(new, old) of a match near the diagonal, or of one from the index that is much longer."""
        old, new = self.old, self.new
        centre = at + self.diagonal
        low, high = max(0, centre - _NEAR), max(0, centre + _NEAR)
        for place in range(at, min(at + 48, len(new) - 10), 3):
            start = old.find(new[place : place + _NEAR_KEY], low, high)
            if start >= 0:
                break
        else:
            return None
        length = common_prefix(old, start, new, place, min(len(old) - start, len(new) - place))
        if length < _NEAR_KEY:
            return None
        back = common_suffix(old, start, new, place, min(place - self.done, start))
        place, start, length = place - back, start - back, length + back
        if length < _GOOD:
            for other in range(at, min(at + 16, len(new) - _KEY)):
                best = self._longest(other)
                if best is not None:
                    if best[2] > 2 * length + 16:
                        return best[0], best[1]
                    break
        return place, start

    def _anywhere(self, at: int) -> Optional[Tuple[int, int]]:
        """(new, old) of the first match that the index knows."""
        new, get = self.new, self.index.get
        for place in range(at, len(new) - _KEY + 1):
            if get(new[place : place + _KEY]) is not None:
                best = self._longest(place)
                if best is not None:
                    return best[0], best[1]
        return None

    def _longest(self, at: int) -> Optional[Anchor]:
        """The longest match of the slice at `at`; of equals the one nearest to the diagonal."""
        known = self.index.get(self.new[at : at + _KEY])
        if known is None:
            return None
        old, new = self.old, self.new
        best: Optional[Anchor] = None
        best_distance = 0
        for start in (known,) if isinstance(known, int) else known:
            limit = min(len(old) - start, len(new) - at, _LOOKED_AT)
            length = common_prefix(old, start, new, at, limit)
            back = common_suffix(old, start, new, at, min(at - self.done, start, 512))
            distance = abs(start - at - self.diagonal)
            longer = best is None or length + back > best[2]
            if longer or best and length + back == best[2] and distance < best_distance:
                best = at - back, start - back, length + back
                best_distance = distance
        return best


def _differences(a: bytes, b: bytes) -> bytes:
    """The exclusive or of both, as far as the shorter goes: 0 where they are equal."""
    size = min(len(a), len(b))
    value = int.from_bytes(a[:size], "little") ^ int.from_bytes(b[:size], "little")
    return value.to_bytes(size, "little")


def common_prefix(a: bytes, i: int, b: bytes, j: int, limit: int) -> int:
    """The number of equal bytes from a[i] and b[j] on; the slices that it compares double."""
    length, step = 0, 32
    while length < limit:
        step = min(step, limit - length)
        x = a[i + length : i + length + step]
        y = b[j + length : j + length + step]
        if x == y:
            length += step
            if step < 65536:
                step *= 2
        elif step <= 64:
            differs = int.from_bytes(x, "little") ^ int.from_bytes(y, "little")
            return length + (((differs & -differs).bit_length() - 1) >> 3)
        else:
            step = max(32, step >> 2)
    return length


def common_suffix(a: bytes, i: int, b: bytes, j: int, limit: int) -> int:
    """The number of equal bytes before a[i] and b[j]."""
    length, step = 0, 32
    while length < limit:
        step = min(step, limit - length)
        x = a[i - length - step : i - length]
        y = b[j - length - step : j - length]
        if x == y:
            length += step
            if step < 65536:
                step *= 2
        elif step <= 64:
            differs = int.from_bytes(x, "big") ^ int.from_bytes(y, "big")
            return length + (((differs & -differs).bit_length() - 1) >> 3)
        else:
            step = max(32, step >> 2)
    return length


# --- from anchors to approximate matches ----------------------------------------------------------


def _extend(old: bytes, new: bytes, anchors: List[Anchor]) -> Matches:
    """Join anchors on one diagonal, and grow all into the gaps between them."""
    joined = [list(anchor) for anchor in _joined(anchors)]
    before: Optional[List[int]] = None
    for behind in [*joined, None]:
        _grow(old, new, before, behind)
        before = behind
    matches = Matches()
    for start, source, length in joined:
        last = len(matches) - 1
        if (
            last >= 0
            and matches.new[last] + matches.length[last] == start
            and matches.old[last] + matches.length[last] == source
        ):
            matches.length[last] += length
        elif length:
            matches.append(start, source, length)
    return matches


def _joined(anchors: List[Anchor]) -> Iterator[Anchor]:
    last: Optional[Anchor] = None
    for new, old, length in anchors:
        if last and last[1] - last[0] == old - new and new - (last[0] + last[2]) <= _JOINED:
            last = last[0], last[1], new + length - last[0]
            continue
        if last:
            yield last
        last = new, old, length
    if last:
        yield last


def _grow(old: bytes, new: bytes, before: Optional[List[int]], behind: Optional[List[int]]) -> None:
    """Extend the matches on both sides of a gap into it, as far as more bytes agree than not."""
    start = before[0] + before[2] if before else 0
    stop = behind[0] if behind else len(new)
    gap = stop - start
    if gap <= 0:
        return
    forward, backward = b"", b""
    if before:
        source = before[1] + before[2]
        size = max(0, min(gap, len(old) - source, _EXTENSION))
        forward = _equal_bytes(old[source : source + size], new[start : start + size])
    if behind:
        size = min(gap, behind[1], _EXTENSION)
        backward = _equal_bytes(old[behind[1] - size : behind[1]], new[stop - size : stop])
    ahead, back = _best_length(forward), _best_length(backward[::-1])
    if ahead + back > gap:
        ahead = _best_split(forward, backward, gap, ahead, back)
        back = gap - ahead
    if before:
        before[2] += ahead
    if behind:
        behind[0] -= back
        behind[1] -= back
        behind[2] += back


def _equal_bytes(a: bytes, b: bytes) -> bytes:
    """1 where both are equal, 0 elsewhere."""
    return _differences(a, b).translate(_EQUAL)


def _best_length(equal: bytes) -> int:
    """The length up to which equal bytes outnumber the others most."""
    scores = list(accumulate(2 * byte - 1 for byte in equal))
    best = max(scores, default=0)
    return scores.index(best) + 1 if best > 0 else 0


def _best_split(forward: bytes, backward: bytes, gap: int, ahead: int, back: int) -> int:
    """Where both sides want the same bytes: how many the match before the gap gets."""
    overlap_start = gap - back
    score = best = best_length = 0
    for number in range(ahead + back - gap):
        score += forward[overlap_start + number] - backward[len(backward) - back + number]
        if score > best:
            best, best_length = score, number + 1
    return overlap_start + best_length
