"""From a manifest to verified files in `.update/staging/`, over the fewest bytes.

Contents that lie elsewhere in the installed tree are copied, the others come out of the package: a few ranges of it, or
all. Whatever way they came, a file is only staged when its size and SHA-256 are the manifest's. Staged files have the
number of their entry in the manifest as name, and survive a failed update: the next one fetches only what is missing.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import (
    Callable,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from ..entries import FileEntry
from ..manifest import Manifest
from ..problem import Problem
from ..zip_read import Directory, Member, open_member, read_directory, read_tail
from .errors import InstallError, VerificationError
from .install import DOWNLOAD, STAGING, Installation
from .plan import Range, first_tail, ranges_for, whole_is_fewer
from .transport import MAX_DOWNLOAD_BYTES, Transport
from .tree import IN_RELEASES, chunks_of, sha256_of

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
SPACE_RESERVE = 2**20  # for the journal, the state, and folders that grow


class Package(NamedTuple):
    """Where a release's package is; `size` is 0 when the server does not say."""

    url: str
    sha256: str
    size: int


class _Piece(NamedTuple):
    """A file that holds the bytes of a package from `base` on."""

    path: Path
    range: Range


class Staging:
    """Fills the staging folder for one manifest."""

    def __init__(
        self,
        installation: Installation,
        transport: Transport,
        package: Package,
        progress: Callable[[int, int], None],
    ) -> None:
        self._installation = installation
        self._transport = transport
        self._package = package
        self._progress = progress
        self._arrived = 0  # bytes of pieces that are complete
        self._folder = Path(installation.at(DOWNLOAD))

    @property
    def fetched(self) -> int:
        """Bytes that travelled for contents."""
        return self._transport.received

    def open(self, text: bytes) -> None:
        """Make the staging folder that of this manifest; what another one left there goes."""
        disk, owner = self._installation.disk, self._installation.at(STAGING + "/manifest.json")
        try:
            with open(owner, "rb") as file:
                if file.read(len(text) + 1) == text:
                    return
        except OSError:
            pass
        self._installation.clear_staging()
        disk.mkdir(self._installation.at(STAGING))
        disk.write(owner, [text])

    def whole_package(self, max_bytes: int = MAX_DOWNLOAD_BYTES) -> Path:
        """The whole package, its hash checked.

        Raises:
            VerificationError: it is not the one that the server announced.
        """
        path = self._download_folder() / "package.zip"
        self._transport.download(
            self._package.url, path, self._package.size or None, self._progress, max_bytes=max_bytes
        )
        digest = sha256_of(path)
        if self._package.sha256 and digest != self._package.sha256:
            self._installation.disk.remove(str(self._folder))
            raise VerificationError(
                f"the package {self._package.url} has SHA-256 {digest[:12]}…, the server announced "
                f"{self._package.sha256[:12]}…; nothing was installed"
            )
        return path

    def fill(self, manifest: Manifest, wanted: Sequence[Tuple[str, FileEntry]]) -> None:
        """Stage each wanted (staged name, entry).

        Raises:
            VerificationError: the package does not hold what the manifest says.
            InstallError: the disk has no room for it.
        """
        absent = []
        for source, entry in wanted:
            if not self._installation.holds(source, entry):
                absent.append((source, entry))
            elif entry.link is None:
                self._installation.disk.sync_file(
                    self._installation.at(source), int(entry.mode, 8)
                )  # whoever wrote it may have been killed before its chmod or fsync
        for source, entry in absent:
            if entry.link is not None:
                self._installation.disk.remove(self._installation.at(source))
                self._installation.disk.symlink(entry.link, self._installation.at(source))
        files = [(source, entry) for source, entry in absent if entry.link is None]
        self._check_space(entry for _, entry in files)
        rest = self._reuse(files)
        try:
            if rest:
                self._fetch(manifest, rest)
        except VerificationError:
            self._installation.disk.remove(
                str(self._folder)
            )  # or the same bytes would be believed complete at the next try
            raise
        self._installation.disk.remove(str(self._folder))

    def _check_space(self, entries: Iterable[FileEntry]) -> None:
        need = 2 * sum(entry.size for entry in entries) + SPACE_RESERVE  # downloaded and unpacked
        free = shutil.disk_usage(self._installation.folder).free
        if free < need:
            raise InstallError(
                f"{self._installation.folder} has {free / 1e6:.1f} MB of free space, the update needs {need / 1e6:.1f} MB; "
                "make room and start again"
            )

    def _reuse(self, files: Sequence[Tuple[str, FileEntry]]) -> List[Tuple[str, FileEntry]]:
        """Copy contents that are here already, under another name or mode or in the backup; returns what is left."""
        here = {move.entry.sha256: move.target for move in self._installation.backup_files()}
        here.update(
            (entry.sha256, entry.path)
            for entry in self._installation.installed()
            if any(
                self._installation.holds(entry.path, entry._replace(mode=mode))
                for mode in IN_RELEASES
            )
        )  # a lost bit costs no download
        rest = []
        for source, entry in files:
            twin = here.get(entry.sha256)
            if twin is None:
                rest.append((source, entry))
            else:
                self._stage(source, entry, chunks_of(self._installation.at(twin)))
        return rest

    def _fetch(self, manifest: Manifest, files: Sequence[Tuple[str, FileEntry]]) -> None:
        needed = [entry for _, entry in files]
        found: Optional[Tuple[Directory, List[_Piece]]] = None
        if self._package.size > _largest_package(manifest):
            raise VerificationError(
                f"the server announces a package of {self._package.size} bytes, more than its files can need; nothing was installed"
            )
        if self._package.size and not whole_is_fewer(needed, manifest.files):
            found = self._fetch_ranges(manifest, needed)
        if found is None:
            path = self.whole_package(_largest_package(manifest))
            with open(path, "rb") as file:
                found = (
                    _checked(lambda: read_directory(file)),
                    [_Piece(path, Range(0, path.stat().st_size))],
                )
        directory, pieces = found
        members = {member.path: member for member in directory.members}
        for source, entry in files:
            member = members.get(entry.path)
            piece = next(
                (
                    piece
                    for piece in pieces
                    if member
                    and piece.range.start <= member.offset
                    and member.end <= piece.range.end
                ),
                None,
            )
            if member is None or member.is_link or piece is None:
                raise VerificationError(
                    f"the package {self._package.url} lacks {entry.path}; nothing was installed"
                )
            self._unpack(source, entry, member, piece)

    def _unpack(self, source: str, entry: FileEntry, member: Member, piece: _Piece) -> None:
        with open(piece.path, "rb") as file:
            _checked(
                lambda: self._stage(source, entry, open_member(file, member, piece.range.start))
            )

    def _stage(self, source: str, entry: FileEntry, chunks: Iterator[bytes]) -> None:
        self._installation.disk.write(
            self._installation.at(source), _verified(entry, chunks), int(entry.mode, 8)
        )

    def _fetch_ranges(
        self, manifest: Manifest, needed: Sequence[FileEntry]
    ) -> Optional[Tuple[Directory, List[_Piece]]]:
        """The needed pieces of the package; None when only the whole of it will do."""
        size = self._package.size
        have = first_tail(needed, manifest.files, size)
        directory = None
        for _ in range(2):  # a foreign packer's directory may be longer than ours
            piece = self._piece(have)
            directory = self._read_tail(piece)
            if directory is not None or piece.range.start == 0:
                break
            have = Range(max(0, size - 3 * (size - have.start)), size)
        rest = ranges_for(directory, needed, piece.range) if directory is not None else None
        if (
            directory is None
            or rest is None
            or sum(part.end - part.start for part in rest) > 0.9 * size
        ):
            return None
        total = self._arrived + sum(part.end - part.start for part in rest)
        return directory, [piece] + [self._piece(part, total) for part in rest]

    def _piece(self, part: Range, total: int = 0) -> _Piece:
        """Fetch a part; `total` is what all pieces will have, once that is known."""
        path = self._download_folder() / f"{part.start}-{part.end}"
        length = part.end - part.start
        before = self._arrived
        came = self._transport.download_range(
            self._package.url,
            part.start,
            length,
            path,
            self._package.size,
            lambda have, coming: self._progress(before + have, max(total, before + coming)),
        )
        written = path.stat().st_size
        self._arrived += written
        return _Piece(path, Range(came.offset, came.offset + written))

    def _read_tail(self, piece: _Piece) -> Optional[Directory]:
        with open(piece.path, "rb") as file:
            if piece.range.start == 0:  # all of it: a small package, or a server without ranges
                return _checked(lambda: read_directory(file))
            return _checked(lambda: read_tail(file.read(), self._package.size))

    def _download_folder(self) -> Path:
        if not self._folder.is_dir():
            self._installation.disk.mkdir(str(self._folder))
        return self._folder


def _verified(entry: FileEntry, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, ending in a VerificationError unless they are the entry's contents."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > entry.size:
            break
        yield chunk
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise VerificationError(
            f"{entry.path}: SHA-256 is {digest.hexdigest()[:12]}…, the manifest says {entry.sha256[:12]}…; nothing was installed"
        )


def _largest_package(manifest: Manifest) -> int:
    """What a package of these files may weigh: an unsigned size must not make us fetch without end."""
    return 2**20 + sum(
        entry.size + entry.size // 100 + 2 * len(entry.path.encode("utf-8")) + 512
        for entry in manifest.files
    )


def _checked(read: Callable[[], Result]) -> Result:
    try:
        return read()
    except Problem as error:
        raise VerificationError(f"{error}; nothing was installed") from error
