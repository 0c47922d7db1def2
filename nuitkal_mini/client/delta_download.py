"""The delta to the offered release: downloaded, verified by its hash, and turned into files.

Whatever fails here is no failure of the update: the manifest and the package remain.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Callable, Iterator, Optional, Tuple

from ..entries import FileEntry
from ..manifest import Manifest, loads
from ..problem import Problem
from ..semver import parse
from .errors import DownloadError
from .install import DOWNLOAD, Installation
from .plan import delta_is_fewer
from .release import DeltaOffer, Release
from .transport import Transport
from .tree import IN_RELEASES, chunks_of, sha256_of

logger = logging.getLogger(__name__)


class DownloadedDelta:
    """A delta that is here, whole; `manifest` is the new manifest, `name` that of its file."""

    def __init__(self, installation: Installation, path: Path, installed: bytes) -> None:
        """Raises DeltaError: the delta was not made for the installed manifest."""
        from ..delta.apply import DeltaReader

        self.name = path.name
        self._installation, self._path, self._installed = installation, path, installed
        with open(path, "rb") as file:
            self.manifest, _ = DeltaReader(file.read).manifest(installed)

    def files(self, manifest: Manifest) -> Iterator[Tuple[FileEntry, Iterator[bytes]]]:
        """The delta's files with their contents, which raise DeltaError each for itself."""
        from ..delta.apply import DeltaReader

        with open(self._path, "rb") as file:
            reader = DeltaReader(file.read)
            reader.manifest(self._installed)
            yield from reader.files(manifest.files, loads(self._installed).files, self._read)

    def _read(self, entry: FileEntry) -> bytes:
        """The content of an installed file. Raises DeltaError when it is not what was installed."""
        from ..delta.format import DeltaError

        for mode in IN_RELEASES:
            if self._installation.holds(entry.path, entry._replace(mode=mode)):
                return b"".join(chunks_of(self._installation.at(entry.path)))
        raise DeltaError("{path!r} was changed here, its delta is of no use", path=entry.path)


def offered_delta(release: Release, installed: str) -> Optional[DeltaOffer]:
    """The delta from the installed version, if it is the way of the fewest bytes."""
    for offer in release.deltas:
        if parse(offer.base) == parse(installed) and delta_is_fewer(offer.size, release.file_size):
            return offer
    return None


def download_delta(
    installation: Installation,
    transport: Transport,
    offer: DeltaOffer,
    installed: bytes,
    progress: Callable[[int, int], None],
) -> Optional[DownloadedDelta]:
    """The delta from the `installed` manifest; None when it cannot be had or does not fit."""
    folder = Path(installation.at(DOWNLOAD))
    path = folder / f"delta-{offer.sha256[:16]}"
    if not folder.is_dir():
        installation.disk.mkdir(str(folder))
    try:
        transport.download(offer.url, path, offer.size, progress, max_bytes=offer.size)
        if sha256_of(path) == offer.sha256:
            return DownloadedDelta(installation, path, installed)
        logger.warning("the delta %s has another SHA-256 than the server says", offer.url)
    except (DownloadError, Problem) as error:
        logger.warning("%s; going on without the delta", error)
        if isinstance(error, DownloadError):
            return None  # its first bytes are kept for the next update
    installation.disk.remove(str(folder))
    return None
