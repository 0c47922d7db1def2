"""Reads every row and file of a data folder and says what is wrong with it; changes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Set, Tuple

from ..manifest import MAX_BYTES, Manifest, loads
from ..minisign import parse_signature
from ..problem import Problem
from ..semver import parse
from ..zip_read import read_directory, read_entry
from .database import MIGRATIONS, precedence_key
from .rotations import SIGNATURE_SUFFIX, Rotation, all_rotations
from .store import DATABASE, PACKS, manifest_name, owned_names, signature_name

_BLOCK = 2**20
Row = Dict[str, object]


def check_data(root: Path) -> Iterator[str]:
    """A sentence for each fault of the data folder; none when all is well."""
    path = root / DATABASE
    if not path.is_file():
        yield f"{path} is missing; restore it from a backup"
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db:
            db.row_factory = sqlite3.Row
            db.create_function("precedence_key", 1, precedence_key)
            yield from _check_database(db, path)
            rows = [dict(row) for row in db.execute("SELECT * FROM releases ORDER BY id")]
            names = owned_names(db)
            for row in rows:
                yield from _check_row(row)
                if row["deleted_at"] is None:
                    yield from _check_release(db, root / "media", row)
            yield from _check_deltas(db, root / "media")
            yield from _check_rotations(root / "media", all_rotations(db))
    except (sqlite3.Error, UnicodeError, Problem) as error:
        yield f"{path} cannot be read ({error}); restore it from a backup"
        return
    yield from _check_unowned(root / "media", names)


def _check_database(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != len(MIGRATIONS):
        yield (
            f"{path} has schema {version}, this program writes {len(MIGRATIONS)}; "
            "start the server once, or install a newer one"
        )
    for (line,) in db.execute("PRAGMA integrity_check"):
        if line != "ok":
            said = " ".join(str(line).split())
            yield f"{path} is damaged: {said}; restore it from a backup"
    for row in db.execute("PRAGMA foreign_key_check"):
        yield f"{path}: row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there"


def _check_row(row: Row) -> Iterator[str]:
    """What a row says of itself."""
    name = f"release {row['version']} of channel {row['channel']}"
    try:
        version = parse(str(row["version"]))
        right = (version.canonical, precedence_key(version.canonical))
        if (row["canonical"], row["precedence"]) != right:
            yield f"{name}: its version is filed under {row['canonical']!r}"
    except Problem as error:
        yield f"{name}: {error}"
    if row["is_active"] and row["deleted_at"] is not None:
        yield f"{name} is deleted and active"


def _check_deltas(db: sqlite3.Connection, media: Path) -> Iterator[str]:
    for name, size, sha256 in db.execute(
        "SELECT file, size, sha256 FROM deltas WHERE file IS NOT NULL ORDER BY file"
    ):
        try:
            is_whole = _digest(media / name) == (size, sha256)
        except OSError:
            is_whole = False
        if not is_whole:
            yield f"{media / name} is not what was made; delete it, the next start makes it again"


def _check_release(db: sqlite3.Connection, media: Path, row: Row) -> Iterator[str]:
    """The package, manifest and signature of a release, each against the row and one another."""
    package, again = str(row["package"]), "delete this version and upload it again"
    path = media / package
    try:
        size, digest = _digest(path)
        if (size, digest) != (row["file_size"], row["file_hash"]):
            yield f"{path} is not what was published; {again}"
        data = _read(media / manifest_name(package))
        if hashlib.sha256(data).hexdigest() != row["manifest_hash"]:
            yield f"{media / manifest_name(package)} is not what was published; {again}"
            return
        manifest = loads(data)
        yield from _check_manifest(db, row, manifest)
        for sentence in _check_package(path, manifest):
            yield f"{path}: {sentence}; {again}"
        signature = row["signature"]
        if signature is not None:
            parse_signature(str(signature))
            if _read(media / signature_name(package)) != str(signature).encode("utf-8"):
                yield (
                    f"{media / signature_name(package)} differs from the database; the next start"
                    " mends it"
                )
    except OSError as error:
        yield f"{error.filename or path}: {error.strerror or error}; {again}"
    except (Problem, ValueError) as error:
        yield f"{path}: {error}; {again}"


def _check_rotations(media: Path, rotations: Iterable[Rotation]) -> Iterator[str]:
    """The manifests that change the keys stay when their releases are deleted."""
    for rotation in rotations:
        manifest, signature = (
            media / rotation.manifest,
            media / (rotation.manifest + SIGNATURE_SUFFIX),
        )
        try:
            loads(_read(manifest))
            if _read(signature) != rotation.signature.encode("utf-8"):
                yield f"{signature} differs from the database; the next start mends it"
        except (OSError, Problem) as error:
            yield f"{manifest}, which changes the clients' keys: {error}; restore it from a backup"


def _check_manifest(db: sqlite3.Connection, row: Row, manifest: Manifest) -> Iterator[str]:
    name = f"release {row['version']} of channel {row['channel']}"
    files = [entry for entry in manifest.files if entry.link is None]
    if parse(manifest.version) != parse(str(row["version"])) or manifest.app != row["app"]:
        yield f"{name}: its manifest is of {manifest.app!r} {manifest.version}"
    if (row["file_count"], row["tree_size"]) != (
        len(manifest.files),
        sum(entry.size for entry in manifest.files),
    ):
        yield f"{name}: the database counts other files than its manifest"
    held: Set[Tuple[bytes, str]] = {
        (bytes(sha256), path)
        for sha256, path in db.execute(
            "SELECT sha256, path FROM contents WHERE release = ?", (row["id"],)
        )
    }
    known = {(bytes.fromhex(entry.sha256), entry.path) for entry in files}
    if held - known:
        yield f"{name}: the database names contents that its manifest has not"
    if {sha256 for sha256, _ in known} - {sha256 for sha256, _ in held}:
        yield f"{name}: the database lacks contents that its package has; upload them again"


def _check_package(path: Path, manifest: Manifest) -> List[str]:
    wrong = []
    with open(path, "rb") as package:
        members = {member.path: member for member in read_directory(package).members}
        for entry in manifest.files:
            member = members.pop(entry.path, None)
            if member is None:
                wrong.append(f"{entry.path} is missing in it")
                continue
            found = read_entry(package, member)
            if (found.link, found.sha256) != (entry.link, entry.sha256):
                wrong.append(f"{entry.path} in it is not what the manifest says")
    return wrong + [f"{name} in it is not in the manifest" for name in members]


def _check_unowned(media: Path, names: Set[str]) -> Iterator[str]:
    for path in sorted((media / PACKS).rglob("*")):
        if path.is_file() and path.relative_to(media).as_posix() not in names:
            yield f"{path} belongs to no release; delete it"


def _digest(path: Path) -> Tuple[int, str]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
        return file.tell(), digest.hexdigest()


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)
