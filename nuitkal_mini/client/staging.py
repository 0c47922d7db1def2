"""From a manifest to verified files in `.update/staging/`, over the fewest bytes.

Contents that lie elsewhere in the installed tree are copied, the others come out of the package:
a few ranges of it, or all. Whatever way they came, a file is only staged when its size and
SHA-256 are the manifest's. Staged files have the number of their entry in the manifest as name,
and survive a failed update: the next one fetches only what is missing.
"""

from __future__ import annotations

import hashlib
import logging
import os
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
from ..zip_read import Directory, open_member, read_directory, read_tail
from .delta_download import DownloadedDelta
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
        self._folder = Path(installation.at(DOWNLOAD))
        self._delta: Optional[DownloadedDelta] = None
        self._path = self._folder / "package.zip"  # with gaps, while only ranges of it are here

    @property
    def fetched(self) -> int:
        """Bytes that travelled for contents."""
        return self._transport.received

    def open(self, text: bytes, delta: Optional[DownloadedDelta] = None) -> None:
        """Make the staging folder that of this manifest; what another one left there goes.

        A delta that is here already stays, and is what `fill` tries first.
        """
        self._delta = delta
        disk, owner = self._installation.disk, self._installation.at(STAGING + "/manifest.json")
        try:
            with open(owner, "rb") as file:
                if file.read(len(text) + 1) == text:
                    return
        except OSError:
            pass
        self._installation.clear_staging(delta.name if delta else "")
        disk.mkdir(self._installation.at(STAGING))
        disk.write(owner, [text])

    def whole_package(self, max_bytes: int = MAX_DOWNLOAD_BYTES) -> Path:
        """The whole package, its hash checked.

        Raises:
            VerificationError: it is not the one that the server announced.
        """
        for _ in range(2):
            in_one = self._download(max_bytes)
            digest = sha256_of(self._path)
            if not self._package.sha256 or digest == self._package.sha256:
                return self._path
            self._forget_download()
            if in_one is not False:
                break
            # Its parts may be of two different files: once more, from the start.
        raise VerificationError(
            f"the package {self._package.url} has SHA-256 {digest[:12]}…, the server announced "
            f"{self._package.sha256[:12]}…; nothing was installed"
        )

    def _download(self, max_bytes: int) -> bool:
        self._make_download_folder()
        return self._transport.download(
            self._package.url,
            self._path,
            self._package.size or None,
            self._progress,
            max_bytes=max_bytes,
        )

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
                self._sync_staged(source, entry)
        for source, entry in absent:
            if entry.link is not None:
                self._installation.disk.remove(self._installation.at(source))
                self._installation.disk.symlink(entry.link, self._installation.at(source))
        files = [(source, entry) for source, entry in absent if entry.link is None]
        self._check_space(entry for _, entry in files)
        rest = self._from_delta(manifest, self._reuse(files))
        try:
            if rest:
                self._fetch(manifest, rest)
        except VerificationError:
            self._forget_download()  # or the next try would believe the same bytes complete
            raise
        self._forget_download()

    def _sync_staged(self, source: str, entry: FileEntry) -> None:
        """Complete a file whose writer may have been killed before its chmod or fsync."""
        try:
            self._installation.disk.sync_file(self._installation.at(source), int(entry.mode, 8))
        except PermissionError as error:
            if os.name == "posix":
                raise
            # A launcher that runs: it was installed, so made durable, before an undo moved it here.
            logger.debug("%s cannot be opened for writing (%s)", source, error)

    def _check_space(self, entries: Iterable[FileEntry]) -> None:
        need = 2 * sum(entry.size for entry in entries) + SPACE_RESERVE  # downloaded and unpacked
        try:
            free = shutil.disk_usage(self._installation.folder).free
        except OSError as error:
            logger.debug("%s; the free space is not known", error)
            return
        if (
            0 < free < need
        ):  # 0: a mount that does not say; one that is full fails at the first write
            raise InstallError(
                f"{self._installation.folder} has {free / 1e6:.1f} MB of free space, "
                f"the update needs {need / 1e6:.1f} MB; make room and start again"
            )

    def _reuse(self, files: Sequence[Tuple[str, FileEntry]]) -> List[Tuple[str, FileEntry]]:
        """Copy contents that are here already, under another name or mode or in the backup.

        Returns what is left.
        """
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

    def _from_delta(
        self, manifest: Manifest, files: Sequence[Tuple[str, FileEntry]]
    ) -> List[Tuple[str, FileEntry]]:
        """Stage what the delta makes; returns what is left, for the package."""
        if self._delta is None or not files:
            return list(files)
        from ..delta.format import DeltaError

        left = {entry.path: (source, entry) for source, entry in files}
        try:
            for made, chunks in self._delta.files(manifest):
                if made.path in left:
                    source, entry = left[made.path]
                    try:
                        self._stage(source, entry, chunks)
                        del left[made.path]
                    except DeltaError as error:
                        logger.warning("%s; fetching it from the package", error)
        except DeltaError as error:
            logger.warning("%s; fetching what it lacks from the package", error)
        return list(left.values())

    def _fetch(self, manifest: Manifest, files: Sequence[Tuple[str, FileEntry]]) -> None:
        needed = [entry for _, entry in files]
        if self._package.size > _largest_package(manifest):
            raise VerificationError(
                f"the server announces a package of {self._package.size} bytes, more than its "
                "files can need; nothing was installed"
            )
        if self._package.size and not whole_is_fewer(needed, manifest.files):
            try:
                directory = self._fetch_ranges(manifest, needed)
                if directory is not None:
                    return self._unpack(files, directory)
            except VerificationError as error:
                logger.info("%s; fetching the whole package", error)
                self._forget_download()
        with open(self.whole_package(_largest_package(manifest)), "rb") as file:
            directory = _checked(lambda: read_directory(file))
        self._unpack(files, directory)

    def _unpack(self, files: Sequence[Tuple[str, FileEntry]], directory: Directory) -> None:
        members = {member.path: member for member in directory.members}
        with open(self._path, "rb") as file:
            for source, entry in files:
                member = members.get(entry.path)
                if member is None or member.is_link:
                    raise VerificationError(
                        f"the package {self._package.url} lacks {entry.path}; nothing was installed"
                    )
                chunks = open_member(file, member)
                _checked(lambda: self._stage(source, entry, chunks))

    def _stage(self, source: str, entry: FileEntry, chunks: Iterator[bytes]) -> None:
        self._installation.disk.write(
            self._installation.at(source), _verified(entry, chunks), int(entry.mode, 8)
        )

    def _fetch_ranges(self, manifest: Manifest, needed: Sequence[FileEntry]) -> Optional[Directory]:
        """Fetches the ranges of the package that hold the needed files; returns its directory.

        None when only the whole of it will do; what has arrived of it is not fetched again then.
        """
        size = self._package.size
        asked = first_tail(needed, manifest.files, size)
        for _ in range(2):  # a foreign packer's directory may be longer than ours
            tail = self._range(asked, [])
            directory = self._read_directory(tail)
            if directory is not None or tail.start == 0:
                break
            asked = Range(max(0, size - 3 * (size - tail.start)), size)
        if directory is None:
            return None
        rest = ranges_for(directory, needed, tail)
        if rest is None or sum(part.end - part.start for part in rest) > 0.9 * size:
            return None
        for part in rest:
            self._range(part, [tail, *rest])
        return directory

    def _range(self, wanted: Range, planned: Sequence[Range]) -> Range:
        """Fetches a range, one of those planned; returns the range around it that is here."""
        total = sum(part.end - part.start for part in planned)
        self._make_download_folder()
        return self._transport.download_range(
            self._package.url,
            wanted,
            self._path,
            self._package.size,
            lambda have, coming: self._progress(have, max(total, coming)),
        )

    def _read_directory(self, tail: Range) -> Optional[Directory]:
        with open(self._path, "rb") as file:
            if tail.start == 0:  # all of it: a small package, or a server without ranges
                return _checked(lambda: read_directory(file))
            file.seek(tail.start)
            return _checked(lambda: read_tail(file.read(), self._package.size))

    def _make_download_folder(self) -> None:
        if not self._folder.is_dir():
            self._installation.disk.mkdir(str(self._folder))

    def _forget_download(self) -> None:
        self._installation.disk.remove(str(self._folder))


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
            f"{entry.path}: SHA-256 is {digest.hexdigest()[:12]}…, "
            f"the manifest says {entry.sha256[:12]}…; nothing was installed"
        )


def _largest_package(manifest: Manifest) -> int:
    """What a package of these files may weigh.

    An unsigned size must not make us fetch without end.
    """
    return 2**20 + sum(
        entry.size + entry.size // 100 + 2 * len(entry.path.encode("utf-8")) + 512
        for entry in manifest.files
    )


def _checked(read: Callable[[], Result]) -> Result:
    try:
        return read()
    except Problem as error:
        raise VerificationError(f"{error}; nothing was installed") from error
