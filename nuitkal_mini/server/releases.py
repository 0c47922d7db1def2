"""Releases: create, promote, activate, edit and delete them, and queries.

The API and the admin site call the same function for each action. It checks, writes row and files
in one transaction, and adds a line to the log. A partial unique index makes two active releases in
a channel impossible. A refusal raises `Refused`, or a format's own Problem, with nothing changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterable, List, NamedTuple, Optional, Set, Tuple

from ..manifest import loads
from ..semver import BadVersion, Version, parse
from .complete_package import (
    CompletePackage,
    accept_whole_zip,
    accept_with_manifest,
    check_signature,
    complete_package,
)
from .database import now, write_log
from .deltas import deltas_to, forget
from .refused import Refused
from .rotations import Rotation, record
from .store import PACKS, Store, manifest_name, signature_name, write_synced

STABLE = "stable"  # the channel of URLs that name none
# it is part of check/, of which clients read 1 MiB, and JSON makes up to six bytes of one
MAX_CHANGELOG_BYTES = 150_000
MAX_VARIABLES = 500  # in a statement; SQLite before 3.32 takes 999, and 500 rows of VALUES


class StoredRelease(NamedTuple):
    """A row of `releases`; `package` is a path below media/, times are microseconds since 1970."""

    id: int
    channel: str
    app: str
    version: str
    canonical: str
    package: str
    file_hash: str
    file_size: int
    manifest_hash: str
    signature: Optional[str]
    changelog: str
    is_active: bool
    uploaded_at: int
    deleted_at: Optional[int]
    file_count: int
    tree_size: int


_COLUMNS = ", ".join(StoredRelease._fields)
ORDERS = ("uploaded_at", "precedence", "file_size", "file_count")  # what `page` sorts by


class Upload(NamedTuple):
    """An upload: the ZIP in its request's scratch folder, and the fields."""

    channel: str
    version: Version
    package: Path
    package_hash: str
    manifest: Optional[bytes]
    signature: Optional[str]
    changelog: str
    is_active: bool
    main: str  # the path of the main program; with a manifest, which names it, empty


class ReleaseEdit(NamedTuple):
    """The fields that an edit sets; None leaves a field as it is."""

    changelog: Optional[str] = None
    is_active: Optional[bool] = None
    signature: Optional[str] = None


class PendingRelease(NamedTuple):
    """A release with its complete package, before it is published."""

    channel: str
    version: str
    complete: CompletePackage
    signature: Optional[str]
    changelog: str
    is_active: bool


# --- actions ------------------------------------------------------------------------------------


def create(store: Store, folder: Path, upload: Upload, who: str) -> StoredRelease:
    """Publish an upload as a release; `folder` is its request's scratch folder.

    Raises:
        Refused: version_exists, manifest_mismatch, incomplete, bad_signature, too_large, disk_full.
        BadVersion, UnsafePath, ManifestError, ArchiveError, SignatureError: bad field or file.
    """
    _check_changelog(upload.changelog)
    with store.database.read() as db:
        earlier = _refuse_existing(db, upload.channel, upload.version)
        app = earlier.app if earlier else _app_of(db, upload.channel)
    version = earlier.version if earlier else upload.version.text
    if upload.manifest is None:
        check_signature(store, None, b"", app, version)
        complete = accept_whole_zip(upload.package, upload.package_hash, app, version, upload.main)
    else:
        manifest = loads(upload.manifest)
        if parse(manifest.version) != upload.version:
            raise Refused(
                "manifest_mismatch",
                "the manifest is of version {other}, the upload of {version}",
                other=manifest.version,
                version=upload.version.text,
            )
        check_signature(store, upload.signature, upload.manifest, manifest.app, manifest.version)
        complete = accept_with_manifest(
            store, folder, upload.package, upload.package_hash, manifest, upload.manifest
        )
    pending = PendingRelease(
        upload.channel, version, complete, upload.signature, upload.changelog, upload.is_active
    )
    release = _publish(store, folder, pending, who, "upload", "")
    if release.is_active:
        prune(store, upload.channel)
    return release


