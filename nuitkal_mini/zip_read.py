"""Read a ZIP that may be hostile.

The format is PKWARE's APPNOTE 6.3.10, of which a package uses little: stored and deflated members,
UTF-8 names, ZIP64 where sizes ask for it. `zipfile` is not used: it believes what the central
directory says (DESIGN.md lists what its `testzip()` lets pass) and costs the launcher its import.

One rule: local headers, central directory and end record must say the same. Whatever they disagree
about is refused before a byte is inflated, and inflating stops at the announced size.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .entries import MAX_FILES, FileEntry, check_tree, link_entry
from .manifest import Manifest
from .paths import MAX_PATH_BYTES, UnsafePath, check_path, nfc
from .problem import Problem

PARTIAL_COMMENT = b"nuitkal-partial"  # of a ZIP that holds only the contents which a server lacked
CHUNK = 2**18
STORED, DEFLATED = 0, 8

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
END_RECORD = struct.Struct("<4s4H2IH")
END64_RECORD = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
_MAX_COMMENT = 2**16 - 1
_MAX_TAIL = END64_RECORD.size + LOCATOR64.size + END_RECORD.size + _MAX_COMMENT
_MAX_DIRECTORY = 2**26  # 200,000 entries of 300 bytes
_DESCRIPTOR, UTF8_FLAG = 0x8, 0x800
_KNOWN_FLAGS = (
    _DESCRIPTOR | UTF8_FLAG | 0x6
)  # bits 1 and 2: how hard deflate tried. The others encrypt, mask or patch
MADE_ON_UNIX = 3
LIMIT32, LIMIT16 = 0xFFFFFFFF, 0xFFFF

# A bomb has both: members that together have this size, each above this ratio. Deflate's best is
# 1,032:1, and real programs hold small files of zeros.
BOMB_SIZE = 100 * 2**20
BOMB_RATIO = 200
MAX_TOTAL = 2**40


class ArchiveError(Problem):
    """The ZIP is damaged, or made to deceive."""


class Member(NamedTuple):
    """A file or link in a ZIP: its bytes go from `offset` (of its local header) to `end`."""

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


def read_directory(package: BinaryIO) -> Directory:
    """The members of a whole ZIP, checked against each member's local header.

    Raises:
        ArchiveError: anything in its structure disagrees, is encrypted, a bomb, or of an unknown
        method. UnsafePath: a name that `manifest.check_path` refuses, or names that collide.
    """
    size = package.seek(0, 2)
    package.seek(max(0, size - _MAX_TAIL))
    end = _read_end(package.read(), size)
    if end is None:
        raise ArchiveError("the ZIP file was cut short while it was read")
    package.seek(end.start)
    members = _read_central(package.read(), size, end)
    for member in members:
        find_data(package, member, 0)
    return _directory(members, end)


def read_tail(tail: bytes, package_size: int) -> Optional[Directory]:
    """The members according to a package's last bytes; None when these are too few.

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
    """The end record, or its ZIP64 form; None when `tail` may begin behind it."""
    cut = len(tail) < min(package_size, _MAX_TAIL)
    at = tail.rfind(
        b"PK\5\6",
        max(0, len(tail) - END_RECORD.size - _MAX_COMMENT),
        max(0, len(tail) - END_RECORD.size + 4),
    )
    at64 = at - LOCATOR64.size - END64_RECORD.size
    if cut and (at < 0 or at64 < 0):
        return None
    if at < 0:
        raise ArchiveError("this is not a ZIP file, or it was cut short")
    _, disk, disk2, here, entries, size, start, comment_size = END_RECORD.unpack_from(tail, at)
    comment = tail[at + END_RECORD.size :]
    offset = package_size - len(tail) + at
    if comment_size != len(comment):
        raise ArchiveError("the ZIP file does not end where its end record says")
    locator = at - LOCATOR64.size
    if locator >= 0 and tail.startswith(b"PK\6\7", locator):
        _, _, end64, _ = LOCATOR64.unpack_from(tail, locator)
        offset += at64 - at
        if at64 < 0 or end64 != offset or not tail.startswith(b"PK\6\6", at64):
            raise ArchiveError("the ZIP file's ZIP64 end record is not where it should be")
        narrow = (here, LIMIT16), (entries, LIMIT16), (size, LIMIT32), (start, LIMIT32)
        _, length, _, _, disk, disk2, here, entries, size, start = END64_RECORD.unpack_from(
            tail, at64
        )
        if length != END64_RECORD.size - 12 or any(
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
            "the ZIP file's end record has a false count, size or offset, "
            "or more than 200,000 entries in 64 MiB"
        )
    return _End(entries, size, start, comment, offset)


