"""Packages: every ZIP tool reads ours, we read those of others, deceptive ones are refused."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
import stat
import struct
import subprocess
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini import zip_write
from nuitkal_mini.entries import FileEntry
from nuitkal_mini.paths import UnsafePath
from nuitkal_mini.problem import Problem
from nuitkal_mini.zip_read import (
    CHUNK,
    DEFLATED,
    PARTIAL_COMMENT,
    STORED,
    ArchiveError,
    Directory,
    Member,
    open_member,
    read_directory,
    read_link,
    read_tail,
    read_tree,
)
from nuitkal_mini.zip_write import LEVEL, PackageWriter, _local_header

from .support import peak_kilobytes
from .trees import Tree, entries_of, manifest_of, trees, write_tree

REFUSALS = (ArchiveError, UnsafePath)


# --- large files that do not compress -------------------------------------------------------------


def count_deflated(monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """The sizes of the chunks that are deflated from now on."""
    sizes: List[int] = []
    make = zip_write._deflater

    class Counting:
        def __init__(self) -> None:
            self.deflate = make()

        def compress(self, data: bytes) -> bytes:
            sizes.append(len(data))
            return self.deflate.compress(data)

        def flush(self) -> bytes:
            return self.deflate.flush()

    monkeypatch.setattr(zip_write, "_deflater", Counting)
    return sizes


def add(data: bytes, before: bytes = b"") -> Member:
    entry = FileEntry("a", len(data), hashlib.sha256(data).hexdigest(), "644")
    source = io.BytesIO(before + data)
    source.seek(len(before))
    return PackageWriter(io.BytesIO()).add(entry, source)


def test_a_large_file_that_does_not_compress_is_sampled_and_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = count_deflated(monkeypatch)
    noise = random.Random(1).getrandbits(40 * 2**20).to_bytes(5 * 2**20, "big")
    assert add(noise, b"before").method == STORED and sum(sizes) == 2**20
    text = noise[: 3 * 2**20] + bytes(2 * 2**20)
    assert add(text).method == DEFLATED  # a part of it compresses


def test_a_small_file_is_deflated_whole_before_it_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = count_deflated(monkeypatch)
    assert (
        add(random.Random(1).getrandbits(800_000).to_bytes(100_000, "big")).method == STORED
        and sum(sizes) == 100_000
    )


# --- ZIPs made by hand, true or false in each field -----------------------------------------------


class Part(NamedTuple):
    """A member to be; `local` and `central` override fields of its two headers."""

    name: Union[str, bytes] = "a"
    data: bytes = b"hello"
    method: int = STORED
    mode: int = stat.S_IFREG | 0o644
    local: Dict[str, Any] = {}
    central: Dict[str, Any] = {}
    both: Dict[str, Any] = {}
    compressed: Optional[bytes] = None  # in place of the data's true form
    behind: bytes = b""  # after the data, where a descriptor stands


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def build(
    *parts: Part, before: bytes = b"", comment: bytes = b"", gap: bytes = b"", **end: Any
) -> bytes:
    out, central = bytearray(before), bytearray()
    for part in parts:
        raw = (
            part.name.encode("utf-8", "surrogatepass") if isinstance(part.name, str) else part.name
        )
        body = (
            part.compressed
            if part.compressed is not None
            else deflated(part.data)
            if part.method == DEFLATED
            else part.data
        )
        fields: Dict[str, Any] = dict(
            need=20,
            flags=0x800,
            method=part.method,
            time=0,
            date=33,
            crc=zlib.crc32(part.data),
            compressed=len(body),
            size=len(part.data),
            name=raw,
            extra=b"",
            made=3 << 8 | 20,
            comment=b"",
            disk=0,
            inner=0,
            outer=part.mode << 16,
            offset=len(out),
        )
        fields.update(part.both)
        near, far = {**fields, **part.local}, {**fields, **part.central}
        out += (
            struct.pack(
                "<4s5H3I2H",
                near.get("magic", b"PK\3\4"),
                near["need"],
                near["flags"],
                near["method"],
                near["time"],
                near["date"],
                near["crc"],
                near["compressed"],
                near["size"],
                len(near["name"]),
                len(near["extra"]),
            )
            + near["name"]
            + near["extra"]
            + body
            + part.behind
        )
        central += (
            struct.pack(
                "<4s6H3I5H2I",
                far.get("magic", b"PK\1\2"),
                far["made"],
                far["need"],
                far["flags"],
                far["method"],
                far["time"],
                far["date"],
                far["crc"],
                far["compressed"],
                far["size"],
                len(far["name"]),
                len(far["extra"]),
                len(far["comment"]),
                far["disk"],
                far["inner"],
                far["outer"],
                far["offset"],
            )
            + far["name"]
            + far["extra"]
            + far["comment"]
        )
    out += gap
    tail: Dict[str, Any] = dict(
        disk=0,
        disk2=0,
        here=len(parts),
        entries=len(parts),
        size=len(central),
        start=len(out),
        length=len(comment),
        extra=b"",
    )
    tail.update(end)
    out += central + tail["extra"]
    out += struct.pack(
        "<4s4H2IH",
        b"PK\5\6",
        tail["disk"],
        tail["disk2"],
        tail["here"],
        tail["entries"],
        tail["size"],
        tail["start"],
        tail["length"],
    )
    return bytes(out) + comment


def zip64_end(
    entries: int, size: int, start: int, length: int = 44, at: Optional[int] = None
) -> bytes:
    return struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", length, 45, 45, 0, 0, entries, entries, size, start
    ) + struct.pack("<4sIQI", b"PK\6\7", 0, start + size if at is None else at, 1)


WIDE = 0xFFFFFFFF
SMALL = Part()
CENTRAL_SIZE = 47  # of SMALL's entry in the directory
START = 36  # where the directory of SMALL alone begins


def read_all(data: bytes) -> Tree:
    """Every member, read to its end, as a tree."""
    package = io.BytesIO(data)
    tree: Tree = {}
    for member in read_directory(package).members:
        if member.is_link:
            tree[member.path] = read_link(package, member)
        else:
            tree[member.path] = (b"".join(open_member(package, member)), member.mode)
    return tree


def packed(tree: Tree, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    writer = PackageWriter(out, comment)
    for entry in entries_of(tree):
        item = tree[entry.path]
        writer.add(entry, io.BytesIO(item.encode("utf-8") if isinstance(item, str) else item[0]))
    writer.close()
    return out.getvalue()


# --- what we write --------------------------------------------------------------------------------


@given(trees(), st.sampled_from([b"", PARTIAL_COMMENT]))
def test_what_we_write_we_read(tree: Tree, comment: bytes) -> None:
    data = packed(tree, comment)
    directory = read_directory(io.BytesIO(data))
    assert directory.comment == comment
    assert read_all(data) == tree
    assert read_tree(io.BytesIO(data), "app", "1.0.0") == manifest_of(tree)
    assert [0, *(member.end for member in directory.members)] == [
        *(member.offset for member in directory.members),
        directory.start,
    ]


@given(trees())
def test_what_we_write_zipfile_reads(tree: Tree) -> None:
    with zipfile.ZipFile(io.BytesIO(packed(tree, b"note"))) as package:
        assert package.testzip() is None
        assert package.comment == b"note"
        read: Tree = {}
        for info in package.infolist():
            kind = info.external_attr >> 16
            read[info.filename] = (
                package.read(info).decode("utf-8")
                if stat.S_ISLNK(kind)
                else (package.read(info), f"{kind & 0o777:o}")
            )
        assert read == tree


def test_the_same_entries_give_the_same_bytes_and_no_date() -> None:
    tree: Tree = {"a": (b"x" * 1000, "644"), "b": (b"y", "755"), "c": "a"}
    assert packed(tree) == packed(dict(reversed(list(tree.items()))))
    with zipfile.ZipFile(io.BytesIO(packed(tree))) as package:
        assert {info.date_time for info in package.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_deflate_would_enlarge_is_stored() -> None:
    noise = random.Random(1).getrandbits(8 * 400_000).to_bytes(400_000, "big")
    package = packed(
        {"noise": (noise, "644"), "zeros": (bytes(400_000), "644"), "empty": (b"", "644")}
    )
    methods = {member.path: member.method for member in read_directory(io.BytesIO(package)).members}
    assert methods == {"noise": STORED, "zeros": DEFLATED, "empty": STORED}


@pytest.mark.parametrize(
    "size", [*range(CHUNK + 245, CHUNK + 260), CHUNK - 1, CHUNK, 2 * CHUNK + 254]
)
def test_zlib_may_hold_back_the_last_bytes_when_all_input_is_taken(size: int) -> None:
    tree: Tree = {"a": (b"\7" * size, "644")}
    assert read_all(packed(tree)) == tree


def test_contents_that_are_not_the_entrys_are_not_packed() -> None:
    entry = FileEntry("lib/a", 5, hashlib.sha256(b"hello").hexdigest(), "644")
    for contents in (b"hell", b"hello!", b"jello"):
        with pytest.raises(ArchiveError, match="'lib/a' changed"):
            PackageWriter(io.BytesIO()).add(entry, io.BytesIO(contents))


@given(trees())
def test_copied_members_are_the_same_bytes_under_another_path_and_mode(tree: Tree) -> None:
    package = io.BytesIO(packed(tree))
    entries = {entry.path: entry for entry in entries_of(tree)}
    out = io.BytesIO()
    writer = PackageWriter(out)
    for member in reversed(read_directory(package).members):
        entry = entries[member.path]
        writer.copy(entry._replace(path="new/" + entry.path, mode="755"), member, package)
    writer.close()
    moved = {
        "new/" + path: item if isinstance(item, str) else (item[0], "755")
        for path, item in tree.items()
    }
    assert read_all(out.getvalue()) == moved
    with zipfile.ZipFile(out) as copied:
        assert copied.testzip() is None


def test_a_copied_member_leaves_its_descriptor_and_extra_fields_behind() -> None:
    source = io.BytesIO(
        build(
            Part(
                both={"flags": 0x808},
                local={"extra": b"ux\0\0"},
                behind=struct.pack("<4s3I", b"PK\7\b", zlib.crc32(b"hello"), 5, 5),
            )
        )
    )
    out = io.BytesIO()
    writer = PackageWriter(out)
    writer.copy(FileEntry("a", 5, "", "644"), read_directory(source).members[0], source)
    writer.close()
    assert out.getvalue() == packed({"a": (b"hello", "644")})


def test_a_package_whose_member_was_cut_cannot_be_copied() -> None:
    source = io.BytesIO(packed({"lib/a": (b"hello", "644")}))
    member = read_directory(source).members[0]
    with pytest.raises(ArchiveError, match="'lib/a'"):
        PackageWriter(io.BytesIO()).copy(
            FileEntry("lib/a", 5, "", "644"), member, io.BytesIO(source.getvalue()[:37])
        )


@pytest.mark.parametrize("size", [2**32 - 2**24 - 1, 2**32 - 2**24, 2**32 - 1, 2**32, 2**33])
def test_the_local_header_keeps_its_length_when_it_is_written_again_with_the_compressed_size(
    size: int,
) -> None:
    unknown = Member("a", "644", False, DEFLATED, 0, 0, size, 0, 0)
    for compressed in (1, size, size + size // 1000):
        assert len(_local_header(unknown._replace(compressed_size=compressed))) == len(
            _local_header(unknown)
        )


def test_beyond_4_gib_the_directory_is_zip64_and_both_readers_agree(tmp_path: Path) -> None:
    """A real sparse file: one stored member of 4 GiB of zeros, then a small one."""
    path = tmp_path / "large.zip"
    size = 2**32 + 10
    with open(path, "w+b") as out:
        writer = PackageWriter(out)
        big = Member("big", "644", False, STORED, 0xE6F0B32B, size, size, 0, 0)
        header = _local_header(big)
        out.write(header)
        out.seek(len(header) + size)
        writer._members.append(big)
        writer.add(
            FileEntry("small", 5, hashlib.sha256(b"hello").hexdigest(), "644"), io.BytesIO(b"hello")
        )
        writer.close()
        directory = read_directory(out)
        assert [(member.path, member.size) for member in directory.members] == [
            ("big", size),
            ("small", 5),
        ]
        assert b"".join(open_member(out, directory.members[1])) == b"hello"
        with zipfile.ZipFile(out) as package:
            assert package.read("small") == b"hello" and package.getinfo("big").file_size == size
        total = out.seek(0, 2)
        out.seek(total - 400)
        assert read_tail(out.read(), total) == directory


@pytest.mark.slow
def test_beyond_65535_entries_the_directory_is_zip64() -> None:
    tree: Tree = {f"{number:05}": (b"", "644") for number in range(66_000)}
    data = packed(tree)
    assert len(read_directory(io.BytesIO(data)).members) == 66_000
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        assert len(package.infolist()) == 66_000


# --- what others write ----------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """An output that cannot seek: zipfile then streams, with descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def by_zipfile(method: int, streaming: bool, wide: bool) -> bytes:
    out: Any = Pipe() if streaming else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as package:
        package.writestr("lib/", b"")
        for name, contents, mode in (
            ("lib/a.txt", b"text " * 1000, 0o644),
            ("lib/ä.sh", b"#!/bin/sh\n", 0o755),
            ("empty", b"", 0o600),
        ):
            info = zipfile.ZipInfo(name, (2025, 1, 2, 3, 4, 6))
            info.compress_type, info.external_attr = method, (stat.S_IFREG | mode) << 16
            with package.open(info, "w", force_zip64=wide) as member:
                member.write(contents)
        link = zipfile.ZipInfo("lib/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        package.writestr(link, "ä.sh")
        package.comment = b"made elsewhere"
    return bytes(out.data) if streaming else bytes(out.getvalue())


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
@pytest.mark.parametrize("streaming", [False, True], ids=["seekable", "streaming"])
@pytest.mark.parametrize("wide", [False, True], ids=["", "zip64"])
def test_what_zipfile_writes_we_read(method: int, streaming: bool, wide: bool) -> None:
    data = by_zipfile(method, streaming, wide)
    assert read_all(data) == {
        "lib/a.txt": (b"text " * 1000, "644"),
        "lib/ä.sh": (b"#!/bin/sh\n", "755"),
        "empty": (b"", "644"),
        "lib/link": "ä.sh",
    }
    assert read_directory(io.BytesIO(data)).comment == b"made elsewhere"


def test_an_empty_zip_is_read() -> None:
    assert read_directory(io.BytesIO(build())) == Directory((), b"", 0)


@pytest.mark.parametrize("known", range(8))
@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("announced", [True, False], ids=["descriptor", "none"])
def test_a_streaming_writer_leaves_out_of_the_local_header_what_it_does_not_know(
    known: int, method: int, announced: bool
) -> None:
    """Each of CRC and sizes is 0 or right with flag bit 3; without it each must be right."""
    names = ("crc", "compressed", "size")
    left_out = {name: 0 for bit, name in enumerate(names) if not known & 1 << bit}
    size = len(deflated(b"hello")) if method == DEFLATED else 5
    behind = struct.pack("<4s3I", b"PK\7\b", zlib.crc32(b"hello"), size, 5)
    flags = {"flags": 0x808} if announced else {}
    data = build(
        Part(method=method, both=flags, local=left_out, behind=behind if announced else b"")
    )
    if announced or not left_out:
        assert read_all(data) == {"a": (b"hello", "644")}
    else:
        with pytest.raises(ArchiveError, match="contradicts"):
            read_all(data)


@pytest.mark.parametrize("name", ["crc", "compressed", "size"])
def test_a_streaming_writer_does_not_lie_about_what_it_says(name: str) -> None:
    behind = struct.pack("<4s3I", b"PK\7\b", zlib.crc32(b"hello"), 5, 5)
    with pytest.raises(ArchiveError, match="contradicts"):
        read_all(build(Part(both={"flags": 0x808}, local={name: 6}, behind=behind)))


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
@pytest.mark.parametrize("options", ["-qr", "-qr0", "-qry9"])
def test_what_zip_streams_into_a_pipe_is_read(tmp_path: Path, options: str) -> None:
    tree: Tree = {
        "a": (b"hello", "644"),
        "lib/zeros": (bytes(100_000), "755"),
        "noise": (os.urandom(5000), "644"),
        "empty": (b"", "644"),
        "名字": (b"x", "644"),
    }
    write_tree(tmp_path, tree)
    shown = subprocess.run(
        ["zip", options, "-", "."], cwd=str(tmp_path), stdout=subprocess.PIPE, check=True
    )
    assert read_all(shown.stdout) == tree


def test_unusual_but_honest_zips_are_read() -> None:
    plain: Tree = {"a": (b"hello", "644")}
    descriptor = struct.pack("<3I", zlib.crc32(b"hello"), 5, 5)
    unknown = {"crc": 0, "compressed": 0, "size": 0}
    assert (
        read_all(
            build(
                Part(
                    central={"extra": struct.pack("<2H", 0x5455, 1) + b"x", "comment": b"note"},
                    local={"extra": b"ux\0\0"},
                )
            )
        )
        == plain
    )
    assert (
        read_all(build(Part(both={"made": 20, "outer": 0x20}))) == plain
    )  # by DOS, without a mode
    assert read_all(build(Part(mode=0o644))) == plain  # a mode without a kind
    for behind in (
        descriptor,
        b"PK\7\b" + descriptor,
        struct.pack("<I2Q", zlib.crc32(b"hello"), 5, 5),
        struct.pack("<4sI2Q", b"PK\7\b", zlib.crc32(b"hello"), 5, 5),
    ):
        assert read_all(build(Part(both={"flags": 0x808}, local=unknown, behind=behind))) == plain
    assert (
        read_all(build(Part(central={"size": WIDE, "extra": struct.pack("<2HQ", 1, 8, 5)})))
        == plain
    )
    assert read_all(build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START))) == plain
    assert (
        read_all(
            build(
                SMALL,
                extra=zip64_end(1, CENTRAL_SIZE, START),
                here=0xFFFF,
                entries=0xFFFF,
                size=WIDE,
                start=WIDE,
            )
        )
        == plain
    )
    assert read_all(build(Part("a\u0308"))) == {"ä": (b"hello", "644")}  # macOS decomposes
    assert read_all(build(Part("x/", b"", DEFLATED), Part("x/a"))) == {"x/a": (b"hello", "644")}


