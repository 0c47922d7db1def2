"""What can happen to a file between two releases, and to a delta on its way."""

from __future__ import annotations

import random
import struct
from typing import List

from nuitkal_mini.delta.format import CodedFile, Streams


def changed(data: bytes, source: random.Random) -> bytes:
    """The file after insertions, deletions, moves, overwrites, shifts and damaged headers."""
    out = bytearray(data)
    for _ in range(source.choice((0, 1, 3, 20))):
        at, size = source.randrange(len(out) + 1), source.choice((1, 4, 100, 5000))
        kind = source.randrange(6)
        if kind == 0:
            out[at:at] = _random_bytes(source, size)
        elif kind == 1:
            del out[at : at + size]
        elif kind == 2:
            out[at : at + size] = _random_bytes(source, len(out[at : at + size]))
        elif kind == 3:
            part = out[at : at + size]
            del out[at : at + size]
            to = source.randrange(len(out) + 1)
            out[to:to] = part
        elif kind == 4:
            for place in range(at, min(len(out) - 4, at + 8 * size), 8):
                (word,) = struct.unpack_from("<I", out, place)
                struct.pack_into("<I", out, place, (word + 4096) & 0xFFFFFFFF)
        elif len(out) > 64:
            place = source.choice((source.randrange(1024), len(out) - 1 - source.randrange(2048)))
            if 0 <= place < len(out):
                out[place] ^= 1 << source.randrange(8)
    return bytes(out)


def damaged(coded: CodedFile, source: random.Random) -> CodedFile:
    """The delta with a few bytes changed, cut off or put in, in any of its streams."""
    streams: List[bytearray] = [bytearray(stream) for stream in coded.streams]
    for _ in range(source.choice((1, 1, 2, 5))):
        stream = source.choice([stream for stream in streams if stream])
        at = source.randrange(len(stream))
        kind = source.randrange(8)
        if kind == 0:
            del stream[at : at + source.choice((1, 10))]
        elif kind == 1:
            stream[at:at] = bytes([255] * source.choice((1, 4, 9, 20)))
        else:
            stream[at] = source.choice((0, 1, 127, 128, 255, stream[at] ^ 1 << source.randrange(8)))
        if not any(streams):
            stream.append(0)
    return coded._replace(streams=Streams(*map(bytes, streams)))


def damaged_bytes(data: bytes, source: random.Random) -> bytes:
    """The bytes with one or a few places changed, or cut off."""
    out = bytearray(data)
    for _ in range(source.choice((1, 1, 3))):
        out[source.randrange(len(out))] = source.randrange(256)
    if source.random() < 0.1:
        del out[source.randrange(len(out)) :]
    return bytes(out)


def _random_bytes(source: random.Random, size: int) -> bytes:
    return bytes(source.getrandbits(8) for _ in range(size))
