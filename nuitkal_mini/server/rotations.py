"""Signed manifests that change the keys of a channel's clients: `check/` names them, oldest first.

A client that slept through several rotations walks them in order. So their manifests and signatures
stay below media/ when the release itself is deleted.
"""

from __future__ import annotations

import json
import sqlite3
from typing import List, NamedTuple

from ..manifest import Manifest

SIGNATURE_SUFFIX = ".minisig"  # of the file beside a manifest


class Rotation(NamedTuple):
    """A manifest that changes the keys, by its path below media/, and the text of its signature."""

    manifest: str
    signature: str


def record(
    db: sqlite3.Connection, channel: str, rotation: Rotation, manifest: Manifest, moment: int
) -> None:
    """Note a signed manifest if it names keys, and others than the channel's rotation before it."""
    keys = json.dumps(list(manifest.terms.keys))
    before = db.execute(
        "SELECT keys FROM rotations WHERE channel = ? AND manifest != ? AND uploaded_at < ? "
        "ORDER BY uploaded_at DESC LIMIT 1",
        (channel, rotation.manifest, moment),
    ).fetchone()
    if keys != "[]" and (before is None or before[0] != keys):
        db.execute(
            "INSERT OR REPLACE INTO rotations (channel, manifest, signature, keys, uploaded_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (channel, rotation.manifest, rotation.signature, keys, moment),
        )


def rotations(db: sqlite3.Connection, channel: str) -> List[Rotation]:
    """The channel's rotations, oldest first."""
    rows = db.execute(
        "SELECT manifest, signature FROM rotations WHERE channel = ? ORDER BY uploaded_at",
        (channel,),
    )
    return [Rotation._make(row) for row in rows.fetchall()]


def all_rotations(db: sqlite3.Connection) -> List[Rotation]:
    """The rotations of all channels; none in a database from before there were any."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rotations'").fetchone():
        return []
    rows = db.execute("SELECT manifest, signature FROM rotations ORDER BY uploaded_at")
    return [Rotation._make(row) for row in rows.fetchall()]
