"""One file: the old bytes and a delta in, the new bytes out.

The order of the steps is part of the format. Matches are copied first, then the literals outside
code and the differences; this makes the new file's headers complete, so that the rest can be read
by address.
"""

from __future__ import annotations

import struct
from array import array
from typing import Iterable, Iterator, List, Tuple

from .address_map import AddressMap
from .code_literals import (
    code_dictionary,
    code_spans,
    context_dictionary,
    other_dictionary,
    restore_distances,
)
from .elf import SHT_GNU_HASH
from .executable import Executable, analyse, parse_image
from .format import (
    MAX_CODED_FILE,
    Bytes,
    CodedFile,
    DeltaError,
    Matches,
    Streams,
    VarintReader,
    from_zigzag,
    max_matches,
    varints,
)
from .image import Image
from .lzma2 import unpack_block
from .predict import Walk, carried_pointers
from .rebuild import base_relocations, frame_index, gnu_hash, rebuild_relocations
from .references import Relocated, Run, Span

_DAMAGE = (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, RuntimeError)


def decode_file(coded: CodedFile, old: bytearray, size: int) -> bytearray:
    """The new file of `size` bytes. `old` is used up: its bytes change.

    Raises:
        DeltaError: the delta does not fit. A result may still be wrong; only its hash tells.
    """
    try:
        if size > MAX_CODED_FILE or len(old) > MAX_CODED_FILE:
            raise DeltaError("a file of the delta is larger than the format allows")
        head = VarintReader(coded.streams.head)
        matches = _read_matches(coded.streams, head.unsigned(max_matches(size)), len(old), size)
        if coded.executable:
            return _decode_executable(coded, head, matches, old, size)
        new = bytearray(size)
        _copy_matches(new, old, matches)
        literals = coded.streams.literal
        if coded.literal_size:
            literals = unpack_block(
                lambda: context_dictionary(old, matches), coded.literal_block, coded.literal_size
            )
        _fill(new, matches.gaps(size), literals)
        _apply_differences(new, matches, coded.streams)
        return new
    except DeltaError:
        raise
    except (*_DAMAGE, struct.error) as error:
        raise DeltaError("the delta is damaged or was made for another file") from error


def _decode_executable(
    coded: CodedFile, head: VarintReader, matches: Matches, old: bytearray, size: int
) -> bytearray:
    streams = coded.streams
    first_gap = head.unsigned(len(matches) + 1)
    last_gap = head.unsigned(len(matches) + 1)
    exceptions = set(_positions(head, size))
    image = parse_image(old)
    if image is None:
        raise DeltaError("the old file is no executable, the delta was made for one")
    source = analyse(old, image)
    new = bytearray(size)
    _copy_matches(new, source.data, matches)
    gaps = list(enumerate(matches.gaps(size)))
    literals = streams.literal
    if coded.literal_size:
        literals = unpack_block(
            lambda: other_dictionary(source.data, image, matches),
            coded.literal_block,
            coded.literal_size,
        )
    _fill(new, (gap for number, gap in gaps if not first_gap <= number < last_gap), literals)
    _apply_differences(new, matches, streams)
    target = parse_image(new)
    if target is None:
        raise DeltaError("the new file is no executable, the delta was made for one")
    predicted = AddressMap(image, target, matches)
    code = streams.code
    if coded.code_size:
        code = unpack_block(
            lambda: code_dictionary(source.data, image, source.references, matches, predicted),
            coded.code_block,
            coded.code_size,
        )
    _fill(new, (gap for number, gap in gaps if first_gap <= number < last_gap), code)
    spans = code_spans(matches, first_gap, last_gap, size, target)
    restore_distances(new, spans, target, exceptions)
    walk = Walk(source.references, image, source.data, target, new, matches, predicted)
    walk.run(_Correction(streams, new))
    _rebuild(new, target, source, matches, VarintReader(streams.pointers))
    return new


def _read_matches(streams: Streams, count: int, old_size: int, new_size: int) -> Matches:
    matches = Matches()
    at = end = 0
    numbers = zip(varints(streams.skip), varints(streams.length), varints(streams.source))
    for skip, length, source in numbers:
        at += skip
        start = end + from_zigzag(source)
        end = start + length
        if start < 0 or end > old_size or at + length > new_size or not length:
            raise DeltaError("a match of the delta lies outside the file")
        if len(matches) == count:
            raise DeltaError("the delta has more matches than it says")
        matches.append(at, start, length)
        at += length
    if len(matches) != count:
        raise DeltaError("the delta has fewer matches than it says")
    return matches