def promote(
    store: Store, source: str, target: str, version: str, is_active: bool, who: str
) -> StoredRelease:
    """Put a channel's release into another channel as it is; its files become hard links.

    Raises:
        Refused: no_such_version in the source, version_exists or manifest_mismatch in the target,
            bad_signature.
        SignatureError: it is not signed as this server demands.
    """
    with store.database.read() as db:
        release = find(db, source, version)
        _refuse_existing(db, target, parse(release.version))
    manifest_bytes = read_manifest(store, release)
    check_signature(store, release.signature, manifest_bytes, release.app, release.version)
    with store.scratch() as folder:
        package = folder / "package.zip"
        _link_or_copy(store, release, package)
        complete = complete_package(
            loads(manifest_bytes), manifest_bytes, package, release.file_hash
        )
        pending = PendingRelease(
            target, release.version, complete, release.signature, release.changelog, is_active
        )
        release = _publish(store, folder, pending, who, "promote", f" from {source}")
    if is_active:
        prune(store, target)
    return release


def activate(store: Store, channel: str, version: str, who: str) -> StoredRelease:
    """Make this release the one that the channel offers."""
    return edit(store, channel, version, ReleaseEdit(is_active=True), who)


def edit(store: Store, channel: str, version: str, edits: ReleaseEdit, who: str) -> StoredRelease:
    """Change a release's changelog, signature or active mark.

    `is_active=False` leaves the channel without an active release.

    Raises:
        Refused: no_such_version, bad_signature, too_large.
        SignatureError: the new signature is none, or not of this manifest.
    """
    _check_changelog(edits.changelog or "")
    with store.scratch() as folder, store.write() as db:
        release = find(db, channel, version)
        if edits.changelog is not None:
            db.execute(
                "UPDATE releases SET changelog = ? WHERE id = ?", (edits.changelog, release.id)
            )
            write_log(db, who, "edit", f"{channel} {release.version}: changelog")
        if edits.is_active is not None:
            _set_active(db, release, edits.is_active, who)
        if edits.signature is not None:
            check_signature(
                store,
                edits.signature,
                read_manifest(store, release),
                release.app,
                release.version,
            )
            db.execute(
                "UPDATE releases SET signature = ? WHERE id = ?", (edits.signature, release.id)
            )
            write_log(db, who, "edit", f"{channel} {release.version}: signature")
            name = manifest_name(release.package)
            rotation = Rotation(name, edits.signature)
            record(db, channel, rotation, loads(read_manifest(store, release)), release.uploaded_at)
            store.publish_files(
                {
                    signature_name(release.package): write_synced(
                        folder / "signature", edits.signature.encode("utf-8")
                    )
                }
            )
        edited = find(db, channel, version)
    if edits.is_active:
        prune(store, channel)
    return edited


def delete(store: Store, channel: str, version: str, who: str) -> None:
    """Delete a release's files; its row stays, so that only the same package can come back.

    Raises:
        Refused: no_such_version, version_is_active.
    """
    with store.database.write() as db:
        release = find(db, channel, version)
        if release.is_active:
            raise Refused(
                "version_is_active",
                "version {version} is active; activate another one first",
                version=release.version,
            )
        files = _mark_deleted(db, release, who)
    store.remove_unowned(files)


def prune(store: Store, channel: str) -> None:
    """Of the releases uploaded before the active one, delete all but the newest that are kept.

    Those stay to which an operator would go back: the next lower version, and the one that was
    active before; and those that a delta to the active one leads from. What was uploaded later
    waits for its activation, or was taken back.
    """
    if store.keep is None:
        return
    with suppress(OSError, sqlite3.Error):  # the next activation tries again
        files: List[str] = []
        with store.database.write() as db:
            current = active(db, channel)
            for version in _unneeded(db, current, store.keep) if current else ():
                files += _mark_deleted(db, find(db, channel, version), "--keep")
        store.remove_unowned(files)


def _unneeded(db: sqlite3.Connection, current: StoredRelease, keep: int) -> List[str]:
    """The versions that `prune` deletes, newest first."""
    before = previous_release(db, current)
    needed = {delta.source_version for delta in deltas_to(db, current.id)}
    needed |= {before.version} if before else set()
    prefix = f"{current.channel} "
    activated = [
        detail[len(prefix) :]
        for (detail,) in db.execute(
            "SELECT detail FROM log WHERE action = 'activate' AND substr(detail, 1, ?) = ? "
            "ORDER BY id DESC LIMIT 10",
            (len(prefix), prefix),
        )
    ]
    needed |= set([version for version in activated if version != current.version][:1])
    rows = db.execute(
        "SELECT version FROM releases WHERE channel = ? AND uploaded_at < ? AND deleted_at IS NULL "
        "ORDER BY uploaded_at DESC LIMIT -1 OFFSET ?",
        (current.channel, current.uploaded_at, keep),
    )
    return [version for (version,) in rows if version not in needed]