# --- hostile ones ---------------------------------------------------------------------------------

BIG = 101 * 2**20
BOMB = deflated(bytes(BIG))
NESTED = build(
    Part(
        "inner.zip",
        build(Part("bomb", b"", DEFLATED, both={"size": BIG}, compressed=BOMB)),
        DEFLATED,
    )
)

NAMES = {
    "a name cut at NUL": "a\0b",
    "parent": "../a",
    "parent within": "x/../../a",
    "absolute": "/a",
    "backslash": "a\\b",
    "drive": "C:/a",
    "drive without slash": "C:a",
    "share": "//server/a",
    "share of Windows": "\\\\server\\a",
    "device name": "x/NUL.txt",
    "trailing dot": "a.",
    "trailing space": "a ",
    "short name": "UPDATE~1",
    "empty": "",
    "only a slash": "/",
    "two slashes": "a//b",
    "dot": "./a",
    "the updater's folder": ".update/journal",
    "its version file": "local_version.json",
    "invisible": "a\u200b",
    "newline": "a\nb",
    "long": "a" * 256,
    "very long": "a/" * 30_000,
    "surrogate": "a\ud800",
    "Latin-1": b"\xe4",
    "overlong UTF-8": b"\xc0\xaf",
    "folder above": "../",
    "folder of the updater": ".backup/",
    "thousands of combining marks": "a" + "\u0301\u0323" * 15_000,
}

