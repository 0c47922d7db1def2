"""The operands of x86-64 code that hold a distance: calls, jumps, and memory relative to the
instruction pointer.

There is no disassembler: one pattern finds bytes that look like such an instruction and whose
distance leads into the image. A false one costs a few bits in the delta; it never makes it wrong,
as both sides see the same. Intel's manual, volume 2, chapter 2 and appendix A, has the encodings.
"""

from __future__ import annotations

import re
import struct
from typing import Pattern

from .format import Bytes

_MODRM = bytes([0x05, 0x0D, 0x15, 0x1D, 0x25, 0x35, 0x3D])  # mod 0, r/m 5: RIP plus a distance
_MODRM_DASH = b"\x2d"  # the eighth; "-" stands last in a class, where it is no range
_CALL_OR_JUMP = b"\xe8\xe9"
INT32 = struct.Struct("<i")


def _one_byte_tails() -> bytes:
    """For each one-byte opcode with a ModRM byte: bytes from the distance to the end."""
    table = bytearray(256)
    arithmetic = [base + low for base in range(0, 64, 8) for low in range(4)]
    shifts_and_x87 = [*range(0xD0, 0xD4), *range(0xD8, 0xE0)]
    others = [0x63, 0x69, 0x6B, *range(0x80, 0x8C), 0x8D, 0x8F, 0xC0, 0xC1, 0xC6, 0xC7]
    for opcode in [*arithmetic, *shifts_and_x87, *others, 0xF6, 0xF7, 0xFE, 0xFF]:
        table[opcode] = 4
    for opcode in (0x6B, 0x80, 0x83, 0xC0, 0xC1, 0xC6):
        table[opcode] = 5  # an immediate byte follows
    for opcode in (0x69, 0x81, 0xC7):
        table[opcode] = 8  # four
    return bytes(table)


def _two_byte_tails() -> bytes:
    """The same for the opcodes behind 0F, which VEX prefixes share."""
    table = bytearray(b"\4" * 256)
    for opcode in (0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6):
        table[opcode] = 5
    return bytes(table)


_TAILS = _one_byte_tails()
_TAILS_0F = _two_byte_tails()


def memory_tail(data: Bytes, at: int) -> int:
    """Bytes from the distance to the end of the instruction; 0: no opcode before it.

    `at` is the offset of the ModRM byte, at least 5.
    """
    opcode = data[at - 1]
    before = data[at - 2]
    if before == 0x0F:
        return _TAILS_0F[opcode]
    third = data[at - 3]
    if third == 0x0F and (before == 0x38 or before == 0x3A):
        return 4 if before == 0x38 else 5
    if third == 0xC5:  # VEX of two bytes
        return _TAILS_0F[opcode]
    if data[at - 4] == 0xC4:  # VEX of three; map 3 has an immediate byte
        return 5 if third & 31 == 3 else 4
    tail = _TAILS[opcode]
    if tail:
        if opcode == 0xC7 and (before == 0x66 or third == 0x66 and before & 0xF0 == 0x40):
            return 6  # the immediate is a word
        if data[at] < 0x10 and opcode in (
            0xF6,
            0xF7,
        ):  # TEST has an immediate, NOT and NEG have none
            return 5 if opcode == 0xF6 else 8
        return tail
    return 4 if data[at - 5] == 0x62 else 0  # EVEX


def reference_pattern(span: int) -> Pattern[bytes]:
    """What may come before a distance within an image of `span` bytes."""
    high = min(span >> 24, 126)
    high_bytes = bytes([*range(high + 1), *range(255 - high, 256)])
    ahead = b"(?=...[" + re.escape(high_bytes) + b"])"
    return re.compile(
        b"(?s)[" + _CALL_OR_JUMP + _MODRM + _MODRM_DASH + b"]" + ahead
        + b"|\x0f[\x80-\x8f]" + ahead
    )  # fmt: skip


def literal_pattern() -> Pattern[bytes]:
    """The last byte before any distance; it never looks at the distance, which changes."""
    return re.compile(b"[" + _CALL_OR_JUMP + _MODRM + b"\x80-\x8f" + _MODRM_DASH + b"]")
