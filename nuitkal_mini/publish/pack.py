"""A tree becomes a package: the same tree gives the same bytes, whoever packs it and when.

Files are deflated in parallel threads (zlib releases the interpreter's lock), each into a small ZIP
of its own, from which the package takes the compressed bytes over in the order of the paths.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Container, Deque, Iterator, List, Optional, Tuple, cast

from ..entries import FileEntry
from ..progress import Progress
from ..zip_read import PARTIAL_COMMENT, ArchiveError, Member
from ..zip_write import PackageWriter
from .tree import WORKERS, FolderTree, forget, workers

_IN_MEMORY = 2**18  # larger results wait for their turn on disk
# Results that wait while a large file holds up the line: at most 16 MB in memory.
_AHEAD = 8 * WORKERS
Deflated = Tuple[FileEntry, Member, BinaryIO]


def write_package(tree: FolderTree, out: BinaryIO, wanted: Optional[Container[str]] = None) -> None:
    """Write the tree's package, or with `wanted` one of the contents with these SHA-256 alone.

    Links are always in it: they have no contents that a server could know.

    Raises:
        ArchiveError: a file changed since the tree was read.
    """
    entries = tree.manifest.files
    chosen = [
        entry
        for entry in entries
        if entry.link is not None or wanted is None or entry.sha256 in wanted
    ]
    writer = PackageWriter(out, b"" if len(chosen) == len(entries) else PARTIAL_COMMENT)
    with Progress("packing", sum(entry.size for entry in chosen)) as progress:
        try:
            for entry, member, package in _deflate_all(tree, chosen):
                with package:
                    writer.copy(entry, member, package)
                progress.advance(entry.size)
        except ArchiveError:
            forget(tree.folder)
            raise
    writer.close()


def _deflate_all(tree: FolderTree, entries: List[FileEntry]) -> Iterator[Deflated]:
    """Deflate a few files ahead: their number is bounded, so that memory is."""
    ahead: Deque[Future[Deflated]] = deque()
    with workers() as pool:
        try:
            for entry in entries:
                ahead.append(pool.submit(_deflate, tree, entry))
                if len(ahead) > _AHEAD:
                    yield ahead[0].result()
                    ahead.popleft()
            while ahead:
                yield ahead[0].result()
                ahead.popleft()
        finally:
            # After an error or Ctrl-C; the one that was waited for is among them.
            for unwanted in ahead:
                unwanted.cancel()
                unwanted.add_done_callback(_close)


def _deflate(tree: FolderTree, entry: FileEntry) -> Deflated:
    package = cast(BinaryIO, SpooledTemporaryFile(_IN_MEMORY))
    try:
        with (
            open(tree.sources[entry.path], "rb")
            if entry.link is None
            else io.BytesIO(entry.link.encode("utf-8"))
        ) as source:
            return entry, PackageWriter(package).add(entry, source), package
    except BaseException:
        package.close()
        raise


def _close(unwanted: Future[Deflated]) -> None:
    if not unwanted.cancelled() and unwanted.exception() is None:
        unwanted.result()[2].close()