PAIRS = {
    "twice the same name": ("a", "a"),
    "by case": ("a", "A"),
    "by form": ("ä", "a\u0308"),
    "folders by case": ("Lib/a", "lib/b"),
    "file and folder": ("a", "a/b"),
    "file and folder entry": ("a", "a/"),
    "file and folder entry by case": ("a", "A/"),
    "folder entries by case": ("x/", "X/"),
    "sharp s": ("straße", "STRASSE"),
    "folder entry and folder by case": ("x/", "X/a"),
}

# Each: a ZIP that is false in one thing, and what the sentence must name.
FALSE: Dict[str, Any] = {
    # structure
    "nothing": (b"", "not a ZIP"),
    "no ZIP": (b"hello" * 100, "not a ZIP"),
    "a lone end record, cut": (build()[:-1], "not a ZIP"),
    "trailing garbage": (build(SMALL) + b"x", "does not end"),
    "a comment longer than told": (build(SMALL, comment=b"abc", length=2), "does not end"),
    "a comment shorter than told": (build(SMALL, comment=b"abc", length=4), "does not end"),
    "data before, offsets not moved": (b"MZ" * 50 + build(SMALL), "end record"),
    "data before, offsets moved": (build(SMALL, before=b"MZ" * 50), "before the first"),
    "data before nothing": (build(before=b"x"), "before the first"),
    "a hole before the directory": (build(SMALL, gap=b"x"), "'a'"),
    "a hole between members": (build(Part(behind=b"xx"), Part("b")), "'a'"),
    "a whole second ZIP in the comment": (build(SMALL, comment=build(Part("evil"))), "end record"),
    "a second end record in the comment": (build(SMALL, comment=build()), "end record"),
    "two ZIPs in one file, each true": (
        build(Part("evil"), before=build(SMALL, length=START + CENTRAL_SIZE + 28)),
        "before the first",
    ),
    "on another disk": (build(SMALL, disk=1), "end record"),
    "spanning disks": (build(SMALL, disk2=1), "end record"),
    "counts that differ": (build(SMALL, here=2), "end record"),
    "one entry too many": (build(SMALL, here=2, entries=2), "fewer entries"),
    "one entry too few": (build(SMALL, Part("b"), here=1, entries=1), "more in it"),
    "no entry told": (build(SMALL, here=0, entries=0), "more in it"),
    "a size one too large": (build(SMALL, size=CENTRAL_SIZE + 1), "end record"),
    "a size and start that agree on too much": (
        build(SMALL, size=CENTRAL_SIZE + 1, start=START - 1),
        "directory is damaged",
    ),
    "a size and start that agree on too little": (
        build(SMALL, size=CENTRAL_SIZE - 1, start=START + 1),
        "directory is damaged",
    ),
    "a start of the last byte": (build(SMALL, start=WIDE), "end record"),
    "an extra field that runs out": (
        build(SMALL._replace(central={"extra": b"x" * 10}), size=CENTRAL_SIZE + 9),
        "end record",
    ),
    "an entry that is none": (build(Part(central={"magic": b"PK\1\3"})), "directory is damaged"),
    "a local header that is none": (build(Part("lib/a", local={"magic": b"PK\3\3"})), "'lib/a'"),
    "ten million entries": (
        build(SMALL, extra=zip64_end(10_000_000, CENTRAL_SIZE, START), here=0xFFFF, entries=0xFFFF),
        "200,000",
    ),
    "65,535 entries": (build(SMALL, here=0xFFFF, entries=0xFFFF), "fewer entries"),
    # ZIP64
    "a zip64 record elsewhere": (
        build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START, at=0)),
        "ZIP64",
    ),
    "a zip64 record of another length": (
        build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START, length=45)),
        "contradict",
    ),
    "a zip64 record that counts otherwise": (
        build(SMALL, extra=zip64_end(2, CENTRAL_SIZE, START)),
        "contradict",
    ),
    "a zip64 size of 2**63": (
        build(SMALL, extra=zip64_end(1, 2**63, START, at=START + CENTRAL_SIZE), size=WIDE),
        "end record",
    ),
    "a zip64 start of 2**63": (
        build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, 2**63, at=START + CENTRAL_SIZE), start=WIDE),
        "end record",
    ),
    "a zip64 sum that wraps": (
        build(
            SMALL,
            extra=zip64_end(1, 2**64 - START, 2 * START + CENTRAL_SIZE, at=START + CENTRAL_SIZE),
            size=WIDE,
            start=WIDE,
        ),
        "end record",
    ),
    "a locator alone": (build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START)[56:]), "ZIP64"),
    "no zip64 field": (build(Part("lib/a", central={"size": WIDE})), "'lib/a' lacks its ZIP64"),
    "a short zip64 field": (
        build(Part("lib/a", central={"size": WIDE, "extra": struct.pack("<2HI", 1, 4, 5)})),
        "'lib/a' lacks its ZIP64",
    ),
    "a zip64 field for one of two": (
        build(
            Part(
                "lib/a",
                central={"size": WIDE, "compressed": WIDE, "extra": struct.pack("<2HQ", 1, 8, 5)},
            )
        ),
        "'lib/a' lacks its ZIP64",
    ),
    "a zip64 field that is cut": (
        build(Part("lib/a", central={"size": WIDE, "extra": struct.pack("<2HI", 1, 8, 5)})),
        "'lib/a' lacks its ZIP64",
    ),
    "a zip64 offset of 2**64 - 1": (
        build(
            Part("lib/a", central={"offset": WIDE, "extra": struct.pack("<2HQ", 1, 8, 2**64 - 1)})
        ),
        "'lib/a' overlaps",
    ),
    "a local zip64 size that lies": (
        build(
            Part(
                "lib/a",
                local={
                    "size": WIDE,
                    "compressed": WIDE,
                    "extra": struct.pack("<2H2Q", 1, 16, 5, 6),
                },
            )
        ),
        "'lib/a'",
    ),
    # where members lie
    "a false offset": (build(Part("lib/a", central={"offset": 40})), "'lib/a' overlaps"),
    "a slightly false offset": (build(Part("lib/a", central={"offset": 1})), "before the first"),
    "an offset behind the directory": (
        build(SMALL, Part("lib/a", central={"offset": 500})),
        "'lib/a' overlaps",
    ),
    "two members in one place": (build(SMALL, Part("b", central={"offset": 0})), "overlaps"),
    "a member within another": (
        build(Part("lib/a", build(Part("b")), central={}), Part("b", central={"offset": 35})),
        "overlaps",
    ),
    "a member that reaches into the next": (
        build(Part("lib/a", central={"compressed": 99, "size": 99}), Part("b")),
        "'lib/a' overlaps",
    ),
    "a name that reaches into the next": (
        build(Part("lib/a", local={"name": b"lib/abcdef"}), Part("b")),
        "'lib/a'",
    ),
    # local and central headers that disagree
    "another local name": (build(Part("lib/a", local={"name": b"lib/b"})), "'lib/a'"),
    "another local name, unsafe": (build(Part("lib/a", local={"name": b"../xx"})), "'../xx'"),
    "a local name cut at NUL": (build(Part("lib/a", local={"name": b"lib\0a"})), "lib"),
    "another local method": (build(Part("lib/a", local={"method": DEFLATED})), "'lib/a'"),
    "another local CRC": (build(Part("lib/a", local={"crc": 1})), "'lib/a'"),
    "another local size": (build(Part("lib/a", local={"size": 6})), "'lib/a'"),
    "another local compressed size": (build(Part("lib/a", local={"compressed": 4})), "'lib/a'"),
    "no local sizes without a descriptor": (
        build(Part("lib/a", local={"crc": 0, "size": 0, "compressed": 0})),
        "'lib/a'",
    ),
    "locally encrypted": (build(Part("lib/a", local={"flags": 0x801})), "'lib/a'"),
    "a local extra field into the data": (
        build(
            Part(
                "lib/a",
                local={"extra": b"x" * 4},
                compressed=b"h",
                both={"size": 5, "compressed": 5},
            )
        ),
        "'lib/a'",
    ),
    "a descriptor that lies": (
        build(
            Part(
                "lib/a",
                both={"flags": 0x808},
                behind=struct.pack("<3I", zlib.crc32(b"hello"), 5, 6),
            )
        ),
        "'lib/a'",
    ),
    "a descriptor with another CRC": (
        build(
            Part("lib/a", both={"flags": 0x808}, behind=struct.pack("<4s3I", b"PK\7\b", 1, 5, 5))
        ),
        "'lib/a'",
    ),
    "a descriptor that nobody announced": (
        build(Part("lib/a", behind=struct.pack("<3I", zlib.crc32(b"hello"), 5, 5))),
        "'lib/a'",
    ),
    "more than a descriptor": (
        build(
            Part(
                "lib/a",
                both={"flags": 0x808},
                behind=struct.pack("<3I", zlib.crc32(b"hello"), 5, 5) + b"x",
            )
        ),
        "'lib/a'",
    ),
    # kinds
    "encrypted": (build(Part("lib/a", both={"flags": 0x801})), "'lib/a' is encrypted"),
    "strongly encrypted": (build(Part("lib/a", both={"flags": 0x840})), "'lib/a' is encrypted"),
    "masked headers": (build(Part("lib/a", both={"flags": 0x2800})), "'lib/a' is encrypted"),
    "patched data": (build(Part("lib/a", both={"flags": 0x820})), "'lib/a' is encrypted"),
    "deflate64": (build(Part("lib/a", method=9)), "method 9"),
    "bzip2": (build(Part("lib/a", method=12)), "method 12"),
    "LZMA": (build(Part("lib/a", method=14)), "'lib/a'.*method 14"),
    "AES": (build(Part("lib/a", method=99)), "method 99"),
    "a member on another disk": (build(Part("lib/a", central={"disk": 1})), "'lib/a'"),
    "a character device": (build(Part("lib/a", mode=stat.S_IFCHR | 0o644)), "'lib/a' is a device"),
    "a block device": (build(Part("lib/a", mode=stat.S_IFBLK | 0o644)), "'lib/a' is a device"),
    "a FIFO": (build(Part("lib/a", mode=stat.S_IFIFO | 0o644)), "'lib/a' is a device"),
    "a socket": (build(Part("lib/a", mode=stat.S_IFSOCK | 0o644)), "'lib/a' is a device"),
    "a folder that is called a file": (
        build(Part("lib/a", mode=stat.S_IFDIR | 0o755)),
        "'lib/a' is a device",
    ),
    "a folder with contents": (build(Part("lib/")), "folder 'lib/' has contents"),
    "a folder whose local header is elsewhere": (
        build(Part("lib/", b"", local={"magic": b"XXXX"})),
        "'lib/'",
    ),
    # sizes
    "a bomb": (
        build(Part("lib/bomb", b"", DEFLATED, both={"size": BIG}, compressed=BOMB)),
        "'lib/bomb' claims 105906176 bytes",
    ),
    "a declared size of 1 TiB": (
        build(
            Part(
                "lib/a",
                method=DEFLATED,
                both={"size": WIDE, "extra": struct.pack("<2HQ", 1, 8, 2**40)},
            )
        ),
        "'lib/a' claims",
    ),
    "stored, of another size": (
        build(Part("lib/a", both={"size": 6})),
        "'lib/a' claims 6 bytes in 5",
    ),
    # contents
    "a wrong CRC": (build(Part("lib/a", both={"crc": 1})), "'lib/a'"),
    "changed contents": (build(Part("lib/a", compressed=b"jello")), "'lib/a'"),
    "a deflate stream that is none": (
        build(Part("lib/a", method=DEFLATED, compressed=b"\xff" * 9)),
        "'lib/a' are damaged",
    ),
    "a deflate stream that ends early": (
        build(Part("lib/a", method=DEFLATED, compressed=deflated(b"hello") + b"x")),
        "'lib/a'",
    ),
    "a deflate stream that ends at a chunk": (
        build(
            Part(
                "lib/a",
                method=DEFLATED,
                compressed=b"\0\0\0\xff\xff" * (CHUNK // 5) + b"\1\0\0\xff\xff" + b"x" * 99,
                data=b"",
            )
        ),
        "'lib/a'",
    ),
    "a deflate stream that is cut": (
        build(Part("lib/a", method=DEFLATED, compressed=deflated(b"hello")[:-1])),
        "'lib/a'",
    ),
    "no deflate stream": (build(Part("lib/a", b"", method=DEFLATED, compressed=b"")), "'lib/a'"),
    "more contents than told": (
        build(Part("lib/a", b"hello", DEFLATED, both={"size": 4})),
        "'lib/a'",
    ),
    "fewer contents than told": (
        build(Part("lib/a", b"hello", DEFLATED, both={"size": 6})),
        "'lib/a'",
    ),
    "a bomb behind a small size": (
        build(Part("lib/a", b"hello", DEFLATED, compressed=BOMB)),
        "'lib/a'",
    ),
    "a link of 5,000 bytes": (
        build(Part("lib/a", b"x" * 5000, mode=stat.S_IFLNK | 0o777)),
        "'lib/a'",
    ),
    "a link that is no UTF-8": (
        build(Part("lib/a", b"\xff", mode=stat.S_IFLNK | 0o777)),
        "'lib/a'",
    ),
}