def _copy_matches(new: bytearray, old: Bytes, matches: Matches) -> None:
    view = memoryview(old)
    for at, start, length in matches:
        new[at : at + length] = view[start : start + length]
    view.release()


def _fill(new: bytearray, gaps: Iterable[Tuple[int, int]], literals: Bytes) -> None:
    at = 0
    for start, stop in gaps:
        piece = literals[at : at + stop - start]
        if len(piece) != stop - start:
            raise DeltaError("the delta has fewer literals than its matches leave room for")
        new[start:stop] = piece
        at += stop - start
    if at != len(literals):
        raise DeltaError("the delta has more literals than its matches leave room for")


def _apply_differences(new: bytearray, matches: Matches, streams: Streams) -> None:
    """Add each difference to its byte. Positions count the bytes of matches only."""
    gaps = varints(streams.gap)
    ranges = iter(matches)
    position = base = length = start = 0
    for difference in streams.difference:
        position += next(gaps)
        while position >= base + length:
            base += length
            start, _, length = next(ranges)
        at = start + position - base
        new[at] = (new[at] + difference) & 255
        position += 1


class _Correction:
    """Writes each reference that the walk visits: as predicted, or as the delta says."""

    def __init__(self, streams: Streams, new: bytearray) -> None:
        self._new = new
        self._runs = varints(streams.run)
        self._symbols = iter(streams.symbol)
        self._corrections = varints(streams.correction)
        self._right = next(self._runs)
        self._pack = {4: struct.Struct("<I").pack_into, 8: struct.Struct("<Q").pack_into}

    def __call__(
        self, number: int, value: int, last_error: int, third: int, location: int, width: int
    ) -> int:
        if self._right:
            self._right -= 1
            error = 0
        else:
            symbol = next(self._symbols) & 3
            self._right = next(self._runs)
            if symbol == 1:
                error = last_error
            elif symbol == 2:
                error = third
            else:
                error = from_zigzag(next(self._corrections))
        mask = 0xFFFFFFFF if width == 4 else 0xFFFFFFFFFFFFFFFF
        self._pack[width](self._new, location, (value + error) & mask)
        return error


# --- sections that are built again ----------------------------------------------------------------


def _rebuild(
    new: bytearray, image: Image, source: Executable, matches: Matches, reader: VarintReader
) -> None:
    size = len(new)
    added = _positions(reader, size - 7)
    removed = set(_positions(reader, size - 7))
    carried = (
        pointer
        for pointer in carried_pointers(source.relocated.pointers, matches)
        if pointer not in removed
    )
    pointers = array("I", sorted([*carried, *added]))
    relocated = _read_relocated(pointers, reader, size)
    if relocated.relocations:
        rebuild_relocations(new, image, relocated.relocations, pointers)
    if relocated.base_relocations:
        table = base_relocations([image.address_of(pointer) for pointer in pointers])
        _put(new, relocated.base_relocations, table)
    if relocated.frame_table:
        frames, index = image.section(b".eh_frame"), image.section(b".eh_frame_hdr")
        if frames is None or index is None:
            raise DeltaError("the delta builds a frame table that the file has no room for")
        _put(new, relocated.frame_table, frame_index(new, frames, index))
    if relocated.hash_table:
        section = next(s for s in image.sections if s.type == SHT_GNU_HASH)
        _put(new, relocated.hash_table, gnu_hash(new, image, section))


def _read_relocated(pointers: array[int], reader: VarintReader, size: int) -> Relocated:
    """The run of relocations, then the spans of .reloc, .eh_frame_hdr and .gnu.hash."""
    run = Run(reader.unsigned(size), reader.unsigned(size // 24), reader.unsigned(1))
    spans = [_read_span(reader, size) for _ in range(3)]
    present = [span if span.size else None for span in spans]
    return Relocated(pointers, run if run.length else None, *present)


def _read_span(reader: VarintReader, size: int) -> Span:
    offset = reader.unsigned(size)
    return Span(offset, reader.unsigned(size - offset))


def _put(new: bytearray, span: Span, table: object) -> None:
    if not isinstance(table, bytes) or len(table) != span.size:
        raise DeltaError("a section that the delta builds does not have the size that it says")
    new[span.offset : span.offset + span.size] = table


def _positions(reader: VarintReader, limit: int) -> List[int]:
    """A count, then ascending positions below `limit`, as distances."""
    return list(_ascending(reader, limit))


def _ascending(reader: VarintReader, limit: int) -> Iterator[int]:
    position = 0
    for number in range(reader.unsigned(max(0, limit))):
        step = reader.unsigned()
        position += step
        if position >= limit or number and not step:
            raise DeltaError("a position of the delta lies outside the file")
        yield position
