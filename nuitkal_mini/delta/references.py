"""References: the places in an executable whose value is an address, or the distance to one.

Each has a location, a width, a kind that says how the value follows from the target, a target and,
for some kinds, a base (both addresses). A binary has one in 60 bytes, so they are kept in arrays:
as tuples they take ten times the memory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import List, NamedTuple, Optional, Tuple

from .format import Bytes, DeltaError, max_references
from .image import Image, Section
from .x86 import INT32, memory_tail, reference_pattern

# Kinds, and the value each stands for.
RELATIVE = 0  # target - (address of the location + tail)
ABSOLUTE = 1  # target (PE: + the image base where 8 bytes wide)
BASED = 2  # target - base: names in string tables, entries of jump tables
SIZE = 3  # target - base, where target is the end of what begins at base
CIE = 4  # address of the location - target: an FDE's pointer to its CIE
END = 5  # target, the address behind a function
JUMP = 6  # as RELATIVE, of calls and jumps: the target is code
FUNCTION = 7  # as RELATIVE, of an FDE: functions follow each other
WIDE = 8  # a bit of `flags`: 8 bytes, not 4

_MAX_TABLE = 16384  # bytes of a jump table; a switch of 4,096 cases


class Run(NamedTuple):
    """Consecutive relative relocations that follow from the pointers."""

    offset: int
    length: int
    keeps_addend: int  # 1: the relocated word holds the addend too; 0: it is zero


class Span(NamedTuple):
    """A range of bytes that is rebuilt from the rest of the file."""

    offset: int
    size: int


class Relocated(NamedTuple):
    """What `rebuild.strip` found: offsets of relocated pointers, and what it has removed."""

    pointers: array[int]
    relocations: Optional[Run] = None
    base_relocations: Optional[Span] = None
    frame_table: Optional[Span] = None
    hash_table: Optional[Span] = None


class ReferenceList:
    """References as parallel arrays. `flags` is kind, WIDE, and the tail shifted by 4."""

    def __init__(self, limit: int) -> None:
        self.locations = array("I")
        self.flags = bytearray()
        self.targets = array("q")
        self.bases = array("q")
        self._limit = limit

    def __len__(self) -> int:
        return len(self.locations)

    def add(
        self, at: int, width: int, kind: int, target: int, base: int = 0, tail: int = 0
    ) -> None:
        """Append one. Raises DeltaError above the limit."""
        if len(self.locations) >= self._limit:
            raise DeltaError("the executable has more references than the format allows")
        self.locations.append(at)
        self.flags.append(kind | width & WIDE | tail << 4)
        self.targets.append(target)
        self.bases.append(base)

    def _take(self, source: ReferenceList, index: int) -> None:
        self.locations.append(source.locations[index])
        self.flags.append(source.flags[index])
        self.targets.append(source.targets[index])
        self.bases.append(source.bases[index])


def merge_references(
    size: int, code: List[Tuple[Section, ReferenceList]], other: ReferenceList
) -> ReferenceList:
    """All references by location: the first added wins; only operands count inside code."""
    order = sorted(range(len(other)), key=other.locations.__getitem__)
    merged = ReferenceList(max_references(size))
    at = end = 0
    for section, operands in code:
        while at < len(order) and other.locations[order[at]] < section.offset:
            end = _append(merged, other, order[at], end)
            at += 1
        stop = section.offset + section.size
        while at < len(order) and other.locations[order[at]] < stop:
            at += 1
        if len(operands):
            merged.locations.extend(operands.locations)
            merged.flags.extend(operands.flags)
            merged.targets.extend(operands.targets)
            merged.bases.extend(operands.bases)
            end = merged.locations[-1] + 4
    for index in order[at:]:
        end = _append(merged, other, index, end)
    if len(merged) > max_references(size):
        raise DeltaError("the executable has more references than the format allows")
    return merged


def _append(merged: ReferenceList, other: ReferenceList, index: int, end: int) -> int:
    location = other.locations[index]
    if location < end:
        return end
    merged._take(other, index)
    return location + (8 if other.flags[index] & WIDE else 4)


def code_references(data: Bytes, image: Image, section: Section) -> ReferenceList:
    """The operands of one executable section."""
    found = ReferenceList(0)
    add_location, add_target = found.locations.append, found.targets.append
    add_flags = found.flags.append
    low, high = image.low, image.high
    code_low, code_high = image.code_addresses()
    is_mapped, read, tail_of = image.is_mapped, INT32.unpack_from, memory_tail
    start, stop = section.offset, section.offset + section.size
    shift = section.address - section.offset
    end = start
    jump_flags = JUMP | 4 << 4
    for match in reference_pattern(high - low).finditer(data, start, stop):
        at = match.end()
        if at <= end or at + 4 > stop:
            continue
        byte = data[at - 1]
        if byte & 0xF0 == 0x80 or byte == 0xE8 or byte == 0xE9:
            target = at + 4 + shift + read(data, at)[0]
            if code_low <= target < code_high:
                add_location(at)
                add_target(target)
                add_flags(jump_flags)
                end = at + 4
            continue
        if at - 6 < start:
            continue
        tail = tail_of(data, at - 1)
        if tail:
            target = at + tail + shift + read(data, at)[0]
            if low <= target < high and is_mapped(target):
                add_location(at)
                add_target(target)
                add_flags(tail << 4)
                end = at + 4
    found.bases.frombytes(bytes(8 * len(found.locations)))
    return found


def jump_tables(
    data: Bytes, image: Image, code: List[Tuple[Section, ReferenceList]], out: ReferenceList
) -> None:
    """Append the entries of jump tables: three or more distances from a table to code."""
    low, high = image.code_addresses()
    tables = set()
    for _, operands in code:
        for target, flags in zip(operands.targets, operands.flags):
            if flags == RELATIVE | 4 << 4 and target & 3 == 0 and not low <= target < high:
                tables.add(target)
    ordered = sorted(tables)
    read = INT32.unpack_from
    for index, table in enumerate(ordered):
        offset = image.offset_of(table)
        if offset < 0:
            continue
        following = ordered[index + 1] if index + 1 < len(ordered) else table + 4096
        stop = min(len(data) - 3, offset + min(following - table, _MAX_TABLE))
        distances = []
        for at in range(offset, stop, 4):
            (distance,) = read(data, at)
            if not (distance and low <= table + distance < high):
                break
            distances.append(distance)
        if len(distances) >= 3:
            for number, distance in enumerate(distances):
                out.add(offset + 4 * number, 4, BASED, table + distance, table)


def locations_from(references: ReferenceList, offset: int) -> int:
    """The index of the first reference at or behind an offset."""
    return bisect_right(references.locations, offset - 1)
