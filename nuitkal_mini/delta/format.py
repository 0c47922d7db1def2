"""What both sides of the delta format agree on: its version, its limits, its streams and its
integers.

An integer is a varint: seven bits a byte, the lowest first, the top bit set in all bytes but the
last. A signed integer n is written as 2n when it is not negative and as -2n - 1 when it is.
"""

from __future__ import annotations

from array import array
from typing import Iterator, NamedTuple, Tuple, Union

from ..problem import Problem

DELTA_MAGIC = b"NKD\x01"  # the last byte is the version of the format
DIGEST_BYTES = 16  # of the new manifest's SHA-256: it finds mistakes, the signature finds forgeries

MAX_CODED_FILE = 2**28  # the encoder holds both files; larger ones are carried whole
MAX_GROUP_FILES = 4096
# A group is read into memory at once: these three are most of the 70 MB that decoding may take.
MAX_GROUP_PACKED = 8 * 2**20
MAX_GROUP_STREAMS = 16 * 2**20  # unpacked, all together
MAX_BLOCK = 16 * 2**20  # unpacked literals of one file
MAX_MANIFEST = 64 * 2**20
MAX_SIGNATURE = 8192
MAX_DICTIONARY = 2**20
MAX_PADDING = 200_000  # before a literal block with a dictionary; the encoder begins with 150,000
MIN_BLOCK = 2000  # literals of this size get a block of their own, with a dictionary
MAX_LEARNED = 100_000  # corrections that the address map remembers; each insertion moves the rest

Bytes = Union[bytes, bytearray, memoryview]


class DeltaError(Problem):
    """A delta that is damaged, hostile, or made for another file."""


class Streams(NamedTuple):
    """A file's delta: twelve streams, each with numbers of one kind so that it compresses well."""

    skip: Bytes  # new bytes between two matches
    length: Bytes  # of each match
    source: Bytes  # where a match begins in the old file, against the end of the match before
    literal: Bytes  # new bytes that no match covers
    gap: Bytes  # bytes of matches between two that differ
    difference: Bytes  # new byte minus old byte, modulo 256
    run: Bytes  # references that the first candidate predicts, between two that it does not
    symbol: Bytes  # which candidate is right, a byte each
    correction: Bytes  # actual minus predicted, where no candidate is right
    pointers: Bytes  # relocated pointers that the matches do not carry over; rebuilt sections
    head: Bytes  # sizes
    code: Bytes  # literals inside executable sections


STREAM_COUNT = len(Streams._fields)
# How a group carries a file, and which of the streams that uses.
AS_LITERALS, AS_PLAIN, AS_EXECUTABLE = 0, 1, 2
USED_STREAMS = ((3,), (0, 1, 2, 3, 4, 5, 10), tuple(range(STREAM_COUNT)))
SMALL_STREAM = (
    400  # bytes; streams below it share one compressed block, which saves 200 bytes a delta
)
# What comes next in a delta.
END_OF_DELTA, GROUP, WHOLE_FILE = 0, 1, 2


class CodedFile(NamedTuple):
    """A file's delta before it is packed.

    A block holds literals in place of the stream when its size is not 0.
    """

    executable: bool
    streams: Streams
    literal_size: int = 0
    literal_block: bytes = b""
    code_size: int = 0
    code_block: bytes = b""


class Matches:
    """Parallel arrays: where each match begins in the new and in the old file, and its length."""

    def __init__(self) -> None:
        self.new = array("q")
        self.old = array("q")
        self.length = array("q")

    def append(self, new: int, old: int, length: int) -> None:
        self.new.append(new)
        self.old.append(old)
        self.length.append(length)

    def __len__(self) -> int:
        return len(self.new)

    def __iter__(self) -> Iterator[Tuple[int, int, int]]:
        return zip(self.new, self.old, self.length)

    def gaps(self, size: int) -> Iterator[Tuple[int, int]]:
        """What the matches leave of a new file of `size` bytes, as (start, stop)."""
        at = 0
        for new, _, length in self:
            if new > at:
                yield at, new
            at = new + length
        if size > at:
            yield at, size

    def unused(self, size: int) -> Iterator[Tuple[int, int]]:
        """What no match takes from an old file of `size` bytes, as (start, stop)."""
        at = 0
        for index in sorted(range(len(self)), key=self.old.__getitem__):
            if self.old[index] > at:
                yield at, self.old[index]
            at = max(at, self.old[index] + self.length[index])
        if size > at:
            yield at, size


def max_matches(size: int) -> int:
    """How many matches a new file of `size` bytes may have; each takes 24 bytes."""
    return size // 16 + 1000


def max_references(size: int) -> int:
    """How many references a file of `size` bytes may have; Nuitka's have one in 60 bytes."""
    return size // 8 + 1000


class VarintReader:
    """Reads varints from bytes. Every method raises DeltaError at the end of the bytes."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.at = 0

    def unsigned(self, limit: int = 2**63 - 1) -> int:
        """The next integer, at most `limit`."""
        value = shift = 0
        while True:
            if self.at >= len(self.data) or shift > 63:
                raise DeltaError("the delta ends within a number or has too long a number")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if value > limit:
            raise DeltaError("the delta has a number above its limit")
        return value

    def signed(self) -> int:
        """The next signed integer."""
        return from_zigzag(self.unsigned(2**65))

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self.data) - self.at:
            raise DeltaError("the delta is shorter than it says")
        self.at += size
        return bytes(self.data[self.at - size : self.at])


def varints(data: Bytes) -> Iterator[int]:
    """All integers of a stream."""
    value = shift = 0
    for byte in data:
        if byte < 128:
            yield value | byte << shift
            value = shift = 0
        else:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise DeltaError("the delta has too long a number")
    if shift:
        raise DeltaError("the delta ends within a number")


def append_varint(out: bytearray, value: int) -> None:
    """Write an integer that is not negative."""
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def to_zigzag(value: int) -> int:
    """A signed integer as one that is not negative."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def from_zigzag(value: int) -> int:
    """The signed integer that `to_zigzag` has made into `value`."""
    return -(value + 1 >> 1) if value & 1 else value >> 1
