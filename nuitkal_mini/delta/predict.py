"""The walk over all references that a match carries into the new file, and the prediction of each.

Encoder and decoder make the same walk. For each reference three candidates for its target are
tried: where the address map puts it; the same plus the last error among references of its class;
and, again in its class, the last actual target plus the distance between the two old targets. Every
wrong first candidate teaches the map.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from typing import Callable, Dict, Iterator, Tuple

from .address_map import AddressMap
from .format import Bytes, Matches
from .image import PE, UNLOADED, Image
from .references import (
    ABSOLUTE,
    BASED,
    CIE,
    END,
    FUNCTION,
    JUMP,
    RELATIVE,
    SIZE,
    WIDE,
    ReferenceList,
    locations_from,
)

_R_X86_64_JUMP_SLOT = 7
_STUB = 16  # bytes of an entry of .plt
_MAX_NAME = 200
CLASSES = {
    RELATIVE: 0,
    ABSOLUTE | WIDE: 1,
    ABSOLUTE: 2,
    BASED: 3,
    SIZE: 4,
    SIZE | WIDE: 5,
    END: 6,
    CIE: 7,
    JUMP: 8,
    FUNCTION: 9,
}

# (class, predicted value, last error, difference of the third candidate, location, width)
# -> actual minus predicted
Coder = Callable[[int, int, int, int, int, int], int]


class Walk:
    """One walk over two files.

    `old_data` is stripped. `new_data` is final before each reference that was visited, except for
    sections that are rebuilt later.
    """

    def __init__(
        self,
        references: ReferenceList,
        old: Image,
        old_data: Bytes,
        new: Image,
        new_data: Bytes,
        matches: Matches,
        predicted: AddressMap,
    ) -> None:
        self.references, self.matches, self.predicted = references, matches, predicted
        self.old, self.old_data, self.new, self.new_data = old, old_data, new, new_data

    def run(self, code: Coder) -> None:
        """Visit the references in the order of the new file. `code` reads or writes each."""
        targets, bases = self.references.targets, self.references.bases
        predicted, learn = self.predicted, self.predicted.learn
        low, high = self.new.low, self.new.high
        image_base = self.new.base if self.old.kind == PE else 0
        stubs = self.new.section(b".plt")
        stubs_at = stubs.offset if stubs else 2**62
        errors = [0] * len(CLASSES)
        last_targets = [0] * len(CLASSES)
        last_actual = [0] * len(CLASSES)
        function_end = 0
        for index, flags, location, address in self._visited():
            if location >= stubs_at:  # symbols and relocations before it are final
                stubs_at = 2**62
                for before, after in self._stub_pairs():
                    learn(before, after)
            kind, target, tail = flags & 7, targets[index], flags >> 4
            number = CLASSES[flags & 15]
            width = 8 if flags & WIDE else 4
            if kind == CIE:
                guess = predicted(target)
                error = -code(number, address - guess, 0, 0, location, width)
                actual = guess + error
            else:
                if kind == SIZE or kind == END:
                    guess = predicted(target - 1) + 1  # the end belongs to what is before it
                else:
                    guess = predicted(target)
                if kind == RELATIVE or kind == JUMP or kind == FUNCTION:
                    base = -(address + tail)
                elif kind == BASED or kind == SIZE:
                    base = -predicted(bases[index])
                else:
                    base = image_base if width == 8 and not tail else 0
                if kind == FUNCTION:
                    third = function_end - guess
                else:
                    third = last_actual[number] + target - last_targets[number] - guess
                error = code(number, guess + base, errors[number], third, location, width)
                actual = guess + error
                if kind == SIZE and width == 4:
                    function_end = (actual + 15) & -16  # compilers align functions so
            last_targets[number], last_actual[number] = target, actual
            if error:
                errors[number] = error
                if kind != SIZE and kind != END and (low <= actual <= high or actual >= UNLOADED):
                    learn(target, actual)

    def _visited(self) -> Iterator[Tuple[int, int, int, int]]:
        """(index, flags, new location, address there) of each reference inside a match, but for
        those that cannot change.

        A distance to a target that the same match moves is right already.
        """
        references = self.references
        locations, all_flags, targets = references.locations, references.flags, references.targets
        count = len(locations)
        for new_at, old_at, length in self.matches:
            index = locations_from(references, old_at)
            end = old_at + length
            if index >= count or locations[index] >= end:
                continue
            first = self.old.address_of(old_at)
            behind = first + length
            shift = new_at - old_at
            segment = self.new.segment_at(new_at)
            to_address = segment.address - segment.offset if segment else 0
            while index < count:
                old_location, flags = locations[index], all_flags[index]
                if old_location + (8 if flags & WIDE else 4) > end:
                    break
                kind = flags & 7
                if not ((kind == JUMP or kind == RELATIVE) and first <= targets[index] < behind):
                    location = old_location + shift
                    yield index, flags, location, location + to_address
                index += 1

    def _stub_pairs(self) -> Iterator[Tuple[int, int]]:
        """(old address, new address) of the PLT stubs and GOT slots of the same symbol."""
        before = _stubs(self.old_data, self.old)
        after = _stubs(self.new_data, self.new) if before else {}
        for name in sorted(before):
            if name in after:
                yield from zip(before[name], after[name])


def _stubs(data: Bytes, image: Image) -> Dict[bytes, Tuple[int, int]]:
    """The GOT slot and PLT stub of each import; none where they are not of the common form."""
    relocations, stubs = image.section(b".rela.plt"), image.section(b".plt")
    symbols, strings = image.section(b".dynsym"), image.section(b".dynstr")
    if not (relocations and stubs and symbols and strings):
        return {}
    count = relocations.size // 24
    if max(relocations.offset, symbols.offset, strings.offset) > stubs.offset:
        return {}
    if stubs.size != _STUB * (count + 1):
        return {}
    found = {}
    for number in range(count):
        slot, info = struct.unpack_from("<QQ", data, relocations.offset + 24 * number)
        symbol = info >> 32
        if info & 0xFFFFFFFF == _R_X86_64_JUMP_SLOT and 24 * symbol + 24 <= symbols.size:
            (name,) = struct.unpack_from("<I", data, symbols.offset + 24 * symbol)
            at = strings.offset + name
            text = bytes(data[at : at + _MAX_NAME]).split(b"\0")[0]
            if slot < UNLOADED:
                found[text] = (slot, stubs.address + _STUB * (number + 1))
    return found


def carried_pointers(pointers: array[int], matches: Matches) -> Iterator[int]:
    """Where in the new file the matches carry the old file's relocated pointers, ascending."""
    for new_at, old_at, length in matches:
        index = bisect_right(pointers, old_at - 1)
        while index < len(pointers) and pointers[index] + 8 <= old_at + length:
            yield pointers[index] + new_at - old_at
            index += 1
