"""Write a package: a ZIP whose bytes depend on its entries, their order and zlib's version alone.

Unlike `zipfile` it can take over a compressed member of another package as it is.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from typing import BinaryIO, List

from .entries import FileEntry
from .zip_read import (
    BOMB_SIZE,
    CENTRAL_HEADER,
    CHUNK,
    DEFLATED,
    END64_RECORD,
    END_RECORD,
    LIMIT16,
    LIMIT32,
    LOCAL_HEADER,
    LOCATOR64,
    MADE_ON_UNIX,
    STORED,
    UTF8_FLAG,
    ArchiveError,
    Member,
    compressed_chunks,
    dense_size,
    find_data,
    open_member,
)

# Of deflate: 9 saves 0.6 % on the standard library and libpython, and takes three times as long.
LEVEL = 6
# A large file is stored when deflate gains nothing on these parts of it: a onefile binary or a film
# would be deflated whole only to be stored after all.
SAMPLED_SIZE = 4 * 2**20
_SAMPLES, _SAMPLE_BYTES = 8, 2**17
_DATE = 1 << 5 | 1  # 1980-01-01, the earliest there is: packages do not depend on when


class PackageWriter:
    """Writes a package to a seekable file, member by member; `close` completes it."""

    def __init__(self, out: BinaryIO, comment: bytes = b"") -> None:
        self._out = out
        self._comment = comment
        self._members: List[Member] = []
        self._dense = 0  # bytes in members that are packed as tightly as a bomb

    def add(self, entry: FileEntry, source: BinaryIO) -> Member:
        """Write the contents of `source` (seekable) as the entry's.

        They are deflated, or stored where that is smaller, or where a reader would take them for a
        bomb.

        Raises:
            ArchiveError: what `source` holds is not what the entry says.
        """
        offset, start = self._out.tell(), source.tell()
        is_link, size = entry.link is not None, _content_size(entry)
        member = Member(entry.path, entry.mode, is_link, STORED, 0, 0, size, offset, 0)
        if size <= SAMPLED_SIZE or _is_compressible(source, size):
            written = self._write(member._replace(method=DEFLATED), entry, source)
            dense = self._dense + dense_size(written)
            if written.compressed_size < size and dense <= BOMB_SIZE:
                return self._note(written)
            source.seek(start)
            self._out.seek(offset)
            self._out.truncate()
        return self._note(self._write(member, entry, source))

    def copy(self, entry: FileEntry, member: Member, package: BinaryIO) -> Member:
        """Take over a member's compressed bytes as they are, under the entry's path and mode."""
        package.seek(find_data(package, member, 0))
        chunks = compressed_chunks(package, member)
        if self._dense + dense_size(member) > BOMB_SIZE:
            # Members of several packages would together be taken for a bomb: store this one.
            chunks = open_member(package, member)
            member = member._replace(method=STORED, compressed_size=member.size)
        copied = member._replace(
            path=entry.path,
            mode=entry.mode,
            is_link=entry.link is not None,
            offset=self._out.tell(),
        )
        self._out.write(_local_header(copied))
        for chunk in chunks:
            self._out.write(chunk)
        return self._note(copied._replace(end=self._out.tell()))

    def close(self) -> None:
        """Write the central directory; the file object stays open."""
        start = self._out.tell()
        for member in self._members:
            self._out.write(_central_header(member))
        size = self._out.tell() - start
        count = len(self._members)
        if max(start, size) >= LIMIT32 or count >= LIMIT16:
            record = (END64_RECORD.size - 12, 45, 45, 0, 0, count, count, size, start)
            self._out.write(END64_RECORD.pack(b"PK\6\6", *record))
            self._out.write(LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
        short, narrow = min(count, LIMIT16), (min(size, LIMIT32), min(start, LIMIT32))
        comment_size = len(self._comment)
        self._out.write(END_RECORD.pack(b"PK\5\6", 0, 0, short, short, *narrow, comment_size))
        self._out.write(self._comment)

    def _note(self, member: Member) -> Member:
        self._members.append(member)
        self._dense += dense_size(member)
        return member

    def _write(self, member: Member, entry: FileEntry, source: BinaryIO) -> Member:
        deflate = _deflater() if member.method == DEFLATED else None
        self._out.write(_local_header(member))
        start = self._out.tell()
        digest, crc, size = hashlib.sha256(), 0, 0
        for chunk in iter(lambda: source.read(CHUNK), b""):
            digest.update(chunk)
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            self._out.write(deflate.compress(chunk) if deflate else chunk)
        if deflate:
            self._out.write(deflate.flush())
        if size != member.size or entry.link is None and digest.hexdigest() != entry.sha256:
            raise ArchiveError(
                "{path!r} changed while it was being packed; run the command again", path=entry.path
            )
        end = self._out.tell()
        member = member._replace(crc=crc, compressed_size=end - start, end=end)
        self._out.seek(member.offset)
        self._out.write(_local_header(member))
        self._out.seek(end)
        return member


def _is_compressible(source: BinaryIO, size: int) -> bool:
    """Whether deflate makes parts of the source smaller; the source stands where it stood."""
    start, raw, packed = source.tell(), 0, 0
    for number in range(_SAMPLES):
        source.seek(start + (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
        sample = source.read(_SAMPLE_BYTES)
        deflate = _deflater()
        raw += len(sample)
        packed += len(deflate.compress(sample)) + len(deflate.flush())
    source.seek(start)
    return packed < raw


def _deflater() -> zlib._Compress:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, -15)


def _content_size(entry: FileEntry) -> int:
    return entry.size if entry.link is None else len(entry.link.encode("utf-8"))


def _local_header(member: Member) -> bytes:
    name = member.path.encode("utf-8")
    # The header is written twice: its size must not depend on whether deflate made the contents a
    # little larger.
    wide = member.size >= LIMIT32 - 2**24 or member.compressed_size >= LIMIT32
    extra = struct.pack("<2H2Q", 1, 16, member.size, member.compressed_size) if wide else b""
    sizes = (LIMIT32, LIMIT32) if wide else (member.compressed_size, member.size)
    need, method = 45 if wide else 20, member.method
    fields = (need, UTF8_FLAG, method, 0, _DATE, member.crc, *sizes, len(name), len(extra))
    return LOCAL_HEADER.pack(b"PK\3\4", *fields) + name + extra


def _central_header(member: Member) -> bytes:
    name = member.path.encode("utf-8")
    values = (member.size, member.compressed_size, member.offset)
    wide = [value for value in values if value >= LIMIT32]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, compressed, offset = (min(value, LIMIT32) for value in values)
    kind = stat.S_IFLNK | 0o777 if member.is_link else stat.S_IFREG | int(member.mode, 8)
    need = 45 if wide else 20
    fields = (MADE_ON_UNIX << 8 | need, need, UTF8_FLAG, member.method, 0, _DATE, member.crc)
    lengths = (len(name), len(extra), 0, 0, 0)
    return (
        CENTRAL_HEADER.pack(b"PK\1\2", *fields, compressed, size, *lengths, kind << 16, offset)
        + name
        + extra
    )
