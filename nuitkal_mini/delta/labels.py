"""Encoder: copies of both files in which every reference shows what it points at, not where that
is.

An operand becomes a checksum of the bytes at its target (with their own operands zeroed), so that
calls of one function are equal bytes in both files wherever it has moved, and calls of different
ones are not.
"""

from __future__ import annotations

from typing import Dict, List, Tuple
from zlib import crc32

from .elf import SHT_RELA
from .executable import Executable
from .image import Image
from .references import ABSOLUTE, CIE, END, JUMP, SIZE, WIDE

_SHORT, _LONG = (
    16,
    48,
)  # bytes of code in either half of a label: a change far in shows in one half only
_DATA = 16


def labelled(executable: Executable) -> bytes:
    """The bytes with labels in place of operands.

    Sizes stay, and jumps, which mostly stay within their function.
    """
    data, image, references = executable.data, executable.image, executable.references
    zeroed = bytearray(data)
    for location, flags in zip(references.locations, references.flags):
        if flags & 7 != SIZE:
            width = 8 if flags & WIDE else 4
            zeroed[location : location + width] = bytes(width)
    masked = bytes(zeroed)
    result = zeroed
    relocations = [
        (s.offset, s.offset + s.size) for s in image.sections if s.type == SHT_RELA and s.size
    ]
    labels: Dict[int, bytes] = {}
    label_of = _Labels(masked, image)
    for location, flags, target in zip(references.locations, references.flags, references.targets):
        kind = flags & 7
        if kind == SIZE or kind == CIE:
            continue
        if kind == JUMP and data[location - 1] != 0xE8:
            result[location : location + 4] = data[location : location + 4]
        elif kind == END:
            begin = int.from_bytes(data[location - 4 : location], "little")
            end = int.from_bytes(data[location : location + 4], "little")
            result[location : location + 4] = (end - begin & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind == ABSOLUTE and _is_place(location, relocations):
            continue
        else:
            label = labels.get(target)
            if label is None:
                label = labels[target] = label_of(target)
            result[location : location + 4] = label
    return bytes(result)


class _Labels:
    def __init__(self, masked: bytes, image: Image) -> None:
        self._masked, self._image = masked, image
        self._low, self._high = image.code_addresses()

    def __call__(self, target: int) -> bytes:
        at = self._image.offset_of(target)
        if at < 0:  # beyond the file: zeros
            return bytes(4)
        if self._low <= target < self._high:
            short, long = self._masked[at : at + _SHORT], self._masked[at : at + _LONG]
            return (crc32(short) & 0xFFFF | (crc32(long) & 0xFFFF) << 16).to_bytes(4, "little")
        return crc32(self._masked[at : at + _DATA]).to_bytes(4, "little")


def _is_place(location: int, relocations: List[Tuple[int, int]]) -> bool:
    """Whether a location is the place of a relocation, which says nothing about its target."""
    return any(
        start <= location < stop and (location - start) % 24 == 0 for start, stop in relocations
    )
