"""An upload, checked against its manifest and made a complete package.

A ZIP that holds its whole tree is kept as it came. One that leaves out contents which the server
holds is composed: every compressed member is copied as it is, from the upload or from an older
package, without inflating it. That is safe because each content's SHA-256 was checked when it was
uploaded, because the copy checks position, size and CRC in both headers, and because clients check
every file against the manifest. Contents are ordered by (first upload that brought them, path): new
ones lie at the end, beside the central directory, so that a client a few versions behind finds all
that it needs in one range.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sqlite3
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ..entries import FileEntry
from ..manifest import Manifest, dumps, loads
from ..minisign import parse_release_comment, parse_signature, verify
from ..paths import UnsafePath
from ..semver import BadVersion, parse
from ..zip_read import (
    CHUNK,
    PARTIAL_COMMENT,
    ArchiveError,
    Directory,
    Member,
    read_directory,
    read_entry,
    read_tree,
)
from ..zip_write import PackageWriter
from .refused import Refused
from .store import Store

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3  # of paths in one sentence


class CompletePackage(NamedTuple):
    """A complete package in the request's scratch folder, and its manifest."""

    manifest: Manifest
    manifest_bytes: bytes
    package: Path
    file_hash: str
    file_size: int
    stored_sizes: Dict[str, int]  # path -> compressed size in the package


class ContentSource(NamedTuple):
    """A package that holds a content, and as which member."""

    package: Path
    path: str
    first_seen: int
    stored_size: Optional[int]  # None: from before this was recorded


NEW = 2**63 - 1  # the `first_seen` of what no package holds yet


def check_signature(
    store: Store, signature: Optional[str], manifest: bytes, app: str, version: str
) -> None:
    """Check a manifest's signature as the server's keys demand.

    A server without keys cannot know whether a signature is right (clients will), only whether it
    is one.

    Raises:
        Refused: bad_signature, for a signature that is missing or of another release.
        SignatureError: no signature by a key that is trusted here.
    """
    if not store.public_keys:
        if signature is not None:
            parse_signature(signature)
        return
    if signature is None:
        raise Refused(
            "bad_signature",
            "this server takes signed releases only; send the manifest and its signature",
        )
    comment = parse_release_comment(verify(store.public_keys, manifest, signature).trusted_comment)
    try:
        agrees = comment.app == app and parse(comment.version) == parse(version)
    except BadVersion:
        agrees = False
    if not agrees:
        raise Refused(
            "bad_signature",
            "the signature is for {other} {other_version}, the manifest for {app} {version}",
            other=comment.app,
            other_version=comment.version,
            app=app,
            version=version,
        )


def accept_whole_zip(
    path: Path, file_hash: str, app: str, version: str, main: str
) -> CompletePackage:
    """The complete package of a ZIP without a manifest, which is made here."""
    with open(path, "rb") as package:
        directory = read_directory(package)
        if directory.comment == PARTIAL_COMMENT:
            raise Refused(
                "incomplete", "the ZIP file holds only a part of its release; send its manifest too"
            )
        if not directory.members:
            raise ArchiveError("the ZIP file holds no files")
        manifest = read_tree(package, app, version)._replace(main=main)
    manifest_bytes = dumps(manifest)
    return complete_package(
        loads(manifest_bytes) if main else manifest, manifest_bytes, path, file_hash
    )


def accept_with_manifest(
    store: Store,
    folder: Path,
    path: Path,
    file_hash: str,
    manifest: Manifest,
    manifest_bytes: bytes,
) -> CompletePackage:
    """The complete package of a ZIP with a manifest; contents that the server holds are added."""
    with open(path, "rb") as package:
        directory = read_directory(package)
        brought = _check_members(package, directory, manifest)
        whole = (
            len(directory.members) == len(manifest.files) and directory.comment != PARTIAL_COMMENT
        )
    if not whole:
        sources = _find_sources(store, manifest.files, path, brought)
        path, file_hash = _compose(store, folder, manifest.files, sources)
    return complete_package(manifest, manifest_bytes, path, file_hash)


def complete_package(
    manifest: Manifest, manifest_bytes: bytes, path: Path, file_hash: str
) -> CompletePackage:
    """A package that holds its whole tree, with what its directory says about it."""
    with open(path, "rb") as package:
        sizes = {member.path: member.compressed_size for member in read_directory(package).members}
    return CompletePackage(manifest, manifest_bytes, path, file_hash, path.stat().st_size, sizes)