@pytest.mark.parametrize("data, named", FALSE.values(), ids=FALSE.keys())
def test_a_zip_that_is_false_in_one_thing_is_refused_with_a_sentence_that_names_it(
    data: bytes, named: str
) -> None:
    started = time.process_time()
    with pytest.raises(REFUSALS, match=named) as caught:
        read_all(data)
    str(caught.value).encode("utf-8")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_some_system_misreads_is_refused(name: Union[str, bytes]) -> None:
    with pytest.raises(UnsafePath) as caught:
        read_directory(
            io.BytesIO(build(Part(name, b"" if name in ("../", ".backup/") else b"hello")))
        )
    assert re.match("b?['\"].* (is|has|belongs) ", str(caught.value))  # it begins with the name
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("names", PAIRS.values(), ids=PAIRS.keys())
def test_names_that_are_one_on_some_system_are_refused(names: Iterable[str]) -> None:
    for order in (names, reversed(list(names))):
        with pytest.raises(UnsafePath):
            read_directory(
                io.BytesIO(
                    build(*(Part(name, b"" if name.endswith("/") else b"hello") for name in order))
                )
            )


def test_many_small_bombs_are_one_large_one() -> None:
    size = 99 * 2**20
    body = deflated(bytes(size))
    with pytest.raises(ArchiveError, match="'lib/1' claims .*: a bomb"):
        read_directory(
            io.BytesIO(
                build(
                    *(
                        Part(f"lib/{number}", b"", DEFLATED, both={"size": size}, compressed=body)
                        for number in range(3)
                    )
                )
            )
        )


