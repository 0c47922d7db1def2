"""Encoder: the delta between two published packages, where it saves enough to be offered."""

from __future__ import annotations

import hashlib
import zlib
from typing import BinaryIO, Dict, NamedTuple, Optional

from ..entries import FileEntry
from ..manifest import Manifest, loads
from ..zip_read import Directory, Member, open_member, read_directory
from .format import DeltaError
from .pairs import pair_files
from .write import Release, write_delta

WORTH = 0.7  # of what a client would fetch otherwise: a delta above it is not offered
REQUEST_BYTES = 500  # of a request and the head of its response


class Published(NamedTuple):
    """A package, the bytes of its manifest, and its signature or nothing."""

    package: BinaryIO
    size: int
    manifest: bytes
    signature: str = ""


class Written(NamedTuple):
    """How large a delta is; `sha256` is None when it does not pay, and `out` has a part of it."""

    size: int
    sha256: Optional[str]


def write_package_delta(old: Published, new: Published, out: BinaryIO) -> Written:
    """Write the delta from `old` to `new`, as long as it pays.

    Raises:
        DeltaError: a package has other contents than its manifest says.
        ArchiveError, OSError: a package cannot be read.
    """
    source, target = _Package(old), _Package(new)
    most = int(WORTH * _bytes_without(source.manifest, target, new.size)) - REQUEST_BYTES
    size, digest = 0, hashlib.sha256()
    for piece in write_delta(
        Release(old.manifest, source.read), Release(new.manifest, target.read, new.signature)
    ):
        size += len(piece)
        if size > most:
            return Written(size, None)
        digest.update(piece)
        out.write(piece)
    return Written(size, digest.hexdigest())


class _Package:
    """A release's package: its manifest, and the content of each file."""

    def __init__(self, published: Published) -> None:
        self.text, self.manifest = published.manifest, loads(published.manifest)
        self._file = published.package
        self.directory: Directory = read_directory(published.package)
        self.members: Dict[str, Member] = {member.path: member for member in self.directory.members}

    def read(self, entry: FileEntry) -> bytes:
        content = b"".join(open_member(self._file, self.members[entry.path]))
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DeltaError(
                "the package holds another {path!r} than its manifest", path=entry.path
            )
        return content


def _bytes_without(old: Manifest, new: _Package, package_size: int) -> int:
    """What a client fetches without the delta: the manifest, and ranges or the whole package."""
    directory = package_size - new.directory.start
    needed = [new.manifest.files[pair.target] for pair in pair_files(old.files, new.manifest.files)]
    contents = sum(new.members[entry.path].end - new.members[entry.path].offset for entry in needed)
    requests = 3 * REQUEST_BYTES  # for the manifest, the directory and the contents
    ways = min(package_size, directory + contents)
    return len(zlib.compress(new.text)) + ways + requests
