"""Encoder: the delta between two releases, from their manifests and their files.

Each file is encoded by itself, through `map_files`, which may spread the work over processes; its
delta is decoded again and compared in the same place. The whole container is read back before it is
given out.
"""

from __future__ import annotations

import hashlib
import lzma
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from ..entries import FileEntry
from ..manifest import loads
from .container import Record, read_group
from .encode import encode_file, packed_size
from .format import (
    AS_EXECUTABLE,
    AS_LITERALS,
    AS_PLAIN,
    DELTA_MAGIC,
    DIGEST_BYTES,
    END_OF_DELTA,
    GROUP,
    MAX_BLOCK,
    MAX_CODED_FILE,
    MAX_GROUP_PACKED,
    MAX_GROUP_STREAMS,
    SMALL_STREAM,
    STREAM_COUNT,
    USED_STREAMS,
    WHOLE_FILE,
    CodedFile,
    DeltaError,
    Streams,
    append_varint,
    to_zigzag,
)
from .lzma2 import lzma2_filters
from .lzma2_encoder import pack
from .pairs import Pair, pair_files

_GROUP_BYTES = 4 * 2**20  # a group is closed above it: with one more file it stays below the limits
_GROUP_FILES = 2000
_SOLID = 2**18  # new files up to this size are compressed together
_PIECE = 2**18

ReadFile = Callable[[FileEntry], bytes]
MapFiles = Callable[..., Iterable[Any]]


class Release(NamedTuple):
    """A release as the encoder needs it: its manifest's bytes and the content of its files."""

    manifest: bytes
    read: ReadFile
    signature: str = ""


class _Task(NamedTuple):
    old: Release
    new: Release
    source: Optional[FileEntry]
    target: FileEntry


def write_delta(old: Release, new: Release, map_files: MapFiles = map) -> Iterator[bytes]:
    """The delta that turns `old` into `new`, in pieces.

    `read` of both must be callable wherever `map_files` runs its function. Raises DeltaError when
    the result does not read back.
    """
    sources, targets = loads(old.manifest).files, loads(new.manifest).files
    yield DELTA_MAGIC + hashlib.sha256(new.manifest).digest()[:DIGEST_BYTES]
    yield _manifest(old, new)
    following = 0
    group: List[Record] = []
    size = 0
    pairs = pair_files(sources, targets)
    tasks = [
        _Task(old, new, sources[source] if source >= 0 else None, targets[target])
        for target, source in pairs
    ]
    for pair, coded in zip(pairs, map_files(_encode, tasks)):
        if coded is not None:
            group.append(Record(pair.target, _source_of(pair, coded), coded))
            size += sum(map(len, coded.streams)) + len(coded.literal_block) + len(coded.code_block)
        if group and (coded is None or size > _GROUP_BYTES or len(group) == _GROUP_FILES):
            yield bytes([GROUP]) + _group(group, following)
            following = group[-1].target + 1
            group, size = [], 0
        if coded is None:
            step = bytearray([WHOLE_FILE])
            append_varint(step, pair.target - following)
            yield bytes(step)
            yield from _whole(new.read(targets[pair.target]))
            following = pair.target + 1
    if group:
        yield bytes([GROUP]) + _group(group, following)
    yield bytes([END_OF_DELTA])


def _source_of(pair: Pair, coded: CodedFile) -> int:
    return pair.source if coded.streams.head else -1


def _encode(task: _Task) -> Optional[CodedFile]:
    """A file's delta; a small file's literals where it has no source; None: carry it whole."""
    coded = None
    if task.source and max(task.source.size, task.target.size) <= MAX_CODED_FILE:
        try:
            coded = encode_file(task.old.read(task.source), task.new.read(task.target))
        except MemoryError:  # within a limit that the caller has set: such a file goes whole
            coded = None
    if coded is not None and not _fits(coded):
        coded = None
    if coded is None and task.target.size <= _SOLID:
        coded = _as_literals(task.new.read(task.target))
    return coded