def test_a_nested_bomb_is_one_small_file_for_us() -> None:
    contents = read_all(NESTED)["inner.zip"]
    assert isinstance(contents, tuple) and len(contents[0]) < 2**18


def test_real_files_of_zeros_are_no_bomb_and_what_would_make_them_one_is_stored() -> None:
    zeros = (bytes(45 * 2**20), "644")
    tree: Tree = {"a": zeros, "b": zeros, "c": zeros, "d": (bytes(1000), "644")}
    data = packed(tree)
    assert [member.method for member in read_directory(io.BytesIO(data)).members] == [
        DEFLATED,
        DEFLATED,
        STORED,
        DEFLATED,
    ]
    assert read_all(data) == tree


def test_a_package_composed_of_several_stays_below_a_bomb() -> None:
    out = io.BytesIO()
    writer = PackageWriter(out)
    tree: Tree = {name: (bytes(60 * 2**20), "644") for name in "ab"}
    for entry in entries_of(tree):
        source = io.BytesIO(packed({entry.path: tree[entry.path]}))
        writer.copy(entry, read_directory(source).members[0], source)
    writer.close()
    assert read_all(out.getvalue()) == tree


@pytest.mark.parametrize(
    "links", [{"a": ".."}, {"a": "/etc"}, {"a": "b/..", "b": "."}, {"lib/a": "../../x"}], ids=str
)
def test_links_that_leave_the_tree_are_refused(links: Dict[str, str]) -> None:
    data = build(
        *(Part(path, target.encode(), mode=stat.S_IFLNK | 0o777) for path, target in links.items())
    )
    with pytest.raises(UnsafePath, match="the link"):
        read_tree(io.BytesIO(data), "", "1")


