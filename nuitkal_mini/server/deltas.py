"""The deltas of the data folder: which there are, and which are still to be made.

A delta leads from an earlier release of a channel to the one that is active. Its file lies beside
the package that it leads to, and its row is written in the transaction that puts the file there, so
`check/` never names a delta that is not whole. A row without a file: the delta is being made, or it
does not pay, or making it has failed.
"""

from __future__ import annotations

import sqlite3
from typing import List, NamedTuple, Optional

MAX_ATTEMPTS = 3  # a server may be killed twice while it makes one; then it is left


class Delta(NamedTuple):
    """A delta that is whole; `file` is its path below media/."""

    source_version: str
    file: str
    size: int
    sha256: str


class Pair(NamedTuple):
    """Two releases of one channel, by their rows: what a delta leads from and to."""

    source: int
    release: int


def deltas_to(db: sqlite3.Connection, release: int) -> List[Delta]:
    """The deltas to a release, from the newest first."""
    rows = db.execute(
        "SELECT version, file, size, sha256 FROM deltas JOIN releases ON id = source "
        "WHERE release = ? AND file IS NOT NULL AND deleted_at IS NULL ORDER BY uploaded_at DESC",
        (release,),
    )
    return [Delta._make(row) for row in rows.fetchall()]


def next_pair(db: sqlite3.Connection, count: int) -> Optional[Pair]:
    """The next delta to make: to an active release, from one of the `count` last others."""
    for channel, release in db.execute(
        "SELECT channel, id FROM releases WHERE is_active ORDER BY uploaded_at DESC"
    ).fetchall():
        for source, attempts, size in db.execute(
            "SELECT id, coalesce(attempts, 0), size FROM releases LEFT JOIN deltas "
            "ON release = ? AND source = id WHERE channel = ? AND id != ? AND deleted_at IS NULL "
            "ORDER BY uploaded_at DESC LIMIT ?",
            (release, channel, release, count),
        ).fetchall():
            if size is None and attempts < MAX_ATTEMPTS:
                return Pair(source, release)
    return None


def begin(db: sqlite3.Connection, pair: Pair) -> None:
    """Count an attempt."""
    db.execute(
        "INSERT OR IGNORE INTO deltas (release, source, attempts) VALUES (?, ?, 0)",
        (pair.release, pair.source),
    )
    db.execute(
        "UPDATE deltas SET attempts = attempts + 1 WHERE release = ? AND source = ?",
        (pair.release, pair.source),
    )


def finish(
    db: sqlite3.Connection, pair: Pair, file: Optional[str], size: int, sha256: Optional[str]
) -> bool:
    """Write down a delta, or without a file that it does not pay; False: a release was deleted."""
    return (
        db.execute(
            "UPDATE deltas SET file = ?, size = ?, sha256 = ? WHERE release = ? AND source = ?",
            (file, size, sha256, pair.release, pair.source),
        ).rowcount
        == 1
    )


def forget(db: sqlite3.Connection, release: int) -> List[str]:
    """Forget the deltas from and to a release; the names of their files."""
    names = [
        name
        for (name,) in db.execute(
            "SELECT file FROM deltas WHERE (release = ? OR source = ?) AND file IS NOT NULL",
            (release, release),
        )
    ]
    db.execute("DELETE FROM deltas WHERE release = ? OR source = ?", (release, release))
    return names
