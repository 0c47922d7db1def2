"""Encoder for one file: the mirror of `decode`, with whose help it checks each result."""

from __future__ import annotations

import re
import struct
from typing import Iterable, List, Optional, Tuple

from .address_map import AddressMap
from .code_literals import (
    CodeSpan,
    code_dictionary,
    code_spans,
    context_dictionary,
    convert,
    other_dictionary,
    to_address,
    to_distance,
)
from .decode import decode_file
from .executable import Executable, analyse, parse_image
from .format import (
    MAX_CODED_FILE,
    MAX_DICTIONARY,
    MIN_BLOCK,
    CodedFile,
    DeltaError,
    Matches,
    Streams,
    append_varint,
    max_matches,
    to_zigzag,
)
from .image import Image
from .labels import labelled
from .lzma2_encoder import pack, pack_block
from .matching import find_matches
from .predict import Walk, carried_pointers

_PLAIN_BLOCK = 2**16  # smaller literals compress better together with those of other files
_POOR = 8  # a delta above an eighth of the file is compared with the other ways to carry it
_TRIED = 2**16  # smaller files are always compared


def encode_file(old: bytes, new: bytes) -> Optional[CodedFile]:
    """The smallest delta from `old` to `new`; None where `new` is smaller compressed whole."""
    if max(len(old), len(new)) > MAX_CODED_FILE or not old:
        return None
    best: Optional[CodedFile] = None
    size = 0
    for encode in (_encode_executable, _encode_plain):
        coded = encode(old, new)
        if coded is not None and _decodes(coded, old, new):
            packed = packed_size(coded)
            if best is None or packed < size:
                best, size = coded, packed
        if best is not None and size * _POOR < len(new):
            break
    if best is None or (size * _POOR > len(new) or len(new) < _TRIED) and size >= len(pack(new)):
        return None
    return best


def packed_size(coded: CodedFile) -> int:
    """About the bytes that the file adds to a delta."""
    streams = sum(len(pack(stream)) for stream in coded.streams if len(stream) > 400)
    small = b"".join(bytes(stream) for stream in coded.streams if len(stream) <= 400)
    return streams + len(pack(small)) + len(coded.literal_block) + len(coded.code_block)


def _decodes(coded: CodedFile, old: bytes, new: bytes) -> bool:
    try:
        return decode_file(coded, bytearray(old), len(new)) == new
    except DeltaError:
        return False


def _encode_plain(old: bytes, new: bytes) -> Optional[CodedFile]:
    matches = find_matches(old, new)
    if len(matches) > max_matches(len(new)):
        return None
    out = _Output(matches)
    append_varint(out.head, len(matches))
    literals = b"".join(new[start:stop] for start, stop in matches.gaps(len(new)))
    out.differences(old, new, matches, None)
    if len(literals) < _PLAIN_BLOCK:
        return CodedFile(False, out.streams(literals, b""))
    block = pack_block(context_dictionary(old, matches), literals)
    return CodedFile(False, out.streams(b"", b""), len(literals), block)


def _encode_executable(old: bytes, new: bytes) -> Optional[CodedFile]:
    old_image, new_image = parse_image(old), parse_image(new)
    if old_image is None or new_image is None or old_image.kind != new_image.kind:
        return None
    try:
        source = analyse(bytearray(old), old_image)
        target = analyse(bytearray(new), new_image)
    except DeltaError:
        return None
    matches = find_matches(labelled(source), labelled(target))
    if len(matches) > max_matches(len(new)):
        return None
    out = _Output(matches)
    data = bytes(target.data)
    predicted = AddressMap(old_image, new_image, matches)
    literals = _Literals(target, data, matches)
    literal_dictionary = other_dictionary(source.data, old_image, matches)
    operand_dictionary = code_dictionary(
        source.data, old_image, source.references, matches, predicted
    )
    for number in (len(matches), literals.first_gap, literals.last_gap):
        append_varint(out.head, number)
    _append_positions(out.head, literals.exceptions)
    coder = _Coder(out, data)
    Walk(source.references, old_image, source.data, new_image, data, matches, predicted).run(coder)
    append_varint(out.run, coder.right)
    _append_rebuilt(out.pointers, source, target, matches)
    out.differences(bytes(source.data), data, matches, coder.written)
    return _with_blocks(out, literals, literal_dictionary, operand_dictionary)


def _with_blocks(
    out: _Output, literals: _Literals, literal_dictionary: bytes, code_dictionary: bytes
) -> CodedFile:
    """Literals of some size leave the streams for blocks of their own."""
    other, code = literals.other, literals.code
    literal_size = len(other) if len(other) >= MIN_BLOCK else 0
    code_size = len(code) if len(code) >= MIN_BLOCK else 0
    return CodedFile(
        True,
        out.streams(b"" if literal_size else other, b"" if code_size else code),
        literal_size,
        pack_block(literal_dictionary[:MAX_DICTIONARY], other) if literal_size else b"",
        code_size,
        pack_block(code_dictionary[:MAX_DICTIONARY], code) if code_size else b"",
    )