def test_nothing_lies_behind_a_link() -> None:
    with pytest.raises(UnsafePath, match="both a file and a folder"):
        read_directory(
            io.BytesIO(build(Part("a", b"/tmp", mode=stat.S_IFLNK | 0o777), Part("a/b")))
        )


def test_at_most_the_announced_size_is_yielded_before_the_refusal() -> None:
    package = io.BytesIO(build(Part("lib/a", bytes(10), DEFLATED, compressed=BOMB)))
    taken = 0
    with pytest.raises(ArchiveError):
        for chunk in open_member(package, read_directory(package).members[0]):
            taken += len(chunk)
    assert taken <= 10


def test_a_zip_cut_at_any_byte_is_refused() -> None:
    for data in (
        by_zipfile(zipfile.ZIP_DEFLATED, True, True),
        packed({"a": (b"hello", "644"), "b": "a"}, b"comment"),
    ):
        for length in range(len(data)):
            with pytest.raises(REFUSALS):
                read_all(data[:length])


def test_a_zip_with_any_byte_taken_out_or_doubled_is_refused_or_the_same() -> None:
    data = packed({"a": (b"hello" * 50, "644"), "lib/b": "../a"})
    tree = read_all(data)
    for at in range(len(data)):
        for changed in (data[:at] + data[at + 1 :], data[:at] + data[at : at + 1] + data[at:]):
            try:
                assert read_all(changed) == tree
            except REFUSALS:
                pass


