"""PE files for x86-64 (Microsoft's PE format; x64 exception handling): headers and references in
data.

Addresses are relative to the image base (RVAs).
"""

from __future__ import annotations

import struct
from typing import Optional, Set, Tuple

from .format import Bytes, DeltaError
from .image import MAX_SECTIONS, PE, Image, Section, Segment, overlap
from .references import ABSOLUTE, END, ReferenceList, Relocated

_EXPORTS, _IMPORTS, _EXCEPTIONS = 0, 1, 3
BASE_RELOCATIONS = 5  # data directories
_MEM_EXECUTE = 0x20000000
_FIRST_PAGE = 4096  # no section begins below it, so smaller numbers are no addresses
_FRAME_HANDLER_3 = b"\x05\x93\x19"  # EH_MAGIC_NUMBER without its lowest byte
_MAX_SCOPES = 20_000
_MAX_STATES = 10_000
_MAX_HANDLERS = 1000
_MAX_IP_STATES = 100_000
_MAX_TABLE_STEPS = 4_000_000  # of all loops over tables, which a damaged file may let overlap


def parse_pe(data: Bytes) -> Optional[Image]:
    """The image of a PE32+ file for x86-64; None for any other and where sections overlap."""
    if bytes(data[:2]) != b"MZ":
        return None
    (header,) = struct.unpack_from("<I", data, 60)
    if bytes(data[header : header + 6]) != b"PE\0\0\x64\x86":
        return None
    (count,) = struct.unpack_from("<H", data, header + 6)
    (optional_size,) = struct.unpack_from("<H", data, header + 20)
    if struct.unpack_from("<H", data, header + 24)[0] != 0x20B or count > MAX_SECTIONS:
        return None
    (base,) = struct.unpack_from("<Q", data, header + 48)
    (headers_size,) = struct.unpack_from("<I", data, header + 84)
    directories = [struct.unpack_from("<II", data, header + 136 + 8 * i) for i in range(16)]
    segments = [Segment(0, 0, min(headers_size, len(data)), headers_size)]
    sections, code = [], []
    for number in range(count):
        at = header + 24 + optional_size + 40 * number
        virtual_size, address, raw_size, offset = struct.unpack_from("<IIII", data, at + 8)
        (flags,) = struct.unpack_from("<I", data, at + 36)
        if offset + raw_size > len(data) or address + virtual_size > 2**31:
            return None
        size = min(raw_size, virtual_size) if virtual_size else raw_size
        name = bytes(data[at : at + 8]).rstrip(b"\0")
        section = Section(name, 0, flags, address, offset, size, 0, number)
        segments.append(Segment(address, offset, size, max(virtual_size, size)))
        sections.append(section)
        if flags & _MEM_EXECUTE and size:
            code.append(section)
    if overlap([(s.offset, s.file_size) for s in segments]) or overlap(
        [(s.address, s.memory_size) for s in segments]
    ):
        return None
    return Image(PE, segments, sections, code, base, directories)


def directory(data: Bytes, image: Image, number: int) -> Tuple[int, int]:
    """(offset, size) of a data directory; (0, 0) when there is none."""
    address, size = image.directories[number]
    offset = image.offset_of(address)
    if address and offset > 0 and offset + size <= len(data):
        return offset, size
    return 0, 0


def pe_references(data: Bytes, image: Image, relocated: Relocated, out: ReferenceList) -> None:
    """Append every reference outside code."""
    for at in relocated.pointers:
        target = struct.unpack_from("<Q", data, at)[0] - image.base
        if image.low <= target < image.high:
            out.add(at, 8, ABSOLUTE, target)
    tables = _Tables(data, image, out)
    tables.exceptions()
    tables.imports()
    tables.exports()


