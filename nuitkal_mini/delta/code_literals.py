"""New code as literals: its distances become addresses, so that calls of one function look alike.

As LZX and the BCJ filters do. The conversion is a bijection on the values, so that whatever bytes
there are come back: a distance into the image becomes the address; a value that is no such distance
but would look like an address moves down, out of the way, by multiples of the instruction's
address.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Optional, Set

from .address_map import AddressMap
from .format import MAX_DICTIONARY, Bytes, Matches
from .image import Image
from .references import JUMP, RELATIVE, WIDE, ReferenceList, locations_from
from .x86 import INT32, literal_pattern, memory_tail

# (offset of the opcode's last byte, value, address behind the instruction) -> the other form;
# None: leave it.
Converter = Callable[[int, int, int], Optional[int]]


class CodeSpan(NamedTuple):
    """A part of a gap inside an executable section; `shift` is address minus offset."""

    start: int
    stop: int
    shift: int


def code_spans(
    matches: Matches, first: int, last: int, size: int, image: Image
) -> Iterator[CodeSpan]:
    """The parts of gaps first..last-1 that are code."""
    for number, (start, stop) in enumerate(matches.gaps(size)):
        if number >= last:
            break
        if number >= first:
            for section in image.code:
                low = max(start, section.offset)
                high = min(stop, section.offset + section.size)
                if low < high:
                    yield CodeSpan(low, high, section.address - section.offset)


def convert(data: Bytes, out: bytearray, span: CodeSpan, high: int, converter: Converter) -> None:
    """Pass each operand of a span through the converter, from `data` to `out` (or the same)."""
    end = span.start
    for match in literal_pattern().finditer(data, span.start, span.stop):
        at = match.end()
        if at <= end or at + 4 > span.stop:
            continue
        byte = data[at - 1]
        if byte == 0xE8 or byte == 0xE9:
            tail = 4
        elif byte & 0xF0 == 0x80:
            tail = 4 if at - 2 >= end and data[at - 2] == 0x0F else 0
        else:
            tail = memory_tail(data, at - 1) if at - 6 >= span.start else 0
        behind = at + span.shift + tail
        if tail and 0 < behind < high:
            value = converter(at - 1, INT32.unpack_from(data, at)[0], behind)
            if value is not None:
                INT32.pack_into(out, at, value)
                end = at + 4


def to_address(low: int, high: int, value: int, behind: int) -> Optional[int]:
    """The address for a distance; None where the value stays as it is."""
    if low <= value + behind < high:
        value += behind
    elif low <= value < high:
        value -= ((value - low) // behind + 1) * behind
    else:
        return None
    return value if -(2**31) <= value < 2**31 else None


def to_distance(low: int, high: int, value: int, behind: int) -> Optional[int]:
    """The inverse of `to_address`."""
    if low <= value < high:
        value -= behind
    elif low <= value + behind < high:
        value += (high - 1 - value) // behind * behind
    else:
        return None
    return value if -(2**31) <= value < 2**31 else None


def restore_distances(
    data: bytearray, spans: Iterator[CodeSpan], image: Image, exceptions: Set[int]
) -> None:
    """Turn addresses in literals back into distances. `exceptions` are opcodes to leave alone."""
    low, high = image.low, image.high

    def restore(at: int, value: int, behind: int) -> Optional[int]:
        return None if at in exceptions else to_distance(low, high, value, behind)

    for span in spans:
        convert(data, data, span, high, restore)


def code_dictionary(
    data: Bytes, image: Image, references: ReferenceList, matches: Matches, predicted: AddressMap
) -> bytes:
    """Old code that no match takes, with predicted addresses as operands."""
    unused = list(matches.unused(len(data)))
    parts: List[bytearray] = []
    total = 0
    for section in image.code:
        for start, stop in unused:
            low, high = max(start, section.offset), min(stop, section.offset + section.size)
            high = min(high, low + MAX_DICTIONARY - total)
            if low < high:
                parts.append(_with_addresses(bytearray(data[low:high]), low, references, predicted))
                total += high - low
    return b"".join(parts)


def _with_addresses(
    part: bytearray, start: int, references: ReferenceList, predicted: AddressMap
) -> bytearray:
    index = locations_from(references, start)
    while index < len(references) and references.locations[index] + 4 <= start + len(part):
        if references.flags[index] & (7 | WIDE) in (JUMP, RELATIVE):
            at = references.locations[index] - start
            address = predicted(references.targets[index]) & 0xFFFFFFFF
            part[at : at + 4] = address.to_bytes(4, "little")
        index += 1
    return part


def other_dictionary(data: Bytes, image: Optional[Image], matches: Matches) -> bytes:
    """Old bytes that no match takes, but for stretches that begin in code."""
    parts = []
    total = 0
    code = [] if image is None else image.code
    for start, stop in matches.unused(len(data)):
        if total < MAX_DICTIONARY and not any(
            section.offset <= start < section.offset + section.size for section in code
        ):
            stop = min(stop, start + MAX_DICTIONARY - total)
            parts.append(bytes(data[start:stop]))
            total += stop - start
    return b"".join(parts)


def context_dictionary(data: Bytes, matches: Matches) -> bytes:
    """Old bytes that no match takes, with 64 bytes about each."""
    parts = []
    end = total = 0
    for start, stop in matches.unused(len(data)):
        low, high = max(start - 64, end), min(stop + 64, len(data))
        high = min(high, low + MAX_DICTIONARY - total)
        if low < high:
            parts.append(bytes(data[low:high]))
            total += high - low
            end = high
    return b"".join(parts)
