"""Compression with a dictionary, for `lzma2.unpack_block`.

liblzma compresses dictionary + padding + literals. The padding does not compress, so liblzma stores
it as uncompressed chunks, and after those it resets its state: what follows can be decoded with
nothing but the window before it. A first run finds where the stored chunks end; the padding is cut
there, and the second run's chunks from that boundary on, with the reset written into the first
one's header, are the block.
"""

from __future__ import annotations

import lzma
from typing import List, NamedTuple, Optional, Tuple

from .format import MIN_BLOCK, Bytes, DeltaError, append_varint, to_zigzag
from .lzma2 import LZMA_LC, LZMA_LP, LZMA_PB, lzma2_filters, padding_bytes, unpack_after

_FIRST_PADDING = 150_000  # two full stored chunks and some: liblzma's chunks end where it likes
_MIN_DICTIONARY = 1000
_MAX_DISTANCE = 64
_PROPERTIES = (LZMA_PB * 5 + LZMA_LP) * 9 + LZMA_LC


class _Chunk(NamedTuple):
    """A chunk of an LZMA2 stream: its place in the output and in the stream, its control byte."""

    output: int
    position: int
    control: int

    @property
    def is_stored(self) -> bool:
        return self.control in (1, 2)


def pack(data: Bytes) -> bytes:
    """`data` as raw LZMA2."""
    if not data:
        return b""
    return lzma.compress(bytes(data), lzma.FORMAT_RAW, filters=lzma2_filters(len(data)))


def pack_block(dictionary: bytes, data: bytes) -> bytes:
    """`data` as a block: with the dictionary where that works and pays, else without."""
    plain = b"\0" + pack(data)
    if len(data) < MIN_BLOCK or len(dictionary) < _MIN_DICTIONARY:
        return plain
    found = _pack_after(dictionary, data)
    if found is None:
        return plain
    padding, distance, packed = found
    try:
        if unpack_after(dictionary, padding, distance, packed, len(data)) != data:
            return plain
    except DeltaError:
        return plain
    block = bytearray(b"\1")
    append_varint(block, padding)
    append_varint(block, to_zigzag(distance))
    block += packed
    return min(bytes(block), plain, key=len)


def _pack_after(dictionary: bytes, data: bytes) -> Optional[Tuple[int, int, bytes]]:
    """(padding, distance, chunks), or None where liblzma sets no boundary near `data`."""
    filters = lzma2_filters(len(dictionary) + len(data) + _FIRST_PADDING)
    padding_source = padding_bytes(_FIRST_PADDING)
    stream = lzma.compress(dictionary + padding_source, lzma.FORMAT_RAW, filters=filters)
    boundary = _first_boundary(_chunks(stream), len(dictionary))
    if boundary is None:
        return None
    padding = boundary - len(dictionary)
    for _ in range(4):
        start = len(dictionary) + padding
        stream = lzma.compress(
            dictionary + padding_source[:padding] + data, lzma.FORMAT_RAW, filters=filters
        )
        chunk = _last_reset(_chunks(stream), len(dictionary), start)
        if chunk is None:
            return None
        distance = start - chunk.output
        if abs(distance) <= _MAX_DISTANCE and distance <= padding:
            return _cut(stream, chunk, padding, distance, data)
        padding = chunk.output - len(dictionary)
    return None


def _cut(
    stream: bytes, chunk: _Chunk, padding: int, distance: int, data: bytes
) -> Optional[Tuple[int, int, bytes]]:
    """The stream from `chunk` on, made to reset the state; the bytes of `data` before it go raw."""
    at = chunk.position
    if 0xA0 <= chunk.control < 0xC0:  # a reset of the state alone: let it bring the properties too
        control = bytes([chunk.control & 31 | 0xC0])
        packed = control + stream[at + 1 : at + 5] + bytes([_PROPERTIES]) + stream[at + 5 :]
    elif chunk.control >= 0xC0:
        packed = stream[at:]
    else:
        return None
    return padding, distance, data[: max(0, -distance)] + packed


def _first_boundary(chunks: List[_Chunk], start: int) -> Optional[int]:
    """Where in the output the first stored chunk behind `start` ends that another one follows."""
    for before, chunk in zip(chunks, chunks[1:]):
        if before.is_stored and before.output >= start and chunk.is_stored:
            return chunk.output
    return None


def _last_reset(chunks: List[_Chunk], dictionary: int, start: int) -> Optional[_Chunk]:
    """The last chunk about `start` that follows a stored one."""
    found = None
    for before, chunk in zip(chunks, chunks[1:]):
        if before.is_stored and dictionary < chunk.output <= start + _MAX_DISTANCE:
            found = chunk
    return found


def _chunks(stream: bytes) -> List[_Chunk]:
    """The chunks of a raw LZMA2 stream, its end included."""
    output = at = 0
    found = []
    while stream[at]:
        control = stream[at]
        found.append(_Chunk(output, at, control))
        if control >= 0x80:
            output += ((control & 31) << 16 | stream[at + 1] << 8 | stream[at + 2]) + 1
            header = 6 if control >= 0xC0 else 5
            at += header + (stream[at + 3] << 8 | stream[at + 4]) + 1
        else:
            size = (stream[at + 1] << 8 | stream[at + 2]) + 1
            output += size
            at += 3 + size
    found.append(_Chunk(output, at, 0))
    return found