def _fits(coded: CodedFile) -> bool:
    """Whether the file may join a group that is just not closed yet."""
    streams = sum(map(len, coded.streams))
    most = streams + len(coded.literal_block) + len(coded.code_block)
    packed_limit = MAX_GROUP_PACKED - _GROUP_BYTES
    return (
        streams <= MAX_GROUP_STREAMS - _GROUP_BYTES
        and max(coded.literal_size, coded.code_size) <= MAX_BLOCK
        and (most <= packed_limit or packed_size(coded) <= packed_limit)
    )


def _as_literals(content: bytes) -> CodedFile:
    empty = Streams(*[b""] * STREAM_COUNT)
    return CodedFile(False, empty._replace(literal=content))


def _manifest(old: Release, new: Release) -> bytes:
    signature = new.signature.encode("utf-8")
    coded = encode_file(old.manifest, new.manifest)
    record = Record(0, 0, coded) if coded else Record(0, -1, _as_literals(new.manifest))
    out = bytearray()
    append_varint(out, len(new.manifest))
    append_varint(out, len(signature))
    return bytes(out) + _group([record, Record(1, -1, _as_literals(signature))], 0)


def _whole(content: bytes) -> Iterator[bytes]:
    """A file compressed by itself, in pieces with their sizes before them."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=lzma2_filters(len(content)))
    pieces = [
        compressor.compress(content[start : start + _PIECE])
        for start in range(0, len(content), _PIECE)
    ]
    packed = b"".join([*pieces, compressor.flush()])
    for start in range(0, len(packed), _PIECE):
        piece = packed[start : start + _PIECE]
        size = bytearray()
        append_varint(size, len(piece))
        yield bytes(size) + piece
    yield b"\0"


def _group(records: Sequence[Record], following: int) -> bytes:
    """A group's bytes with their size before them; read back and compared."""
    head = bytearray()
    shared = [bytearray() for _ in range(2 * STREAM_COUNT)]
    blocks = []
    target = source = following
    for record in records:
        kind = _kind_of(record)
        step = record.target - target
        append_varint(head, kind)
        append_varint(head, step)
        if kind != AS_LITERALS:
            append_varint(head, to_zigzag(record.source - source - step))
            source = record.source
        coded = record.coded
        kept = (coded.literal_size, coded.literal_block), (coded.code_size, coded.code_block)
        for size, block in kept[:kind]:
            append_varint(head, size)
            if size:
                append_varint(head, len(block))
                blocks.append(block)
        base = STREAM_COUNT if kind == AS_EXECUTABLE else 0
        for number in USED_STREAMS[kind]:
            append_varint(head, len(coded.streams[number]))
            shared[base + number] += coded.streams[number]
        target, source = record.target + 1, source + 1
    out = bytearray()
    packed = pack(head)
    for value in (len(records), len(head), len(packed)):
        append_varint(out, value)
    out += packed + _pack_streams(shared) + b"".join(blocks)
    result = bytearray()
    append_varint(result, len(out))
    result += out
    _read_back(bytes(result), records, following)
    return bytes(result)


def _kind_of(record: Record) -> int:
    if record.source < 0:
        return AS_LITERALS
    return AS_EXECUTABLE if record.coded.executable else AS_PLAIN


def _pack_streams(shared: Sequence[bytearray]) -> bytes:
    table, body = bytearray(), []
    small = b"".join(bytes(stream) for stream in shared if len(stream) < SMALL_STREAM)
    packed = pack(small)
    append_varint(table, sum(1 << number for number, stream in enumerate(shared) if stream))
    append_varint(table, len(small))
    append_varint(table, len(packed))
    for stream in shared:
        if stream:
            append_varint(table, len(stream))
            if len(stream) >= SMALL_STREAM:
                body.append(pack(stream))
                append_varint(table, len(body[-1]))
    return bytes(table) + packed + b"".join(body)


def _read_back(packed: bytes, records: Sequence[Record], following: int) -> None:
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return packed[at - size : at]

    for record, found in zip(records, read_group(read, following)):
        wanted = record.coded
        if record.source < 0:
            wanted = wanted._replace(streams=wanted.streams._replace(head=b"\0"))
        if found != record._replace(coded=wanted):
            raise DeltaError("the delta does not read back as it was written; this is a fault")
