"""ELF files for x86-64: headers, and references in data.

System V ABI with its x86-64 supplement, chapters 4 and 5; Linux Standard Base, core, for .eh_frame.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Optional, Tuple

from .format import Bytes
from .image import ELF, MAX_SECTIONS, MAX_SEGMENTS, UNLOADED, Image, Section, Segment, overlap
from .references import (
    ABSOLUTE,
    BASED,
    CIE,
    FUNCTION,
    RELATIVE,
    SIZE,
    ReferenceList,
    Relocated,
)

SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM, SHT_RELR = 2, 4, 8, 11, 19
SHT_GNU_HASH = 0x6FFFFFF6
SHF_ALLOC, SHF_EXECINSTR = 2, 4
R_X86_64_RELATIVE, R_X86_64_IRELATIVE = 8, 37
_STT_TLS = 6
_SHN_LORESERVE = 0xFF00
# Entries of the dynamic section whose value is an address.
_DYNAMIC_ADDRESSES = frozenset(
    [3, 4, 5, 6, 7, 12, 13, 23, 25, 26, 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFE]
)
_PCREL_SDATA4 = 0x1B  # the one pointer encoding of .eh_frame that compilers for x86-64 use
_POINTER_SIZES = {0: 8, 3: 4, 4: 8, 11: 4, 12: 8}
HEADER_TABLE = b"\x01\x1b\x03\x3b"  # how .eh_frame_hdr begins: version and encodings
_MAX_CIES = 10_000  # a linked file has one for each compiler setting


def parse_elf(data: Bytes) -> Optional[Image]:
    """The image of an ELF file for x86-64; None for any other and where parts overlap."""
    if bytes(data[:6]) != b"\x7fELF\x02\x01" or bytes(data[18:20]) != b"\x3e\x00":
        return None
    program_offset, section_offset = struct.unpack_from("<QQ", data, 32)
    entry_size, count, section_entry_size, section_count, names = struct.unpack_from(
        "<HHHHH", data, 54
    )
    if entry_size != 56 or count > MAX_SEGMENTS or section_count > MAX_SECTIONS:
        return None
    segments = _segments(data, program_offset, count)
    if section_entry_size != 64 or section_offset + 64 * section_count > len(data) or not segments:
        return None
    sections = _sections(data, section_offset, section_count, names)
    if sections is None:
        return None
    unloaded = [
        Segment(section.address, section.offset, section.size, section.size)
        for section in sections
        if section.address >= UNLOADED and section.size
    ]
    if (
        overlap([(s.offset, s.file_size) for s in segments + unloaded])
        or overlap([(s.address, s.memory_size) for s in segments])
        or overlap([(s.offset, s.size) for s in sections])
    ):
        return None
    code = [
        section
        for section in sections
        if section.flags & SHF_ALLOC and section.flags & SHF_EXECINSTR and section.size
    ]
    return Image(ELF, segments + unloaded, sections, code)


def _segments(data: Bytes, offset: int, count: int) -> List[Segment]:
    segments = []
    for index in range(count):
        kind, _, start, address, _, file_size, memory_size, _ = struct.unpack_from(
            "<IIQQQQQQ", data, offset + 56 * index
        )
        if kind == 1:  # PT_LOAD
            if start + file_size > len(data) or memory_size < file_size:
                return []
            if address + memory_size > UNLOADED:
                return []
            segments.append(Segment(address, start, file_size, memory_size))
    return segments


def _sections(data: Bytes, offset: int, count: int, names: int) -> Optional[List[Section]]:
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + 64 * i) for i in range(count)]
    names_offset = headers[names][4] if names < count else 0
    sections = []
    for number, (name, kind, flags, address, start, size, link, _, _, _) in enumerate(headers):
        if kind in (0, SHT_NOBITS):
            continue
        if start + size > len(data):
            continue
        if not flags & SHF_ALLOC:
            address = UNLOADED + start
        elif address + size > UNLOADED:
            return None
        at = names_offset + name
        label = bytes(data[at : at + 32]).split(b"\0")[0]
        sections.append(Section(label, kind, flags, address, start, size, link, number))
    return sections


# --- references in data ---------------------------------------------------------------------------


def elf_references(data: Bytes, image: Image, relocated: Relocated, out: ReferenceList) -> None:
    """Append every reference outside code, section by section."""
    for at in relocated.pointers:
        (target,) = struct.unpack_from("<Q", data, at)
        if image.low <= target < image.high:
            out.add(at, 8, ABSOLUTE, target)
    for section in image.sections:
        if section.type == SHT_RELA:
            _rela(data, image, section, relocated, out)
        elif section.type == SHT_RELR:
            _relr(data, image, section, out)
        elif section.type in (SHT_SYMTAB, SHT_DYNSYM):
            _symbols(data, image, section, out)
        elif section.name in (b".got.plt", b".got"):
            for at in range(section.offset, section.offset + section.size - 7, 8):
                (target,) = struct.unpack_from("<Q", data, at)
                if target and image.low <= target < image.high:
                    out.add(at, 8, ABSOLUTE, target)
        elif section.name == b".dynamic":
            for at in range(section.offset, section.offset + section.size - 15, 16):
                tag, target = struct.unpack_from("<QQ", data, at)
                if tag in _DYNAMIC_ADDRESSES and target < UNLOADED:
                    out.add(at + 8, 8, ABSOLUTE, target)
        elif section.name == b".eh_frame":
            _eh_frame(data, image, section, out)
        elif section.name == b".eh_frame_hdr" and not relocated.frame_table:
            _eh_frame_hdr(data, section, out)


def _rela(
    data: Bytes, image: Image, section: Section, relocated: Relocated, out: ReferenceList
) -> None:
    """Relocations: where they apply, and addends that are addresses."""
    run = relocated.relocations
    skip = run.length if run and run.offset == section.offset else 0
    low, high = image.low, image.high
    for at in range(section.offset + 24 * skip, section.offset + section.size - 23, 24):
        place, info, addend = struct.unpack_from("<QQq", data, at)
        if low <= place < high:
            out.add(at, 8, ABSOLUTE, place)
        kind = info & 0xFFFFFFFF
        if kind in (R_X86_64_RELATIVE, R_X86_64_IRELATIVE) and low <= addend < high:
            out.add(at + 16, 8, ABSOLUTE, addend)


def _relr(data: Bytes, image: Image, section: Section, out: ReferenceList) -> None:
    """Relative relocations in compact form: an address, then bitmaps of the 63 words behind it."""
    low, high = image.low, image.high
    where = 0
    for at in range(section.offset, section.offset + section.size - 7, 8):
        (word,) = struct.unpack_from("<Q", data, at)
        if word & 1 == 0:
            if low <= word < high:
                out.add(at, 8, ABSOLUTE, word)
            slots = [word]
            where = word + 8
        else:
            slots = [where + 8 * bit for bit in range(63) if word >> (bit + 1) & 1]
            where += 63 * 8
        for slot in slots:
            offset = image.offset_of(slot)
            if 0 <= offset <= len(data) - 8:
                (target,) = struct.unpack_from("<Q", data, offset)
                if low <= target < high:
                    out.add(offset, 8, ABSOLUTE, target)


def _symbols(data: Bytes, image: Image, section: Section, out: ReferenceList) -> None:
    """Symbols: the name as an address in the string table, the value, and the size."""
    low, high = image.low, image.high
    strings = image.numbered(section.link)
    for at in range(section.offset, section.offset + section.size - 23, 24):
        name, info, _, index, value, size = struct.unpack_from("<IBBHQQ", data, at)
        if strings and 0 < name < strings.size:
            out.add(at, 4, BASED, strings.address + name, strings.address)
        if 0 < index < _SHN_LORESERVE and low <= value < high and info & 15 != _STT_TLS:
            out.add(at + 8, 8, ABSOLUTE, value)
            if size and value + size <= high:
                out.add(at + 16, 8, SIZE, value + size, value)


def _eh_frame_hdr(data: Bytes, section: Section, out: ReferenceList) -> None:
    at, address = section.offset, section.address
    if section.size < 12 or bytes(data[at : at + 4]) != HEADER_TABLE:
        return
    distance, count = struct.unpack_from("<iI", data, at + 4)
    out.add(at + 4, 4, RELATIVE, address + 4 + distance)
    if 12 + 8 * count <= section.size:
        for entry in range(at + 12, at + 12 + 8 * count, 4):
            (distance,) = struct.unpack_from("<i", data, entry)
            out.add(entry, 4, BASED, address + distance, address)


def _eh_frame(data: Bytes, image: Image, section: Section, out: ReferenceList) -> None:
    """Unwind tables: per function its CIE, begin, size, language data and personality routine."""
    shift = section.address - section.offset
    low, high = image.low, image.high
    at, end = section.offset, section.offset + section.size
    encodings: Dict[int, Tuple[int, int]] = {}
    entry = struct.Struct("<IIiI")
    while at + 16 <= end:
        length, cie, begin, size = entry.unpack_from(data, at)
        if length == 0:
            at += 4
            continue
        if length < 4 or length >= 0xFFFFFF00 or at + 4 + length > end:
            return
        if cie == 0:
            if len(encodings) == _MAX_CIES:
                return
            function, language, personality = read_cie(data, at, at + 4 + length)
            encodings[at] = function, language
            if personality:
                (distance,) = struct.unpack_from("<i", data, personality)
                out.add(personality, 4, RELATIVE, personality + shift + distance)
        else:
            function, language = encodings.get(at + 4 - cie, (0, 0))
            target = at + 8 + shift + begin
            if function & 0x7F == _PCREL_SDATA4 and low <= target < high:
                out.add(at + 4, 4, CIE, at + 4 - cie + shift)
                out.add(at + 8, 4, FUNCTION, target)
                out.add(at + 12, 4, SIZE, target + size, target)
                if language & 0x7F == _PCREL_SDATA4 and length > 17 and data[at + 16] == 4:
                    (distance,) = struct.unpack_from("<i", data, at + 17)
                    if distance:
                        out.add(at + 17, 4, RELATIVE, at + 17 + shift + distance)
        at += 4 + length


def read_cie(data: Bytes, at: int, end: int) -> Tuple[int, int, int]:
    """(encoding of functions, encoding of language data, offset of the personality); 0: none."""
    augmentation = bytes(data[at + 9 : at + 25]).split(b"\0")[0]
    function = language = personality = 0
    if augmentation[:1] != b"z":
        return 0, 0, 0
    at += 9 + len(augmentation) + 1
    for _ in range(4):  # code and data alignment, return address register, size of the augmentation
        at = _skip_leb(data, at)
    for letter in augmentation[1:]:
        if at + 5 > end or letter not in b"RLPSB":
            break
        if letter == 0x52:  # R
            function = data[at]
            at += 1
        elif letter == 0x4C:  # L
            language = data[at]
            at += 1
        elif letter == 0x50:  # P
            if data[at] & 0x7F == _PCREL_SDATA4:
                personality = at + 1
            size = _POINTER_SIZES.get(data[at] & 15, 0)
            if not size:
                break
            at += 1 + size
    return function, language, personality


def _skip_leb(data: Bytes, at: int) -> int:
    for _ in range(10):
        at += 1
        if data[at - 1] < 128:
            break
    return at
