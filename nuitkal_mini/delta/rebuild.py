"""Sections that follow from the rest of the file: removed before matching, built again by the
decoder.

Both sides `strip` the old file; the encoder strips the new one, and only what the rebuilding gives
back byte for byte. ELF: relative relocations of .rela.dyn (their addends move into the words that
they relocate), .eh_frame_hdr, .gnu.hash. PE: .reloc.
"""

from __future__ import annotations

import struct
from array import array
from typing import List, Optional, Sequence, Tuple

from .elf import (
    HEADER_TABLE,
    R_X86_64_RELATIVE,
    SHF_ALLOC,
    SHT_DYNSYM,
    SHT_GNU_HASH,
    SHT_RELA,
    read_cie,
)
from .format import Bytes, DeltaError
from .image import ELF, Image, Section
from .pe import BASE_RELOCATIONS, directory
from .references import Relocated, Run, Span

_MIN_RUN = 4
_MAX_FUNCTIONS = 1_000_000  # in .eh_frame; each takes 44 bytes while the table is sorted
_DIR64 = 10  # the one base relocation type of x64
_PAGE = 4095


def strip(data: bytearray, image: Image) -> Relocated:
    """Remove from `data`, in place, what can be rebuilt; what was removed."""
    if image.kind == ELF:
        return _strip_elf(data, image)
    return _strip_base_relocations(data, image)


def _strip_elf(data: bytearray, image: Image) -> Relocated:
    hashes = next((s for s in image.sections if s.type == SHT_GNU_HASH), None)
    hash_table = None
    if hashes:
        table = gnu_hash(data, image, hashes)
        if table and table == data[hashes.offset + 16 : hashes.offset + hashes.size]:
            hash_table = Span(hashes.offset + 16, len(table))
    frame_table = None
    index, frames = image.section(b".eh_frame_hdr"), image.section(b".eh_frame")
    if index and frames:
        table = frame_index(data, frames, index)
        if table and table == data[index.offset : index.offset + len(table)]:
            frame_table = Span(index.offset, len(table))
    run, pointers = _strip_relocations(data, image)
    for span in (hash_table, frame_table):
        if span:
            data[span.offset : span.offset + span.size] = bytes(span.size)
    return Relocated(pointers, run, None, frame_table, hash_table)


# --- relocations ----------------------------------------------------------------------------------


def _strip_relocations(data: bytearray, image: Image) -> Tuple[Optional[Run], array[int]]:
    """Zero the relative relocations that .rela.dyn begins with; write the addends in place."""
    pointers = array("I")
    section = next(
        (
            section
            for section in image.sections
            if section.type == SHT_RELA and section.flags & SHF_ALLOC
            and section.name == b".rela.dyn"
        ),
        None,
    )  # fmt: skip
    if section is None:
        return None, pointers
    addends = array("Q")
    mode = last = -1
    for at in range(section.offset, section.offset + section.size - 23, 24):
        place, info, addend = struct.unpack_from("<QQQ", data, at)
        offset = image.offset_of(place)
        if info != R_X86_64_RELATIVE or offset <= last or not 0 <= offset <= len(data) - 8:
            break
        if section.offset - 8 < offset < section.offset + section.size:
            break
        (word,) = struct.unpack_from("<Q", data, offset)
        keeps = 0 if word == 0 else 1
        if mode not in (-1, keeps) or keeps and word != addend:
            break
        mode, last = keeps, offset + 7
        pointers.append(offset)
        addends.append(addend)
    if len(pointers) < _MIN_RUN:
        return None, array("I")
    run = Run(section.offset, len(pointers), mode)
    data[run.offset : run.offset + 24 * run.length] = bytes(24 * run.length)
    for offset, addend in zip(pointers, addends):
        struct.pack_into("<Q", data, offset, addend)
    return run, pointers


def rebuild_relocations(data: bytearray, image: Image, run: Run, pointers: Sequence[int]) -> None:
    """Write the relocations back, from the pointers and the addends in them."""
    if len(pointers) != run.length or run.offset + 24 * run.length > len(data):
        raise DeltaError("the delta's relocations do not fit into the file")
    entries = bytearray()
    for offset in pointers:
        entries += struct.pack("<QQ", image.address_of(offset), R_X86_64_RELATIVE)
        entries += data[offset : offset + 8]
    if not run.keeps_addend:
        for offset in pointers:
            data[offset : offset + 8] = bytes(8)
    data[run.offset : run.offset + 24 * run.length] = entries