# --- fuzz -----------------------------------------------------------------------------------------


def survives(data: bytes) -> None:
    """The data is read, or refused with a printable sentence; anything else fails the test."""
    try:
        read_tree(io.BytesIO(data), "", "1")
    except REFUSALS as error:
        str(error).encode("utf-8")


SEEDS: List[bytes] = [
    by_zipfile(zipfile.ZIP_STORED, False, False),
    by_zipfile(zipfile.ZIP_DEFLATED, True, False),
    by_zipfile(zipfile.ZIP_DEFLATED, True, True),
    packed({"lib/a": (b"x" * 300, "755"), "lib/b": "a", "c": (b"", "644")}),
    build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START)),
    build(),
]
MARKS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\b")
PLACES = re.compile(b"|".join(MARKS))
VALUES = [0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1]


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        places = [found.start() for found in PLACES.finditer(data)] or [0]
        at = (
            chance.choice(places) + chance.randrange(60)
            if chance.random() < 0.7
            else chance.randrange(len(data) + 1)
        )
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            width, form = chance.choice([(1, "B"), (2, "<H"), (4, "<I"), (8, "<Q")])
            data[at : at + width] = struct.pack(form, chance.choice(VALUES) % 2 ** (8 * width))
        elif kind == 2:
            del data[at : at + chance.randrange(1, 40)]
        elif kind == 3:
            other = chance.choice(SEEDS)
            start = chance.randrange(len(other))
            data[at:at] = other[start : start + chance.randrange(1, 80)]
        else:
            data[at : at + 4] = chance.choice(MARKS)
    return bytes(data)


