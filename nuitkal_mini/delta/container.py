"""A delta between two releases: the new manifest, then the files that differ, in groups that share
their streams.

A group is read into memory at once and is limited in size; a file of some size that has no source
is carried whole and passes through in pieces.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Tuple

from .format import (
    AS_EXECUTABLE,
    AS_LITERALS,
    MAX_BLOCK,
    MAX_GROUP_FILES,
    MAX_GROUP_PACKED,
    MAX_GROUP_STREAMS,
    SMALL_STREAM,
    STREAM_COUNT,
    USED_STREAMS,
    CodedFile,
    DeltaError,
    Streams,
    VarintReader,
)
from .lzma2 import unpack

Read = Callable[[int], bytes]
_MAX_PIECE = 2**20


class Record(NamedTuple):
    """A file of a group.

    `target` is its index among the new manifest's files, `source` that of its source among the old
    one's; -1: it has none.
    """

    target: int
    source: int
    coded: CodedFile


class _Outline(NamedTuple):
    """What a group's head says about a file."""

    target: int
    source: int
    kind: int
    literal_size: int
    literal_packed: int
    code_size: int
    code_packed: int
    streams: List[int]


def read_exactly(read: Read, size: int) -> bytes:
    """The next `size` bytes. Raises DeltaError at the end."""
    pieces = []
    left = size
    while left:
        piece = read(min(left, _MAX_PIECE))
        if not piece:
            raise DeltaError("the delta ends too early")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def read_varint(read: Read, limit: int) -> int:
    """The next integer, at most `limit`."""
    data = bytearray()
    while not data or data[-1] > 127:
        data += read_exactly(read, 1)
        if len(data) > 10:
            raise DeltaError("the delta has too long a number")
    return VarintReader(data).unsigned(limit)


def read_pieces(read: Read) -> Iterator[bytes]:
    """The compressed pieces of a whole file, up to an empty one."""
    while True:
        size = read_varint(read, _MAX_PIECE)
        if not size:
            return
        yield read_exactly(read, size)


def read_group(read: Read, first_target: int) -> List[Record]:
    """The files of the next group; targets are counted from `first_target` on."""
    body = VarintReader(read_exactly(read, read_varint(read, MAX_GROUP_PACKED)))
    count = body.unsigned(MAX_GROUP_FILES)
    size = body.unsigned(MAX_GROUP_STREAMS)
    head = VarintReader(unpack(body.take(body.unsigned()), size))
    outlines = _read_outlines(head, count, first_target)
    shared = _read_streams(body)
    at = [0] * len(shared)
    records = []
    for outline in outlines:
        streams = [b""] * STREAM_COUNT
        base = STREAM_COUNT if outline.kind == AS_EXECUTABLE else 0
        for number, length in zip(USED_STREAMS[outline.kind], outline.streams):
            start = at[base + number]
            at[base + number] = start + length
            streams[number] = shared[base + number][start : start + length]
            if len(streams[number]) != length:
                raise DeltaError("a stream of the delta is shorter than its files say")
        if outline.kind == AS_LITERALS:
            streams[-2] = b"\0"  # a head: no matches
        coded = CodedFile(
            outline.kind == AS_EXECUTABLE,
            Streams(*streams),
            outline.literal_size,
            body.take(outline.literal_packed),
            outline.code_size,
            body.take(outline.code_packed),
        )
        records.append(Record(outline.target, outline.source, coded))
    if body.at != len(body.data) or head.at != len(head.data):
        raise DeltaError("a group of the delta is longer than it says")
    return records


def _read_outlines(head: VarintReader, count: int, target: int) -> List[_Outline]:
    outlines = []
    source = target
    for _ in range(count):
        kind = head.unsigned(AS_EXECUTABLE)
        step = head.unsigned(2**32)
        target += step
        if kind != AS_LITERALS:
            source += step + head.signed()
            if source < 0:
                raise DeltaError("a file of the delta has no source")
        literal = _read_block(head) if kind != AS_LITERALS else (0, 0)
        code = _read_block(head) if kind == AS_EXECUTABLE else (0, 0)
        lengths = [head.unsigned(MAX_GROUP_STREAMS) for _ in USED_STREAMS[kind]]
        from_source = source if kind != AS_LITERALS else -1
        outlines.append(_Outline(target, from_source, kind, *literal, *code, lengths))
        target += 1
        source += 1
    return outlines


def _read_block(head: VarintReader) -> Tuple[int, int]:
    """The sizes of a file's own block, unpacked and packed; (0, 0): it has none."""
    size = head.unsigned(MAX_BLOCK)
    return size, head.unsigned(MAX_GROUP_PACKED) if size else 0


def _read_streams(body: VarintReader) -> List[bytes]:
    """The streams of a group, those of plain files before those of executables."""
    present = body.unsigned(2 ** (2 * STREAM_COUNT) - 1)
    small_size, small_packed = body.unsigned(2 * STREAM_COUNT * SMALL_STREAM), body.unsigned()
    sizes = []
    total = 0
    for number in range(2 * STREAM_COUNT):
        size = packed = 0
        if present >> number & 1:
            size = body.unsigned(MAX_GROUP_STREAMS)
            packed = body.unsigned() if size >= SMALL_STREAM else 0
        total += size
        sizes.append((size, packed))
    if total > MAX_GROUP_STREAMS:
        raise DeltaError("a group of the delta is larger than the format allows")
    small = VarintReader(unpack(body.take(small_packed), small_size))
    return [
        unpack(body.take(packed), size) if size >= SMALL_STREAM else small.take(size)
        for size, packed in sizes
    ]
