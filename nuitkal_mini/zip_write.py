"""Write a package: a ZIP whose bytes depend on nothing but its entries, their order, and zlib's version.

Unlike `zipfile` it can take over a compressed member of another package as it is.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from typing import BinaryIO, List, Optional

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

LEVEL = 6  # of deflate: 9 saves 0.6 % on the standard library and libpython, and takes three times as long
_DATE = 1 << 5 | 1  # 1980-01-01, the earliest there is: packages do not depend on when


class PackageWriter:
    """Writes a ZIP whose bytes depend on nothing but its entries, their order, and zlib's version."""

    def __init__(self, out: BinaryIO, comment: bytes = b"") -> None:
        self._out = out
        self._comment = comment
        self._members: List[Member] = []
        self._dense = 0

    def add(self, entry: FileEntry, source: BinaryIO) -> Member:
        """Deflate the entry's contents, or store them where that is smaller, or where a reader would take them for a bomb.

        Raises:
            ArchiveError: what `source` holds is not what the entry says.
        """
        offset = self._out.tell()
        member = Member(
            entry.path,
            entry.mode,
            entry.link is not None,
            DEFLATED,
            0,
            0,
            _content_size(entry),
            offset,
            0,
        )
        start = source.tell()
        member = self._write(member, entry, source, zlib.compressobj(LEVEL, zlib.DEFLATED, -15))
        if member.compressed_size >= member.size or self._dense + dense_size(member) > BOMB_SIZE:
            source.seek(start)
            self._out.seek(offset)
            self._out.truncate()
            member = self._write(member._replace(method=STORED), entry, source, None)
        return self._note(member)

    def _note(self, member: Member) -> Member:
        self._members.append(member)
        self._dense += dense_size(member)
        return member

    def _write(
        self, member: Member, entry: FileEntry, source: BinaryIO, deflate: Optional[zlib._Compress]
    ) -> Member:
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

    def copy(self, entry: FileEntry, member: Member, package: BinaryIO) -> Member:
        """Take over a member's compressed bytes as they are, under the entry's path and mode."""
        package.seek(find_data(package, member, 0))
        chunks = compressed_chunks(package, member)
        if (
            self._dense + dense_size(member) > BOMB_SIZE
        ):  # what several packages brought would make a bomb together: store it
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
            self._out.write(
                END64_RECORD.pack(
                    b"PK\6\6", END64_RECORD.size - 12, 45, 45, 0, 0, count, count, size, start
                )
            )
            self._out.write(LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
        short = min(count, LIMIT16)
        self._out.write(
            END_RECORD.pack(
                b"PK\5\6",
                0,
                0,
                short,
                short,
                min(size, LIMIT32),
                min(start, LIMIT32),
                len(self._comment),
            )
        )
        self._out.write(self._comment)


def _content_size(entry: FileEntry) -> int:
    return entry.size if entry.link is None else len(entry.link.encode("utf-8"))


def _local_header(member: Member) -> bytes:
    name = member.path.encode("utf-8")
    # Decided by the size, before deflate has had its chance to make it a little larger: the header is written twice.
    wide = member.size >= LIMIT32 - 2**24 or member.compressed_size >= LIMIT32
    extra = struct.pack("<2H2Q", 1, 16, member.size, member.compressed_size) if wide else b""
    size, compressed = (LIMIT32, LIMIT32) if wide else (member.size, member.compressed_size)
    return (
        LOCAL_HEADER.pack(
            b"PK\3\4",
            45 if wide else 20,
            UTF8_FLAG,
            member.method,
            0,
            _DATE,
            member.crc,
            compressed,
            size,
            len(name),
            len(extra),
        )
        + name
        + extra
    )


def _central_header(member: Member) -> bytes:
    name = member.path.encode("utf-8")
    values = (member.size, member.compressed_size, member.offset)
    wide = [value for value in values if value >= LIMIT32]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, compressed, offset = (min(value, LIMIT32) for value in values)
    kind = stat.S_IFLNK | 0o777 if member.is_link else stat.S_IFREG | int(member.mode, 8)
    need = 45 if wide else 20
    return (
        CENTRAL_HEADER.pack(
            b"PK\1\2",
            MADE_ON_UNIX << 8 | need,
            need,
            UTF8_FLAG,
            member.method,
            0,
            _DATE,
            member.crc,
            compressed,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            kind << 16,
            offset,
        )
        + name
        + extra
    )