class _Output:
    """The streams while they are written; the matches are in them from the beginning."""

    def __init__(self, matches: Matches) -> None:
        self.skip, self.length, self.source = bytearray(), bytearray(), bytearray()
        self.gap, self.difference, self.head = bytearray(), bytearray(), bytearray()
        self.run, self.symbol, self.correction = bytearray(), bytearray(), bytearray()
        self.pointers = bytearray()
        at = end = 0
        for new, old, length in matches:
            append_varint(self.skip, new - at)
            append_varint(self.length, length)
            append_varint(self.source, to_zigzag(old - end))
            at, end = new + length, old + length

    def streams(self, literal: bytes, code: bytes) -> Streams:
        written = self.skip, self.length, self.source, literal, self.gap, self.difference
        rest = self.run, self.symbol, self.correction, self.pointers, self.head, code
        return Streams(*[bytes(stream) for stream in (*written, *rest)])

    def differences(
        self, old: bytes, new: bytes, matches: Matches, written: Optional[bytearray]
    ) -> None:
        """Every byte of a match that differs, but for those that the walk writes anyway."""
        position = last = 0
        other_than_zero = re.compile(rb"[^\0]").finditer
        for new_at, old_at, length in matches:
            differs = int.from_bytes(old[old_at : old_at + length], "little") ^ int.from_bytes(
                new[new_at : new_at + length], "little"
            )
            if differs:
                for match in other_than_zero(differs.to_bytes(length, "little")):
                    at = match.start()
                    if written is None or not written[new_at + at]:
                        append_varint(self.gap, position + at - last)
                        last = position + at + 1
                        self.difference.append((new[new_at + at] - old[old_at + at]) & 255)
            position += length


class _Coder:
    """Reads each reference that the walk visits, and writes down which candidate is right."""

    def __init__(self, out: _Output, new: bytes) -> None:
        self._out, self._new = out, new
        self._unpack = {4: struct.Struct("<I").unpack_from, 8: struct.Struct("<Q").unpack_from}
        self.written = bytearray(len(new))
        self.right = 0

    def __call__(
        self, number: int, value: int, last_error: int, third: int, location: int, width: int
    ) -> int:
        mask = 0xFFFFFFFF if width == 4 else 0xFFFFFFFFFFFFFFFF
        self.written[location : location + width] = b"\1\1\1\1\1\1\1\1"[:width]
        error: int = (self._unpack[width](self._new, location)[0] - value) & mask
        if not error:
            self.right += 1
            return 0
        if error > mask >> 1:
            error -= mask + 1
        append_varint(self._out.run, self.right)
        self.right = 0
        if error == last_error:
            self._out.symbol.append(number << 2 | 1)
        elif error == third:
            self._out.symbol.append(number << 2 | 2)
        else:
            self._out.symbol.append(number << 2)
            append_varint(self._out.correction, to_zigzag(error))
        return error


class _Literals:
    """New bytes that no match covers: code, with addresses as operands, and the others."""

    def __init__(self, target: Executable, data: bytes, matches: Matches) -> None:
        image = target.image
        gaps = list(matches.gaps(len(data)))
        inside = [number for number, (start, _) in enumerate(gaps) if _is_code(image, start)]
        self.first_gap, self.last_gap = (inside[0], inside[-1] + 1) if inside else (0, 0)
        spans = list(code_spans(matches, self.first_gap, self.last_gap, len(data), image))
        converted, self.exceptions = _with_addresses(data, spans, image)
        code: List[bytes] = []
        other: List[bytes] = []
        for number, (start, stop) in enumerate(gaps):
            is_code = self.first_gap <= number < self.last_gap
            (code if is_code else other).append(bytes(converted[start:stop]))
        self.code, self.other = b"".join(code), b"".join(other)


def _with_addresses(
    data: bytes, spans: List[CodeSpan], image: Image
) -> Tuple[bytearray, List[int]]:
    """The data with addresses in its spans, and the opcodes that the decoder must leave alone.

    The decoder meets the operands in their new form, and so may see an instruction where the
    encoder saw none.
    """
    low, high = image.low, image.high
    accepted = set()
    exceptions: List[int] = []

    def forward(at: int, value: int, behind: int) -> Optional[int]:
        address = to_address(low, high, value, behind)
        if address is not None:
            accepted.add(at)
        return address

    def backward(at: int, value: int, behind: int) -> Optional[int]:
        distance = to_distance(low, high, value, behind)
        if distance is not None and at not in accepted:
            exceptions.append(at)
            return None
        return distance

    converted = bytearray(data)
    for span in spans:
        convert(data, converted, span, high, forward)
    restored = bytearray(converted)
    for span in spans:
        convert(restored, restored, span, high, backward)
    return converted, exceptions


def _is_code(image: Image, offset: int) -> bool:
    return any(s.offset <= offset < s.offset + s.size for s in image.code)


def _append_rebuilt(
    out: bytearray, source: Executable, target: Executable, matches: Matches
) -> None:
    carried = set(carried_pointers(source.relocated.pointers, matches))
    actual = set(target.relocated.pointers)
    _append_positions(out, sorted(actual - carried))
    _append_positions(out, sorted(carried - actual))
    run = target.relocated.relocations or (0, 0, 0)
    for number in run:
        append_varint(out, number)
    relocated = target.relocated
    for span in (relocated.base_relocations, relocated.frame_table, relocated.hash_table):
        for number in span or (0, 0):
            append_varint(out, number)


def _append_positions(out: bytearray, positions: Iterable[int]) -> None:
    ordered = list(positions)
    append_varint(out, len(ordered))
    last = 0
    for position in ordered:
        append_varint(out, position - last)
        last = position