def _mark_deleted(db: sqlite3.Connection, release: StoredRelease, who: str) -> List[str]:
    """Delete the release's row and contents; the names of its files, and of its deltas' files."""
    db.execute("UPDATE releases SET deleted_at = ? WHERE id = ?", (now(), release.id))
    db.execute("DELETE FROM contents WHERE release = ?", (release.id,))
    write_log(db, who, "delete", f"{release.channel} {release.version}")
    return [*_file_names(release.package), *forget(db, release.id)]


def _link_or_copy(store: Store, release: StoredRelease, target: Path) -> None:
    """The release's package under another name, as a hard link where the file system has them."""
    source = store.media / release.package
    try:
        if source.stat().st_size != release.file_size:
            raise files_gone(release)
        try:
            os.link(source, target)
        except OSError:
            store.require_space(release.file_size)
            shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise files_gone(release) from error


# --- queries ------------------------------------------------------------------------------------


def find(db: sqlite3.Connection, channel: str, version: str) -> StoredRelease:
    """The release of any spelling of its version.

    Raises:
        Refused: no_such_version.
    """
    try:
        release = _row(
            db,
            "channel = ? AND canonical = ? AND deleted_at IS NULL",
            channel,
            parse(version).canonical,
        )
    except BadVersion:
        release = None
    if release is None:
        raise Refused(
            "no_such_version",
            "there is no version {version} in channel {channel}",
            version=version[:64],
            channel=channel,
        )
    return release


def release_by_id(db: sqlite3.Connection, number: int) -> StoredRelease:
    """The release of a row that another table names."""
    return _release(
        db.execute(f"SELECT {_COLUMNS} FROM releases WHERE id = ?", (number,)).fetchone()
    )


def active(db: sqlite3.Connection, channel: str) -> Optional[StoredRelease]:
    """The release that the channel offers."""
    return _row(db, "channel = ? AND is_active", channel)


def page(
    db: sqlite3.Connection,
    channel: str,
    limit: int,
    offset: int,
    order: str = "uploaded_at",
    descending: bool = True,
    words: str = "",
) -> Tuple[int, List[StoredRelease]]:
    """The number of releases with the words in version or changelog, and some of them in order."""
    found = "FROM releases WHERE channel = ? AND deleted_at IS NULL"
    values = [channel]
    if words:
        found += " AND (instr(lower(version), lower(?)) OR instr(lower(changelog), lower(?)))"
        values += [words, words]
    direction = f"{ORDERS[ORDERS.index(order)]} {'DESC' if descending else 'ASC'}"
    count = db.execute(f"SELECT count(*) {found}", values).fetchone()[0]
    rows = db.execute(
        f"SELECT {_COLUMNS} {found} ORDER BY {direction} LIMIT ? OFFSET ?", (*values, limit, offset)
    )
    return count, [_release(row) for row in rows.fetchall()]


def previous_release(db: sqlite3.Connection, release: StoredRelease) -> Optional[StoredRelease]:
    """The channel's release of the next lower version."""
    return _row(
        db,
        "channel = ? AND precedence < precedence_key(?) AND deleted_at IS NULL ORDER BY "
        "precedence DESC LIMIT 1",
        release.channel,
        release.canonical,
    )


def channels(db: sqlite3.Connection) -> List[str]:
    """The channels that have begun, by name."""
    return [name for (name,) in db.execute("SELECT name FROM channels ORDER BY name").fetchall()]


