"""Executables to make deltas of: a linked ELF library in fixtures/, and PE programs made here."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

FIXTURES = Path(__file__).parent / "fixtures"
IMAGE_BASE = 0x180000000


def library(name: str) -> bytes:
    """A shared library of 60 C++ functions: `old`, or `new`, which has one more."""
    return lzma.decompress((FIXTURES / f"{name}.so.xz").read_bytes())


class Numbers:
    """Reproducible numbers, the same in every Python version."""

    def __init__(self, seed: int) -> None:
        self.state = seed * 2 + 1

    def below(self, limit: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % limit

    def bytes(self, count: int) -> bytes:
        return bytes(self.below(256) for _ in range(count))


class _Section(NamedTuple):
    name: bytes
    flags: int
    content: bytes


def program(functions: int, extra: Tuple[int, ...] = (), moved: int = 0) -> bytes:
    """A PE32+ program: functions that call each other and use data, with unwind information.

    `extra` are positions at which a new function comes in; `moved` bytes come in before the data.
    """
    names = list(range(functions))
    for number, position in enumerate(extra):
        names.insert(position, 1000 + number)
    bodies, places = _layout(names)
    text_address = 0x1000
    text_size = sum(len(body) for body, _ in bodies)
    data_address = _align(text_address + text_size, 0x1000)
    data_places, data_size = _data_places(functions, moved)
    code = bytearray()
    for body, operands in bodies:
        here = text_address + len(code)
        for at, target in operands:
            kind, name = target
            to = text_address + places[name] if kind == "f" else data_address + data_places[name]
            struct.pack_into("<i", body, at, to - (here + at + 4))
        code += body
    data, pointers = _data(functions, data_address, data_places, data_size, text_address, places)
    pdata_address = _align(data_address + len(data), 0x1000)
    ends = {name: places[name] + len(body) for name, (body, _) in zip(names, bodies)}
    pdata = b"".join(
        struct.pack(
            "<III",
            text_address + places[name],
            text_address + ends[name] - 1,
            data_address + data_places[-1],
        )
        for name in names
    )
    reloc_address = _align(pdata_address + len(pdata), 0x1000)
    reloc = _reloc(pointers)
    return _link(
        [
            (text_address, _Section(b".text", 0x60000020, bytes(code))),
            (data_address, _Section(b".rdata", 0x40000040, bytes(data))),
            (pdata_address, _Section(b".pdata", 0x40000040, pdata)),
            (reloc_address, _Section(b".reloc", 0x42000040, reloc)),
        ],
        {3: (pdata_address, len(pdata)), 5: (reloc_address, len(reloc))},
    )


Operand = Tuple[int, Tuple[str, int]]


def _layout(names: List[int]) -> Tuple[List[Tuple[bytearray, List[Operand]]], Dict[int, int]]:
    bodies, places, at = [], {}, 0
    for name in names:
        numbers = Numbers(name)
        body = bytearray(b"\x48\x83\xec\x28")
        operands: List[Operand] = []
        for _ in range(3 + numbers.below(6)):
            body += bytes(byte | 0x40 for byte in numbers.bytes(8 + numbers.below(24)))
            if numbers.below(2):
                body += b"\xe8"
                operands.append((len(body), ("f", numbers.below(min(len(names), 40)))))
            else:
                body += b"\x48\x8d\x0d"
                operands.append((len(body), ("d", numbers.below(40))))
            body += bytes(4)
        body += b"\x48\x83\xc4\x28\xc3"
        body += b"\xcc" * (-len(body) % 16)
        bodies.append((body, operands))
        places[name] = at
        at += len(body)
    return bodies, places


def _data_places(functions: int, moved: int) -> Tuple[Dict[int, int], int]:
    """40 items: jump tables of 8 entries, pointers, texts; item -1 is the unwind information."""
    places, at = {}, moved
    for item in range(40):
        places[item] = at
        at += 32
    places[-1] = at
    places[-2] = at + 16  # the table of pointers to all functions
    return places, at + 16 + 8 * functions


def _data(
    functions: int,
    address: int,
    places: Dict[int, int],
    size: int,
    text: int,
    at: Dict[int, int],
) -> Tuple[bytearray, List[int]]:
    data, pointers = bytearray(size), []
    numbers = Numbers(99)
    for item in range(40):
        start = places[item]
        if item % 3 == 0:
            for entry in range(8):
                target = text + at[numbers.below(functions)] + 4
                struct.pack_into("<i", data, start + 4 * entry, target - (address + start))
        elif item % 3 == 1:
            data[start : start + 32] = b"a text in the program, no. %05d!" % item
        else:
            for entry in range(4):
                struct.pack_into("<Q", data, start + 8 * entry, IMAGE_BASE + address + places[1])
                pointers.append(address + start + 8 * entry)
    struct.pack_into("<I", data, places[-1], 1)  # unwind information: version 1, no codes
    for number in range(functions):
        start = places[-2] + 8 * number
        struct.pack_into("<Q", data, start, IMAGE_BASE + text + at[number])
        pointers.append(address + start)
    return data, pointers


def _reloc(addresses: List[int]) -> bytes:
    pages: Dict[int, List[int]] = {}
    for address in sorted(addresses):
        pages.setdefault(address & ~4095, []).append(0xA000 | address & 4095)
    out = b""
    for page, entries in sorted(pages.items()):
        entries += [0] * (len(entries) & 1)
        out += struct.pack(f"<II{len(entries)}H", page, 8 + 2 * len(entries), *entries)
    return out


def _link(sections: List[Tuple[int, _Section]], directories: Dict[int, Tuple[int, int]]) -> bytes:
    headers = bytearray(0x400)
    headers[:2] = b"MZ"
    struct.pack_into("<I", headers, 60, 64)
    headers[64:70] = b"PE\0\0\x64\x86"
    struct.pack_into("<HIIIHH", headers, 70, len(sections), 0, 0, 0, 240, 0x2022)
    struct.pack_into("<H", headers, 88, 0x20B)
    struct.pack_into("<QII", headers, 64 + 48, IMAGE_BASE, 0x1000, 0x200)
    end = _align(sections[-1][0] + len(sections[-1][1].content), 0x1000)
    struct.pack_into("<II", headers, 64 + 80, end, 0x400)
    struct.pack_into("<I", headers, 64 + 132, 16)
    for number, entry in directories.items():
        struct.pack_into("<II", headers, 64 + 136 + 8 * number, *entry)
    out, at = [], 64 + 24 + 240
    offset = 0x400
    for address, section in sections:
        raw = _align(len(section.content), 0x200)
        struct.pack_into(
            "<8sIIII", headers, at, section.name, len(section.content), address, raw, offset
        )
        struct.pack_into("<I", headers, at + 36, section.flags)
        out.append(section.content + bytes(raw - len(section.content)))
        offset += raw
        at += 40
    return bytes(headers) + b"".join(out)


def _align(value: int, to: int) -> int:
    return (value + to - 1) // to * to
