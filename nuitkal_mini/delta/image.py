"""An executable file as a map between offsets in it and addresses in memory.

Sections that are not loaded (symbol tables, debugging information) get addresses of their own above
every real one, so that each byte that something may refer to has an address.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import List, NamedTuple, Optional, Sequence, Tuple

UNLOADED = 2**40  # the address of offset 0 for sections that are not loaded; real ones are below
ELF, PE = "elf", "pe"
MAX_SEGMENTS = 64
MAX_CODE_SECTIONS = 16  # ELF has six kinds; each gap is compared with each section
MAX_SECTIONS = 200  # a Nuitka binary has 40; every loop over them is cheap up to here


class Segment(NamedTuple):
    """A part of the file that is loaded; what memory has beyond the file is zeros."""

    address: int
    offset: int
    file_size: int
    memory_size: int


class Section(NamedTuple):
    """A section; the numbers are those of its header, `number` is its index."""

    name: bytes
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    number: int


class Image:
    """The segments and sections of a file; what is loaded lies between `low` and `high`."""

    def __init__(
        self,
        kind: str,
        segments: Sequence[Segment],
        sections: Sequence[Section],
        code: Sequence[Section],
        base: int = 0,
        directories: Sequence[Tuple[int, int]] = (),
    ) -> None:
        self.kind = kind
        self.segments = sorted(segments)
        self.in_file = sorted((s for s in segments if s.file_size), key=_offset)
        self.sections = list(sections)
        self.code = sorted(code, key=_offset)
        self.base = base
        self.directories = list(directories)
        self.low = self.segments[0].address
        self.high = max(s.address + s.memory_size for s in segments if s.address < UNLOADED)
        self._addresses = [segment.address for segment in self.segments]
        self._offsets = [segment.offset for segment in self.in_file]

    def offset_of(self, address: int) -> int:
        """The offset of an address, -1 where the file has none."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return -1
        segment = self.segments[index]
        distance = address - segment.address
        return segment.offset + distance if distance < segment.file_size else -1

    def address_of(self, offset: int) -> int:
        """The address of an offset, -1 where it has none."""
        segment = self.segment_at(offset)
        if segment is None or offset >= segment.offset + segment.file_size:
            return -1
        return segment.address + offset - segment.offset

    def segment_at(self, offset: int) -> Optional[Segment]:
        """The last segment that begins at or before an offset."""
        index = bisect_right(self._offsets, offset) - 1
        return self.in_file[index] if index >= 0 else None

    def next_segment_offset(self, offset: int) -> int:
        """Where the first segment behind an offset begins; far away when there is none."""
        index = bisect_right(self._offsets, offset)
        return self._offsets[index] if index < len(self._offsets) else 2**62

    def is_mapped(self, address: int) -> bool:
        """Whether an address lies in a segment, zeros beyond the file included."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return False
        segment = self.segments[index]
        return address < segment.address + segment.memory_size

    def section(self, name: bytes) -> Optional[Section]:
        """The last section of that name."""
        found = None
        for section in self.sections:
            if section.name == name:
                found = section
        return found

    def numbered(self, number: int) -> Optional[Section]:
        """The section with that index."""
        return next((section for section in self.sections if section.number == number), None)

    def code_addresses(self) -> Tuple[int, int]:
        """The lowest address of code, and the one behind the highest."""
        return (
            min(section.address for section in self.code),
            max(section.address + section.size for section in self.code),
        )


def overlap(ranges: Sequence[Tuple[int, int]]) -> bool:
    """Whether any two of these (start, size) share something.

    With overlapping parts the decoder, whose image is not yet complete, could read the headers in
    another way than the encoder; such files are coded as plain bytes.
    """
    ordered: List[Tuple[int, int]] = sorted(item for item in ranges if item[1])
    return any(
        start + size > following for (start, size), (following, _) in zip(ordered, ordered[1:])
    )


def _offset(part: object) -> int:
    return part.offset  # type: ignore[attr-defined,no-any-return]
