"""Decompression: raw LZMA2, with or without a dictionary, in bounded memory.

The standard library's lzma has no way to preset a dictionary, but LZMA2 has: chunks that are stored
uncompressed also fill the window. So the decoder puts the dictionary, and some padding (see
lzma2_encoder), before the compressed chunks as stored chunks, and drops as much from what comes
out.
"""

from __future__ import annotations

import hashlib
import lzma
from typing import Any, Callable, Dict, Iterator, List

from .format import MAX_DICTIONARY, MAX_PADDING, Bytes, DeltaError, VarintReader, from_zigzag

LZMA_WINDOW = 2**24  # bytes that the decoder keeps; a part of the format
LZMA_LC, LZMA_LP, LZMA_PB = 3, 0, 0
_STORED_CHUNK = 2**16  # the most that a stored chunk of LZMA2 holds
_PIECE = 2**20


def lzma2_filters(size: int) -> List[Dict[str, Any]]:
    """The filters for `size` bytes; liblzma allocates dict_size, so that is not larger."""
    return [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "lc": LZMA_LC,
            "lp": LZMA_LP,
            "pb": LZMA_PB,
            "dict_size": max(4096, min(size, LZMA_WINDOW)),
        }
    ]


def unpack(data: bytes, size: int) -> bytes:
    """The `size` bytes that `data` is the compressed form of. Raises DeltaError."""
    if not size:
        return b""
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma2_filters(size))
        result = decompressor.decompress(data, size)
    except (lzma.LZMAError, EOFError) as error:
        raise DeltaError("a compressed part of the delta is damaged") from error
    if len(result) != size:
        raise DeltaError("a compressed part of the delta is shorter than it says")
    return result


def unpack_pieces(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same for a stream of pieces, at most 1 MiB at a time."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma2_filters(size))
    left = size
    try:
        for piece in pieces:
            while left and not decompressor.eof:
                result = decompressor.decompress(piece, min(left, _PIECE))
                left -= len(result)
                if result:
                    yield result
                piece = b""
                if decompressor.needs_input or not result:
                    break
    except (lzma.LZMAError, EOFError) as error:
        raise DeltaError("a compressed part of the delta is damaged") from error
    if left:
        raise DeltaError("a compressed part of the delta is shorter than it says")


def padding_bytes(size: int) -> bytes:
    """Bytes that do not compress, the same everywhere."""
    return hashlib.shake_128(b"delta").digest(size)


def unpack_block(dictionary: Callable[[], Bytes], block: bytes, size: int) -> bytes:
    """The `size` literals in a block.

    A block begins with 0 (the rest is plain LZMA2) or with 1, a varint with the size of the padding
    and a signed varint with the distance from the first chunk to the end of the padding.
    `dictionary` is called in this case.
    """
    reader = VarintReader(block)
    if reader.unsigned(1) == 0:
        return unpack(block[reader.at :], size)
    padding, distance = reader.unsigned(MAX_PADDING), from_zigzag(reader.unsigned(256))
    return unpack_after(
        bytes(dictionary()[:MAX_DICTIONARY]), padding, distance, block[reader.at :], size
    )


def unpack_after(dictionary: bytes, padding: int, distance: int, packed: bytes, size: int) -> bytes:
    """The `size` bytes whose compressed chunks begin `distance` bytes before the end of dictionary
    and padding.

    A negative distance: the first bytes stand uncompressed before the chunks.
    """
    before = dictionary + padding_bytes(padding)
    if distance > padding:
        raise DeltaError("a compressed part of the delta begins within its dictionary")
    if distance >= 0:
        stream = _stored(before[: len(before) - distance]) + packed
    else:
        stream = _stored(before + packed[:-distance]) + packed[-distance:]
    return unpack(stream, len(before) + size)[len(before) :]


def _stored(data: bytes) -> bytes:
    """`data` as uncompressed chunks of LZMA2; the first resets the dictionary."""
    chunks = []
    for start in range(0, len(data), _STORED_CHUNK):
        piece = data[start : start + _STORED_CHUNK]
        chunks.append(b"\x02" if start else b"\x01")
        chunks.append((len(piece) - 1).to_bytes(2, "big"))
        chunks.append(piece)
    return b"".join(chunks)