def missing(db: sqlite3.Connection, hashes: Iterable[str]) -> List[str]:
    """The contents that no package of any channel holds, in the order asked, each once."""
    wanted = list(dict.fromkeys(hashes))
    keys = sorted(map(bytes.fromhex, wanted))  # neighbours are on one page of the index
    held: Set[bytes] = set()
    for start in range(0, len(keys), MAX_VARIABLES):
        part = keys[start : start + MAX_VARIABLES]
        marks = ", ".join(["(?)"] * len(part))
        # EXISTS rather than DISTINCT: a content may be in thousands of packages
        rows = db.execute(
            f"WITH wanted (sha256) AS (VALUES {marks}) SELECT sha256 FROM "
            "wanted WHERE EXISTS (SELECT 1 FROM contents WHERE contents.sha256 = wanted.sha256)",
            part,
        )
        held.update(sha256 for (sha256,) in rows)
    return [sha256 for sha256 in wanted if bytes.fromhex(sha256) not in held]


def read_manifest(store: Store, release: StoredRelease) -> bytes:
    """The manifest's bytes as they came.

    Raises:
        Refused: files_gone.
    """
    try:
        return (store.media / manifest_name(release.package)).read_bytes()
    except FileNotFoundError as error:
        raise files_gone(release) from error


def files_gone(release: StoredRelease) -> Refused:
    """For a release whose package or manifest is not below media/ any more."""
    return Refused(
        "files_gone",
        "the files of version {version} are gone or damaged on the server; restore them from a "
        "backup, or delete this version and upload it again",
        version=release.version,
    )


def rfc3339(moment: int) -> str:
    """A time of the database as RFC 3339 text."""
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=moment)).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ"
    )


# --- publishing ---------------------------------------------------------------------------------


def _publish(
    store: Store, folder: Path, pending: PendingRelease, who: str, action: str, origin: str
) -> StoredRelease:
    """Write row, contents, active mark, log and files in one transaction."""
    files = [
        write_synced(pending.complete.package),
        write_synced(folder / "manifest", pending.complete.manifest_bytes),
    ]
    if pending.signature is not None:
        files.append(write_synced(folder / "signature", pending.signature.encode("utf-8")))
    with store.write() as db:
        release = _write_row(db, pending)
        _write_contents(db, release, pending.complete)
        if pending.signature is not None:
            rotation = Rotation(manifest_name(release.package), pending.signature)
            manifest = pending.complete.manifest
            record(db, pending.channel, rotation, manifest, release.uploaded_at)
        write_log(db, who, action, f"{pending.channel} {release.version}{origin}")
        if pending.is_active:
            _set_active(db, release, True, who)
        _refuse_same_name(db, store, release)
        store.require_space(0)  # under the lock: nothing else is published meanwhile
        store.publish_files(dict(zip(_file_names(release.package), files)))
    return release._replace(is_active=pending.is_active)


def _write_row(db: sqlite3.Connection, pending: PendingRelease) -> StoredRelease:
    """The row of a new release, or of a deleted one that comes back; not active yet."""
    complete, version = pending.complete, parse(pending.version)
    manifest_hash = hashlib.sha256(complete.manifest_bytes).hexdigest()
    earlier = _refuse_existing(db, pending.channel, version)
    # also the package's bytes: they are cached for ever under their URL
    if earlier and (earlier.manifest_hash, earlier.file_hash) != (
        manifest_hash,
        complete.file_hash,
    ):
        raise Refused(
            "version_exists",
            "version {version} was deleted and can only come back with the same package, byte for "
            "byte; publish the files as a new version",
            version=earlier.version,
        )
    _agree_on_app(db, pending.channel, complete.manifest.app)
    last = db.execute("SELECT max(uploaded_at) FROM releases").fetchone()[0] or 0
    moment = max(now(), last + 1)  # the clock may have been set back
    release = StoredRelease(
        id=earlier.id
        if earlier
        else db.execute("SELECT coalesce(max(id), 0) + 1 FROM releases").fetchone()[0],
        channel=pending.channel,
        app=complete.manifest.app,
        version=version.text,
        canonical=version.canonical,
        package=_package_name(pending.channel, version.text, moment),
        file_hash=complete.file_hash,
        file_size=complete.file_size,
        manifest_hash=manifest_hash,
        signature=pending.signature,
        changelog=pending.changelog,
        is_active=False,
        uploaded_at=moment,
        deleted_at=None,
        file_count=len(complete.manifest.files),
        tree_size=sum(entry.size for entry in complete.manifest.files),
    )
    db.execute(
        f"INSERT OR REPLACE INTO releases ({_COLUMNS}, precedence) VALUES "
        f"({', '.join('?' * len(release))}, precedence_key(?))",
        (*release, release.canonical),
    )
    return release


