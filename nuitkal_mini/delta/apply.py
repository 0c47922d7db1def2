"""Deltas for the client: from the files of the installed release and a delta to those of the next
release.

First `manifest`, whose signature the caller verifies, then `files`. Nothing that a delta says is
believed: sizes are bounded, and each file must have the size and the SHA-256 that the manifest
gives it.
"""

from __future__ import annotations

import hashlib
from typing import Callable, Iterator, Sequence, Tuple

from ..entries import FileEntry
from .container import Read, Record, read_exactly, read_group, read_pieces, read_varint
from .decode import decode_file
from .format import (
    DELTA_MAGIC,
    DIGEST_BYTES,
    END_OF_DELTA,
    GROUP,
    MAX_CODED_FILE,
    MAX_MANIFEST,
    MAX_SIGNATURE,
    WHOLE_FILE,
    DeltaError,
)
from .lzma2 import unpack_pieces

ReadSource = Callable[[FileEntry], bytes]


class DeltaReader:
    """Reads one delta; `read` returns at most as many bytes as asked, and none at the end."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def manifest(self, old_manifest: bytes) -> Tuple[bytes, str]:
        """The new manifest, from the installed one, and its signature (empty when it has none);
        call it first.

        Raises:
            DeltaError: this is no delta, one of a later format, or one from another release.
        """
        start = read_exactly(self._read, len(DELTA_MAGIC))
        if start != DELTA_MAGIC:
            raise DeltaError(
                "this is no delta, or one of a newer format; fetch the package instead"
            )
        digest = read_exactly(self._read, DIGEST_BYTES)
        sizes = read_varint(self._read, MAX_MANIFEST), read_varint(self._read, MAX_SIGNATURE)
        records = read_group(self._read, 0)
        if [record.target for record in records] != [0, 1]:
            raise DeltaError("the delta has no manifest")
        manifest, signature = (
            bytes(decode_file(record.coded, bytearray(old_manifest), size))
            for record, size in zip(records, sizes)
        )
        if hashlib.sha256(manifest).digest()[:DIGEST_BYTES] != digest:
            raise DeltaError("the delta was made for another release than the installed one")
        return manifest, signature.decode("utf-8", "replace")

    def files(
        self, targets: Sequence[FileEntry], sources: Sequence[FileEntry], read_source: ReadSource
    ) -> Iterator[Tuple[FileEntry, Iterator[bytes]]]:
        """Every file of the delta with its content in pieces; read one to its end before the next.

        Args:
            targets: the new manifest's files.
            sources: the old one's.
            read_source: returns the content of one of those.

        Raises:
            DeltaError: from the pieces, when this file cannot be made; from the iteration over
                files, when the rest cannot be read.
        """
        following = 0
        while True:
            kind = read_varint(self._read, WHOLE_FILE)
            if kind == END_OF_DELTA:
                break
            if kind == GROUP:
                for record in read_group(self._read, following):
                    target = _file_at(targets, record.target)
                    following = record.target + 1
                    yield (
                        target,
                        _verified_pieces(target, _decoded(record, target, sources, read_source)),
                    )
            else:
                following += read_varint(self._read, len(targets))
                target = _file_at(targets, following)
                following += 1
                packed = read_pieces(self._read)
                yield target, _verified_pieces(target, unpack_pieces(packed, target.size))
                for _ in packed:  # what a failure has left
                    pass
        if self._read(1):
            raise DeltaError("the delta goes on behind its end")


def _decoded(
    record: Record, target: FileEntry, sources: Sequence[FileEntry], read_source: ReadSource
) -> Iterator[bytes]:
    old = bytearray()
    if record.source >= 0:
        source = _file_at(sources, record.source)
        if max(source.size, target.size) > MAX_CODED_FILE:
            raise DeltaError("{path!r} is too large for a delta", path=target.path)
        old = bytearray(read_source(source))
    yield bytes(decode_file(record.coded, old, target.size))


def _verified_pieces(target: FileEntry, pieces: Iterator[bytes]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    size = 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        yield piece
    if size != target.size or digest.hexdigest() != target.sha256:
        raise DeltaError(
            "{path!r} does not come out of the delta as the manifest says", path=target.path
        )


def _file_at(entries: Sequence[FileEntry], number: int) -> FileEntry:
    if number >= len(entries) or entries[number].link is not None:
        raise DeltaError("the delta names a file that the manifest does not have")
    return entries[number]