def _check_members(
    package: BinaryIO, directory: Directory, manifest: Manifest
) -> Dict[str, Member]:
    """SHA-256 -> the smallest member with this content in the package.

    Every member must be what the manifest says; its mode is the manifest's.
    """
    entries = {entry.path: entry for entry in manifest.files}
    brought: Dict[str, Member] = {}
    for member in directory.members:
        entry = entries.get(member.path)
        if entry is None:
            raise Refused(
                "manifest_mismatch",
                "{path!r} is in the ZIP file and not in the manifest",
                path=member.path,
            )
        found = read_entry(package, member)
        if (found.link, found.sha256) != (entry.link, entry.sha256):
            raise Refused(
                "manifest_mismatch",
                "{path!r} in the ZIP file is not what the manifest says",
                path=member.path,
            )
        if entry.link is None:
            known = brought.setdefault(entry.sha256, member)
            if member.compressed_size < known.compressed_size:
                brought[entry.sha256] = member
    return brought


def _find_sources(
    store: Store, files: Iterable[FileEntry], upload: Path, brought: Dict[str, Member]
) -> Dict[str, ContentSource]:
    """SHA-256 -> the package to copy it from, for all contents of the tree."""
    sources: Dict[str, ContentSource] = {}
    lacking: List[str] = []
    with store.database.read() as db:
        for entry in files:
            if entry.link is not None or entry.sha256 in sources:
                continue
            held, member = _held(db, store, entry.sha256), brought.get(entry.sha256)
            if member and (held is None or not _is_smaller(held, member)):
                first_seen = held.first_seen if held else NEW
                sources[entry.sha256] = ContentSource(
                    upload, member.path, first_seen, member.compressed_size
                )
            elif held:
                sources[entry.sha256] = held
            else:
                lacking.append(entry.path)
    if lacking:
        raise Refused(
            "incomplete",
            "{count} files have contents that are neither in the ZIP file nor on the server: "
            "{paths}",
            count=len(lacking),
            paths=", ".join(lacking[:NAMES_SHOWN]) + (", …" if len(lacking) > NAMES_SHOWN else ""),
        )
    return sources


def _held(db: sqlite3.Connection, store: Store, sha256: str) -> Optional[ContentSource]:
    row = db.execute(
        "SELECT package, path, first_seen, stored_size FROM contents "
        "JOIN releases ON id = release WHERE sha256 = ? "
        "ORDER BY stored_size IS NULL, stored_size, release DESC LIMIT 1",
        (bytes.fromhex(sha256),),
    ).fetchone()
    return ContentSource(store.media / row[0], *row[1:]) if row else None


def _is_smaller(held: ContentSource, member: Member) -> bool:
    return held.stored_size is not None and held.stored_size < member.compressed_size


class OpenPackage(NamedTuple):
    """An open package and its members by path."""

    package: BinaryIO
    members: Dict[str, Member]


def _compose(
    store: Store, folder: Path, files: Iterable[FileEntry], sources: Dict[str, ContentSource]
) -> Tuple[Path, str]:
    """Write the whole package into the folder; its path and SHA-256."""
    order = sorted(
        files,
        key=lambda entry: (
            0 if entry.link is not None else sources[entry.sha256].first_seen,
            entry.path,
        ),
    )
    with ExitStack() as stack:
        packages: Dict[Path, OpenPackage] = {}
        for package in {source.package for source in sources.values()}:
            with _reading(store, package):
                file = stack.enter_context(open(package, "rb"))
                packages[package] = OpenPackage(
                    file, {member.path: member for member in read_directory(file).members}
                )
        members = {sha256: _member(store, source, packages) for sha256, source in sources.items()}
        store.require_space(
            sum(members[entry.sha256].compressed_size for entry in order if entry.link is None)
        )
        out = stack.enter_context(open(folder / "composed.zip", "w+b"))
        writer = PackageWriter(out)
        for entry in order:
            if entry.link is not None:
                writer.add(entry, io.BytesIO(entry.link.encode("utf-8")))
                continue
            package = sources[entry.sha256].package
            with _reading(store, package):
                writer.copy(entry, members[entry.sha256], packages[package].package)
        writer.close()
        out.seek(0)
        digest = hashlib.sha256()
        for chunk in iter(lambda: out.read(CHUNK), b""):
            digest.update(chunk)
    return Path(out.name), digest.hexdigest()


def _member(store: Store, source: ContentSource, packages: Dict[Path, OpenPackage]) -> Member:
    with _reading(store, source.package):
        return packages[source.package].members[source.path]


@contextmanager
def _reading(store: Store, package: Path) -> Iterator[None]:
    """Refuse an upload when a package to copy from proves damaged or gone.

    Its contents are forgotten, so that `missing/` asks for them from now on.
    """
    try:
        yield
    except (ArchiveError, UnsafePath, FileNotFoundError, KeyError) as error:
        logger.error("%s cannot be copied from: %s", package, error)
        store.forget_contents(package)
        raise Refused(
            "incomplete",
            "the server's copy of some files is damaged or gone; upload again and it will ask "
            "for them",
        ) from error
