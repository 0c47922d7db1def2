"""Write a reproducible ZIP; read a ZIP that may be hostile.

The format is PKWARE's APPNOTE 6.3.10, of which a package uses little: stored and deflated members, UTF-8
names, ZIP64 where sizes ask for it. `zipfile` is not used: it believes what the central directory says
(DESIGN lists what its `testzip()` lets pass), cannot copy a compressed member, and costs the launcher its import.

The reader keeps one rule: local headers, central directory and end record must tell one story. Whatever
they disagree about is refused before a byte is inflated, and inflating stops at the announced size.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .manifest import (
    MAX_FILES,
    MAX_PATH_BYTES,
    FileEntry,
    Manifest,
    UnsafePath,
    check_path,
    check_tree,
    link_entry,
    nfc,
)
from .problem import Problem

PARTIAL_COMMENT = b"nuitkal-partial"  # of a ZIP that holds only the contents which a server lacked
CHUNK = 2**18
STORED, DEFLATED = 0, 8
LEVEL = 6  # of deflate: 9 saves 0.6 % on the standard library and libpython, and takes three times as long

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_MAX_COMMENT = 2**16 - 1
_MAX_TAIL = _END64.size + _LOCATOR64.size + _END.size + _MAX_COMMENT
_MAX_DIRECTORY = 2**26  # 200,000 entries of 300 bytes
_DESCRIPTOR, _UTF8 = 0x8, 0x800
_KNOWN_FLAGS = (
    _DESCRIPTOR | _UTF8 | 0x6
)  # bits 1 and 2: how hard deflate tried. The others encrypt, mask or patch
_DATE = (
    (1980 - 1980) << 9 | 1 << 5 | 1
)  # 1980-01-01, the earliest there is: packages do not depend on when
_UNIX = 3
_LIMIT32, _LIMIT16 = 0xFFFFFFFF, 0xFFFF

# A bomb has both: members that together have this size, each above this ratio. Deflate's best is 1,032:1, and real
# programs hold small files of zeros.
BOMB_SIZE = 100 * 2**20
BOMB_RATIO = 200
MAX_TOTAL = 2**40


class ArchiveError(Problem):
    """The ZIP is damaged, or made to deceive."""


class Member(NamedTuple):
    """A file or link in a ZIP; `offset` is that of its local header, `end` where the next thing starts."""

    path: str
    mode: str
    is_link: bool
    method: int
    crc: int
    compressed_size: int
    size: int
    offset: int
    end: int


class Directory(NamedTuple):
    """What a ZIP holds; `start` is the offset of its central directory."""

    members: Tuple[Member, ...]
    comment: bytes
    start: int


class _End(NamedTuple):
    entries: int
    size: int
    start: int
    comment: bytes
    offset: int  # where the directory must end


# --- reading ------------------------------------------------------------------------------------


def read_directory(package: BinaryIO) -> Directory:
    """The members of a whole ZIP, checked against each member's local header.

    Raises:
        ArchiveError: anything in its structure disagrees, is encrypted, a bomb, or of an unknown method.
        UnsafePath: a name that `manifest.check_path` refuses, or names that collide.
    """
    size = package.seek(0, 2)
    package.seek(max(0, size - _MAX_TAIL))
    end = _read_end(package.read(), size)
    if end is None:
        raise ArchiveError("the ZIP file was cut short while it was read")
    package.seek(end.start)
    members = _read_central(package.read(), size, end)
    for member in members:
        _local_data(package, member, 0)
    return _directory(members, end)


def read_tail(tail: bytes, package_size: int) -> Optional[Directory]:
    """The members according to a package's last bytes, or None when these do not reach back far enough.

    The local headers are out of sight here; `open_member` still checks all that it inflates.
    """
    end = _read_end(tail, package_size)
    if end is None or end.start < package_size - len(tail):
        return None
    return _directory(_read_central(tail, package_size, end), end)


def _directory(members: List[Member], end: _End) -> Directory:
    return Directory(
        tuple(member for member in members if not member.path.endswith("/")), end.comment, end.start
    )


def _read_end(tail: bytes, package_size: int) -> Optional[_End]:
    """The end record, with the values of its ZIP64 form where there is one; None when `tail` may begin behind it."""
    cut = len(tail) < min(package_size, _MAX_TAIL)
    at = tail.rfind(
        b"PK\5\6", max(0, len(tail) - _END.size - _MAX_COMMENT), max(0, len(tail) - _END.size + 4)
    )
    at64 = at - _LOCATOR64.size - _END64.size
    if cut and (at < 0 or at64 < 0):
        return None
    if at < 0:
        raise ArchiveError("this is not a ZIP file, or it was cut short")
    _, disk, disk2, here, entries, size, start, comment_size = _END.unpack_from(tail, at)
    comment = tail[at + _END.size :]
    offset = package_size - len(tail) + at
    if comment_size != len(comment):
        raise ArchiveError("the ZIP file does not end where its end record says")
    locator = at - _LOCATOR64.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        _, _, end64, _ = _LOCATOR64.unpack_from(tail, locator)
        offset += at64 - at
        if at64 < 0 or end64 != offset or not tail.startswith(b"PK\6\6", at64):
            raise ArchiveError("the ZIP file's ZIP64 end record is not where it should be")
        narrow = (here, _LIMIT16), (entries, _LIMIT16), (size, _LIMIT32), (start, _LIMIT32)
        _, length, _, _, disk, disk2, here, entries, size, start = _END64.unpack_from(tail, at64)
        if length != _END64.size - 12 or any(
            value not in (wide, limit)
            for (value, limit), wide in zip(narrow, (here, entries, size, start))
        ):
            raise ArchiveError("the ZIP file's two end records contradict each other")
    if (
        disk
        or disk2
        or here != entries
        or start + size != offset
        or entries > MAX_FILES
        or size > _MAX_DIRECTORY
    ):
        raise ArchiveError(
            "the ZIP file's end record has a false count, size or offset, or more than 200,000 entries in 64 MiB"
        )
    return _End(entries, size, start, comment, offset)


def _read_central(tail: bytes, package_size: int, end: _End) -> List[Member]:
    at = end.start - (package_size - len(tail))
    stop = at + end.size
    members: List[Member] = []
    for _ in range(end.entries):
        if at + _CENTRAL.size > stop or not tail.startswith(b"PK\1\2", at):
            raise ArchiveError(
                "the ZIP file's central directory is damaged or has fewer entries than it says"
            )
        fields = _CENTRAL.unpack_from(tail, at)
        name_at = at + _CENTRAL.size
        extra_at = name_at + fields[10]
        comment_at = extra_at + fields[11]
        members.append(_member(fields, tail[name_at:extra_at], tail[extra_at:comment_at]))
        at = comment_at + fields[12]
    if at != stop:
        raise ArchiveError("the ZIP file's central directory has more in it than it says")
    return _placed(members, end.start)


def _member(fields: Tuple[int, ...], raw_name: bytes, extra: bytes) -> Member:
    """One entry of the central directory; a folder keeps its final slash for now."""
    (
        _,
        made_by,
        _,
        flags,
        method,
        _,
        _,
        crc,
        compressed,
        size,
        _,
        _,
        _,
        disk,
        _,
        attributes,
        offset,
    ) = fields
    path = _name(raw_name)
    size, compressed, offset = _zip64(extra, (size, compressed, offset), path)
    kind = attributes >> 16 if made_by >> 8 == _UNIX else 0
    if flags & ~_KNOWN_FLAGS or method not in (STORED, DEFLATED) or disk:
        raise ArchiveError(
            "{path!r} is encrypted or compressed with method {method}; only stored and deflated entries are read",
            path=path,
            method=method,
        )
    if stat.S_IFMT(kind) not in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR) or (
        stat.S_ISDIR(kind) and not path.endswith("/")
    ):
        raise ArchiveError("{path!r} is a device, a socket or another special file", path=path)
    if method == STORED and size != compressed:
        raise ArchiveError(
            "{path!r} claims {size} bytes in {compressed}: a bomb, or a false size",
            path=path,
            size=size,
            compressed=compressed,
        )
    mode = "755" if kind & 0o111 or stat.S_ISLNK(kind) else "644"
    return Member(path, mode, stat.S_ISLNK(kind), method, crc, compressed, size, offset, 0)


def _name(raw: bytes) -> str:
    """The member's path. UTF-8 whether flagged or not: guessing a code page would install names nobody chose."""
    if (
        len(raw) > MAX_PATH_BYTES
    ):  # before normalising, which takes quadratic time for combining characters
        raise UnsafePath("{path!r} is longer than 1,024 bytes", path=raw[:100])
    try:
        name = nfc(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnsafePath(
            "{path!r} is not UTF-8; pack the files with UTF-8 names", path=raw[:100]
        ) from error
    check_path(name[:-1] if name.endswith("/") else name)
    return name


def _zip64(extra: bytes, values: Tuple[int, int, int], path: str) -> Tuple[int, int, int]:
    """Size, compressed size and offset, each from the ZIP64 extra field (APPNOTE 4.5.3) where it does not fit."""
    found: Dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        found.setdefault(kind, extra[at + 4 : at + 4 + length])
        at += 4 + length
    wide = found.get(1, b"")
    result = []
    for value in values:
        if value == _LIMIT32:
            if len(wide) < 8:
                raise ArchiveError("{path!r} lacks its ZIP64 size or offset", path=path)
            value, wide = struct.unpack_from("<Q", wide)[0], wide[8:]
        result.append(value)
    return result[0], result[1], result[2]


def _placed(members: List[Member], start: int) -> List[Member]:
    """The members in the file's order, each with its `end`; the rules that hold between members are checked here."""
    ordered = sorted(members, key=lambda member: member.offset)
    ends = [member.offset for member in ordered[1:]] + [start]
    placed = [member._replace(end=end) for member, end in zip(ordered, ends)]
    dense = 0
    for member in placed:
        dense += _dense_size(member)
        if dense > BOMB_SIZE:
            raise ArchiveError(
                "{path!r} claims {size} bytes in {compressed}: a bomb, or a false size",
                path=member.path,
                size=member.size,
                compressed=member.compressed_size,
            )
        if member.offset + _LOCAL.size + member.compressed_size > member.end:
            raise ArchiveError("{path!r} overlaps what comes after it", path=member.path)
        if member.size and member.path.endswith("/"):
            raise ArchiveError("the folder {path!r} has contents", path=member.path)
    if (ordered[0].offset if ordered else start) != 0:
        raise ArchiveError("something stands before the first entry of the ZIP file")
    total, compressed = (
        sum(member.size for member in members),
        sum(member.compressed_size for member in members),
    )
    if total > MAX_TOTAL:
        raise ArchiveError(
            "the ZIP file claims {size} bytes in {compressed}: a bomb, or false sizes",
            size=total,
            compressed=compressed,
        )
    check_tree(
        [
            FileEntry(member.path, 0, "", member.mode)
            for member in members
            if not member.path.endswith("/")
        ],
        [member.path[:-1] for member in members if member.path.endswith("/")],
    )
    return placed


def _dense_size(member: Member) -> int:
    """The size of a member that is packed as tightly as a bomb; of any other 0."""
    return member.size if member.size > member.compressed_size * BOMB_RATIO else 0


def _local_data(package: BinaryIO, member: Member, base: int) -> int:
    """Where the member's bytes start; its local header must say what the central directory said."""
    package.seek(member.offset - base)
    header = package.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise ArchiveError("{path!r} is not where the ZIP file's directory says", path=member.path)
    _, _, flags, method, _, _, crc, compressed, size, name_size, extra_size = _LOCAL.unpack(header)
    name, extra = package.read(name_size), package.read(extra_size)
    start: int = member.offset + _LOCAL.size + name_size + extra_size
    if _LIMIT32 in (size, compressed):
        size, compressed, _ = _zip64(extra, (size, compressed, 0), member.path)
    told = (crc, compressed, size)
    same = told == (member.crc, member.compressed_size, member.size) or (
        flags & _DESCRIPTOR and told == (0, 0, 0)
    )
    if (
        not same
        or method != member.method
        or flags & ~_KNOWN_FLAGS
        or _name(name) != member.path
        or not _fills(package, member, flags, start + member.compressed_size, base)
    ):
        raise ArchiveError(
            "{path!r} has a local header that contradicts the ZIP file's directory",
            path=member.path,
        )
    return start - base


def _fills(package: BinaryIO, member: Member, flags: int, after: int, base: int) -> bool:
    """Is the member's end right after its data, or after a true descriptor (APPNOTE 4.3.9), which a streaming writer adds?"""
    gap = member.end - after
    if gap == 0 or not flags & _DESCRIPTOR or gap not in (12, 16, 20, 24):
        return gap == 0
    package.seek(after - base)
    told = package.read(gap)
    numbers = struct.pack("<I2Q", member.crc, member.compressed_size, member.size)
    if gap < 20:
        numbers = numbers[:8] + numbers[12:16]
    return told in (numbers, b"PK\7\b" + numbers)


def open_member(package: BinaryIO, member: Member, base: int = 0) -> Iterator[bytes]:
    """The member's contents in chunks; `base` is the offset in the ZIP of the first byte of `package`.

    Raises:
        ArchiveError: the contents do not have the announced size and CRC; at most that size was yielded.
    """
    package.seek(_local_data(package, member, base))
    inflate = zlib.decompressobj(-15) if member.method == DEFLATED else None
    crc, size = 0, 0
    for chunk in _inflated(package, member, inflate):
        crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        if size > member.size:
            break
        yield chunk
    if (
        size != member.size
        or crc != member.crc
        or (inflate and (not inflate.eof or inflate.unused_data))
    ):
        raise ArchiveError(
            "the contents of {path!r} do not have the size and checksum that the ZIP file says",
            path=member.path,
        )


def _inflated(
    package: BinaryIO, member: Member, inflate: Optional[zlib._Decompress]
) -> Iterator[bytes]:
    for data in _compressed(package, member):
        if inflate is None:
            yield data
            continue
        if inflate.eof:
            raise ArchiveError("the contents of {path!r} are damaged", path=member.path)
        pending = True
        while pending:
            try:
                chunk = inflate.decompress(data, CHUNK)
            except zlib.error as error:
                raise ArchiveError(
                    "the contents of {path!r} are damaged", path=member.path
                ) from error
            data = inflate.unconsumed_tail
            pending = not inflate.eof and (
                data != b"" or len(chunk) == CHUNK
            )  # zlib may hold output back when all input is taken
            if chunk:
                yield chunk


def _compressed(package: BinaryIO, member: Member) -> Iterator[bytes]:
    left = member.compressed_size
    while left:
        data = package.read(min(CHUNK, left))
        if not data:
            raise ArchiveError("the ZIP file ends in the middle of {path!r}", path=member.path)
        left -= len(data)
        yield data


def read_tree(package: BinaryIO, app: str, version: str) -> Manifest:
    """The manifest of a package that came without one: every member is read and hashed.

    Raises:
        ArchiveError, UnsafePath: as `read_directory` and `open_member`; also for a link that leaves the tree.
    """
    files = [read_entry(package, member) for member in read_directory(package).members]
    check_tree(files)
    return Manifest(app, version, tuple(sorted(files)))


def read_entry(package: BinaryIO, member: Member) -> FileEntry:
    """What a manifest says of the member, whose contents are read and hashed."""
    if member.is_link:
        return link_entry(member.path, read_link(package, member))
    digest = hashlib.sha256()
    for chunk in open_member(package, member):
        digest.update(chunk)
    return FileEntry(member.path, member.size, digest.hexdigest(), member.mode)


def read_link(package: BinaryIO, member: Member, base: int = 0) -> str:
    """The target of a link member."""
    if member.size > 4096:
        raise ArchiveError(
            "the link {path!r} has a target of more than 4,096 bytes", path=member.path
        )
    try:
        return b"".join(open_member(package, member, base)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnsafePath(
            "the link {path!r} has a target that is not UTF-8", path=member.path
        ) from error


# --- writing ------------------------------------------------------------------------------------


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
        if member.compressed_size >= member.size or self._dense + _dense_size(member) > BOMB_SIZE:
            source.seek(start)
            self._out.seek(offset)
            self._out.truncate()
            member = self._write(member._replace(method=STORED), entry, source, None)
        return self._note(member)

    def _note(self, member: Member) -> Member:
        self._members.append(member)
        self._dense += _dense_size(member)
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
        package.seek(_local_data(package, member, 0))
        chunks = _compressed(package, member)
        if (
            self._dense + _dense_size(member) > BOMB_SIZE
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
        if max(start, size) >= _LIMIT32 or count >= _LIMIT16:
            self._out.write(
                _END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
            )
            self._out.write(_LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
        short = min(count, _LIMIT16)
        self._out.write(
            _END.pack(
                b"PK\5\6",
                0,
                0,
                short,
                short,
                min(size, _LIMIT32),
                min(start, _LIMIT32),
                len(self._comment),
            )
        )
        self._out.write(self._comment)


def _content_size(entry: FileEntry) -> int:
    return entry.size if entry.link is None else len(entry.link.encode("utf-8"))


def _local_header(member: Member) -> bytes:
    name = member.path.encode("utf-8")
    # Decided by the size, before deflate has had its chance to make it a little larger: the header is written twice.
    wide = member.size >= _LIMIT32 - 2**24 or member.compressed_size >= _LIMIT32
    extra = struct.pack("<2H2Q", 1, 16, member.size, member.compressed_size) if wide else b""
    size, compressed = (_LIMIT32, _LIMIT32) if wide else (member.size, member.compressed_size)
    return (
        _LOCAL.pack(
            b"PK\3\4",
            45 if wide else 20,
            _UTF8,
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
    wide = [value for value in values if value >= _LIMIT32]
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, compressed, offset = (min(value, _LIMIT32) for value in values)
    kind = stat.S_IFLNK | 0o777 if member.is_link else stat.S_IFREG | int(member.mode, 8)
    need = 45 if wide else 20
    return (
        _CENTRAL.pack(
            b"PK\1\2",
            _UNIX << 8 | need,
            need,
            _UTF8,
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