def _write_contents(
    db: sqlite3.Connection, release: StoredRelease, complete: CompletePackage
) -> None:
    for entry in complete.manifest.files:
        if entry.link is None:
            sha256 = bytes.fromhex(entry.sha256)
            known = db.execute(
                "SELECT first_seen FROM contents WHERE sha256 = ? LIMIT 1", (sha256,)
            ).fetchone()
            db.execute(
                "INSERT OR IGNORE INTO contents (sha256, release, path, first_seen, stored_size) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    sha256,
                    release.id,
                    entry.path,
                    known[0] if known else release.uploaded_at,
                    complete.stored_sizes[entry.path],
                ),
            )


def _set_active(db: sqlite3.Connection, release: StoredRelease, active: bool, who: str) -> None:
    """Clear, then set the active mark: moving it in one UPDATE would violate the index."""
    if release.is_active != active:
        db.execute(
            "UPDATE releases SET is_active = 0 WHERE channel = ? AND is_active", (release.channel,)
        )
        db.execute("UPDATE releases SET is_active = ? WHERE id = ?", (active, release.id))
        write_log(
            db, who, "activate" if active else "deactivate", f"{release.channel} {release.version}"
        )


def _check_changelog(text: str) -> None:
    if len(text.encode("utf-8")) > MAX_CHANGELOG_BYTES:
        raise Refused(
            "too_large",
            "the field {name!r} is longer than {limit} bytes",
            name="changelog",
            limit=MAX_CHANGELOG_BYTES,
        )


def _refuse_existing(
    db: sqlite3.Connection, channel: str, version: Version
) -> Optional[StoredRelease]:
    """Refuse a version that the channel has; returns the row that a deleted one left."""
    earlier = _row(db, "channel = ? AND canonical = ?", channel, version.canonical)
    if earlier and earlier.deleted_at is None:
        raise Refused(
            "version_exists",
            "version {version} exists already; activate it, or publish a new one",
            version=earlier.version,
        )
    return earlier


def _refuse_same_name(db: sqlite3.Connection, store: Store, release: StoredRelease) -> None:
    """Refuse a package name that differs from another in case only: 1.0-RC and 1.0-rc."""
    same = db.execute(
        "SELECT version FROM releases WHERE lower(package) = lower(?) AND id != ? AND deleted_at "
        "IS NULL",
        (release.package, release.id),
    ).fetchone()
    if same and (store.media / release.package).exists():
        raise Refused(
            "version_exists",
            "version {version} exists already; publish a new version",
            version=same[0],
        )


def _app_of(db: sqlite3.Connection, channel: str) -> str:
    row = db.execute("SELECT app FROM channels WHERE name = ?", (channel,)).fetchone()
    return row[0] if row else ""


def _agree_on_app(db: sqlite3.Connection, channel: str, app: str) -> None:
    """Create the channel with its first release, and keep the first app that is named."""
    known = _app_of(db, channel)
    if app and known and app != known:
        raise Refused(
            "manifest_mismatch",
            "channel {channel} belongs to the app {known!r}, the manifest is of {app!r}",
            channel=channel,
            known=known,
            app=app,
        )
    db.execute("INSERT OR IGNORE INTO channels (name, app) VALUES (?, '')", (channel,))
    db.execute("UPDATE channels SET app = ? WHERE name = ? AND app = ''", (app, channel))


def _row(db: sqlite3.Connection, where: str, *values: str) -> Optional[StoredRelease]:
    row = db.execute(f"SELECT {_COLUMNS} FROM releases WHERE {where}", values).fetchone()
    return _release(row) if row else None


def _release(row: Tuple[object, ...]) -> StoredRelease:
    release = StoredRelease._make(row)
    return release._replace(is_active=bool(release.is_active))


def _package_name(channel: str, version: str, moment: int) -> str:
    folder = PACKS if channel == STABLE else f"{PACKS}/{channel}"
    return f"{folder}/{rfc3339(moment)[:7].replace('-', '/')}/update_{version}.zip"


def _file_names(package: str) -> List[str]:
    return [package, manifest_name(package), signature_name(package)]