def _read_central(tail: bytes, package_size: int, end: _End) -> List[Member]:
    at = end.start - (package_size - len(tail))
    stop = at + end.size
    members: List[Member] = []
    for _ in range(end.entries):
        if at + CENTRAL_HEADER.size > stop or not tail.startswith(b"PK\1\2", at):
            raise ArchiveError(
                "the ZIP file's central directory is damaged or has fewer entries than it says"
            )
        fields = CENTRAL_HEADER.unpack_from(tail, at)
        name_at = at + CENTRAL_HEADER.size
        extra_at = name_at + fields[10]
        comment_at = extra_at + fields[11]
        members.append(_member(fields, tail[name_at:extra_at], tail[extra_at:comment_at]))
        at = comment_at + fields[12]
    if at != stop:
        raise ArchiveError("the ZIP file's central directory has more in it than it says")
    return _placed(members, end.start)


def _member(fields: Tuple[int, ...], raw_name: bytes, extra: bytes) -> Member:
    """One entry of the central directory; a folder keeps its final slash for now."""
    _, made_by, _, flags, method, _, _, crc, compressed, size = fields[:10]
    disk, _, attributes, offset = fields[13:]  # before them: the lengths of name, extra, comment
    path = _name(raw_name)
    size, compressed, offset = _zip64(extra, (size, compressed, offset), path)
    kind = attributes >> 16 if made_by >> 8 == MADE_ON_UNIX else 0
    if flags & ~_KNOWN_FLAGS or method not in (STORED, DEFLATED) or disk:
        raise ArchiveError(
            "{path!r} is encrypted or compressed with method {method}; "
            "only stored and deflated entries are read",
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
    """The member's path, in UTF-8 whether flagged or not.

    Guessing a code page would install names that nobody chose.
    """
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
    """Size, compressed size and offset, from the ZIP64 extra field where they do not fit.

    APPNOTE 4.5.3.
    """
    found: Dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        found.setdefault(kind, extra[at + 4 : at + 4 + length])
        at += 4 + length
    wide = found.get(1, b"")
    result = []
    for value in values:
        if value == LIMIT32:
            if len(wide) < 8:
                raise ArchiveError("{path!r} lacks its ZIP64 size or offset", path=path)
            value, wide = struct.unpack_from("<Q", wide)[0], wide[8:]
        result.append(value)
    return result[0], result[1], result[2]


def _placed(members: List[Member], start: int) -> List[Member]:
    """The members in the file's order, each with its `end`, after checking them together."""
    ordered = sorted(members, key=lambda member: member.offset)
    ends = [member.offset for member in ordered[1:]] + [start]
    placed = [member._replace(end=end) for member, end in zip(ordered, ends)]
    dense = 0
    for member in placed:
        dense += dense_size(member)
        if dense > BOMB_SIZE:
            raise ArchiveError(
                "{path!r} claims {size} bytes in {compressed}: a bomb, or a false size",
                path=member.path,
                size=member.size,
                compressed=member.compressed_size,
            )
        if member.offset + LOCAL_HEADER.size + member.compressed_size > member.end:
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


def dense_size(member: Member) -> int:
    """The size of a member that is packed as tightly as a bomb; of any other 0."""
    return member.size if member.size > member.compressed_size * BOMB_RATIO else 0


def find_data(package: BinaryIO, member: Member, base: int) -> int:
    """Where the member's bytes start; its local header must say what the central directory said."""
    package.seek(member.offset - base)
    header = package.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise ArchiveError("{path!r} is not where the ZIP file's directory says", path=member.path)
    _, _, flags, method, _, _, crc, compressed, size, name_size, extra_size = LOCAL_HEADER.unpack(
        header
    )
    name, extra = package.read(name_size), package.read(extra_size)
    start: int = member.offset + LOCAL_HEADER.size + name_size + extra_size
    if LIMIT32 in (size, compressed):
        size, compressed, _ = _zip64(extra, (size, compressed, 0), member.path)
    # Who streams does not know them yet, and announces a descriptor behind the data (APPNOTE
    # 4.4.4). Tools write what they know already: Info-ZIP the size, others nothing.
    streamed = flags & _DESCRIPTOR
    facts = (crc, member.crc), (compressed, member.compressed_size), (size, member.size)
    if (
        any(told != known and not (streamed and told == 0) for told, known in facts)
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
    """Whether the member ends with its data, or with a true descriptor (APPNOTE 4.3.9)."""
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
    """The member's contents in chunks; `package` begins at the ZIP's offset `base`.

    Raises:
        ArchiveError: the contents do not have the announced size and CRC; at most that size was
        yielded.
    """
    package.seek(find_data(package, member, base))
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
    for data in compressed_chunks(package, member):
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


def compressed_chunks(package: BinaryIO, member: Member) -> Iterator[bytes]:
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
        ArchiveError, UnsafePath: as `read_directory` and `open_member`; also for a link that leaves
        the tree.
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
