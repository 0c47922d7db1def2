"""A static site from a data folder: the same paths and answers, for any web server or CDN.

    api/nuitkal_pack/check/index.html, check.json    the active release; below `channels/NAME/` too
    media/nuitkal_packs/…                            packages, manifests, signatures

Files of releases come first, `check/` last, each by a rename: a reader sees the old site or the new
one. An export writes only what changed, and one that was interrupted is finished by the next.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Set

from ..problem import Problem
from . import releases
from .api import check_document
from .backup import link_or_copy
from .database import Database
from .responses import json_bytes
from .store import DATABASE, PACKS, lock_file, make_folders, open_database, owned_names, sync_folder

API = "api/nuitkal_pack"
STABLE = "stable"
TRIES = 20  # a deletion must fall into each of them for an export to fail
GRACE_SECONDS = 86400.0  # a client may still act on the `check/` of yesterday
_UNNEEDED = ".unneeded.json"  # {path below media/: seconds since 1970 when no release had it}
_WATCH_SECONDS = 1.0


class Exported(NamedTuple):
    """What an export did: files that it wrote, and files that it deleted."""

    written: int
    deleted: int


def export(
    root: Path,
    out: Path,
    public_url: Optional[str] = None,
    prune: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    now: Callable[[], float] = time.time,
) -> Exported:
    """Bring the site in `out` up to date with the data folder `root`.

    `public_url`: what URLs begin with; without it they are relative. `prune`: files that no release
    has had for `grace_seconds` are deleted.

    Raises:
        Problem: `root` is no data folder, `out` lies in it, another export runs, or the disk
        refuses.
    """
    _check_folders(root, out)
    try:
        make_folders(out)
        with open(out / ".export.lock", "wb") as lock:
            try:
                lock_file(lock)
            except OSError as error:
                raise Problem(
                    "another export into {path} is running; try again when it is done",
                    path=str(out),
                ) from error
            with closing(open_database(root)) as database:
                for _ in range(TRIES):
                    try:
                        return _export(database, root, out, public_url, prune, grace_seconds, now())
                    except FileNotFoundError:
                        continue  # deleted since the database was read
        raise Problem(
            "files of a release are missing in {path}; run check-data on it", path=str(root)
        )
    except OSError as error:
        raise Problem(
            "the export into {path} stopped, the next one finishes it: {reason}",
            path=str(out),
            reason=error,
        ) from error


def watch(root: Path, run: Callable[[], Exported]) -> Iterator[Exported]:
    """Export now, and after every change of the data folder."""
    with closing(open_database(root)) as database:
        seen: Optional[int] = None
        while True:
            generation = database.generation()
            if generation != seen:
                yield run()
                seen = generation
            time.sleep(_WATCH_SECONDS)


def _check_folders(root: Path, out: Path) -> None:
    if not (root / DATABASE).is_file():
        raise Problem("{path} holds no data of a server; nothing was exported", path=str(root))
    if (os.path.realpath(out) + os.sep).startswith(os.path.realpath(root) + os.sep):
        raise Problem(
            "{path} lies in the data folder; choose a folder outside of it", path=str(out)
        )


def _export(
    database: Database,
    root: Path,
    out: Path,
    public_url: Optional[str],
    prune: bool,
    grace_seconds: float,
    now: float,
) -> Exported:
    documents: Dict[str, Optional[bytes]] = {}
    with database.read() as db:
        db.execute("BEGIN")  # one state for all that follows
        try:
            names = owned_names(db)
            for channel in {STABLE, *releases.channels(db)}:
                folder = API if channel == STABLE else f"{API}/channels/{channel}"
                for path in (f"{folder}/check/index.html", f"{folder}/check.json"):
                    up = "/".join([".."] * path.count("/"))
                    document = check_document(db, channel, public_url or up)
                    documents[path] = json_bytes(document) if document else None
        finally:
            db.execute("COMMIT")
    written = _export_media(root / "media", out / "media", names)
    for path, content in documents.items():
        written += _write(out / path, content)
    return Exported(written, _prune(out, names, grace_seconds, now) if prune else 0)


def _export_media(source: Path, target: Path, names: Set[str]) -> int:
    new = [name for name in names if link_or_copy(source / name, target / name) is not None]
    for folder in {(target / name).parent for name in new}:
        sync_folder(folder)
    return len(new)


def _write(path: Path, content: Optional[bytes]) -> int:
    """Replace a file if its content differs, or delete it for None; how many files changed."""
    try:
        if path.read_bytes() == content:
            return 0
    except FileNotFoundError:
        if content is None:
            return 0
    if content is None:
        path.unlink()
    else:
        make_folders(path.parent)
        part = path.with_name(f".{path.name}.part")
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    sync_folder(path.parent)
    return 1


def _prune(out: Path, names: Set[str], grace_seconds: float, now: float) -> int:
    """Delete what no release has had for the time of grace; the others wait from now on."""
    known = _read_unneeded(out / _UNNEEDED)
    media = out / "media"
    waiting: Dict[str, float] = {}
    deleted = 0
    for path in list((media / PACKS).rglob("update_*")):
        name = path.relative_to(media).as_posix()
        if name in names:
            continue
        since = min(known.get(name, now), now)  # a clock that was set back begins anew
        if now - since >= grace_seconds:
            path.unlink()
            deleted += 1
        else:
            waiting[name] = since
    _write(out / _UNNEEDED, json.dumps(waiting, indent=1, sort_keys=True).encode("ascii"))
    return deleted


def _read_unneeded(path: Path) -> Dict[str, float]:
    """What earlier exports found unneeded; a file that cannot be read begins anew."""
    try:
        found = json.loads(path.read_bytes())
        return {str(name): float(since) for name, since in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