class _Tables:
    """Walks the tables that data directories name, in a bounded number of steps."""

    def __init__(self, data: Bytes, image: Image, out: ReferenceList) -> None:
        self.data, self.image, self.out = data, image, out
        self.steps = 0

    def exceptions(self) -> None:
        """.pdata: begin, end and unwind information of every function, with its handlers."""
        offset, size = directory(self.data, self.image, _EXCEPTIONS)
        low, high = self.image.low, self.image.high
        seen: Set[int] = set()
        seen_functions: Set[int] = set()
        for at in range(offset, offset + size - 11, 12):
            begin, end, unwind = struct.unpack_from("<III", self.data, at)
            if not (low <= begin < end and end < high and unwind < high):
                continue
            self.out.add(at, 4, ABSOLUTE, begin)
            self.out.add(at + 4, 4, END, end)
            self.out.add(at + 8, 4, ABSOLUTE, unwind)
            if unwind not in seen:
                seen.add(unwind)
                self._unwind(self.image.offset_of(unwind), seen_functions)

    def _unwind(self, at: int, seen: Set[int]) -> None:
        """UNWIND_INFO: codes, then a chained entry or a handler with its data."""
        if at < 0 or at + 4 > len(self.data):
            return
        flags = self.data[at] >> 3
        behind = at + 4 + 2 * ((self.data[at + 2] + 1) & ~1)
        if flags & 4:  # UNW_FLAG_CHAININFO
            for number in range(3):
                self._address(behind + 4 * number, 1)
        elif flags & 3 and self._address(behind, 1):
            self._handler_data(behind + 4, seen)

    def _handler_data(self, at: int, seen: Set[int]) -> None:
        """What follows a handler: the address of a FuncInfo, or the scope table of C."""
        value = self._read(at)
        if value < _MAX_SCOPES:
            self._scope_table(at + 4, value)
        elif value < self.image.high:
            self.out.add(at, 4, ABSOLUTE, value)
            info = self.image.offset_of(value)
            if info > 0 and bytes(self.data[info + 1 : info + 4]) == _FRAME_HANDLER_3:
                if info not in seen and info + 40 <= len(self.data):
                    seen.add(info)
                    self._function_info(info)

    def _scope_table(self, at: int, count: int) -> None:
        """Begin, end, filter and target of each __try, up to the first that is none."""
        low, high = self.image.code_addresses()
        for entry in range(at, min(at + 16 * count, len(self.data) - 15), 16):
            begin, end = self._read(entry), self._read(entry + 4)
            if not low <= begin < end <= high:
                break
            for field in range(entry, entry + 16, 4):
                self._address(field)

    def _function_info(self, at: int) -> None:
        """FuncInfo of __CxxFrameHandler3: unwind map, try blocks, states by address."""
        for number in (2, 4, 6, 8):
            self._address(at + 4 * number)
        states, blocks, addresses = (self._read(at + 4 * number) for number in (1, 3, 5))
        unwind_map, try_blocks, ip_map = (self._offset(at + 4 * number) for number in (2, 4, 6))
        if unwind_map and states < _MAX_STATES:
            for number in range(states):
                self._address(unwind_map + 8 * number + 4)
        if try_blocks and blocks < _MAX_STATES:
            for number in range(blocks):
                self._try_block(try_blocks + 20 * number)
        if ip_map and addresses < _MAX_IP_STATES:
            for number in range(addresses):
                self._address(ip_map + 8 * number)

    def _try_block(self, at: int) -> None:
        count = self._read(at + 12)
        self._address(at + 16)
        handlers = self._offset(at + 16)
        if handlers and count < _MAX_HANDLERS:
            for number in range(count):
                self._address(handlers + 20 * number + 4)
                self._address(handlers + 20 * number + 12)

    def imports(self) -> None:
        """Import descriptors, and the names that their tables point to."""
        offset, size = directory(self.data, self.image, _IMPORTS)
        for at in range(offset, offset + size - 19, 20):
            fields = struct.unpack_from("<IIIII", self.data, at)
            if not any(fields):
                break
            for number in (0, 3, 4):
                self._address(at + 4 * number, 1)
            for number in (0, 4):
                self._thunks(self.image.offset_of(fields[number]))

    def _thunks(self, at: int) -> None:
        """A table of addresses of names, 8 bytes each, up to a zero."""
        while 0 < at <= len(self.data) - 8:
            self._step()
            (value,) = struct.unpack_from("<Q", self.data, at)
            if not value:
                break
            if self.image.low < value < self.image.high:
                self.out.add(at, 8, ABSOLUTE, value, tail=1)  # not moved by the image base
            at += 8

    def exports(self) -> None:
        """The export directory, its functions and its names."""
        offset, size = directory(self.data, self.image, _EXPORTS)
        if size < 40:
            return
        for number in (3, 7, 8, 9):
            self._address(offset + 4 * number, 1)
        for table, count in ((7, 5), (8, 6)):
            entries = self.image.offset_of(self._read(offset + 4 * table))
            length = self._read(offset + 4 * count)
            if entries > 0 and entries + 4 * length <= len(self.data):
                for number in range(length):
                    self._address(entries + 4 * number, 1)

    def _address(self, at: int, lowest: int = _FIRST_PAGE) -> bool:
        """Append the RVA at an offset, if it is one; whether the offset is inside the file."""
        self._step()
        if at + 4 > len(self.data):
            return False
        value = self._read(at)
        if lowest <= value < self.image.high:
            self.out.add(at, 4, ABSOLUTE, value)
        return True

    def _read(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self.data, at)[0] if at + 4 <= len(self.data) else 0
        return value

    def _offset(self, at: int) -> int:
        """The offset of the RVA at an offset, 0 where the file has none."""
        return max(0, self.image.offset_of(self._read(at)))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > _MAX_TABLE_STEPS:
            raise DeltaError("the executable's tables are larger than the format allows")