def _strip_base_relocations(data: bytearray, image: Image) -> Relocated:
    offset, size = directory(data, image, BASE_RELOCATIONS)
    addresses = []
    at, end = offset, offset + size
    while at + 8 <= end:
        page, block = struct.unpack_from("<II", data, at)
        if block < 8 or at + block > end:
            break
        for entry in struct.unpack_from("<%dH" % ((block - 8) // 2), data, at + 8):
            if entry >> 12 == _DIR64:
                addresses.append(page + (entry & _PAGE))
        at += block
    if not addresses or base_relocations(addresses) != data[offset:at]:
        return Relocated(array("I"))
    offsets = [image.offset_of(address) for address in addresses]
    apart = all(a + 8 <= b for a, b in zip(offsets, offsets[1:]))
    if not (apart and offsets[0] > 0 and offsets[-1] + 8 <= len(data)):
        return Relocated(array("I"))
    data[offset:at] = bytes(at - offset)
    return Relocated(array("I", offsets), base_relocations=Span(offset, at - offset))


def base_relocations(addresses: Sequence[int]) -> bytes:
    """PE's .reloc: a block a page, padded to an even number of entries."""
    out = []
    page = -1
    entries: List[int] = []
    for address in [*addresses, -1]:
        if address & ~_PAGE != page or address < 0:
            if entries:
                if len(entries) & 1:
                    entries.append(0)
                size = 8 + 2 * len(entries)
                out.append(struct.pack("<II%dH" % len(entries), page, size, *entries))
            page = address & ~_PAGE
            entries = []
        entries.append(_DIR64 << 12 | address & _PAGE)
    return b"".join(out)


# --- .eh_frame_hdr and .gnu.hash ------------------------------------------------------------------


def frame_index(data: Bytes, frames: Section, index: Section) -> Optional[bytes]:
    """.eh_frame_hdr's table of functions by address; None: .eh_frame is not of the common form."""
    shift = frames.address - frames.offset
    at, end = frames.offset, frames.offset + frames.size
    encodings = {}
    table: List[int] = []
    while at + 12 <= end:
        length, cie, begin = struct.unpack_from("<IIi", data, at)
        if length == 0:
            break
        if length < 12 or length >= 0xFFFFFF00 or at + 4 + length > end:
            return None
        if cie == 0:
            encodings[at] = read_cie(data, at, at + 4 + length)[0]
        elif encodings.get(at + 4 - cie) != 0x1B or len(table) == _MAX_FUNCTIONS:
            return None
        else:
            function = at + 8 + shift + begin - index.address
            entry = at + shift - index.address
            if not -(2**31) <= function < 2**31 or not -(2**31) <= entry < 2**31:
                return None
            table.append(function << 32 | entry + 2**31)
        at += 4 + length
    table.sort()
    entries = b"".join(
        struct.pack("<ii", item >> 32, (item & 0xFFFFFFFF) - 2**31) for item in table
    )
    distance = (frames.address - index.address - 4 + 2**31) % 2**32 - 2**31
    return HEADER_TABLE + struct.pack("<iI", distance, len(table)) + entries


def gnu_hash(data: Bytes, image: Image, section: Section) -> Optional[bytes]:
    """.gnu.hash behind its 16 byte header: Bloom filter, buckets, chains; None: it cannot be."""
    symbols = image.numbered(section.link)
    if symbols is None or symbols.type != SHT_DYNSYM or section.size < 16:
        return None
    strings = image.numbered(symbols.link)
    buckets_count, first, words, shift = struct.unpack_from("<IIII", data, section.offset)
    count = symbols.size // 24
    if strings is None or not buckets_count or not words or first > count or shift > 63:
        return None
    if section.size != 16 + 8 * words + 4 * buckets_count + 4 * (count - first):
        return None
    bloom, buckets = array("Q", bytes(8 * words)), array("I", bytes(4 * buckets_count))
    chains = array("I")
    names = bytes(data[strings.offset : strings.offset + strings.size])
    budget = len(data)  # names may share their ends: hash no more bytes than the file has
    last = -1
    for number in range(first, count):
        (at,) = struct.unpack_from("<I", data, symbols.offset + 24 * number)
        end = names.find(b"\0", at)
        budget -= end - at
        if end < 0 or budget < 0:
            return None
        value = _hash_name(names[at:end])
        bloom[(value >> 6) % words] |= 1 << (value & 63) | 1 << (value >> shift & 63)
        bucket = value % buckets_count
        if bucket != last:
            if chains:
                chains[-1] |= 1
            if buckets[bucket]:
                return None
            buckets[bucket] = number
            last = bucket
        chains.append(value & ~1)
    if chains:
        chains[-1] |= 1
    return struct.pack(f"<{len(bloom)}Q{len(buckets)}I{len(chains)}I", *bloom, *buckets, *chains)


def _hash_name(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