def fuzz(seed: int, count: int) -> None:
    chance = random.Random(seed)
    before = peak_kilobytes()
    started = time.process_time()
    for number in range(count):
        data = mutated(chance)
        try:
            survives(data)
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {data.hex()}") from error
    assert time.process_time() - started < count * 0.01
    assert peak_kilobytes() - before < 50_000


def test_thousands_of_mutated_zips_are_read_or_refused() -> None:
    fuzz(1, 6000)


@pytest.mark.slow
def test_a_hundred_thousand_mutated_zips_are_read_or_refused() -> None:
    for seed in range(2, 12):
        fuzz(seed, 10_000)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    survives(data)
    survives(data + build())


def hostile_directories() -> Dict[str, Callable[[], bytes]]:
    """Directories of some MB that cost minutes when each prefix, field or mark is read again."""
    return {
        "deep folders": lambda: build(
            *(Part(f"{number:05}/" + "a/" * 490 + "a", b"") for number in range(2000))
        ),
        "deep folder entries": lambda: build(
            *(Part(f"{number:05}/" + "a/" * 490, b"") for number in range(2000))
        ),
        "extra fields": lambda: build(
            *(
                Part(f"{number}", b"", central={"extra": b"xx\0\0" * 16_000, "size": WIDE})
                for number in range(100)
            )
        ),
        "long names": lambda: build(
            *(Part("a" + "\u0301\u0323" * 15_000 + str(number), b"") for number in range(60))
        ),
        "many entries": lambda: build(*(Part(f"{number}", b"") for number in range(50_000))),
    }


@pytest.mark.slow
@pytest.mark.parametrize("make", hostile_directories().values(), ids=hostile_directories().keys())
def test_hostile_directories_cost_seconds_and_megabytes_only(make: Callable[[], bytes]) -> None:
    data = make()
    before = peak_kilobytes()
    started = time.process_time()
    survives(data)
    assert time.process_time() - started < 5
    assert peak_kilobytes() - before < 200_000


# --- the tail alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        *SEEDS,
        packed({"a": (b"x" * 500, "644")}, b"comment"),
        build(SMALL, extra=zip64_end(1, CENTRAL_SIZE, START), comment=b"PK\6\7" * 30),
    ],
    ids=range(len(SEEDS) + 2),
)
def test_the_tail_of_any_length_tells_what_the_whole_tells_or_that_it_is_too_short(
    data: bytes,
) -> None:
    whole = read_directory(io.BytesIO(data))
    lengths = [
        length
        for length in range(len(data) + 1)
        if read_tail(data[len(data) - length :], len(data)) is not None
    ]
    assert lengths and lengths == list(range(lengths[0], len(data) + 1))
    assert lengths[0] <= max(len(data) - whole.start, 98 + len(whole.comment))
    for length in lengths:
        assert read_tail(data[len(data) - length :], len(data)) == whole


def test_a_tail_that_lies_is_refused() -> None:
    data = build(SMALL, Part("b"), here=1, entries=1)
    with pytest.raises(ArchiveError):
        read_tail(data, len(data))
    with pytest.raises(ArchiveError):
        read_tail(b"x" * 70_000, 10**9)


def test_members_are_read_from_a_range_that_holds_them() -> None:
    tree: Tree = {name: (name.encode() * 100, "644") for name in "abc"}
    data = packed(tree)
    directory = read_tail(data[-300:], len(data))
    assert directory is not None
    _, second, third = directory.members
    part = io.BytesIO(data[second.offset : third.end])
    assert [
        b"".join(open_member(part, member, base=second.offset)) for member in (second, third)
    ] == [b"b" * 100, b"c" * 100]
    with pytest.raises(ArchiveError, match="'c'"):
        list(
            open_member(io.BytesIO(data[second.offset : third.end - 1]), third, base=second.offset)
        )


def test_every_refusal_is_a_problem_so_that_the_server_can_say_it_in_chinese() -> None:
    assert issubclass(ArchiveError, Problem) and issubclass(UnsafePath, Problem)
